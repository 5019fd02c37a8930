//! The table of towers. A new tower is a folder in `vision/` or `text/` and a row here; nothing else lists them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::format::open_clip::OpenClipTower;
use super::format::{Tower, TowerFormat};
use super::text::tower::TextConfig;
use super::text::{bert, clip, modernbert};
use super::vision::tower::VisionConfig;
use super::vision::{convnext, efficientnet, resnet, swin, vit};

const VISION: &[Tower<Box<dyn VisionConfig>>] =
    &[vit::TOWER, convnext::TOWER, resnet::TOWER, swin::TOWER, efficientnet::TOWER];

const TEXT: &[Tower<Box<dyn TextConfig>>] = &[clip::TOWER, bert::TOWER, modernbert::TOWER];

/// The form of image tower that a config.json describes.
///
/// # Errors
/// None is known.
pub fn vision_format(config: &Value) -> Result<&'static TowerFormat<Box<dyn VisionConfig>>> {
    find(VISION, config, "image")
}

/// The form of text tower that a config.json describes.
///
/// # Errors
/// None is known.
pub fn text_format(config: &Value) -> Result<&'static TowerFormat<Box<dyn TextConfig>>> {
    find(TEXT, config, "text")
}

/// The image tower of open_clip that claims what `claims` looks at.
///
/// # Errors
/// Whatever `claims` says.
pub fn open_clip_vision(
    claims: impl Fn(&OpenClipTower<Box<dyn VisionConfig>>) -> Result<bool>,
) -> Result<Option<&'static OpenClipTower<Box<dyn VisionConfig>>>> {
    claimed(VISION, claims)
}

/// The text tower of open_clip that claims what `claims` looks at.
///
/// # Errors
/// Whatever `claims` says.
pub fn open_clip_text(
    claims: impl Fn(&OpenClipTower<Box<dyn TextConfig>>) -> Result<bool>,
) -> Result<Option<&'static OpenClipTower<Box<dyn TextConfig>>>> {
    claimed(TEXT, claims)
}

/// What a config.json says it is: transformers' `model_type`, or timm's `architecture`.
pub fn model_type(config: &Value) -> &str {
    ["model_type", "architecture"].iter().find_map(|key| config.get(key)?.as_str()).unwrap_or_default()
}

fn find<C>(towers: &'static [Tower<C>], config: &Value, side: &str) -> Result<&'static TowerFormat<C>> {
    let name = model_type(config);
    let formats = || towers.iter().flat_map(|tower| tower.formats);
    formats().find(|f| f.model_types.contains(&name)).with_context(|| {
        let known: Vec<&str> = formats().filter(|f| !f.whole_only).flat_map(|f| f.model_types).copied().collect();
        format!("model_type is {name:?}, which is no {side} tower known here; known are {}", known.join(", "))
    })
}

fn claimed<C>(
    towers: &'static [Tower<C>],
    claims: impl Fn(&OpenClipTower<C>) -> Result<bool>,
) -> Result<Option<&'static OpenClipTower<C>>> {
    for tower in towers.iter().filter_map(|tower| tower.open_clip.as_ref()) {
        if claims(tower)? {
            return Ok(Some(tower));
        }
    }
    Ok(None)
}
