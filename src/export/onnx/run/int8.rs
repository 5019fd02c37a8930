//! Operators over 8-bit numbers, to the last bit as ONNX defines them: sums of products are whole numbers.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::Operator;
use super::numbers::product;

/// Products of 255 · 128 of so many pairs stay below 2²⁴: f32 adds them up exactly.
const EXACT: usize = 512;

impl Operator<'_> {
    /// x → 8-bit numbers, what one of them is worth, and which stands for 0.
    pub(super) fn dynamic_quantize(&self) -> Result<Vec<Tensor>> {
        let x = self.input(0)?.contiguous()?;
        let numbers: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let (low, high) = numbers.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
        // As onnxruntime has it where all numbers are 0.
        let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
        let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
        let quantised = |x: &f32| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8;
        let y: Vec<u8> = numbers.iter().map(quantised).collect();
        let y = Tensor::from_vec(y, x.dims(), &Device::Cpu)?;
        Ok(vec![y, Tensor::new(scale, &Device::Cpu)?, Tensor::new(zero as u8, &Device::Cpu)?])
    }

    /// (a − its 0) · (b − its 0): whole numbers, in f64.
    pub(super) fn integer_product(&self) -> Result<Tensor> {
        let from_zero = |x: usize, zero: usize| -> Result<Tensor> {
            let zero = f64::from(self.input(zero)?.to_scalar::<u8>()?);
            Ok((self.input(x)?.to_dtype(DType::F32)? - zero)?)
        };
        let (a, b) = (from_zero(0, 2)?, from_zero(1, 3)?);
        let (last, inner) = (a.rank() - 1, b.dim(0)?);
        ensure!(a.dim(last)? == inner, "{:?} times {:?}", a.dims(), b.dims());
        let mut sum: Option<Tensor> = None;
        for from in (0..inner).step_by(EXACT) {
            let count = EXACT.min(inner - from);
            let part = product(&a.narrow(last, from, count)?, &b.narrow(0, from, count)?)?.to_dtype(DType::F64)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        sum.ok_or_else(|| anyhow::anyhow!("a product over nothing"))
    }

    /// 8-bit numbers of a weight → what they stand for; each row of the first side has its own scale.
    pub(super) fn dequantize(&self) -> Result<Tensor> {
        let x = self.input(0)?;
        let mut shape = vec![1; x.rank()];
        shape[0] = x.dim(0)?;
        let of_rows = |i: usize| -> Result<Tensor> { Ok(self.input(i)?.to_dtype(DType::F32)?.reshape(&*shape)?) };
        Ok(x.to_dtype(DType::F32)?.broadcast_sub(&of_rows(2)?)?.broadcast_mul(&of_rows(1)?)?)
    }
}
