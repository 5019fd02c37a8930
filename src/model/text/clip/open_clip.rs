//! CLIP's text transformer within open_clip's models.

use anyhow::{Result, bail};
use serde_json::json;

use super::config::{ClipTextConfig, EosRule};
use crate::model::format::json::Section;
use crate::model::format::open_clip::{BLOCKS, OpenClipReader, OpenClipTower, norm_eps};
use crate::model::format::rename::How::{Same, Transposed};
use crate::model::format::rename::Rule;
use crate::model::layers::projection::Projection;
use crate::model::text::tower::TextConfig;
use crate::ops::Activation;

type Config = Box<dyn TextConfig>;

pub const OPEN_CLIP: OpenClipTower<Config> = OpenClipTower { claims, read };

const TEXT: &[Rule] = &[
    ("token_embedding.weight", "embeddings.token_embedding.weight", Same),
    ("positional_embedding", "embeddings.position_embedding.weight", Same),
    ("ln_final.*", "final_layer_norm.*", Same),
];

fn claims(s: &Section) -> Result<bool> {
    Ok(s.text("hf_model_name")?.is_none())
}

fn read(reader: &mut OpenClipReader, s: &Section) -> Result<(Config, Projection)> {
    for (key, allowed) in [
        ("embed_cls", json!(false)),
        ("final_ln_after_pool", json!(false)),
        ("block_type", json!("default")),
        ("qk_norm", json!(false)),
        ("scale_attn", json!(false)),
        ("scale_fc", json!(false)),
        ("ls_init_value", json!(0)),
        ("mlp_ratio", json!(4.0)),
    ] {
        s.refuse_unless(key, &allowed)?;
    }
    let prefix = if reader.has("text.token_embedding.weight") { "text." } else { "" };
    let (width, causal) = (s.size("width", 512)?, !s.flag("no_causal_mask", false)?);
    let eos = match s.text("pool_type")?.unwrap_or("argmax") {
        "argmax" => EosRule::HighestId,
        "eos" => EosRule::FirstEqual(s.id("eos_id", 2)?),
        "last" if !causal => EosRule::LastRow,
        other => bail!("text_cfg.pool_type is {other:?}; known are argmax, eos, and last without causal mask"),
    };
    for rules in [TEXT, BLOCKS] {
        reader.renames.add(rules, prefix, "text_model.");
    }
    let bias = s.flag("proj_bias", false)?;
    let theirs = format!("{prefix}text_projection");
    if bias {
        reader.renames.push(format!("{theirs}.*"), "text_projection.*".into(), Same);
    } else {
        reader.renames.push(theirs, "text_projection.weight".into(), Transposed);
    }
    // timm's SigLIP models take tanh's GELU in neither tower; their text blocks follow quick_gelu like all others.
    let text = ClipTextConfig {
        heads: s.size("heads", 8)?,
        activation: match s.json.pointer("/act_kwargs/approximate") {
            Some(kind) if kind == "tanh" => Activation::GeluTanh,
            _ => reader.activation(),
        },
        layer_norm_eps: norm_eps(s)?,
        causal,
        ..ClipTextConfig::clip(
            width,
            s.size("layers", 12)?,
            s.size("vocab_size", 49408)?,
            s.size("context_length", 77)?,
            eos,
        )
    };
    Ok((Box::new(text), Projection::Linear { bias }))
}
