//! A folder that `transformers.CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained` load.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;
use serde_json::Value;

use crate::data::{Preprocess, ReportTokenizer};
use crate::model::ClipConfig;
use crate::model::checkpoint::save_safetensors;

/// Everything beside the weights that a model folder holds.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Shape.
    pub config: ClipConfig,
    /// `config.json` as it was loaded, or null; fields that we do not know stay as they are.
    pub config_json: Value,
    /// Steps from pixels to input.
    pub preprocess: Preprocess,
    /// Tokenizer with its files.
    pub tokenizer: ReportTokenizer,
    /// What it was made from, in a few words, for the card; never a path or a patient's number.
    pub origin: String,
}

/// Writes the folder. `weights` have Hugging Face's names. Write to a temporary place: it is not atomic.
///
/// # Errors
/// A file cannot be written.
pub fn write_hugging_face(folder: &Path, model: &ModelFolder, weights: &[(String, Tensor)]) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    };
    let pretty = |json: &Value| serde_json::to_vec_pretty(json);
    let mut config = model.config_json.clone();
    model.config.write_into(&mut config);
    write("config.json", &pretty(&config)?)?;
    write("preprocessor_config.json", &pretty(&model.preprocess.to_json())?)?;
    for (name, bytes) in model.tokenizer.files() {
        let bytes = match name.as_str() {
            "tokenizer_config.json" => &pretty(&with_length(bytes, model.tokenizer.context_length())?)?,
            _ => bytes,
        };
        write(name, bytes)?;
    }
    if !model.tokenizer.files().iter().any(|(name, _)| name == "tokenizer_config.json") {
        let config = with_length(br#"{"tokenizer_class": "CLIPTokenizer"}"#, model.tokenizer.context_length())?;
        write("tokenizer_config.json", &pretty(&config)?)?;
    }
    write("README.md", card(&model.origin).as_bytes())?;
    save_safetensors(&folder.join("model.safetensors"), weights)
}

/// CLIPProcessor pads and cuts to `model_max_length`.
fn with_length(bytes: &[u8], context_length: usize) -> Result<Value> {
    let mut json: Value = serde_json::from_slice(bytes).context("tokenizer_config.json: not JSON")?;
    json["model_max_length"] = context_length.into();
    Ok(json)
}

fn card(origin: &str) -> String {
    format!(
        "---\nlibrary_name: transformers\ntags:\n- clip\n- medical\n- reportclip\n---\n\n\
         # A CLIP for images and their reports\n\n{origin}\n\n\
         ## What it is not for\n\n\
         This model is a research tool. It is not a medical device. It must not be used to diagnose, to triage, to \
         decide on treatment, or to write or change a report. It was not checked for safety, for fairness between \
         groups of patients, or on data from other hospitals, devices or languages than those it was trained on. \
         Similar embeddings do not mean that a report is true of an image.\n\n\
         ## How to load it\n\n\
         ```python\nfrom transformers import CLIPModel, CLIPProcessor\n\
         model = CLIPModel.from_pretrained(\".\")\nprocessor = CLIPProcessor.from_pretrained(\".\")\n```\n"
    )
}
