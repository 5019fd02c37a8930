//! What graphs are made of.

use candle_core::{DType, Tensor};

/// A tensor of a graph, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge(pub String);

/// What an operator is told beside its inputs.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
}

/// One operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// ONNX's name for what it does.
    pub op: &'static str,
    /// What it reads, in its own order.
    pub inputs: Vec<Edge>,
    /// What it gives.
    pub outputs: Vec<Edge>,
    /// What it is told.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// One side of a tensor that comes in or goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// So many.
    Fixed(usize),
    /// As many as there are, by a name that says what of.
    Any(&'static str),
}

/// A tensor that comes in or goes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Type of its numbers.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<Side>,
}

/// Operators in an order in which each reads only what is there by then.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The operators.
    pub nodes: Vec<Node>,
    /// Weights and constants: f32, i64 or u8; views where they can be.
    pub weights: Vec<(Edge, Tensor)>,
    /// What comes in.
    pub inputs: Vec<Port>,
    /// What goes out.
    pub outputs: Vec<Port>,
}

impl Graph {
    /// The weight of this name.
    pub fn weight(&self, edge: &Edge) -> Option<&Tensor> {
        self.weights.iter().find(|(name, _)| name == edge).map(|(_, tensor)| tensor)
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.iter().map(|(_, tensor)| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }
}
