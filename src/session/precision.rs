//! In which type products are worked out: what was asked for, held against what the machine can do. Every command
//! decides here; what is rounded, and what stays f32, is told by `ops` and the layers.

use std::sync::Once;

use candle_core::{DType, Device};

use crate::config::{Precision, TrainConfig};
use crate::ops::bf16_support;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrecisionRequest {
    /// The type.
    pub precision: Precision,
    /// Where the processor has no products in bf16: round as they do and multiply in f32, rather than leave it.
    pub emulate: bool,
    /// On a GPU: attention and convolutions too, by tensor cores, as [`crate::ops::use_tensor_cores`] was told.
    pub tensor_cores: bool,
    /// How bf16 is asked for, for messages.
    pub name: &'static str,
}

impl From<&TrainConfig> for PrecisionRequest {
    fn from(train: &TrainConfig) -> Self {
        Self {
            precision: train.precision,
            emulate: train.emulate_bf16,
            tensor_cores: train.tensor_cores,
            name: "train.precision = \"bf16\"",
        }
    }
}

impl From<Precision> for PrecisionRequest {
    /// Of a command's `--precision`.
    fn from(precision: Precision) -> Self {
        Self { precision, emulate: false, tensor_cores: false, name: "--precision bf16" }
    }
}

/// A type of products, chosen, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Products {
    /// Of the operands of products, convolutions and attention; sums are f32 either way.
    pub dtype: DType,
    /// Whether bf16 is its rounding alone, at no more than f32's speed.
    pub emulated: bool,
    /// Whether a GPU's tensor cores work out attention and convolutions, too.
    pub tensor_cores: bool,
    /// One line: what works them out, or why not what was asked for, or what the machine could do.
    pub reason: String,
}

impl Products {
    /// For `request` on `device`.
    pub fn choose(request: PrecisionRequest, device: &Device) -> Self {
        if !device.is_cpu() {
            return on_gpu(request);
        }
        let support = bf16_support();
        on_cpu(request, support.kernel.is_some(), &support.reason)
    }

    /// Whether bf16 was asked for, and it is f32.
    pub fn falls_short(&self, request: PrecisionRequest) -> bool {
        request.precision == Precision::Bf16 && self.dtype != DType::BF16
    }

    /// What two runs on one machine must share to give the same numbers.
    pub fn kind(&self) -> &'static str {
        if self.emulated { "emulated bf16" } else { precision_of(self.dtype).word() }
    }

    /// What the steps of one run must share to be those of a run that was not stopped.
    pub fn in_full(&self) -> String {
        format!("{}{}", self.kind(), if self.tensor_cores { " with tensor cores" } else { "" })
    }

    /// Logs the reason, once a process however many models it opens; where nobody asked for anything, it is of less
    /// interest.
    pub fn tell_once(&self, request: PrecisionRequest) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| match request {
            PrecisionRequest { precision: Precision::F32, emulate: false, .. } => tracing::debug!("{}", self.reason),
            _ => tracing::info!("{}", self.reason),
        });
    }
}

/// The word for it.
pub(super) fn precision_of(products: DType) -> Precision {
    if products == DType::BF16 { Precision::Bf16 } else { Precision::F32 }
}

/// `has_kernel`: whether the processor's kernels for bf16 can be used, and `why` they can or cannot.
fn on_cpu(request: PrecisionRequest, has_kernel: bool, why: &str) -> Products {
    let name = request.name;
    let (dtype, emulated, mut reason) = match (request.precision, has_kernel) {
        (Precision::F32, false) => (DType::F32, false, "products in f32".to_string()),
        (Precision::F32, true) => {
            (DType::F32, false, format!("products in f32; this processor has faster ones in bf16 ({why}): {name}"))
        }
        (Precision::Bf16, true) => (DType::BF16, false, format!("products in bf16: {why}")),
        (Precision::Bf16, false) if request.emulate => {
            (DType::BF16, true, format!("products rounded as in bf16 and worked out in f32, no faster than f32: {why}"))
        }
        (Precision::Bf16, false) => (DType::F32, false, format!("{name} runs in f32: {why}")),
    };
    if request.precision == Precision::F32 && request.emulate {
        // Members of a sweep over both types share the switch, so that it is no mistake.
        reason.push_str(&format!("; emulating bf16 changes nothing without {name}"));
    }
    Products { dtype, emulated, tensor_cores: false, reason }
}

