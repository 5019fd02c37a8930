//! A BERT of transformers within open_clip's models. Its config is in another repository: taken from a folder of that
//! name within the model's, or else read off the weights.

use anyhow::{Result, bail, ensure};

use super::config::BertConfig;
use super::formats::{BERT, bert_config};
use crate::model::format::Pooling;
use crate::model::format::json::Section;
use crate::model::format::open_clip::{OpenClipReader, OpenClipTower};
use crate::model::format::rename::How::Same;
use crate::model::layers::projection::Projection;
use crate::model::text::pool::TextPool;
use crate::model::text::tower::TextConfig;
use crate::ops::Activation;

type Config = Box<dyn TextConfig>;

pub const OPEN_CLIP: OpenClipTower<Config> = OpenClipTower { claims, read };

fn claims(s: &Section) -> Result<bool> {
    Ok(s.text("hf_model_name")?.is_some())
}

fn read(reader: &mut OpenClipReader, s: &Section) -> Result<(Config, Projection)> {
    const TOWER: &str = "text.transformer.";
    let key =
        |old: &str, new: &str| -> Result<Option<String>> { Ok(s.text(new)?.or(s.text(old)?).map(str::to_string)) };
    let pooling = key("pooler_type", "hf_pooler_type")?;
    let pool = match pooling.as_deref().unwrap_or("mean_pooler") {
        "mean_pooler" => TextPool::Mean,
        "cls_last_hidden_state_pooler" => TextPool::Cls,
        "cls_pooler" if reader.has(&format!("{TOWER}pooler.dense.weight")) => TextPool::Dense,
        "cls_pooler" => TextPool::Cls,
        other => bail!(
            "text_cfg.hf_pooler_type is {other:?}; known are mean_pooler, cls_pooler and \
             cls_last_hidden_state_pooler"
        ),
    };
    let name = s.text("hf_model_name")?.unwrap_or_default();
    let mut bert = match (reader.repository)(name)? {
        Some(json) => {
            reader.beside.push((format!("{name}/config.json"), json.clone()));
            let inner = Section { name: "hf_model_name", json: &json };
            bert_config(&inner, Pooling::Cls)?
        }
        None => config_off_weights(reader, TOWER)?,
    };
    bert.pool = pool;
    bert.context_length = s.size("context_length", 77)?.min(bert.positions);
    reader.renames.add(BERT, TOWER, "text_model.");
    let projection = match key("proj", "hf_proj_type")?.as_deref() {
        None if !reader.has("text.proj.weight") && !reader.has("text.proj.0.weight") => Projection::None,
        Some("linear") => {
            reader.renames.push("text.proj.*".into(), "text_projection.*".into(), Same);
            Projection::Linear { bias: false }
        }
        None | Some("mlp") => {
            reader.renames.push("text.proj.*.*".into(), "text_projection.*.*".into(), Same);
            Projection::Mlp { hidden: (bert.width + reader.embed_dim) / 2, biases: (false, false) }
        }
        Some(other) => bail!("text_cfg.hf_proj_type is {other:?}; known are linear and mlp"),
    };
    Ok((Box::new(bert), projection))
}

/// Every BERT published with open_clip has heads of 64, this epsilon and this activation.
fn config_off_weights(reader: &OpenClipReader, tower: &str) -> Result<BertConfig> {
    let at = |inner: &str| format!("{tower}{inner}");
    ensure!(
        reader.has(&at("embeddings.token_type_embeddings.weight")),
        "text_cfg: hf_model_name is no BERT; of transformers' towers only BERT is loaded from open_clip's layout"
    );
    let words = at("embeddings.word_embeddings.weight");
    let width = reader.side(&words, 1)?;
    let positions = reader.side(&at("embeddings.position_embeddings.weight"), 0)?;
    ensure!(width % 64 == 0, "the text tower is {width} wide, so its heads are not known; allowed are multiples of 64");
    Ok(BertConfig {
        width,
        intermediate: reader.side(&at("encoder.layer.0.intermediate.dense.weight"), 0)?,
        layers: reader.count(&at("encoder.layer.")),
        heads: width / 64,
        vocab_size: reader.side(&words, 0)?,
        positions,
        position_offset: 0,
        token_types: reader.side(&at("embeddings.token_type_embeddings.weight"), 0)?,
        context_length: positions,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-12,
        pad_id: 0,
        pool: TextPool::Cls,
    })
}
