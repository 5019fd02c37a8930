//! Architectures by name, with random weights: for measurements.

use anyhow::Result;
use serde_json::json;

use super::transformers::{FreshClip, FreshTower, fresh_clip};
use crate::error::{Problem, Problems};
use crate::model::config::{ClipConfig, LOGIT_SCALE_INIT};
use crate::model::format::Pooling;
use crate::model::format::json::Section;
use crate::model::layers::bag_pool::BagPooling;
use crate::model::layers::projection::Projection;
use crate::model::towers;

/// A CLIP of OpenAI.
struct Clip {
    name: &'static str,
    image_size: usize,
    patch_size: usize,
    vision_width: usize,
    vision_layers: usize,
    text_width: usize,
}

/// From the `config.json` of OpenAI's repositories of these names. Heads are 64 wide in all of them, texts take 12
/// layers, and the shared space is as wide as they are.
const CLIPS: &[Clip] = &[
    Clip {
        name: "clip-vit-base-patch32",
        image_size: 224,
        patch_size: 32,
        vision_width: 768,
        vision_layers: 12,
        text_width: 512,
    },
    Clip {
        name: "clip-vit-base-patch16",
        image_size: 224,
        patch_size: 16,
        vision_width: 768,
        vision_layers: 12,
        text_width: 512,
    },
    Clip {
        name: "clip-vit-large-patch14",
        image_size: 224,
        patch_size: 14,
        vision_width: 1024,
        vision_layers: 24,
        text_width: 768,
    },
    Clip {
        name: "clip-vit-large-patch14-336",
        image_size: 336,
        patch_size: 14,
        vision_width: 1024,
        vision_layers: 24,
        text_width: 768,
    },
];

/// Pairs of towers: name, model types of transformers, whose configs' defaults are the base models, and the image's
/// pooling.
const PAIRS: &[(&str, &str, &str, Pooling)] = &[
    ("vit-base-patch16+bert-base", "vit", "bert", Pooling::Cls),
    ("resnet-50+bert-base", "resnet", "bert", Pooling::Pooler),
];

/// The architecture of this name.
///
/// # Errors
/// A name that is not known.
pub fn builtin(name: &str) -> Result<ClipConfig> {
    if let Some(clip) = CLIPS.iter().find(|clip| clip.name == name) {
        let tower = |width: usize, layers: usize| FreshTower { width, layers, heads: width / 64 };
        let numbers = FreshClip {
            vision: tower(clip.vision_width, clip.vision_layers),
            image_size: clip.image_size,
            patch_size: clip.patch_size,
            text: tower(clip.text_width, 12),
            vocab_size: 49408,
            context_length: 77,
            end_id: 49407,
            embed_dim: clip.text_width,
            logit_bias: false,
        };
        return Ok(fresh_clip(&numbers, &json!({}))?.0);
    }
    let Some((_, vision, text, pooling)) = PAIRS.iter().find(|(known, ..)| *known == name) else {
        let known = CLIPS.iter().map(|clip| clip.name).chain(PAIRS.iter().map(|(known, ..)| *known));
        let line = format!("model {name:?}: built in are {}", known.collect::<Vec<_>>().join(", "));
        return Err(Problems(vec![Problem(line)]).into());
    };
    let (vision, text) = (json!({"model_type": vision}), json!({"model_type": text}));
    let (image, words) = (Section { name: "", json: &vision }, Section { name: "", json: &text });
    let mut text = (towers::text_format(&text)?.read)(&words, Pooling::Cls)?;
    text.set_context_length(128);
    Ok(ClipConfig {
        vision: (towers::vision_format(&vision)?.read)(&image, *pooling)?,
        text,
        visual_projection: Projection::Linear { bias: false },
        text_projection: Projection::Linear { bias: false },
        embed_dim: 512,
        logit_scale_init: LOGIT_SCALE_INIT,
        logit_bias_init: None,
        bag_pooling: BagPooling::Mean,
    })
}
