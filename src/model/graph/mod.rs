//! A model as a graph of operators that other programs run. The operators are ONNX's, version 17 of its default set
//! (onnx/onnx, docs/Operators.md), the simplest that do: one graph is one file of [`crate::export`]'s.
//!
//! Owns what graphs are made of, and how towers draw themselves; knows no tower and no file. Weights are looked up by
//! their names, as layers ask for them.

mod drawing;
mod layers;
mod parts;

pub use drawing::{Drawing, FLOAT, INT32};
pub use layers::{Conv, Heads};
pub use parts::{Attribute, Edge, Graph, Node, Port, Side};
