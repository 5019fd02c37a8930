//! What decoding one image may take. What each decoder needs for pixels, in its own buffers and in those made of its
//! result, is worked out from the header and refused before they are allocated. Copies of compressed bytes and tables
//! of codes are not counted.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

/// `data.max_image_mib` where no config says otherwise.
pub const DEFAULT_MAX_IMAGE_MIB: u64 = 512;

/// Bytes, of the whole process: images are decoded on many threads and far from any config.
static MOST: AtomicU64 = AtomicU64::new(DEFAULT_MAX_IMAGE_MIB << 20);

/// Sets what decoding one image may take in this process.
pub fn set_max_image_mib(mib: u64) {
    MOST.store(mib << 20, Ordering::Relaxed);
}

/// Most bytes that decoding one image may take; a file that holds one may be as long.
pub(in crate::data) fn most() -> u64 {
    MOST.load(Ordering::Relaxed)
}

/// Refuses what would take more bytes than one image may.
pub(in crate::data) fn afford(bytes: u64) -> Result<()> {
    let most = most();
    if bytes <= most {
        return Ok(());
    }
    Err(over_limit(format!(
        "takes {} MiB to decode; allowed are {} (data.max_image_mib, or --max-image-mib)",
        bytes.div_ceil(1 << 20),
        most >> 20
    )))
}

/// What is refused for its size, and may be whole.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OverLimit(String);

/// An error of what takes more than is allowed.
pub(in crate::data) fn over_limit(message: String) -> anyhow::Error {
    OverLimit(message).into()
}

/// Whether an error is one of these.
pub(in crate::data) fn is_over_limit(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<OverLimit>)
}
