//! The pen that graphs are drawn with: it looks weights up, names what operators give, and keeps constants once.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::parts::{Attribute, Edge, Graph, Node, Port, Side};
use crate::model::params::Params;

/// Draws one graph; [`Drawing::enter`] goes one name deeper, as [`crate::model::Builder`] does.
#[derive(Clone)]
pub struct Drawing<'a> {
    params: &'a Params,
    graph: &'a RefCell<Sheet>,
    prefix: String,
}

/// The graph as it grows.
#[derive(Default)]
pub(in crate::model) struct Sheet {
    graph: Graph,
    /// How many there are of each operator.
    counts: HashMap<&'static str, usize>,
    /// Names that are taken by weights and constants.
    kept: HashMap<String, usize>,
}

impl<'a> Drawing<'a> {
    pub(in crate::model) fn new(params: &'a Params, graph: &'a RefCell<Sheet>) -> Self {
        Self { params, graph, prefix: String::new() }
    }

    /// One name deeper.
    pub fn enter(&self, name: &str) -> Self {
        Self { prefix: self.name_of(name), ..self.clone() }
    }

    fn name_of(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// The numbers of a weight.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let name = self.name_of(name);
        let param = self.params.get(&name).with_context(|| format!("no weight {name} was loaded"))?;
        Ok(param.var.as_detached_tensor())
    }

    /// Whether there is a weight of this name.
    pub fn has(&self, name: &str) -> bool {
        self.params.get(&self.name_of(name)).is_some()
    }

