//! Sums and gathers of tensors that live on GPUs, over NCCL; everything else goes over MPI, which also hands round
//! NCCL's id. NCCL has a stream of its own, so sums travel while the backward pass goes on; cudarc's events keep the
//! two in order.
//!
//! Never run on a GPU by those who wrote it; see the README.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream};
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};
use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Tensor};

use super::collective::{Collective, Sum};

/// The ranks of `world`, whose tensors are on `device`, a GPU of each rank's own.
///
/// # Errors
/// NCCL does not start; some ranks have a GPU and others have none, on all of them alike.
pub(super) fn start(world: Rc<dyn Collective>, device: &Device) -> Result<Rc<dyn Collective>> {
    // Of all, not of this one: ranks with a GPU would wait in NCCL for those without.
    let on_gpus = world.gather_bytes(&[u8::from(device.is_cuda())])?.concat();
    if let (Some(with), Some(without)) = (on_gpus.iter().position(|&b| b == 1), on_gpus.iter().position(|&b| b == 0)) {
        bail!(
            "{} has a GPU and {} has none; set device to \"cpu\" or \"cuda\" for all of them",
            world.name(with),
            world.name(without)
        );
    }
    let Device::Cuda(cuda) = device else { return Ok(world) };
    let id = world.from_first(|| {
        let id = Id::new().map_err(failed)?;
        Ok(id.internal().iter().map(|&byte| byte as i32).collect::<Vec<i32>>())
    })?;
    let id: Vec<std::ffi::c_char> = id.into_iter().map(|byte| byte as std::ffi::c_char).collect();
    let id = Id::uninit(id.try_into().map_err(|_| anyhow!("NCCL's id has 128 bytes"))?);
    let stream = cuda.cuda_stream().context().new_stream().context("a stream for NCCL")?;
    let comm = Comm::from_rank(Arc::clone(&stream), world.rank(), world.size(), id).map_err(failed)?;
    Ok(Rc::new(Nccl { world, comm: Rc::new(comm), stream }))
}

fn failed(error: candle_core::cuda_backend::cudarc::nccl::result::NcclError) -> anyhow::Error {
    anyhow!("NCCL: {:?}", error.0)
}

struct Nccl {
    /// Over MPI.
    world: Rc<dyn Collective>,
    comm: Rc<Comm>,
    stream: Arc<CudaStream>,
}

/// What is done to a tensor's numbers where they are.
enum Exchange {
    Sum,
    /// From the first rank.
    Broadcast,
    /// From each rank the numbers that stand between these bounds.
    Parts(Vec<usize>),
}

struct InPlace<'a> {
    comm: &'a Comm,
    exchange: Exchange,
    error: RefCell<Option<anyhow::Error>>,
}

impl InplaceOp1 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn cpu_fwd(&self, _storage: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("NCCL takes tensors on a GPU only")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("NCCL takes contiguous tensors only")
        };
        let mut numbers = storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end);
        let done = match &self.exchange {
            Exchange::Sum => self.comm.all_reduce_in_place(&mut numbers, &ReduceOp::Sum).map(drop),
            Exchange::Broadcast => self.comm.broadcast_in_place(&mut numbers, 0).map(drop),
            Exchange::Parts(bounds) => bounds.windows(2).enumerate().try_for_each(|(rank, part)| match part {
                [from, to] if from < to => {
                    self.comm.broadcast_in_place(&mut numbers.slice_mut(*from..*to), rank as i32).map(drop)
                }
                _ => Ok(()),
            }),
        };
        *self.error.borrow_mut() = done.map_err(failed).err();
        Ok(())
    }
}

impl Nccl {
    fn exchange(&self, tensor: &Tensor, exchange: Exchange) -> Result<()> {
        let op = InPlace { comm: &self.comm, exchange, error: RefCell::default() };
        tensor.inplace_op1(&op)?;
        op.error.into_inner().map_or(Ok(()), Err)
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.world.rank()
    }

    fn size(&self) -> usize {
        self.world.size()
    }

    fn local(&self) -> (usize, usize) {
        self.world.local()
    }

    fn name(&self, rank: usize) -> String {
        self.world.name(rank)
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.world.gather_bytes(bytes)
    }

    fn gather_rows(&self, rows: &Tensor) -> Result<Tensor> {
        if !rows.device().is_cuda() {
            return self.world.gather_rows(rows);
        }
        let (own, width) = rows.dims2()?;
        let (counts, _) = self.world.gather_numbers(&[own as u32])?;
        let mut bounds = vec![0];
        counts.iter().for_each(|&count| bounds.push(bounds[bounds.len() - 1] + count as usize));
        let all = Tensor::zeros((bounds[counts.len()], width), DType::F32, rows.device())?;
        if own > 0 {
            all.slice_set(&rows.contiguous()?, 0, bounds[self.rank()])?;
        }
        self.exchange(&all, Exchange::Parts(bounds.iter().map(|rows| rows * width).collect()))?;
        Ok(all)
    }

    fn broadcast(&self, tensor: &Tensor) -> Result<Tensor> {
        if !tensor.device().is_cuda() {
            return self.world.broadcast(tensor);
        }
        let own = tensor.contiguous()?.copy()?;
        self.exchange(&own, Exchange::Broadcast)?;
        Ok(own)
    }

    fn begin_sum(&self, numbers: Tensor) -> Result<Box<dyn Sum>> {
        if !numbers.device().is_cuda() {
            return self.world.begin_sum(numbers);
        }
        self.exchange(&numbers, Exchange::Sum)?;
        let done = self.stream.record_event(None).context("NCCL's stream")?;
        Ok(Box::new(Summing { numbers, done }))
    }

    fn lost_after(&self, silence: Duration) {
        self.world.lost_after(silence);
    }

    fn part(&self) -> Result<()> {
        self.world.part()
    }
}

struct Summing {
    numbers: Tensor,
    done: CudaEvent,
}

impl Sum for Summing {
    fn is_ready(&mut self) -> bool {
        self.done.is_complete()
    }

    /// Whatever reads the numbers next waits for NCCL's stream on the GPU.
    fn wait(self: Box<Self>) -> Result<Tensor> {
        Ok(self.numbers)
    }
}