fn on_gpu(request: PrecisionRequest) -> Products {
    let tensor_cores = request.precision == Precision::Bf16 && request.tensor_cores;
    let (dtype, reason) = match request.precision {
        Precision::F32 => (DType::F32, "products in f32"),
        Precision::Bf16 if tensor_cores => (DType::BF16, "products in bf16, on the GPU"),
        Precision::Bf16 => {
            (DType::BF16, "products in bf16, on the GPU, but attention and convolutions beyond 1 × 1 in f32")
        }
    };
    Products { dtype, emulated: false, tensor_cores, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_used_where_it_is_asked_for_and_there_is_a_kernel() {
        let asked = |precision: Precision, emulate| PrecisionRequest { emulate, ..precision.into() };
        let (f32, bf16) = (asked(Precision::F32, false), asked(Precision::Bf16, false));
        let (with, without) = ("AMX", "this processor has neither");
        let found = on_cpu(bf16, true, with);
        assert_eq!((found.dtype, found.kind(), found.reason.as_str()), (DType::BF16, "bf16", "products in bf16: AMX"));
        let found = on_cpu(bf16, false, without);
        assert_eq!((found.dtype, found.kind()), (DType::F32, "f32"));
        assert_eq!(found.reason, "--precision bf16 runs in f32: this processor has neither");
        let found = on_cpu(asked(Precision::Bf16, true), false, without);
        assert_eq!((found.dtype, found.kind()), (DType::BF16, "emulated bf16"));
        assert_eq!(on_cpu(asked(Precision::Bf16, true), true, with).kind(), "bf16", "nothing to emulate");
        assert_eq!(on_cpu(asked(Precision::F32, true), false, without).kind(), "f32", "not asked for");
        let found = on_cpu(f32, true, with);
        assert!(found.dtype == DType::F32 && found.reason.ends_with("(AMX): --precision bf16"), "{}", found.reason);
        assert_eq!(on_cpu(f32, false, without).reason, "products in f32");
        let alone = "; emulating bf16 changes nothing without --precision bf16";
        let found = on_cpu(asked(Precision::F32, true), false, without);
        assert_eq!((found.dtype, found.reason), (DType::F32, format!("products in f32{alone}")));
        let found = on_cpu(asked(Precision::F32, true), true, with);
        assert!(found.dtype == DType::F32 && found.reason.ends_with(alone), "{}", found.reason);
        let short = |request, has_kernel| on_cpu(request, has_kernel, with).falls_short(request);
        assert!(short(bf16, false) && !short(bf16, true) && !short(f32, false));
        assert!(!short(asked(Precision::Bf16, true), false), "emulated");
        assert_eq!((on_gpu(bf16).dtype, on_gpu(f32).dtype), (DType::BF16, DType::F32));
        assert!(on_gpu(bf16).reason.ends_with("but attention and convolutions beyond 1 × 1 in f32"));
        let by_tensor_cores = on_gpu(PrecisionRequest { tensor_cores: true, ..bf16 });
        assert_eq!(by_tensor_cores.reason, "products in bf16, on the GPU");
        assert_eq!(
            (by_tensor_cores.in_full(), on_gpu(bf16).in_full()),
            ("bf16 with tensor cores".into(), "bf16".into())
        );
        assert_eq!(on_gpu(PrecisionRequest { tensor_cores: true, ..f32 }).in_full(), "f32");
    }
}
