//! What layers are as operators: products, norms, activations, attention, convolutions.

use anyhow::Result;
use candle_core::Tensor;

use super::drawing::{Drawing, FLOAT};
use super::parts::{Attribute, Edge};
use crate::ops::Activation;

/// What is added to the scores of keys that are not looked at: their share comes to 0, and rows of which nothing is
/// left stay finite.
const UNSEEN: f32 = -1e9;

/// How a row's numbers are shared out among attention's heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// How many.
    pub heads: usize,
    /// Numbers a row.
    pub width: usize,
    /// Sides before the rows: 1, or 2 where rows stand in windows.
    pub lead: usize,
}

/// The numbers of a convolution beside its kernel.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Zeros above, left, below and right.
    pub pads: [usize; 4],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl Conv {
    /// With as many zeros on each side.
    pub fn even(stride: usize, padding: usize) -> Self {
        Self { stride, pads: [padding; 4], groups: 1 }
    }
}

impl Drawing<'_> {
    /// `x · weightᵀ`, plus the bias where there is one. x: (…, in) → (…, out).
    ///
    /// # Errors
    /// There is no such layer.
    pub fn linear(&self, name: &str, x: &Edge) -> Result<Edge> {
        let d = self.enter(name);
        let weight = d.tensor("weight")?;
        let (outer, inner) = (weight.dim(0)?, weight.elem_count() / weight.dim(0)?);
        let weight = d.constant("weight", weight.reshape((outer, inner))?.t()?);
        let y = d.op("MatMul", &[x, &weight]);
        if d.has("bias") { Ok(d.add(&y, &d.weight("bias")?)) } else { Ok(y) }
    }

    /// A norm over each row. x: (…, width) → the same.
    ///
    /// # Errors
    /// There is no such layer.
    pub fn layer_norm(&self, name: &str, x: &Edge, eps: f64) -> Result<Edge> {
        let d = self.enter(name);
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(eps as f32))];
        let weight = d.weight("weight")?;
        if d.has("bias") {
            return Ok(d.op_with("LayerNormalization", &[x, &weight, &d.weight("bias")?], &attributes));
        }
        Ok(d.op_with("LayerNormalization", &[x, &weight], &attributes))
    }

    /// An activation, number by number.
    ///
    /// # Errors
    /// None in practice.
    pub fn activation(&self, kind: Activation, x: &Edge) -> Result<Edge> {
        let times = |x: &Edge, factor: f32| -> Result<Edge> { Ok(self.mul(x, &self.number(factor)?)) };
        let sigmoid = |x: &Edge| self.op("Sigmoid", &[x]);
        // x · (1 + y) / 2
        let half = |y: &Edge| times(&self.mul(x, &self.add(y, &self.number(1.0)?)), 0.5);
        Ok(match kind {
            Activation::QuickGelu => self.mul(x, &sigmoid(&times(x, 1.702)?)),
            Activation::Gelu => half(&self.op("Erf", &[&times(x, std::f32::consts::FRAC_1_SQRT_2)?]))?,
            Activation::GeluTanh => {
                let cube = self.mul(&self.mul(x, x), x);
                let inner = self.add(x, &times(&cube, 0.044_715)?);
                let root = (2.0 / std::f32::consts::PI).sqrt();
                half(&self.op("Tanh", &[&times(&inner, root)?]))?
            }
            Activation::Relu => self.op("Relu", &[x]),
            Activation::Tanh => self.op("Tanh", &[x]),
            Activation::Silu => self.mul(x, &sigmoid(x)),
            Activation::Sigmoid => sigmoid(x),
            Activation::Relu6 => self.op("Clip", &[x, &self.number(0.0)?, &self.number(6.0)?]),
        })
    }

    /// (…, rows, width) → (…, heads, rows, width of a head).
    ///
    /// # Errors
    /// None in practice.
    pub fn split_heads(&self, x: &Edge, heads: Heads) -> Result<Edge> {
        let Heads { heads, width, lead } = heads;
        let mut shape = vec![0; lead + 1];
        shape.extend([heads as i64, (width / heads) as i64]);
        let mut order: Vec<i64> = (0..lead as i64).collect();
        order.extend([lead as i64 + 1, lead as i64, lead as i64 + 2]);
        Ok(self.transpose(&self.reshape(x, &shape)?, &order))
    }

    /// What rows make of each other: [`Self::split_heads`] of queries, keys and values, and what is added to the
    /// scores, (…, heads, queries, keys) or sides of 1 → (…, queries, width).
    ///
    /// # Errors
    /// None in practice.
    pub fn attention(&self, [q, k, v]: [&Edge; 3], heads: Heads, added: Option<&Edge>) -> Result<Edge> {
        let Heads { heads, width, lead } = heads;
        let mut order: Vec<i64> = (0..=lead as i64).collect();
        order.extend([lead as i64 + 2, lead as i64 + 1]);
        let scale = ((width / heads) as f32).sqrt().recip();
        let scores = self.mul(&self.op("MatMul", &[q, &self.transpose(k, &order)]), &self.number(scale)?);
        let scores = added.map_or(scores.clone(), |added| self.add(&scores, added));
        let shares = self.op_with("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let mixed = self.op("MatMul", &[&shares, v]);
        let mut order: Vec<i64> = (0..lead as i64).collect();
        order.extend([lead as i64 + 1, lead as i64, lead as i64 + 2]);
        let mut shape = vec![0; lead + 1];
        shape.push(width as i64);
        self.reshape(&self.transpose(&mixed, &order), &shape)
    }

    /// A convolution of (batch, channels, height, width). weight: (out, in of a group, kernel, kernel).
    ///
    /// # Errors
    /// A kernel of another rank.
    pub fn conv(&self, x: &Edge, weight: Tensor, bias: Option<Tensor>, conv: Conv) -> Result<Edge> {
        let (_, _, height, width) = weight.dims4()?;
        let ints = |numbers: &[usize]| Attribute::Ints(numbers.iter().map(|n| *n as i64).collect());
        let attributes = [
            ("kernel_shape", ints(&[height, width])),
            ("strides", ints(&[conv.stride; 2])),
            ("pads", ints(&conv.pads)),
            ("group", Attribute::Int(conv.groups as i64)),
        ];
        let weight = self.constant("weight", weight);
        Ok(match bias.map(|bias| self.constant("bias", bias)) {
            Some(bias) => self.op_with("Conv", &[x, &weight, &bias], &attributes),
            None => self.op_with("Conv", &[x, &weight], &attributes),
        })
    }

    /// [`Self::conv`] of the layer `name`, with its bias where it has one.
    ///
    /// # Errors
    /// There is no such layer.
    pub fn conv_layer(&self, name: &str, x: &Edge, conv: Conv) -> Result<Edge> {
        let d = self.enter(name);
        let bias = if d.has("bias") { Some(d.tensor("bias")?) } else { None };
        d.conv(x, d.tensor("weight")?, bias, conv)
    }

    /// The largest or the mean of each window of pixels: `MaxPool` or `AveragePool`.
    pub fn pool(&self, op: &'static str, x: &Edge, kernel: usize, conv: Conv) -> Edge {
        let ints = |numbers: &[usize]| Attribute::Ints(numbers.iter().map(|n| *n as i64).collect());
        let (strides, pads) = (ints(&[conv.stride; 2]), ints(&conv.pads));
        self.op_with(op, &[x], &[("kernel_shape", ints(&[kernel; 2])), ("strides", strides), ("pads", pads)])
    }

    /// (batch, width, height, width of the map) → (batch, pixels, width).
    ///
    /// # Errors
    /// None in practice.
    pub fn pixels_as_rows(&self, x: &Edge) -> Result<Edge> {
        Ok(self.transpose(&self.reshape(x, &[0, 0, -1])?, &[0, 2, 1]))
    }

    /// Tokens of the longest text, as a row of one number. ids: (batch, tokens).
    pub fn tokens(&self, ids: &Edge) -> Edge {
        self.op_with("Shape", &[ids], &[("start", Attribute::Int(1)), ("end", Attribute::Int(2))])
    }

    /// 0, 1, … for each token of the longest text.
    ///
    /// # Errors
    /// None in practice.
    pub fn places(&self, ids: &Edge) -> Result<Edge> {
        let end = self.op("Squeeze", &[&self.tokens(ids), &self.ints(&[0])?]);
        Ok(self.op("Range", &[&self.int(0)?, &end, &self.int(1)?]))
    }

    /// The first rows of a table, one a token.
    ///
    /// # Errors
    /// None in practice.
    pub fn first_rows(&self, table: &Edge, ids: &Edge) -> Result<Edge> {
        self.slice(table, 0, &self.ints(&[0])?, &self.tokens(ids))
    }

    /// Row `numbers[i]` of item i. x: (batch, rows, width), numbers: (batch) → (batch, width).
    ///
    /// # Errors
    /// None in practice.
    pub fn rows_at(&self, x: &Edge, numbers: &Edge) -> Result<Edge> {
        let numbers = self.op("Unsqueeze", &[numbers, &self.ints(&[1])?]);
        Ok(self.op_with("GatherND", &[x, &numbers], &[("batch_dims", Attribute::Int(1))]))
    }

    /// What is added to scores where a condition says which keys are looked at.
    ///
    /// # Errors
    /// None in practice.
    pub fn unless_seen(&self, seen: &Edge) -> Result<Edge> {
        Ok(self.op("Where", &[seen, &self.number(0.0)?, &self.number(UNSEEN)?]))
    }

    /// What is added to scores so that padding is not looked at. mask: (batch, tokens), 1 for tokens, 0 for padding →
    /// (batch, 1, 1, tokens).
    ///
    /// # Errors
    /// None in practice.
    pub fn without_padding(&self, mask: &Edge) -> Result<Edge> {
        let seen = self.op("Equal", &[mask, &self.int(1)?]);
        let seen = self.op("Unsqueeze", &[&seen, &self.ints(&[1, 2])?]);
        self.unless_seen(&seen)
    }

    /// The mean over the rows that the mask counts. x: (batch, tokens, width), mask: (batch, tokens) → (batch, width).
    ///
    /// # Errors
    /// None in practice.
    pub fn masked_mean(&self, x: &Edge, mask: &Edge) -> Result<Edge> {
        let mask = self.op("Unsqueeze", &[&self.cast(mask, FLOAT), &self.ints(&[2])?]);
        let sum = self.sum(&self.mul(x, &mask), 1, false)?;
        Ok(self.op("Div", &[&sum, &self.sum(&mask, 1, false)?]))
    }

    /// Rows divided by their Euclidean norm, which is taken as at least 1e-12. x: (batch, width) → the same.
    ///
    /// # Errors
    /// None in practice.
    pub fn l2_normalize(&self, x: &Edge) -> Result<Edge> {
        let norm = self.op("Sqrt", &[&self.sum(&self.mul(x, x), -1, true)?]);
        let norm = self.op("Max", &[&norm, &self.number(1e-12)?]);
        Ok(self.op("Div", &[x, &norm]))
    }
}
