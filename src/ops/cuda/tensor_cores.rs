//! Whether attention and convolutions take the type of their products to the GPU's tensor cores. Linear layers always
//! do. No GPU has shown these right yet, so they are asked for.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Has attention and convolutions on GPUs worked out in bf16 by tensor cores where products are in bf16, or, as without
/// this, in f32. For the whole process.
pub fn use_tensor_cores(asked: bool) {
    ASKED.store(asked, Ordering::Relaxed);
}

pub(in crate::ops) fn uses_tensor_cores() -> bool {
    ASKED.load(Ordering::Relaxed)
}
