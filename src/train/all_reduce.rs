//! Gradients added up over ranks while the backward pass goes on.
//!
//! Weights stand in buckets in the order in which the backward pass is done with them, the same on all ranks. A bucket
//! is sent once it is full and all before it are; so the last layers' sums travel while the first layers' gradients are
//! worked out (as in PyTorch's DistributedDataParallel, arXiv 2006.15704).

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};

use crate::dist::{Collective, Sum};
use crate::model::{Depth, Param, Params, Part};
use crate::ops::{Gradient, RowGradient, squared_sum};

/// Numbers of a bucket, if its last weight is not larger: 25 MiB.
const BUCKET: usize = 25 << 18;

/// Takes each weight's gradient on this rank once, and gives the sum over ranks once.
pub(super) struct AllReduce<'a> {
    world: &'a dyn Collective,
    params: &'a Params,
    /// Numbers of the weights of each bucket.
    buckets: Vec<Vec<usize>>,
    /// Which weights have a gradient on this rank.
    has_grad: Vec<bool>,
    /// Gradients that wait for their bucket to be full.
    waiting: BTreeMap<usize, Gradient>,
    /// The first bucket that was not sent.
    next: usize,
    /// Buckets that were, in order.
    sent: VecDeque<(usize, Box<dyn Sum>)>,
}

/// What is done with the number of a weight and its gradient.
pub(super) type OnGrad<'a> = dyn FnMut(usize, Gradient) -> Result<()> + 'a;

impl<'a> AllReduce<'a> {
    pub(super) fn new(world: &'a dyn Collective, params: &'a Params) -> Self {
        let mut order: Vec<(usize, &Param)> = params.numbered().filter(|(_, p)| p.trainable && !is_table(p)).collect();
        order.sort_by_key(|(_, p)| backward_order(p));
        let mut buckets: Vec<Vec<usize>> = Vec::new();
        let mut room = 0;
        for (number, param) in order {
            if room == 0 {
                buckets.push(Vec::new());
                room = BUCKET;
            }
            room = room.saturating_sub(param.spec.shape.elem_count());
            buckets.last_mut().into_iter().for_each(|bucket| bucket.push(number));
        }
        let has_grad = vec![false; params.len()];
        Self { world, params, buckets, has_grad, waiting: BTreeMap::new(), next: 0, sent: VecDeque::new() }
    }

    /// Takes the gradient of weight `number`; `on_grad` gets what is complete by now.
    pub(super) fn put(&mut self, number: usize, grad: Gradient, on_grad: &mut OnGrad) -> Result<()> {
        self.has_grad[number] = true;
        if self.world.size() == 1 {
            return on_grad(number, grad);
        }
        self.waiting.insert(number, grad);
        while let Some(bucket) = self.buckets.get(self.next)
            && bucket.iter().all(|number| self.waiting.contains_key(number))
        {
            self.send_next()?;
        }
        while let Some((_, sum)) = self.sent.front_mut()
            && sum.is_ready()
        {
            self.land(on_grad)?;
        }
        Ok(())
    }

    /// Waits for the rest. A trainable weight that has no gradient on this rank, because none of its rows could be read
    /// or no prompt is its own, has 0 here.
    ///
    /// # Errors
    /// A weight that has no gradient on any rank.
    pub(super) fn finish(mut self, on_grad: &mut OnGrad) -> Result<()> {
        // First what is to be sent anyway: all ranks must do all exchanges in one order.
        while self.world.size() > 1 && self.next < self.buckets.len() {
            self.send_next()?;
        }
        let missing = self.params.numbered().filter(|(number, p)| p.trainable && !self.has_grad[*number]);
        let missing: Vec<u32> = missing.map(|(number, _)| number as u32).collect();
        let (all, own) = self.world.gather_numbers(&missing)?;
        let nowhere = |number: &&u32| all.iter().filter(|n| n == number).count() == self.world.size();
        if let Some(&number) = all[own].iter().find(nowhere) {
            let name = &self.params.numbered_param(number as usize).spec.name;
            anyhow::bail!("{name} is trainable and got no gradient; please report this as a bug");
        }
        if self.world.size() == 1 {
            return Ok(());
        }
        let tables: Vec<usize> =
            self.params.numbered().filter(|(_, p)| p.trainable && is_table(p)).map(|(number, _)| number).collect();
        for number in tables {
            let sum = self.sum_of_rows(number)?;
            while !self.sent.is_empty() {
                self.land(on_grad)?;
            }
            on_grad(number, sum)?;
        }
        while !self.sent.is_empty() {
            self.land(on_grad)?;
        }
        Ok(())
    }

    fn send_next(&mut self) -> Result<()> {
        let bucket = &self.buckets[self.next];
        let flat = |&number: &usize| {
            let grad = match self.waiting.remove(&number) {
                Some(grad) => grad.into_dense()?,
                None => self.params.numbered_param(number).var.as_detached_tensor().zeros_like()?,
            };
            grad.flatten_all()?.to_dtype(DType::F32)
        };
        let parts = bucket.iter().map(flat).collect::<candle_core::Result<Vec<Tensor>>>()?;
        self.sent.push_back((self.next, self.world.begin_sum(Tensor::cat(&parts, 0)?)?));
        self.next += 1;
        Ok(())
    }

