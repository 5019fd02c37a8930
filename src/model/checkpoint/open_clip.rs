//! open_clip's layout: `open_clip_config.json` with `open_clip_model.safetensors` or `open_clip_pytorch_model.bin`.
//! What it says of a tower is read by the tower's folder.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::files::{UnloadedFile, UnloadedModel};
use super::layout::{Family, SavedFile};
use super::source::{Folder, OPEN_CLIP, WeightFiles};
use crate::model::config::{ClipConfig, LOGIT_SCALE_INIT};
use crate::model::format::Unused;
use crate::model::format::json::Section;
use crate::model::format::open_clip::OpenClipReader;
use crate::model::format::rename::{How, Renames};
use crate::model::layers::bag_pool::BagPooling;
use crate::model::layers::projection::Projection;
use crate::model::text::tower::TextConfig;
use crate::model::towers;
use crate::model::vision::tower::VisionConfig;

pub(super) const CONFIG: &str = "open_clip_config.json";

pub(super) fn read(folder: Folder, config: Value) -> Result<UnloadedModel> {
    let model = Section::of(&config, "model_cfg");
    ensure!(model.json.is_object(), "it has no model_cfg");
    let weights = WeightFiles::open(folder, OPEN_CLIP)?;
    let repository = |name: &str| {
        if is_inside(name) { Folder { files: folder.files, name }.json("config.json") } else { Ok(None) }
    };
    let mut reader = OpenClipReader {
        shapes: weights.shapes(),
        renames: Renames::default(),
        beside: Vec::new(),
        quick_gelu: model.flag("quick_gelu", false)?,
        embed_dim: model.size("embed_dim", 512)?,
        repository: &repository,
    };
    if model.json.get("multimodal_cfg").is_some() {
        bail!("it has a multimodal_cfg (CoCa); only models of two towers are loaded");
    }
    let (vision, visual_projection) = read_vision(&mut reader, &Section::of(model.json, "vision_cfg"))?;
    let (text, text_projection) = read_text(&mut reader, &Section::of(model.json, "text_cfg"))?;
    reader.renames.push("logit_scale".into(), "logit_scale".into(), How::Same);
    reader.renames.push("logit_bias".into(), "logit_bias".into(), How::Same);
    let bias = model.json.get("init_logit_bias").is_some_and(|v| !v.is_null());
    let clip = ClipConfig {
        vision,
        text,
        visual_projection,
        text_projection,
        embed_dim: reader.embed_dim,
        logit_scale_init: model.number("init_logit_scale", LOGIT_SCALE_INIT)?,
        logit_bias_init: if bias { Some(model.number("init_logit_bias", -10.0)?) } else { None },
        bag_pooling: BagPooling::Mean,
    };
    let (renames, beside) = (reader.renames, reader.beside);
    let saved = SavedFile {
        folder: "",
        config_file: CONFIG,
        config,
        weights_file: "open_clip_model.safetensors",
        renames,
        carried: Vec::new(),
    };
    let unused = [
        Unused::dropped("attn_mask", "the causal mask, worked out again"),
        Unused::dropped("text.attn_mask", "the causal mask, worked out again"),
        Unused::dropped("text.transformer.embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight"),
        Unused::carried("text.transformer.pooler.**", "not used with this pooling"),
    ];
    let unused = unused.into_iter().map(|u| (String::new(), u)).collect();
    let file = UnloadedFile::new(folder, saved, weights, unused);
    Ok(UnloadedModel {
        config: clip,
        family: Family::OpenClip,
        files: vec![file],
        fresh_heads: None,
        fresh_bag_pooling: None,
        beside,
    })
}

fn read_vision(reader: &mut OpenClipReader, s: &Section) -> Result<(Box<dyn VisionConfig>, Projection)> {
    for (key, allowed) in [
        ("attentional_pool", json!(false)),
        ("pos_embed_type", json!("learnable")),
        ("final_ln_after_pool", json!(false)),
        ("block_type", json!("default")),
        ("qk_norm", json!(false)),
        ("scale_attn", json!(false)),
        ("scale_fc", json!(false)),
        ("scale_heads", json!(false)),
        ("ls_init_value", json!(0)),
        ("eva_model_name", Value::Null),
        ("act_kwargs", json!({})),
    ] {
        s.refuse_unless(key, &allowed)?;
    }
    match towers::open_clip_vision(|tower| (tower.claims)(s))? {
        Some(tower) => (tower.read)(reader, s),
        None => bail!(
            "vision_cfg.timm_model_name is {:?}; of timm's towers only ViTs (vit_…) are loaded",
            s.text("timm_model_name")?.unwrap_or_default()
        ),
    }
}

fn read_text(reader: &mut OpenClipReader, s: &Section) -> Result<(Box<dyn TextConfig>, Projection)> {
    match towers::open_clip_text(|tower| (tower.claims)(s))? {
        Some(tower) => (tower.read)(reader, s),
        None => bail!("text_cfg is of no text tower known here"),
    }
}

/// Whether a name can be a folder within the model's own.
fn is_inside(name: &str) -> bool {
    !name.is_empty() && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}
