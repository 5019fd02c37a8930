//! Weights in 8 bits, each output channel with a scale of its own; what they are multiplied with is rounded to 8 bits
//! as it comes (`DynamicQuantizeLinear`, `MatMulInteger`). Rows of embeddings and kernels of convolutions are stored in
//! 8 bits and worked out in f32.
//!
//! The numbers are unsigned with 128 for 0: onnxruntime's product of unsigned by signed ones saturates on processors
//! with AVX2 and no VNNI, that of two unsigned ones is exact everywhere.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};

use crate::model::graph::{Attribute, Edge, FLOAT, Graph, Node};

/// Smaller weights stay as they are: nothing would be saved.
const SMALLEST: usize = 64;
/// Which number stands for 0.
const ZERO: u8 = 128;

/// The same graph with weights in 8 bits.
///
/// # Errors
/// Whatever the device reports.
pub fn quantized(graph: &Graph) -> Result<Graph> {
    let weights: HashMap<&Edge, &Tensor> = graph.weights.iter().map(|(edge, tensor)| (edge, tensor)).collect();
    let mut q = Quantizer { graph: Graph::default(), kept: HashSet::new(), rounded: HashMap::new() };
    for node in &graph.nodes {
        let weight = |i: usize| {
            let edge = node.inputs.get(i)?;
            let tensor = weights.get(edge)?;
            (tensor.dtype() == DType::F32 && tensor.elem_count() >= SMALLEST).then_some((edge, *tensor))
        };
        match (node.op, weight(0), weight(1)) {
            ("MatMul", _, Some((edge, tensor))) if tensor.rank() == 2 => q.product(node, edge, tensor)?,
            ("Gather", Some((edge, tensor)), _) if tensor.rank() == 2 => q.rows(node, edge, tensor)?,
            ("Conv", _, Some((edge, tensor))) => q.kernel(node, edge, tensor)?,
            _ => q.graph.nodes.push(node.clone()),
        }
    }
    let read: HashSet<&Edge> = q.graph.nodes.iter().flat_map(|node| &node.inputs).collect();
    let rest = graph.weights.iter().filter(|(edge, _)| read.contains(edge)).cloned();
    let rest: Vec<(Edge, Tensor)> = rest.filter(|(edge, _)| !q.kept.contains(edge)).collect();
    q.graph.weights.extend(rest);
    q.graph.inputs = graph.inputs.clone();
    q.graph.outputs = graph.outputs.clone();
    Ok(q.graph)
}

struct Quantizer {
    graph: Graph,
    /// Names of constants that are there.
    kept: HashSet<Edge>,
    /// What was rounded already: its 8-bit numbers, its scale, its 0.
    rounded: HashMap<Edge, [Edge; 3]>,
}

/// A weight in 8 bits.
struct Rounded {
    /// As the weight.
    numbers: Tensor,
    /// One a channel.
    scales: Tensor,
}

impl Quantizer {
    fn keep(&mut self, name: String, tensor: impl FnOnce() -> Result<Tensor>) -> Result<Edge> {
        let edge = Edge(name);
        if self.kept.insert(edge.clone()) {
            self.graph.weights.push((edge.clone(), tensor()?));
        }
        Ok(edge)
    }

