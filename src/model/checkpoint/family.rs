//! Whole models of transformers: CLIP, Chinese-CLIP, SigLIP.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Pooling;
use super::json::Section;
use super::layout::{Family, Layout, Part};
use super::load::{Draft, PartDraft};
use super::rename::{How, Renames, Rule};
use super::source::Folder;
use super::{text, vision, vision_names};
use crate::model::config::{ClipConfig, Projection, TextConfig, VisionConfig};
use crate::model::text::{ClipTextConfig, EosRule};
use crate::model::{Activation, VitConfig};

const LINEAR: Projection = Projection::Linear { bias: false };

const HEADS: &[Rule] = &[
    ("visual_projection.weight", "visual_projection.weight", How::Same),
    ("text_projection.weight", "text_projection.weight", How::Same),
    ("logit_scale", "logit_scale", How::Same),
];

const SIGLIP_HEADS: &[Rule] = &[
    ("text_model.head.*", "text_projection.*", How::Same),
    ("logit_scale", "logit_scale", How::Leading(1)),
    ("logit_bias", "logit_bias", How::Leading(1)),
];

const POSITION_IDS: &[super::Unused] = &[
    ("text_model.embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight", false),
    ("vision_model.embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight", false),
    ("text_model.pooler.**", "not used by this model", false),
];

/// A model whose `config.json` has a `model_type` of one of these families.
pub(super) fn read<'a>(folder: Folder<'a>, config: Value, family: Family) -> Result<Draft<'a>> {
    let top = Section { name: "", json: &config };
    let (image, words) = (Section::of(&config, "vision_config"), Section::of(&config, "text_config"));
    let mut renames = Renames::default();
    let model = match family {
        Family::Siglip | Family::Siglip2 => {
            if family == Family::Siglip2 {
                renames.add(vision_names::SIGLIP2_PATCHES, "vision_model.", "vision_model.");
            }
            renames.add(vision_names::CLIP, "vision_model.", "vision_model.");
            renames.add(vision_names::SIGLIP_HEAD, "vision_model.", "vision_model.");
            renames.add(text::CLIP, "text_model.", "text_model.");
            renames.add(SIGLIP_HEADS, "", "");
            let image = vision::siglip(&image, Pooling::Pooler)?;
            ClipConfig {
                embed_dim: image.width(),
                vision: image,
                text: text::siglip(&words)?,
                visual_projection: Projection::None,
                text_projection: Projection::Linear { bias: true },
                logit_scale_init: 1f64.ln(),
                logit_bias_init: Some(0.0),
            }
        }
        _ => {
            let chinese = family == Family::ChineseClip;
            renames.add(vision_names::CLIP, "vision_model.", "vision_model.");
            renames.add(if chinese { text::BERT } else { text::CLIP }, "text_model.", "text_model.");
            renames.add(HEADS, "", "");
            let read_text = if chinese { text::bert } else { text::clip };
            ClipConfig {
                vision: vision::clip(&image, Pooling::Cls)?,
                text: read_text(&words, if chinese { Pooling::Cls } else { Pooling::Eos })?,
                visual_projection: LINEAR,
                text_projection: LINEAR,
                embed_dim: top.size("projection_dim", 512)?,
                logit_scale_init: top.number("logit_scale_init_value", 2.6592)?,
                logit_bias_init: None,
            }
        }
    };
    let part = Part {
        folder: "",
        config_file: "config.json",
        config,
        weights_file: "model.safetensors",
        renames,
        carried: Vec::new(),
    };
    let unused = POSITION_IDS.iter().map(|u| (String::new(), *u)).collect();
    Ok(Draft {
        config: model,
        family,
        parts: vec![PartDraft::open(folder, part, unused)?],
        fresh_heads: None,
        beside: Vec::new(),
    })
}

/// A fresh CLIP in transformers' layout.
pub(super) fn fresh_clip(config: &ClipConfig, beside: Value) -> Result<Layout> {
    let (VisionConfig::Vit(v), TextConfig::Clip(t)) = (&config.vision, &config.text) else {
        bail!("only a CLIP can be made from nothing")
    };
    let mut renames = Renames::default();
    renames.add(vision_names::CLIP, "vision_model.", "vision_model.");
    renames.add(text::CLIP, "text_model.", "text_model.");
    renames.add(HEADS, "", "");
    let part = Part {
        folder: "",
        config_file: "config.json",
        config: clip_json(config, v, t, beside),
        weights_file: "model.safetensors",
        renames,
        carried: Vec::new(),
    };
    Ok(Layout { family: Family::Clip, parts: vec![part], beside: Vec::new() })
}

fn clip_json(config: &ClipConfig, v: &VitConfig, t: &ClipTextConfig, beside: Value) -> Value {
    let tower = |width, intermediate, layers, heads, activation, eps: f64| {
        json!({
            "hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "projection_dim": config.embed_dim, "layer_norm_eps": eps,
            "hidden_act": match activation { Activation::QuickGelu => "quick_gelu", _ => "gelu" },
        })
    };
    let mut vision = tower(v.width, v.intermediate, v.layers, v.heads, v.activation, v.layer_norm_eps);
    vision["model_type"] = json!("clip_vision_model");
    vision["image_size"] = json!(v.image_size);
    vision["patch_size"] = json!(v.patch_size);
    vision["num_channels"] = json!(3);
    let mut text = tower(t.width, t.intermediate, t.layers, t.heads, t.activation, t.layer_norm_eps);
    text["model_type"] = json!("clip_text_model");
    text["vocab_size"] = json!(t.vocab_size);
    text["max_position_embeddings"] = json!(t.context_length);
    text["eos_token_id"] = json!(match t.eos {
        EosRule::FirstEqual(id) => id,
        EosRule::HighestId | EosRule::LastRow => 2,
    });
    for (key, value) in beside.as_object().into_iter().flatten() {
        text[key] = value.clone();
    }
    json!({
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.logit_scale_init, "vision_config": vision, "text_config": text,
    })
}
