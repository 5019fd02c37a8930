//! The folder: graphs, config, preprocessing, tokenizer, card.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::card::{RecallLoss, onnx_card};
use super::file;
use super::quantize::quantized;
use super::tower::GraphTower;
use crate::export::folder::{processor, tokenizer_files, write_policies};
use crate::model::checkpoint::{Family, write_checksums};
use crate::model::graph::{Graph, Port};
use crate::model::{ClipModel, lora};
use crate::session::{ModelFolder, Session};

/// A model as graphs.
pub struct OnnxModel<'a> {
    session: &'a Session,
    /// File names within `onnx/` with their graphs.
    graphs: [(&'static str, Graph); 3],
}

/// A file that was written.
#[derive(Clone, Debug)]
pub struct OnnxFile {
    /// Its name within the folder.
    pub name: String,
    /// Its bytes, with those of its weights where they are beside it.
    pub bytes: u64,
    /// Names of what it reads.
    pub inputs: Vec<String>,
    /// Names of what it gives.
    pub outputs: Vec<String>,
}

impl<'a> OnnxModel<'a> {
    /// Draws the graphs of an opened model; adapters are multiplied out.
    ///
    /// # Errors
    /// A weight that was not loaded.
    pub fn new(session: &'a Session) -> Result<Self> {
        let config = &session.folder.config;
        let merged;
        let params = match session.params.adapter_scale() {
            Some(_) => {
                merged = lora::merged(&session.params)?;
                &merged
            }
            None => &session.params,
        };
        let (image, text) = state_names(session.folder.layout.family);
        let graphs = [
            ("vision_model", config.image_graph(params, image)?),
            ("text_model", config.text_graph(params, text)?),
            ("model", config.joint_graph(params)?),
        ];
        Ok(Self { session, graphs })
    }

    /// The model with its graphs in 8 bits for towers.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn in_int8(&self) -> Result<ClipModel> {
        let pad_id = self.session.folder.tokenizer.pad_id();
        let tower =
            |i: usize| -> Result<GraphTower> { Ok(GraphTower { graph: quantized(&self.graphs[i].1)?, pad_id }) };
        Ok(self.session.model()?.with_towers(Box::new(tower(0)?), Box::new(tower(1)?)))
    }

    /// Writes the folder, with `int8` also each graph with weights in 8 bits; `losses` go on the card. Write to a
    /// temporary place: it is not atomic.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, int8: bool, losses: &[RecallLoss]) -> Result<Vec<OnnxFile>> {
        let model = &self.session.folder;
        std::fs::create_dir_all(folder.join("onnx")).with_context(|| folder.display().to_string())?;
        let mut files = Vec::new();
        for (name, graph) in &self.graphs {
            files.push(write_graph(folder, name, graph)?);
            if int8 {
                files.push(write_graph(folder, &format!("{name}_quantized"), &quantized(graph)?)?);
            }
        }
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
        };
        write("config.json", &serde_json::to_vec_pretty(&config(model))?)?;
        write("preprocessor_config.json", &serde_json::to_vec_pretty(&processor(model))?)?;
        for (name, bytes) in tokenizer_files(model)? {
            write(&name, &bytes)?;
        }
        if !model.tokenizer.files().iter().any(|(name, _)| name == "tokenizer.json") {
            write("tokenizer.json", model.tokenizer.to_json()?.as_bytes())?;
        }
        write_policies(folder, model)?;
        write("README.md", onnx_card(model, int8.then_some(losses)).as_bytes())?;
        write_checksums(folder)?;
        Ok(files)
    }
}

/// `name` has the endings of transformers.js: nothing for f32, `_quantized` for 8 bits.
fn write_graph(folder: &Path, name: &str, graph: &Graph) -> Result<OnnxFile> {
    let name = format!("onnx/{name}.onnx");
    let path = folder.join(&name);
    let bytes = file::write(graph, &path).with_context(|| path.display().to_string())?;
    let names = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect();
    Ok(OnnxFile { name, bytes, inputs: names(&graph.inputs), outputs: names(&graph.outputs) })
}

/// What transformers calls the states of the two towers: SigLIP's have no projection of their own.
fn state_names(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::Siglip | Family::Siglip2 => ("pooler_output", "pooler_output"),
        _ => ("image_embeds", "text_embeds"),
    }
}

/// config.json: the model's own where it has one, else one whose class in transformers.js takes any two towers with
/// these names of inputs and outputs.
fn config(model: &ModelFolder) -> Value {
    let own = model.layout.own_config(&model.config).filter(|_| model.layout.family != Family::OpenClip);
    own.unwrap_or_else(|| {
        let (vision, text) = (&model.config.vision, &model.config.text);
        json!({
            "model_type": "clip", "projection_dim": model.config.embed_dim,
            "text_config": {"model_type": "clip_text_model", "max_position_embeddings": text.context_length()},
            "vision_config": {"model_type": "clip_vision_model", "image_size": vision.image_size()},
            "reportclip": {"image_tower": vision.name(), "text_tower": text.name()},
        })
    })
}
