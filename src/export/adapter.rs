//! Adapters as the Python library PEFT reads them: `PeftModel.from_pretrained(base, folder)`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;
use serde_json::json;

use crate::model::checkpoint::{save_safetensors, write_checksums};
use crate::model::lora;
use crate::session::ModelFolder;

/// What adapters were made with.
#[derive(Clone, Copy, Debug)]
pub struct AdapterOptions {
    /// Width of the bottleneck.
    pub rank: usize,
    /// What products are multiplied by, times rank.
    pub alpha: f64,
    /// Share of the input that was dropped in training.
    pub dropout: f64,
}

/// Writes one adapter for each part of the model's layout (in folders `vision` and `text` where the towers are models
/// of their own). Layers that the layout's program keeps inside a joint one, such as open_clip's attention, cannot be
/// named there and are left out; README.md then says so. `weights` have our names.
///
/// # Errors
/// A file cannot be written.
pub fn write_adapter(
    folder: &Path,
    model: &ModelFolder,
    options: &AdapterOptions,
    weights: &[(String, Tensor)],
) -> Result<()> {
    let (mut parts, mut homeless) = (std::collections::BTreeMap::<&str, Vec<(String, Tensor, Tensor)>>::new(), 0);
    for (layer, a, b) in lora::adapters(weights) {
        match model.layout.module_of(&format!("{layer}.weight")) {
            Some((part, module)) => parts.entry(part).or_default().push((module, a, b)),
            None => homeless += 1,
        }
    }
    let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).with_context(|| path.display().to_string());
    for (part, adapters) in parts {
        let inside = folder.join(part);
        std::fs::create_dir_all(&inside).with_context(|| inside.display().to_string())?;
        let modules: BTreeSet<&str> = adapters.iter().map(|(module, ..)| module.as_str()).collect();
        let tensors: Vec<(String, Tensor)> = adapters
            .iter()
            .flat_map(|(module, a, b)| {
                let name = |matrix: &str| format!("base_model.model.{module}.{matrix}.weight");
                [(name("lora_A"), a.clone()), (name("lora_B"), b.clone())]
            })
            .collect();
        save_safetensors(&inside.join("adapter_model.safetensors"), &tensors)?;
        let config = json!({
            "peft_type": "LORA", "r": options.rank, "lora_alpha": options.alpha, "lora_dropout": options.dropout,
            "target_modules": modules, "bias": "none", "fan_in_fan_out": false, "inference_mode": true,
            "base_model_name_or_path": null, "task_type": null,
        });
        write(&inside.join("adapter_config.json"), &serde_json::to_vec_pretty(&config)?)?;
    }
    let mut text = "Low-rank adapters for the model that they were trained on; \
                    `peft.PeftModel.from_pretrained(model, \".\")` puts them there. The projections and logit_scale, \
                    where they were trained, are in ../model only.\n\n\
                    Layers are named as in the files of weights. transformers 5 names those of ViT, DeiT and others \
                    anew in memory, and PEFT then passes them over. ../model holds everything.\n"
        .to_string();
    if homeless > 0 {
        text.push_str(&format!(
            "Left out, because the layout has no module of their own for them: {homeless} layers.\n"
        ));
    }
    write(&folder.join("README.md"), text.as_bytes())?;
    write_checksums(folder)
}
