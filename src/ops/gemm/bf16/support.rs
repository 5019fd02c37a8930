//! Which kernel this machine has for products in bf16, and why.

use std::fmt;
use std::sync::OnceLock;

use crate::ops::gemm::processor::is_amd;

/// A kernel that multiplies numbers in bf16 faster than in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Kernel {
    /// Tile registers, as Intel's server processors have them from 2023 on.
    Amx,
    /// Vectors of pairs, on AMD's processors from Zen 4 on.
    Avx512Bf16,
}

impl Bf16Kernel {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "AMX",
            Self::Avx512Bf16 => "AVX512-BF16",
        }
    }
}

impl fmt::Display for Bf16Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the machine can do with bf16.
#[derive(Clone, Debug)]
pub struct Bf16Support {
    /// The kernel of products in bf16; none where those of f32 are as fast.
    pub kernel: Option<Bf16Kernel>,
    /// Why, in one line.
    pub reason: String,
}

/// What this machine can do with bf16, worked out once. The first call asks Linux for the tile registers, which it
/// lends to threads that start afterwards.
pub fn bf16_support() -> &'static Bf16Support {
    static SUPPORT: OnceLock<Bf16Support> = OnceLock::new();
    SUPPORT.get_or_init(|| choose(amx(), has_avx512_bf16(), is_amd()))
}

/// Why tile registers cannot be used.
#[derive(Clone, Debug)]
pub(super) enum NoAmx {
    NotThere,
    NotLent(String),
}

fn choose(amx: Result<(), NoAmx>, avx512_bf16: bool, amd: bool) -> Bf16Support {
    let without = match amx {
        Ok(()) => {
            let reason = "this processor has AMX, and Linux lends its tile registers".into();
            return Bf16Support { kernel: Some(Bf16Kernel::Amx), reason };
        }
        Err(NoAmx::NotThere) => "this processor has no AMX".to_string(),
        Err(NoAmx::NotLent(why)) => format!("this processor has AMX, but its tile registers are not lent ({why})"),
    };
    let (kernel, rest) = match (avx512_bf16, amd) {
        (true, true) => (Some(Bf16Kernel::Avx512Bf16), "but AVX512-BF16"),
        (true, false) => (None, "and AVX512-BF16 is used on AMD's alone: on one of Intel's it was slower than f32"),
        (false, _) => (None, "nor AVX512-BF16"),
    };
    Bf16Support { kernel, reason: format!("{without}, {rest}") }
}

/// Whether the processor and the system have what products in AVX512-BF16 need.
pub(super) fn has_avx512_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether this process may use tile registers and multiply bf16 in them; asks Linux for them once.
pub(super) fn amx() -> Result<(), NoAmx> {
    static AMX: OnceLock<Result<(), NoAmx>> = OnceLock::new();
    AMX.get_or_init(|| if has_amx() { ask_for_tiles() } else { Err(NoAmx::NotThere) }).clone()
}

/// Whether the processor has AMX-TILE and AMX-BF16, and packing AVX2.
fn has_amx() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        // Bits of EDX of leaf 7: AMX-BF16 and AMX-TILE.
        const NEEDED: u32 = 1 << 22 | 1 << 24;
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED && is_x86_feature_detected!("avx2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(unsafe_code)]
fn ask_for_tiles() -> Result<(), NoAmx> {
    use std::arch::x86_64::{__cpuid, _xgetbv};
    /// XCR0's bits of the tiles' configuration and data.
    const TILES: u64 = 0b11 << 17;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: register 0 is there where the system has turned XSAVE on, which was asked.
        unsafe { _xgetbv(0) }
    }
    let system_saves = __cpuid(1).ecx & 1 << 27 != 0;
    // SAFETY: OSXSAVE says that the instruction may be used.
    if !system_saves || unsafe { enabled() } & TILES != TILES {
        return Err(NoAmx::NotLent("the system does not save them".into()));
    }
    // SAFETY: the call takes numbers alone, and only allows this process more state.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) } {
        0 => Ok(()),
        _ => Err(NoAmx::NotLent(format!("Linux: {}", std::io::Error::last_os_error()))),
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn ask_for_tiles() -> Result<(), NoAmx> {
    Err(NoAmx::NotLent("only Linux is known to".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_machine_gets_its_kernel_and_a_reason() {
        let refused = || Err(NoAmx::NotLent("Linux: Operation not permitted".into()));
        let cases = [
            (Ok(()), true, false, Some(Bf16Kernel::Amx), "lends"),
            (refused(), true, false, None, "not permitted), and AVX512-BF16 is used on AMD's alone"),
            (refused(), true, true, Some(Bf16Kernel::Avx512Bf16), "not permitted), but"),
            (Err(NoAmx::NotThere), true, true, Some(Bf16Kernel::Avx512Bf16), "no AMX, but AVX512-BF16"),
            (Err(NoAmx::NotThere), true, false, None, "slower than f32"),
            (Err(NoAmx::NotThere), false, true, None, "no AMX, nor AVX512-BF16"),
        ];
        for (amx, avx512_bf16, amd, kernel, reason) in cases {
            let support = choose(amx, avx512_bf16, amd);
            assert!(support.kernel == kernel && support.reason.contains(reason), "{support:?}");
        }
    }
}
