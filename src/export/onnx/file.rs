//! A graph as an ONNX file. Weights go through one at a time, so that a file takes no more memory than its largest
//! weight; where there are too many for one message, they go into a file of their own.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::proto;
use crate::model::graph::{Attribute, Graph, Node, Port, Side};

/// Version of the default operator set that graphs are written in.
pub const OPSET: i64 = 17;
/// Version of the file format; onnxruntime reads it since 1.12.
const IR_VERSION: i64 = 8;
/// Protocol buffers end at 2 GiB.
const MOST_INSIDE: usize = 1_500_000_000;
/// Weights in a file of their own begin at multiples of a page, so that they can be mapped.
const PAGE: u64 = 4096;

/// Fields that are written by themselves: `ModelProto.graph`, `GraphProto.initializer`, `TensorProto.raw_data`.
const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;
const RAW_DATA: u32 = 9;

/// Writes `graph` to `path`, and to `path` + `_data` where its weights are more than 1.5 GB. Says how many bytes.
///
/// # Errors
/// It cannot be written, or holds what ONNX has no type for.
pub fn write(graph: &Graph, path: &Path) -> Result<u64> {
    let outside = graph.weight_bytes() > MOST_INSIDE;
    let name = path.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
    let data_name = format!("{name}_data");
    let mut written = 0;
    if outside {
        written += write_data(graph, &path.with_file_name(&data_name))?;
    }
    let external = outside.then_some(data_name.as_str());
    let mut heads = Vec::with_capacity(graph.weights.len());
    let mut offset = 0u64;
    for (edge, tensor) in &graph.weights {
        heads.push(head(&edge.0, tensor, external, offset)?);
        offset = (offset + bytes_of(tensor)).next_multiple_of(PAGE);
    }
    let inside = |tensor: &Tensor| if outside { 0 } else { bytes_of(tensor) as usize };
    let lengths = heads.iter().zip(&graph.weights).map(|(head, (_, tensor))| tensor_length(head, inside(tensor)));
    let lengths: Vec<usize> = lengths.collect();
    let graph_head = graph_head(graph, name).encode_to_vec();
    let field = |length: usize| 1 + encoded_len_varint(length as u64) + length;
    let graph_length = graph_head.len() + lengths.iter().map(|length| field(*length)).sum::<usize>();

    let mut out = Counted { inner: BufWriter::new(File::create(path)?), bytes: 0 };
    out.write_all(&model_head().encode_to_vec())?;
    out.write_all(&key(GRAPH, graph_length))?;
    out.write_all(&graph_head)?;
    for ((head, (_, tensor)), length) in heads.iter().zip(&graph.weights).zip(&lengths) {
        out.write_all(&key(INITIALIZER, *length))?;
        out.write_all(&head.encode_to_vec())?;
        if !outside {
            out.write_all(&key(RAW_DATA, inside(tensor)))?;
            write_numbers(&mut out, tensor)?;
        }
    }
    out.flush()?;
    Ok(written + out.bytes)
}

/// The start of a field of so many bytes.
fn key(tag: u32, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut bytes);
    encode_varint(length as u64, &mut bytes);
    bytes
}

/// Bytes of a `TensorProto` with so many of numbers, 0 where they are elsewhere.
fn tensor_length(head: &proto::TensorHead, inside: usize) -> usize {
    let numbers = if head.external_data.is_empty() { key(RAW_DATA, inside).len() + inside } else { 0 };
    head.encoded_len() + numbers
}

fn bytes_of(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

fn head(name: &str, tensor: &Tensor, external: Option<&str>, offset: u64) -> Result<proto::TensorHead> {
    let entry = |key: &str, value: String| proto::Entry { key: key.into(), value };
    let place = |file: &str| {
        let (offset, length) = (offset.to_string(), bytes_of(tensor).to_string());
        vec![entry("location", file.into()), entry("offset", offset), entry("length", length)]
    };
    Ok(proto::TensorHead {
        dims: tensor.dims().iter().map(|side| *side as i64).collect(),
        data_type: data_type(tensor.dtype())?,
        name: name.into(),
        external_data: external.map(place).unwrap_or_default(),
        data_location: i32::from(external.is_some()),
    })
}

/// `TensorProto.DataType`.
fn data_type(dtype: DType) -> Result<i32> {
    match dtype {
        DType::F32 => Ok(1),
        DType::U8 => Ok(2),
        DType::I64 => Ok(7),
        other => bail!("ONNX files are not written with numbers of {other:?}"),
    }
}

fn write_data(graph: &Graph, path: &Path) -> Result<u64> {
    let mut out = Counted { inner: BufWriter::new(File::create(path)?), bytes: 0 };
    for (_, tensor) in &graph.weights {
        let gap = out.bytes.next_multiple_of(PAGE) - out.bytes;
        out.write_all(&vec![0; gap as usize])?;
        write_numbers(&mut out, tensor)?;
    }
    out.flush()?;
    Ok(out.bytes)
}

/// A tensor's numbers, little-endian; a view is laid out row by row first.
fn write_numbers(out: &mut impl Write, tensor: &Tensor) -> Result<()> {
    let flat = tensor.contiguous()?.flatten_all()?;
    match flat.dtype() {
        DType::U8 => out.write_all(&flat.to_vec1::<u8>()?)?,
        DType::I64 => flat.to_vec1::<i64>()?.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))?,
        DType::F32 => flat.to_vec1::<f32>()?.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))?,
        other => bail!("ONNX files are not written with numbers of {other:?}"),
    }
    Ok(())
}

fn model_head() -> proto::ModelHead {
    proto::ModelHead {
        ir_version: IR_VERSION,
        producer_name: "reportclip".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: OPSET }],
    }
}

fn graph_head(graph: &Graph, name: &str) -> proto::GraphHead {
    proto::GraphHead {
        node: graph.nodes.iter().map(node).collect(),
        name: name.trim_end_matches(".onnx").into(),
        input: graph.inputs.iter().map(value_info).collect(),
        output: graph.outputs.iter().map(value_info).collect(),
    }
}

fn node(node: &Node) -> proto::Node {
    let names = |edges: &[crate::model::graph::Edge]| edges.iter().map(|edge| edge.0.clone()).collect();
    let attribute = |(name, value): &(&'static str, Attribute)| {
        let (f, i, ints, r#type) = match value {
            Attribute::Float(number) => (Some(*number), None, Vec::new(), 1),
            Attribute::Int(number) => (None, Some(*number), Vec::new(), 2),
            Attribute::Ints(numbers) => (None, None, numbers.clone(), 7),
        };
        proto::Attribute { name: (*name).into(), f, i, ints, r#type }
    };
    proto::Node {
        input: names(&node.inputs),
        output: names(&node.outputs),
        name: node.outputs.first().map_or(String::new(), |edge| format!("{}/{}", node.op, edge.0)),
        op_type: node.op.into(),
        attribute: node.attributes.iter().map(attribute).collect(),
    }
}

fn value_info(port: &Port) -> proto::ValueInfo {
    let side = |side: &Side| match side {
        Side::Fixed(n) => proto::Dimension { dim_value: Some(*n as i64), dim_param: None },
        Side::Any(name) => proto::Dimension { dim_value: None, dim_param: Some((*name).into()) },
    };
    let shape = proto::TensorShape { dim: port.shape.iter().map(side).collect() };
    let elem_type = if port.dtype == DType::I64 { 7 } else { 1 };
    let tensor_type = Some(proto::TensorType { elem_type, shape: Some(shape) });
    proto::ValueInfo { name: port.name.clone(), r#type: Some(proto::Type { tensor_type }) }
}

/// Counts what is written.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
