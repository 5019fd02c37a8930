//! Runs a graph on the CPU: what quantisation costs is measured by it, and tests hold every graph against the model
//! that it was drawn from. It knows the operators that graphs are drawn with, and no other.

mod int8;
mod numbers;
mod places;

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;

use crate::model::graph::{Attribute, Edge, Graph, Node};

/// Gives each output of `graph`, by name, for inputs by name: f32, i64. Truth values are u8.
///
/// # Errors
/// An input that is missing, shapes that do not fit, an operator that is not known here.
pub fn run(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<HashMap<String, Tensor>> {
    let mut values: HashMap<&str, Tensor> = HashMap::new();
    values.extend(graph.weights.iter().map(|(edge, tensor)| (edge.0.as_str(), tensor.clone())));
    for port in &graph.inputs {
        let given = inputs.iter().find(|(name, _)| *name == port.name);
        let (_, tensor) = given.with_context(|| format!("the graph reads {}, which is not given", port.name))?;
        values.insert(&port.name, tensor.clone());
    }
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        last_use.extend(node.inputs.iter().map(|edge| (edge.0.as_str(), i)));
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let find = |edge: &Edge| values.get(edge.0.as_str()).with_context(|| format!("{} reads {}", node.op, edge.0));
        let found = node.inputs.iter().map(find).collect::<Result<Vec<_>>>()?;
        let made =
            Operator { node, inputs: &found }.run().with_context(|| format!("{} of {:?}", node.op, node.outputs))?;
        values.extend(node.outputs.iter().map(|edge| edge.0.as_str()).zip(made));
        values.retain(|name, _| last_use.get(name).is_none_or(|last| *last > i));
    }
    let out = |port: &crate::model::graph::Port| {
        let made = values.get(port.name.as_str()).with_context(|| format!("nothing gives {}", port.name))?;
        Ok((port.name.clone(), made.clone()))
    };
    graph.outputs.iter().map(out).collect()
}

/// One operator with its inputs.
struct Operator<'a> {
    node: &'a Node,
    inputs: &'a [&'a Tensor],
}

impl Operator<'_> {
    fn run(&self) -> Result<Vec<Tensor>> {
        let made = match self.node.op {
            "Identity" => self.input(0)?.clone(),
            "Reshape" | "Transpose" | "Gather" | "GatherND" | "Slice" | "Pad" | "Concat" | "Shape" | "Range"
            | "Squeeze" | "Unsqueeze" | "Cast" => self.place()?,
            "DynamicQuantizeLinear" => return self.dynamic_quantize(),
            "MatMulInteger" => self.integer_product()?,
            "DequantizeLinear" => self.dequantize()?,
            _ => self.number()?,
        };
        Ok(vec![made])
    }

    fn input(&self, i: usize) -> Result<&Tensor> {
        self.inputs.get(i).copied().with_context(|| format!("{} has no input {i}", self.node.op))
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.node.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    fn int(&self, name: &str, otherwise: i64) -> i64 {
        match self.attribute(name) {
            Some(Attribute::Int(number)) => *number,
            _ => otherwise,
        }
    }

    fn ints(&self, name: &str) -> Result<&[i64]> {
        match self.attribute(name) {
            Some(Attribute::Ints(numbers)) => Ok(numbers),
            _ => bail!("{} has no {name}", self.node.op),
        }
    }

    /// The numbers of input `i`, a row or one without a side.
    fn row(&self, i: usize) -> Result<Vec<i64>> {
        Ok(self.input(i)?.flatten_all()?.to_vec1()?)
    }

    /// A side of input 0, counted from the back where `axis` is below 0.
    fn side(&self, axis: i64) -> Result<usize> {
        let rank = self.input(0)?.rank() as i64;
        Ok(usize::try_from(if axis < 0 { axis + rank } else { axis })?)
    }
}
