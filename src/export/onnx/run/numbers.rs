//! Operators that work numbers out.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};

use super::Operator;
use crate::model::graph::Attribute;
use crate::ops::{Maps, max_pool, reference};

impl Operator<'_> {
    pub(super) fn number(&self) -> Result<Tensor> {
        let x = self.input(0)?;
        let other = || self.input(1);
        Ok(match self.node.op {
            "Add" => x.broadcast_add(other()?)?,
            "Sub" => x.broadcast_sub(other()?)?,
            "Mul" => x.broadcast_mul(other()?)?,
            "Div" => x.broadcast_div(other()?)?,
            "Max" => x.broadcast_maximum(other()?)?,
            "Equal" => x.broadcast_eq(other()?)?,
            "LessOrEqual" => x.broadcast_le(other()?)?,
            "Where" => {
                let (shape, device) = (x.shape(), x.device());
                let filled = |i: usize| -> Result<Tensor> {
                    Ok(Tensor::full(self.input(i)?.to_scalar::<f32>()?, shape, device)?)
                };
                x.where_cond(&filled(1)?, &filled(2)?)?
            }
            "Sigmoid" => candle_nn::ops::sigmoid(x)?,
            "Tanh" => x.tanh()?,
            "Erf" => x.erf()?,
            "Relu" => x.relu()?,
            "Clip" => x.clamp(other()?.to_scalar::<f32>()?, self.input(2)?.to_scalar::<f32>()?)?,
            "Sqrt" => x.sqrt()?,
            // candle has none of whole numbers.
            "Abs" => x.to_dtype(DType::F64)?.abs()?.to_dtype(x.dtype())?,
            "Cos" => x.cos()?,
            "Sin" => x.sin()?,
            "Softmax" => reference::softmax(&x.contiguous()?)?,
            "ReduceSum" => {
                let side = self.side(self.row(1)?.first().copied().unwrap_or(0))?;
                if self.int("keepdims", 1) == 1 { x.sum_keepdim(side)? } else { x.sum(side)? }
            }
            "ReduceMean" => {
                let sides: Vec<usize> = self.ints("axes")?.iter().map(|a| self.side(*a)).collect::<Result<_>>()?;
                if self.int("keepdims", 1) == 1 { x.mean_keepdim(sides)? } else { x.mean(sides)? }
            }
            "ArgMax" => argmax(x)?,
            "LayerNormalization" => self.layer_norm(x)?,
            "MatMul" => product(x, other()?)?,
            "Conv" => self.conv(x)?,
            "MaxPool" => self.max_pool(x)?,
            "AveragePool" => x.contiguous()?.avg_pool2d(self.ints("kernel_shape")?[0] as usize)?,
            unknown => bail!("{unknown} is not known"),
        })
    }

    fn layer_norm(&self, x: &Tensor) -> Result<Tensor> {
        let Some(Attribute::Float(eps)) = self.attribute("epsilon") else { bail!("no epsilon") };
        let weight = self.input(1)?;
        let bias = if self.inputs.len() > 2 { self.input(2)?.clone() } else { weight.zeros_like()? };
        Ok(reference::layer_norm(x, weight, &bias, f64::from(*eps))?)
    }

    fn conv(&self, x: &Tensor) -> Result<Tensor> {
        let [top, left, bottom, right] = self.ints("pads")? else { bail!("pads of another number of sides") };
        let [top, left, bottom, right] = [top, left, bottom, right].map(|pad| *pad as usize);
        let x = x.contiguous()?.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
        let (stride, groups) = (self.ints("strides")?[0] as usize, self.int("group", 1) as usize);
        let y = x.conv2d(&self.input(1)?.contiguous()?, 0, stride, 1, groups)?;
        match self.inputs.get(2) {
            Some(bias) => Ok(y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?),
            None => Ok(y),
        }
    }

    fn max_pool(&self, x: &Tensor) -> Result<Tensor> {
        let first = |name: &str| -> Result<usize> { Ok(*self.ints(name)?.first().context("no side")? as usize) };
        let (rows, maps) = Maps::from_pixels(x)?;
        let (y, to) = max_pool(&rows.into(), maps, first("kernel_shape")?, first("strides")?, first("pads")?)?;
        Ok(y.tensor().reshape((to.items, to.height, to.width, ()))?.permute((0, 3, 1, 2))?)
    }
}

/// The first of the highest of each row.
fn argmax(x: &Tensor) -> Result<Tensor> {
    let rows: Vec<Vec<i64>> = x.to_dtype(DType::I64)?.to_vec2()?;
    let first = |row: &Vec<i64>| {
        let highest = row.iter().copied().max().unwrap_or(0);
        row.iter().position(|number| *number == highest).unwrap_or(0) as i64
    };
    Ok(Tensor::new(rows.iter().map(first).collect::<Vec<i64>>(), &Device::Cpu)?)
}

/// A matrix on the right is shared by all of the left; else both are stacks of matrices.
pub(super) fn product(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if y.rank() > 4 {
        // candle multiplies stacks of up to two sides; here both have the same ones.
        let flat = |x: &Tensor| -> Result<Tensor> {
            let (rows, columns) = (x.dim(candle_core::D::Minus2)?, x.dim(candle_core::D::Minus1)?);
            Ok(x.contiguous()?.reshape(((), rows, columns))?)
        };
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = y.dim(candle_core::D::Minus1)?;
        }
        return Ok(flat(x)?.matmul(&flat(y)?)?.reshape(shape)?);
    }
    if y.rank() > 2 {
        return Ok(x.contiguous()?.broadcast_matmul(&y.contiguous()?)?);
    }
    let inner = x.dim(candle_core::D::Minus1)?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = y.dim(1)?;
    }
    Ok(x.contiguous()?.reshape(((), inner))?.matmul(y)?.reshape(shape)?)
}
