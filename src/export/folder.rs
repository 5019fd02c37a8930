//! A folder that the model's own program loads: transformers, open_clip, or for pairs that neither holds, reportclip
//! with towers that transformers loads one by one.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;
use serde_json::{Value, json};

use super::card::card;
use crate::data::ReportPolicy;
use crate::model::checkpoint::{Family, save_safetensors, write_checksums};
use crate::session::{ModelFolder, REPORT_FILE};

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
        if model.layout.family == Family::OpenClip {
            config["preprocess_cfg"] = model.preprocess.to_open_clip(&config["preprocess_cfg"]);
        }
        write(&format!("{}/{name}", if part.folder.is_empty() { "." } else { part.folder }), &pretty(&config)?)?;
        save_safetensors(&inside.join(part.weights.0), &part.weights.1)?;
    }
    for (name, json) in &model.layout.beside {
        if let Some(inside) = folder.join(name).parent() {
            std::fs::create_dir_all(inside).with_context(|| format!("making {}", inside.display()))?;
        }
        write(name, &pretty(json)?)?;
    }
    if model.layout.family != Family::OpenClip {
        let mut processor = model.preprocess.to_json();
        if let Some(class) = processor_class(model.layout.family) {
            processor["processor_class"] = json!(class);
        }
        write("preprocessor_config.json", &pretty(&processor)?)?;
    }
    for (name, bytes) in model.tokenizer.files() {
        let bytes = match name.as_str() {
            "tokenizer_config.json" => &pretty(&tokenizer_config(bytes, model)?)?,
            _ => bytes,
        };
        write(name, bytes)?;
    }
    if !model.tokenizer.files().iter().any(|(name, _)| name == "tokenizer_config.json") {
        let config = json!({"tokenizer_class": model.tokenizer.class()});
        write("tokenizer_config.json", &pretty(&tokenizer_config(config.to_string().as_bytes(), model)?)?)?;
    }
    if model.report != ReportPolicy::default() {
        write(REPORT_FILE, &pretty(&model.report.to_json())?)?;
    }
    write("README.md", card(model).as_bytes())?;
    write_checksums(folder)
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