    fn push(&mut self, op: &'static str, inputs: &[&Edge], outputs: &[&Edge], attribute: Option<(&'static str, i64)>) {
        let owned = |edges: &[&Edge]| edges.iter().map(|edge| (*edge).clone()).collect();
        let attributes = attribute.into_iter().map(|(name, number)| (name, Attribute::Int(number))).collect();
        self.graph.nodes.push(Node { op, inputs: owned(inputs), outputs: owned(outputs), attributes });
    }

    fn zero(&mut self) -> Result<Edge> {
        self.keep("int8.zero".into(), || Ok(Tensor::new(ZERO, &Device::Cpu)?))
    }

    /// Keeps a weight's numbers and scales under its name.
    fn keep_rounded(&mut self, edge: &Edge, rounded: impl FnOnce() -> Result<Rounded>) -> Result<[Edge; 2]> {
        let [numbers, scales] = ["quantized", "scale"].map(|what| Edge(format!("{}_{what}", edge.0)));
        if !self.kept.contains(&numbers) {
            let rounded = rounded()?;
            self.keep(numbers.0.clone(), || Ok(rounded.numbers))?;
            self.keep(scales.0.clone(), || Ok(rounded.scales))?;
        }
        Ok([numbers, scales])
    }

    /// x · weight, (in, out).
    fn product(&mut self, node: &Node, edge: &Edge, weight: &Tensor) -> Result<()> {
        let [numbers, scales] = self.keep_rounded(edge, || rounded(weight, 1))?;
        let (x, output, zero) = (&node.inputs[0], &node.outputs[0], self.zero()?);
        let [x8, x_scale, x_zero] = match self.rounded.get(x) {
            Some(known) => known.clone(),
            None => {
                let made = ["quantized", "scale", "zero_point"].map(|what| Edge(format!("{}_{what}", x.0)));
                self.push("DynamicQuantizeLinear", &[x], &made.each_ref(), None);
                self.rounded.insert(x.clone(), made.clone());
                made
            }
        };
        let [sums, summed, scale] = ["sums", "float", "scales"].map(|what| Edge(format!("{}_{what}", output.0)));
        self.push("MatMulInteger", &[&x8, &numbers, &x_zero, &zero], &[&sums], None);
        self.push("Cast", &[&sums], &[&summed], Some(("to", FLOAT)));
        self.push("Mul", &[&x_scale, &scales], &[&scale], None);
        self.push("Mul", &[&summed, &scale], &[output], None);
        Ok(())
    }

    /// Rows of a table, (rows, width).
    fn rows(&mut self, node: &Node, edge: &Edge, table: &Tensor) -> Result<()> {
        let [numbers, scales] = self.keep_rounded(edge, || {
            let rounded = rounded(table, 0)?;
            Ok(Rounded { scales: rounded.scales.unsqueeze(1)?, ..rounded })
        })?;
        let zero = self.keep("int8.zero.float".into(), || Ok(Tensor::new(f32::from(ZERO), &Device::Cpu)?))?;
        let (ids, output) = (&node.inputs[1], &node.outputs[0]);
        let made = ["quantized", "scale", "float", "centred"].map(|what| Edge(format!("{}_{what}", output.0)));
        let [row, scale, float, centred] = made.each_ref();
        self.push("Gather", &[&numbers, ids], &[row], Some(("axis", 0)));
        self.push("Gather", &[&scales, ids], &[scale], Some(("axis", 0)));
        self.push("Cast", &[row], &[float], Some(("to", FLOAT)));
        self.push("Sub", &[float, &zero], &[centred], None);
        self.push("Mul", &[centred, scale], &[output], None);
        Ok(())
    }

    /// A convolution's kernel, (out, …).
    fn kernel(&mut self, node: &Node, edge: &Edge, weight: &Tensor) -> Result<()> {
        let [numbers, scales] = self.keep_rounded(edge, || rounded(weight, 0))?;
        let channels = weight.dim(0)?;
        let zeros = self.keep(format!("int8.zeros({channels})"), || Ok(Tensor::full(ZERO, channels, &Device::Cpu)?))?;
        let back = Edge(format!("{}_float", edge.0));
        self.push("DequantizeLinear", &[&numbers, &scales, &zeros], &[&back], Some(("axis", 0)));
        let mut node = node.clone();
        node.inputs[1] = back;
        self.graph.nodes.push(node);
        Ok(())
    }
}

/// A weight whose `channels` side has a scale each: the largest of a channel is 127 steps from 0.
fn rounded(weight: &Tensor, channels: usize) -> Result<Rounded> {
    let by_channel = weight.transpose(0, channels)?.contiguous()?.flatten_from(1)?;
    let largest = by_channel.abs()?.max(D::Minus1)?;
    // A channel of zeros stays one at any scale.
    let scale = |largest: f32| if largest == 0.0 { 1.0 } else { largest / 127.0 };
    let scales: Vec<f32> = largest.to_vec1::<f32>()?.into_iter().map(scale).collect();
    let scales = Tensor::new(scales, &Device::Cpu)?;
    let steps = by_channel.broadcast_div(&scales.unsqueeze(1)?)?.round()?.clamp(-127f32, 127f32)?;
    let numbers = (steps + f64::from(ZERO))?.to_dtype(DType::U8)?;
    let mut shape = weight.dims().to_vec();
    shape.swap(0, channels);
    Ok(Rounded { numbers: numbers.reshape(shape)?.transpose(0, channels)?.contiguous()?, scales })
}
