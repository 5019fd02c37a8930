//! Moments in what a device works through: of the CPU by the host's clock, of a GPU by events in its stream, so that
//! nobody waits for it while it works.

use std::time::Instant;

use candle_core::{Device, Result};

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, sys::CUevent_flags};

/// When a device has done all that was asked of it so far.
pub(super) enum Moment {
    Host(Instant),
    #[cfg(feature = "cuda")]
    Gpu(CudaEvent),
}

impl Moment {
    pub fn now(device: &Device) -> Result<Self> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let event = cuda.cuda_stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
                event.map(Self::Gpu).map_err(candle_core::Error::wrap)
            }
            _ => Ok(Self::Host(Instant::now())),
        }
    }

    /// To a later moment of the same device; waits until a GPU has reached it.
    pub fn seconds_until(&self, later: &Self) -> Result<f64> {
        match (self, later) {
            (Self::Host(from), Self::Host(to)) => Ok(to.duration_since(*from).as_secs_f64()),
            #[cfg(feature = "cuda")]
            (Self::Gpu(from), Self::Gpu(to)) => {
                from.elapsed_ms(to).map(|ms| f64::from(ms) / 1e3).map_err(candle_core::Error::wrap)
            }
            #[cfg(feature = "cuda")]
            _ => candle_core::bail!("moments of two devices"),
        }
    }
}
