//! Operators that move numbers and leave them as they are.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

use super::Operator;
use crate::model::graph::FLOAT;

impl Operator<'_> {
    pub(super) fn place(&self) -> Result<Tensor> {
        let x = self.input(0)?;
        match self.node.op {
            "Reshape" => self.reshape(x),
            "Transpose" => {
                let order: Vec<usize> = self.ints("perm")?.iter().map(|side| *side as usize).collect();
                Ok(x.permute(order)?)
            }
            "Gather" => self.gather(x),
            "GatherND" => self.rows_at(x),
            "Slice" => {
                let side = self.side(self.row(3)?.first().copied().unwrap_or(0))?;
                let most = x.dim(side)?;
                let at = |i: usize| -> Result<usize> {
                    Ok((*self.row(i)?.first().context("nothing to begin or end at")?).max(0) as usize)
                };
                let (from, to) = (at(1)?.min(most), at(2)?.min(most));
                Ok(x.narrow(side, from, to.saturating_sub(from))?)
            }
            "Pad" => {
                let (pads, rank) = (self.row(1)?, x.rank());
                ensure!(pads.len() == 2 * rank, "{} numbers for {rank} sides", pads.len());
                let padded = (0..rank).try_fold(x.clone(), |x, side| {
                    x.pad_with_zeros(side, pads[side] as usize, pads[rank + side] as usize)
                });
                Ok(padded?)
            }
            "Concat" => Ok(Tensor::cat(self.inputs, self.side(self.int("axis", 0))?)?),
            "Shape" => {
                let (from, to) = (self.int("start", 0) as usize, self.int("end", x.rank() as i64) as usize);
                let sides: Vec<i64> = x.dims()[from..to].iter().map(|side| *side as i64).collect();
                Ok(Tensor::new(sides, &Device::Cpu)?)
            }
            "Range" => {
                let number = |i: usize| -> Result<i64> { Ok(self.input(i)?.to_scalar()?) };
                Ok(Tensor::arange_step(number(0)?, number(1)?, number(2)?, &Device::Cpu)?)
            }
            "Squeeze" => Ok(x.squeeze(self.side(self.row(1)?.first().copied().unwrap_or(0))?)?),
            "Unsqueeze" => {
                let sides = self.row(1)?;
                Ok(sides.iter().try_fold(x.clone(), |x, side| x.unsqueeze(*side as usize))?)
            }
            // Truth values and whole numbers are i64 here, whatever their width there.
            "Cast" => Ok(x.to_dtype(if self.int("to", 0) == FLOAT { DType::F32 } else { DType::I64 })?),
            other => bail!("{other} is not known"),
        }
    }

    fn reshape(&self, x: &Tensor) -> Result<Tensor> {
        let wanted = self.row(1)?;
        let mut shape: Vec<usize> = Vec::with_capacity(wanted.len());
        for (i, side) in wanted.iter().enumerate() {
            shape.push(match side {
                0 => x.dim(i)?,
                -1 => 1,
                side => *side as usize,
            });
        }
        if let Some(open) = wanted.iter().position(|side| *side == -1) {
            shape[open] = x.elem_count() / shape.iter().product::<usize>().max(1);
        }
        Ok(x.contiguous()?.reshape(shape)?)
    }

    fn gather(&self, x: &Tensor) -> Result<Tensor> {
        let (side, numbers) = (self.side(self.int("axis", 0))?, self.input(1)?);
        let most = x.dim(side)? as i64;
        let rows: Vec<i64> = self.row(1)?.into_iter().map(|row| if row < 0 { row + most } else { row }).collect();
        if let Some(row) = rows.iter().find(|row| !(0..most).contains(*row)) {
            bail!("number {row} of {most}");
        }
        let index = Tensor::new(rows, &Device::Cpu)?;
        let mut shape = x.dims()[..side].to_vec();
        shape.extend(numbers.dims());
        shape.extend(&x.dims()[side + 1..]);
        Ok(x.contiguous()?.index_select(&index, side)?.reshape(shape)?)
    }

    /// One row of each item.
    fn rows_at(&self, x: &Tensor) -> Result<Tensor> {
        let (items, rows, width) = x.dims3()?;
        let numbers = self.row(1)?;
        ensure!(self.int("batch_dims", 0) == 1 && numbers.len() == items, "one number an item");
        let index: Vec<i64> = numbers.iter().enumerate().map(|(i, row)| (i * rows) as i64 + row).collect();
        let flat = x.contiguous()?.reshape((items * rows, width))?;
        Ok(flat.index_select(&Tensor::new(index, &Device::Cpu)?, 0)?)
    }
}
