//! Whole models of transformers: CLIP, Chinese-CLIP, SigLIP.

use anyhow::Result;
use serde_json::{Value, json};

use super::files::{UnloadedFile, UnloadedModel};
use super::layout::{Family, Layout, SavedFile};
use super::source::{Folder, TRANSFORMERS, WeightFiles};
use crate::model::config::{ClipConfig, LOGIT_SCALE_INIT};
use crate::model::format::json::Section;
use crate::model::format::rename::{How, Renames, Rule};
use crate::model::format::{Pooling, Unused};
use crate::model::layers::bag_pool::BagPooling;
use crate::model::layers::projection::Projection;
use crate::model::towers;

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

/// Where a CLIP of ours has a bias, which transformers' has not: this field of its config says so, and transformers
/// leaves field and tensor aside.
const BIAS_INIT: &str = "logit_bias_init_value";
const BIAS: Rule = ("logit_bias", "logit_bias", How::Same);

/// Where scale and bias start that a sigmoid loss trains (SigLIP, arXiv 2303.15343).
const SIGMOID_SCALE_INIT: f64 = std::f64::consts::LN_10;
const SIGMOID_BIAS_INIT: f64 = -10.0;

const UNUSED: &[Unused] = &[
    Unused::dropped("text_model.embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight"),
    Unused::dropped("vision_model.embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight"),
    Unused::dropped("text_model.pooler.**", "not used by this model"),
];

/// A class of transformers that is a whole model.
pub(super) struct WholeModel {
    family: Family,
    /// Its word in `config.json`; those of its towers are this one with `_vision_model` and `_text_model`.
    model_type: &'static str,
    image_pooling: Pooling,
    text_pooling: Pooling,
    /// SigLIP's: the image tower's state is the feature, and there is a bias.
    sigmoid: bool,
}

const CLIP: WholeModel = WholeModel {
    family: Family::Clip,
    model_type: "clip",
    image_pooling: Pooling::Cls,
    text_pooling: Pooling::Eos,
    sigmoid: false,
};

const WHOLE_MODELS: &[WholeModel] = &[
    CLIP,
    WholeModel {
        family: Family::ChineseClip,
        model_type: "chinese_clip",
        image_pooling: Pooling::Cls,
        text_pooling: Pooling::Cls,
        sigmoid: false,
    },
    WholeModel {
        family: Family::Siglip,
        model_type: "siglip",
        image_pooling: Pooling::Pooler,
        text_pooling: Pooling::Pooler,
        sigmoid: true,
    },
    WholeModel {
        family: Family::Siglip2,
        model_type: "siglip2",
        image_pooling: Pooling::Pooler,
        text_pooling: Pooling::Pooler,
        sigmoid: true,
    },
];

impl WholeModel {
    /// The one of this word.
    pub fn find(model_type: &str) -> Option<&'static Self> {
        WHOLE_MODELS.iter().find(|whole| whole.model_type == model_type)
    }

    /// The model that its config.json describes, and how its tensors are named.
    fn config(&self, json: &Value) -> Result<(ClipConfig, Renames)> {
        let top = Section { name: "", json };
        let (image, words) = (Section::of(json, "vision_config"), Section::of(json, "text_config"));
        let tower = |side: &str| json!({"model_type": format!("{}_{side}_model", self.model_type)});
        let (vision_format, text_format) =
            (towers::vision_format(&tower("vision"))?, towers::text_format(&tower("text"))?);
        let mut renames = Renames::default();
        vision_format.add_names(&image, &mut renames, "vision_model.", "vision_model.")?;
        text_format.add_names(&words, &mut renames, "text_model.", "text_model.")?;
        renames.add(if self.sigmoid { SIGLIP_HEADS } else { HEADS }, "", "");
        let vision = (vision_format.read)(&image, self.image_pooling)?;
        let text = (text_format.read)(&words, self.text_pooling)?;
        let has_bias = !self.sigmoid && json.get(BIAS_INIT).is_some_and(|v| !v.is_null());
        if has_bias {
            renames.add(&[BIAS], "", "");
        }
        let config = if self.sigmoid {
            ClipConfig {
                embed_dim: vision.width(),
                vision,
                text,
                visual_projection: Projection::None,
                text_projection: Projection::Linear { bias: true },
                logit_scale_init: 1f64.ln(),
                logit_bias_init: Some(0.0),
                bag_pooling: BagPooling::Mean,
            }
        } else {
            ClipConfig {
                vision,
                text,
                visual_projection: Projection::Linear { bias: false },
                text_projection: Projection::Linear { bias: false },
                embed_dim: top.size("projection_dim", 512)?,
                logit_scale_init: top.number("logit_scale_init_value", 2.6592)?,
                logit_bias_init: if has_bias { Some(top.number(BIAS_INIT, SIGMOID_BIAS_INIT)?) } else { None },
                bag_pooling: BagPooling::Mean,
            }
        };
        Ok((config, renames))
    }
}

