//! What stands for a bag of images, kept beside the towers in files of its own: the program that the towers are written
//! for loads the folder as if they were not there.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::files::{UnloadedFile, UnloadedModel};
use super::layout::{Layout, SavedFile};
use super::source::{BAG_POOLING, Folder, WeightFiles};
use crate::model::format::json::Section;
use crate::model::format::rename::{How, Renames, Rule};
use crate::model::{BagPooling, BagPoolingKind, BagPoolingRequest, BagPosition};

/// Config; a model without one takes the mean, which has nothing to keep.
const CONFIG: &str = "bag_pooling.json";
const WEIGHTS: &str = "bag_pooling.safetensors";

/// As a module of PyTorch calls them that has layers v, u and w.
const RULES: &[Rule] = &[
    ("v.*", "bag_pooling.v.*", How::Same),
    ("u.*", "bag_pooling.u.*", How::Same),
    ("w.weight", "bag_pooling.w.weight", How::Same),
    ("position", "bag_pooling.position", How::Same),
];

/// Gives `model` the pooling that its folder keeps, or the one that is asked for, with fresh weights where that is
/// another.
///
/// # Errors
/// A config that says nothing known; its weights are missing.
pub(super) fn attach<'a>(
    model: &mut UnloadedModel<'a>,
    folder: Option<Folder<'a>>,
    request: &BagPoolingRequest,
) -> Result<()> {
    let config = folder.map(|folder| folder.json(CONFIG)).transpose()?.flatten();
    let kept = config.as_ref().map(|config| read(config).context(CONFIG)).transpose()?.unwrap_or_default();
    let pooling = kept.asked(request);
    model.config.bag_pooling = pooling;
    match (folder, config) {
        (Some(folder), Some(config)) if pooling == kept && kept.has_weights() => {
            let weights = WeightFiles::open(folder, BAG_POOLING)?;
            model.files.push(UnloadedFile::new(folder, saved(config), weights, Vec::new()));
        }
        _ => model.fresh_bag_pooling = written(pooling),
    }
    Ok(())
}

/// `layout` with the file of a fresh pooling.
#[must_use]
pub fn with_bag_pooling(mut layout: Layout, pooling: BagPooling) -> Layout {
    layout.files.extend(written(pooling));
    layout
}

/// The file of a fresh pooling; `None` where there is nothing to keep.
fn written(pooling: BagPooling) -> Option<SavedFile> {
    let mut config = json!({"pooling": pooling.kind().word()});
    match pooling {
        BagPooling::Mean => return None,
        BagPooling::Max => {}
        BagPooling::Attention { hidden, position } => {
            config["hidden"] = hidden.into();
            config["position"] = position.word().into();
        }
    }
    Some(saved(config))
}

fn saved(config: Value) -> SavedFile {
    let mut renames = Renames::default();
    renames.add(RULES, "", "");
    SavedFile { folder: "", config_file: CONFIG, config, weights_file: WEIGHTS, renames, carried: Vec::new() }
}

fn read(config: &Value) -> Result<BagPooling> {
    let top = Section { name: "", json: config };
    let kind = top.text("pooling")?.context("says no pooling")?;
    let known = |words: &[&str]| format!("; this version knows {}", words.join(", "));
    let kind =
        BagPoolingKind::find(kind).with_context(|| format!("pooling is {kind:?}{}", known(BagPoolingKind::WORDS)))?;
    let position = top.text("position")?.unwrap_or("none");
    let position = BagPosition::find(position)
        .with_context(|| format!("position is {position:?}{}", known(BagPosition::WORDS)))?;
    let hidden = top.optional_size("hidden")?;
    let request = BagPoolingRequest { kind: Some(kind), hidden, position: Some(position) };
    Ok(BagPooling::Mean.asked(&request))
}
