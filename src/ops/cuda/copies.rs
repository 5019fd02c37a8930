//! Images of coming batches, copied from pinned memory on a stream of their own while the GPU works on the current one.

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
pub use on_gpu::{Uploaded, Uploader};

/// Copies to a GPU: this program knows none.
#[cfg(not(feature = "cuda"))]
#[derive(Clone, Debug)]
pub struct Uploader(std::convert::Infallible);

#[cfg(not(feature = "cuda"))]
impl Uploader {
    /// One for a GPU; `None` for other devices.
    ///
    /// # Errors
    /// None.
    pub fn new(_device: &Device) -> Result<Option<Self>> {
        Ok(None)
    }

    /// There is none to ask.
    ///
    /// # Errors
    /// None.
    pub fn begin(&self, _bytes: &[u8], _tables: &[f32], _shape: (usize, usize)) -> Result<Uploaded> {
        match self.0 {}
    }
}

/// Images on a GPU: this program knows none.
#[cfg(not(feature = "cuda"))]
#[derive(Clone, Debug)]
pub struct Uploaded(std::convert::Infallible);

#[cfg(not(feature = "cuda"))]
impl Uploaded {
    /// There are none.
    ///
    /// # Errors
    /// None.
    pub fn pixels(&self) -> Result<Tensor> {
        match self.0 {}
    }
}

#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod on_gpu {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex, PoisonError};

    use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, CudaStorage, Error, Storage};

    use super::super::rows::pixels_of;
    use super::{Device, Result, Tensor};

    /// Pinned buffers that wait for their turn: one that was just copied from may still be read.
    const SPARE: usize = 3;

    /// Copies images to a GPU while it works. Threads may share it.
    #[derive(Clone, Debug)]
    pub struct Uploader {
        device: CudaDevice,
        stream: Arc<CudaStream>,
        spare: Arc<Mutex<VecDeque<Pinned>>>,
    }

    impl Uploader {
        /// One for a GPU; `None` for other devices.
        ///
        /// # Errors
        /// The GPU gives no stream.
        pub fn new(device: &Device) -> Result<Option<Self>> {
            let Device::Cuda(cuda) = device else { return Ok(None) };
            let stream = cuda.cuda_stream().context().new_stream().map_err(Error::wrap)?;
            Ok(Some(Self { device: cuda.clone(), stream, spare: Arc::default() }))
        }

        /// Begins to copy images, as [`super::super::pixels`] takes them. They can be used at once: what uses them
        /// waits for them on the GPU.
        ///
        /// # Errors
        /// Whatever the device reports.
        pub fn begin(&self, bytes: &[u8], tables: &[f32], (images, channels): (usize, usize)) -> Result<Uploaded> {
            let main = self.device.cuda_stream();
            let mut pinned = self.pinned(bytes.len())?;
            pinned.fill(bytes)?;
            // SAFETY: the copy writes all of it, and whoever reads it waits for that.
            let mut there = unsafe { main.alloc::<u8>(bytes.len()) }.map_err(Error::wrap)?;
            // Until here the memory may be somebody else's.
            self.stream.join(&main).map_err(Error::wrap)?;
            let from = &pinned.memory.as_slice().map_err(Error::wrap)?[..bytes.len()];
            self.stream.memcpy_htod(from, &mut there).map_err(Error::wrap)?;
            let done = Arc::new(self.stream.record_event(None).map_err(Error::wrap)?);
            pinned.read_until = Some(Arc::clone(&done));
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push_back(pinned);
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(there, self.device.clone()));
            let shape = (images, bytes.len() / images / channels, channels);
            let bytes = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
            Ok(Uploaded(Arc::new(Images { bytes, tables: tables.to_vec(), done, main })))
        }

        fn pinned(&self, bytes: usize) -> Result<Pinned> {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = if spare.len() < SPARE { None } else { spare.pop_front() };
            drop(spare);
            if let Some(pinned) = oldest.filter(|pinned| pinned.memory.len() >= bytes) {
                return Ok(pinned);
            }
            // SAFETY: it is filled before it is read.
            let memory = unsafe { self.stream.context().alloc_pinned(bytes) }.map_err(Error::wrap)?;
            Ok(Pinned { memory, read_until: None })
        }
    }

    #[derive(Debug)]
    struct Pinned {
        memory: PinnedHostSlice<u8>,
        /// cudarc does not watch it, where it was told that all is done on one stream.
        read_until: Option<Arc<CudaEvent>>,
    }

    impl Pinned {
        fn fill(&mut self, bytes: &[u8]) -> Result<()> {
            self.wait()?;
            self.memory.as_mut_slice().map_err(Error::wrap)?[..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn wait(&mut self) -> Result<()> {
            self.read_until.take().map_or(Ok(()), |event| event.synchronize()).map_err(Error::wrap)
        }
    }

    impl Drop for Pinned {
        fn drop(&mut self) {
            // What went wrong on the GPU comes up where its work is waited for.
            let _ = self.wait();
        }
    }

    /// Images on a GPU, or on their way to it.
    #[derive(Clone, Debug)]
    pub struct Uploaded(Arc<Images>);

    #[derive(Debug)]
    struct Images {
        /// (images, height · width, channels)
        bytes: Tensor,
        tables: Vec<f32>,
        done: Arc<CudaEvent>,
        main: Arc<CudaStream>,
    }

    impl Uploaded {
        /// What [`super::super::pixels`] makes of them.
        ///
        /// # Errors
        /// Whatever the device reports.
        pub fn pixels(&self) -> Result<Tensor> {
            self.0.main.wait(&self.0.done).map_err(Error::wrap)?;
            pixels_of(&self.0.bytes, &self.0.tables)
        }
    }

    impl Drop for Images {
        fn drop(&mut self) {
            // The memory goes back in the order of the main stream: not before the copy is done. A failure comes up
            // where the GPU's work is waited for.
            let _ = self.main.wait(&self.done);
        }
    }
}
