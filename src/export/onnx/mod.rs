//! A model as ONNX files, in the layout that transformers.js reads: `onnx/vision_model.onnx`, `onnx/text_model.onnx`
//! and
//! `onnx/model.onnx`, with the preprocessing and the tokenizer beside them. Models draw their graphs themselves
//! ([`crate::model::graph`]).

mod card;
mod file;
mod folder;
mod proto;
mod quantize;
mod run;
mod tower;

pub use card::RecallLoss;
pub use file::write as write_graph;
pub use folder::{OnnxFile, OnnxModel};
pub use quantize::quantized;
pub use run::run;
pub use tower::attention_mask;