    /// A weight as it is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn weight(&self, name: &str) -> Result<Edge> {
        let tensor = self.tensor(name)?;
        Ok(self.constant(name, tensor))
    }

    /// Numbers under a name of this place; the same name is told apart by a number where it is taken.
    pub fn constant(&self, name: &str, tensor: Tensor) -> Edge {
        let name = self.name_of(name);
        let mut sheet = self.graph.borrow_mut();
        let taken = sheet.kept.entry(name.clone()).or_default();
        *taken += 1;
        let edge = Edge(if *taken == 1 { name } else { format!("{name}.{taken}") });
        sheet.graph.weights.push((edge.clone(), tensor));
        edge
    }

    /// Constants that stand for themselves, once each.
    fn shared(&self, name: String, tensor: impl FnOnce() -> candle_core::Result<Tensor>) -> Result<Edge> {
        let edge = Edge(name);
        let mut sheet = self.graph.borrow_mut();
        if !sheet.kept.contains_key(&edge.0) {
            let tensor = tensor()?;
            sheet.kept.insert(edge.0.clone(), 1);
            sheet.graph.weights.push((edge.clone(), tensor));
        }
        Ok(edge)
    }

    /// Whole numbers as a row.
    ///
    /// # Errors
    /// None in practice.
    pub fn ints(&self, numbers: &[i64]) -> Result<Edge> {
        let words: Vec<String> = numbers.iter().map(i64::to_string).collect();
        self.shared(format!("ints({})", words.join(",")), || Tensor::new(numbers, &Device::Cpu))
    }

    /// One whole number, without a side.
    ///
    /// # Errors
    /// None in practice.
    pub fn int(&self, number: i64) -> Result<Edge> {
        self.shared(format!("int({number})"), || Tensor::new(number, &Device::Cpu))
    }

    /// One number, without a side.
    ///
    /// # Errors
    /// None in practice.
    pub fn number(&self, number: f32) -> Result<Edge> {
        self.shared(format!("number({number:e})"), || Tensor::new(number, &Device::Cpu))
    }

    /// What an operator makes of its inputs.
    pub fn op(&self, op: &'static str, inputs: &[&Edge]) -> Edge {
        self.op_with(op, inputs, &[])
    }

    /// [`Self::op`] of one that is told more.
    pub fn op_with(&self, op: &'static str, inputs: &[&Edge], attributes: &[(&'static str, Attribute)]) -> Edge {
        let mut sheet = self.graph.borrow_mut();
        let count = sheet.counts.entry(op).or_default();
        *count += 1;
        let output = Edge(format!("{op}_{count}"));
        sheet.graph.nodes.push(Node {
            op,
            inputs: inputs.iter().map(|edge| (*edge).clone()).collect(),
            outputs: vec![output.clone()],
            attributes: attributes.to_vec(),
        });
        output
    }

    /// A tensor that comes in.
    pub fn input(&self, name: &str, dtype: DType, shape: &[Side]) -> Edge {
        let port = Port { name: name.to_string(), dtype, shape: shape.to_vec() };
        self.graph.borrow_mut().graph.inputs.push(port);
        Edge(name.to_string())
    }

    /// Lets `edge` go out under a name of its own.
    pub fn output(&self, edge: &Edge, name: &str, shape: &[Side]) {
        let named = Edge(name.to_string());
        let mut sheet = self.graph.borrow_mut();
        let attributes = Vec::new();
        sheet.graph.nodes.push(Node { op: "Identity", inputs: vec![edge.clone()], outputs: vec![named], attributes });
        let port = Port { name: name.to_string(), dtype: DType::F32, shape: shape.to_vec() };
        sheet.graph.outputs.push(port);
    }

    /// The sum, sides of one number repeated as need be.
    pub fn add(&self, a: &Edge, b: &Edge) -> Edge {
        self.op("Add", &[a, b])
    }

    /// The product, number by number.
    pub fn mul(&self, a: &Edge, b: &Edge) -> Edge {
        self.op("Mul", &[a, b])
    }

    /// Another shape; 0 keeps a side, −1 is what is left.
    ///
    /// # Errors
    /// None in practice.
    pub fn reshape(&self, x: &Edge, shape: &[i64]) -> Result<Edge> {
        Ok(self.op("Reshape", &[x, &self.ints(shape)?]))
    }

    /// Another order of sides.
    pub fn transpose(&self, x: &Edge, order: &[i64]) -> Edge {
        self.op_with("Transpose", &[x], &[("perm", Attribute::Ints(order.to_vec()))])
    }

    /// What stands at these numbers along `axis`; a number without a side takes that side away.
    pub fn gather(&self, x: &Edge, numbers: &Edge, axis: i64) -> Edge {
        self.op_with("Gather", &[x, numbers], &[("axis", Attribute::Int(axis))])
    }

    /// From `from` up to `to` along `axis`.
    ///
    /// # Errors
    /// None in practice.
    pub fn slice(&self, x: &Edge, axis: i64, from: &Edge, to: &Edge) -> Result<Edge> {
        Ok(self.op("Slice", &[x, from, to, &self.ints(&[axis])?]))
    }

    /// The mean over these sides.
    pub fn mean(&self, x: &Edge, axes: &[i64], keep: bool) -> Edge {
        let attributes = [("axes", Attribute::Ints(axes.to_vec())), ("keepdims", Attribute::Int(i64::from(keep)))];
        self.op_with("ReduceMean", &[x], &attributes)
    }

    /// The sum over one side.
    ///
    /// # Errors
    /// None in practice.
    pub fn sum(&self, x: &Edge, axis: i64, keep: bool) -> Result<Edge> {
        Ok(self.op_with("ReduceSum", &[x, &self.ints(&[axis])?], &[("keepdims", Attribute::Int(i64::from(keep)))]))
    }

    /// Numbers as another type; `to` is one of [`FLOAT`], [`INT32`] and [`INT64`].
    pub fn cast(&self, x: &Edge, to: i64) -> Edge {
        self.op_with("Cast", &[x], &[("to", Attribute::Int(to))])
    }
}

/// onnx.proto's `TensorProto.DataType`.
pub const FLOAT: i64 = 1;
/// As [`FLOAT`].
pub const INT32: i64 = 6;

impl Sheet {
    /// The graph, without inputs that nothing reads.
    pub(in crate::model) fn finish(self) -> Graph {
        let mut graph = self.graph;
        let read = |port: &Port| graph.nodes.iter().any(|node| node.inputs.iter().any(|edge| edge.0 == port.name));
        let inputs: Vec<Port> = graph.inputs.iter().filter(|port| read(port)).cloned().collect();
        graph.inputs = inputs;
        graph
    }
}