    /// Hands on the bucket that was sent first.
    fn land(&mut self, on_grad: &mut OnGrad) -> Result<()> {
        let Some((bucket, sum)) = self.sent.pop_front() else { return Ok(()) };
        let sum = sum.wait()?;
        let mut start = 0;
        for &number in &self.buckets[bucket] {
            let shape = &self.params.numbered_param(number).spec.shape;
            let grad = sum.narrow(0, start, shape.elem_count())?.reshape(shape)?;
            start += shape.elem_count();
            on_grad(number, Gradient::Dense(grad))?;
        }
        Ok(())
    }

    /// Of a table, only the rows that any rank looked up travel.
    fn sum_of_rows(&mut self, number: usize) -> Result<Gradient> {
        let table = self.params.numbered_param(number);
        let (count, width) = table.spec.shape.dims2()?;
        let grad = self.waiting.remove(&number);
        if table.var.device().is_cuda() {
            let grad = grad.map_or_else(|| table.var.as_detached_tensor().zeros_like(), Gradient::into_dense)?;
            return sum_where_it_is(self.world, &grad).map(Gradient::Dense);
        }
        let own = match grad {
            Some(Gradient::Rows(rows)) => rows,
            Some(Gradient::Dense(all)) => RowGradient::of_all(&all)?,
            None => RowGradient::zero((count, width), table.var.device()),
        };
        let (mut rows, _) = self.world.gather_numbers(&own.rows())?;
        rows.sort_unstable();
        rows.dedup();
        let sum = self.world.begin_sum(own.dense_rows(&rows)?)?;
        let sum: Vec<f32> = sum.wait()?.to_vec1()?;
        let mut grad = RowGradient::zero((count, width), table.var.device());
        grad.add(&rows, &sum);
        Ok(Gradient::Rows(grad))
    }
}

/// The sum over ranks of a table's gradient that stays on its device: only which rows are not 0 comes to the host, and
/// only the rows that are not 0 on any rank travel.
fn sum_where_it_is(world: &dyn Collective, grad: &Tensor) -> Result<Tensor> {
    let width = grad.dim(1)?;
    // A sum, not a maximum: what is not a number shows in it.
    let sizes: Vec<f32> = grad.abs()?.sum(1)?.to_vec1()?;
    let own: Vec<u32> = (0u32..).zip(sizes).filter(|(_, size)| *size != 0.0).map(|(row, _)| row).collect();
    let (mut rows, _) = world.gather_numbers(&own)?;
    rows.sort_unstable();
    rows.dedup();
    let zeros = grad.zeros_like()?;
    if rows.is_empty() {
        return Ok(zeros);
    }
    let index = Tensor::from_slice(&rows, rows.len(), grad.device())?;
    let sum = world.begin_sum(grad.index_select(&index, 0)?.flatten_all()?)?.wait()?;
    Ok(zeros.index_add(&index, &sum.reshape((rows.len(), width))?, 0)?)
}

/// Token embeddings: large, and of a step's texts only some rows have a gradient.
fn is_table(param: &Param) -> bool {
    param.spec.part == Part::Text && param.spec.depth == Depth::Embeddings && param.spec.decay
}

/// The texts' tower is run back first, from its end; the scale and the projections are told of at the end.
fn backward_order(param: &Param) -> (u8, std::cmp::Reverse<Depth>) {
    let part = match param.spec.part {
        Part::Text => 0,
        Part::Image => 1,
        Part::Heads => 2,
    };
    (part, std::cmp::Reverse(param.spec.depth))
}

/// Fails where weights that were the same on all ranks have drifted apart.
///
/// # Errors
/// Names the first rank that has.
pub(super) fn check_same_weights(world: &dyn Collective, params: &Params) -> Result<()> {
    if world.size() == 1 {
        return Ok(());
    }
    let mut squares = 0.0;
    for param in params.trainable() {
        squares += squared_sum(&param.var.as_detached_tensor())?;
    }
    let all = world.gather_bytes(&squares.to_le_bytes())?;
    for (rank, bytes) in all.iter().enumerate() {
        let other = f64::from_le_bytes(bytes.as_slice().try_into().context("a sum of squares is 8 bytes")?);
        // Machines may round differently; a lost or doubled gradient shows in more.
        anyhow::ensure!(
            (other - squares).abs() <= 1e-6 * squares.abs(),
            "the weights have drifted apart: their squares add up to {squares} on {} and to {other} on {}; please \
             report this as a bug",
            world.name(world.rank()),
            world.name(rank)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::dist::Single;

    #[test]
    fn a_table_s_gradient_is_summed_by_its_rows_where_it_is() {
        let mut numbers = vec![0f32; 15];
        (numbers[4], numbers[14]) = (2.0, f32::NAN);
        let grad = Tensor::from_vec(numbers.clone(), (5, 3), &Device::Cpu).unwrap();
        let sum = sum_where_it_is(&Single, &grad).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(sum[..14], numbers[..14]);
        assert!(sum[14].is_nan(), "what is not a number is not lost");
        let zeros = grad.zeros_like().unwrap();
        assert_eq!(sum_where_it_is(&Single, &zeros).unwrap().dims(), [5, 3]);
    }
}