fn saved(config: Value, renames: Renames) -> SavedFile {
    SavedFile {
        folder: "",
        config_file: "config.json",
        config,
        weights_file: "model.safetensors",
        renames,
        carried: Vec::new(),
    }
}

/// A model whose `config.json` says that it is `whole`.
pub(super) fn read<'a>(folder: Folder<'a>, config: Value, whole: &WholeModel) -> Result<UnloadedModel<'a>> {
    let (model, renames) = whole.config(&config)?;
    let weights = WeightFiles::open(folder, TRANSFORMERS)?;
    let unused = UNUSED.iter().map(|u| (String::new(), *u)).collect();
    let file = UnloadedFile::new(folder, saved(config, renames), weights, unused);
    let family = whole.family;
    Ok(UnloadedModel {
        config: model,
        family,
        files: vec![file],
        fresh_heads: None,
        fresh_bag_pooling: None,
        beside: Vec::new(),
    })
}

/// The numbers of one tower of a CLIP that no file holds yet.
#[derive(Clone, Copy, Debug)]
pub struct FreshTower {
    /// Width of a token's state; the feed-forward layer is four times as wide.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
}

/// The numbers of a CLIP that no file holds yet.
#[derive(Clone, Copy, Debug)]
pub struct FreshClip {
    /// Image tower.
    pub vision: FreshTower,
    /// Pixels a side.
    pub image_size: usize,
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Text tower.
    pub text: FreshTower,
    /// Tokens known.
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub context_length: usize,
    /// The token that texts end with.
    pub end_id: u32,
    /// Width of the shared space.
    pub embed_dim: usize,
    /// Whether it has a bias, for a sigmoid loss: −10, and its scale starts at 10.
    pub logit_bias: bool,
}

/// A fresh CLIP in transformers' layout; `text_fields` go into its `text_config`.
///
/// # Errors
/// Numbers that make no model.
pub fn fresh_clip(numbers: &FreshClip, text_fields: &Value) -> Result<(ClipConfig, Layout)> {
    let tower = |side: &str, tower: FreshTower| {
        json!({
            "model_type": format!("clip_{side}_model"),
            "hidden_size": tower.width, "intermediate_size": 4 * tower.width, "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads, "projection_dim": numbers.embed_dim,
            "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu",
        })
    };
    let mut vision = tower("vision", numbers.vision);
    vision["image_size"] = json!(numbers.image_size);
    vision["patch_size"] = json!(numbers.patch_size);
    vision["num_channels"] = json!(3);
    let mut text = tower("text", numbers.text);
    text["vocab_size"] = json!(numbers.vocab_size);
    text["max_position_embeddings"] = json!(numbers.context_length);
    text["eos_token_id"] = json!(numbers.end_id);
    for (key, value) in text_fields.as_object().into_iter().flatten() {
        text[key] = value.clone();
    }
    let scale = if numbers.logit_bias { SIGMOID_SCALE_INIT } else { LOGIT_SCALE_INIT };
    let mut json = json!({
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": numbers.embed_dim,
        "logit_scale_init_value": scale, "vision_config": vision, "text_config": text,
    });
    if numbers.logit_bias {
        json[BIAS_INIT] = json!(SIGMOID_BIAS_INIT);
    }
    let (config, renames) = CLIP.config(&json)?;
    let layout = Layout { family: Family::Clip, files: vec![saved(json, renames)], beside: Vec::new() };
    Ok((config, layout))
}
