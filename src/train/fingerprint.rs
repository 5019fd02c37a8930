//! Whether two things are the same, as 64 digits.

use candle_core::Tensor;
use sha2::{Digest, Sha256};

/// SHA-256 over fields, each with its length, so that no two lists of fields run into one.
pub(super) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(super) fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The numbers of an f32 tensor.
    pub(super) fn numbers(&mut self, tensor: &Tensor) -> candle_core::Result<()> {
        let numbers: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        numbers
            .chunks(1 << 16)
            .for_each(|part| self.field(&part.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()));
        Ok(())
    }

    pub(super) fn hex(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}
