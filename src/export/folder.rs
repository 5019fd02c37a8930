//! A folder that the model's own program loads: transformers, open_clip, or for pairs that neither holds, reportclip
//! with towers that transformers loads one by one.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;
use serde_json::{Value, json};

use super::card::card;
use crate::data::{BagPolicy, ReportPolicy};
use crate::model::checkpoint::{Family, save_safetensors, write_checksums};
use crate::session::{BAGS_FILE, LOCAL_FILE, ModelFolder, REPORT_FILE};

/// Writes the folder. `weights` have our names. Write to a temporary place: it is not atomic.
///
/// # Errors
/// A file cannot be written.
pub fn write_model(folder: &Path, model: &ModelFolder, weights: &[(String, Tensor)]) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    };
    let pretty = |json: &Value| serde_json::to_vec_pretty(json);
    for part in model.layout.export(&model.config, weights)? {
        let inside = folder.join(part.folder);
        std::fs::create_dir_all(&inside).with_context(|| format!("making {}", inside.display()))?;
        let (name, mut config) = part.config;
        if model.layout.family == Family::OpenClip && config.get("model_cfg").is_some() {
            config["preprocess_cfg"] = model.preprocess.to_open_clip(&config["preprocess_cfg"]);
        }
        write(&format!("{}/{name}", if part.folder.is_empty() { "." } else { part.folder }), &pretty(&config)?)?;
        // A bag pooling without weights has a config alone.
        if !part.weights.1.is_empty() {
            save_safetensors(&inside.join(part.weights.0), &part.weights.1)?;
        }
    }
    for (name, json) in &model.layout.beside {
        if let Some(inside) = folder.join(name).parent() {
            std::fs::create_dir_all(inside).with_context(|| format!("making {}", inside.display()))?;
        }
        write(name, &pretty(json)?)?;
    }
    if model.layout.family != Family::OpenClip {
        write("preprocessor_config.json", &pretty(&processor(model))?)?;
    }
    for (name, bytes) in tokenizer_files(model)? {
        write(&name, &bytes)?;
    }
    write_policies(folder, model)?;
    write("README.md", card(model).as_bytes())?;
    write_checksums(folder)
}

/// preprocessor_config.json.
pub(super) fn processor(model: &ModelFolder) -> Value {
    let mut processor = model.preprocess.to_json();
    if let Some(class) = processor_class(model.layout.family) {
        processor["processor_class"] = json!(class);
    }
    processor
}

/// The tokenizer's files, tokenizer_config.json among them in any case.
///
/// # Errors
/// Its config is not JSON.
pub(super) fn tokenizer_files(model: &ModelFolder) -> Result<Vec<(String, Vec<u8>)>> {
    const CONFIG: &str = "tokenizer_config.json";
    let mut files = model.tokenizer.files().to_vec();
    if !files.iter().any(|(name, _)| name == CONFIG) {
        let config = json!({"tokenizer_class": model.tokenizer.class()});
        files.push((CONFIG.into(), config.to_string().into_bytes()));
    }
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name == CONFIG) {
        *bytes = serde_json::to_vec_pretty(&tokenizer_config(bytes, model)?)?;
    }
    Ok(files)
}

/// What of a report the model reads, where that is not all of it, which images of a bag, where that is not what it
/// is by default, and how sentences were held against its patches, where they were.
///
/// # Errors
/// A file cannot be written.
pub(super) fn write_policies(folder: &Path, model: &ModelFolder) -> Result<()> {
    let report = (model.report != ReportPolicy::default()).then(|| (REPORT_FILE, model.report.to_json()));
    let bags = match &model.bags {
        bags if *bags == BagPolicy::default() => None,
        bags => Some((BAGS_FILE, bags.to_json()?)),
    };
    let local = model.local.map(serde_json::to_value).transpose()?.map(|local| (LOCAL_FILE, local));
    for (name, policy) in report.into_iter().chain(bags).chain(local) {
        let path = folder.join(name);
        std::fs::write(&path, serde_json::to_vec_pretty(&policy)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The processor that transformers' AutoProcessor shall take.
fn processor_class(family: Family) -> Option<&'static str> {
    match family {
        Family::Clip => Some("CLIPProcessor"),
        Family::ChineseClip => Some("ChineseCLIPProcessor"),
        Family::Siglip => Some("SiglipProcessor"),
        Family::DualEncoder => Some("VisionTextDualEncoderProcessor"),
        Family::Siglip2 | Family::OpenClip | Family::Pair => None,
    }
}

/// Processors pad and cut to `model_max_length`.
fn tokenizer_config(bytes: &[u8], model: &ModelFolder) -> Result<Value> {
    let mut json: Value = serde_json::from_slice(bytes).context("tokenizer_config.json: not JSON")?;
    json["model_max_length"] = model.tokenizer.context_length().into();
    if let Some(class) = processor_class(model.layout.family) {
        json["processor_class"] = json!(class);
    }
    Ok(json)
}
