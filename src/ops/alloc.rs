//! What the process asks of the system about memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;

/// Makes glibc keep freed memory instead of giving it back and faulting it in again at the next step; measured at
/// 20–50 % of a training step. Elsewhere it does nothing. Call it before any thread starts.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes the allocator's own lock and only sets its parameters, here to documented constants; a late
    // call is less effective, a refused value returns 0 and leaves the default.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        // One pool for all threads: what one frees, another can have.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The system's allocator, which asks for huge pages where a block is large: its memory then comes in pieces of 2 MiB
/// instead of 4 KiB, and the first touch of weights, moments and activations takes fewer page faults.
#[derive(Debug)]
pub struct Allocator;

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged; the advice afterwards changes no contents.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc(layout) };
        advise_huge_pages(block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc_zeroed(layout) };
        advise_huge_pages(block, layout.size());
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Asks for huge pages for the whole ones that lie in a large block.
#[allow(unsafe_code)]
fn advise_huge_pages(block: *mut u8, size: usize) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let start = block.addr().next_multiple_of(HUGE);
        let end = (block.addr() + size) / HUGE * HUGE;
        if size >= 2 * HUGE && start < end && !block.is_null() {
            // SAFETY: the range lies within a block that was just allocated. A refusal changes nothing.
            unsafe { libc::madvise(block.with_addr(start).cast(), end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (block, size);
}

/// Numbers of which any bits are one.
///
/// # Safety
/// Every pattern of its bits must be a value of the type: memory that nobody wrote is read as such.
#[allow(unsafe_code)]
pub(super) unsafe trait AnyBits: Copy {
    /// What is seen where somebody reads before it is written.
    const NAN: Self;
}

#[allow(unsafe_code)]
// SAFETY: every pattern of 32 bits is an f32.
unsafe impl AnyBits for f32 {
    const NAN: Self = f32::NAN;
}

#[allow(unsafe_code)]
// SAFETY: a bf16 is a u16 in other clothes.
unsafe impl AnyBits for half::bf16 {
    const NAN: Self = half::bf16::NAN;
}

/// Whether memory that is to be overwritten holds NaN first, so that what is read too early shows in a result: in tests
/// of this crate and without optimisation, and wherever `REPORTCLIP_POISON` is set, as `.ci/run` does for all tests.
pub fn is_poisoned() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    cfg!(any(test, debug_assertions, miri)) || *ASKED.get_or_init(|| std::env::var_os("REPORTCLIP_POISON").is_some())
}

/// `n` numbers that the caller overwrites, all of them, before anything reads one. They are not cleared first, which
/// one thread would do alone: until then they are whatever lay in that memory, or NaN ([`is_poisoned`]).
#[allow(unsafe_code)]
pub(super) fn overwritten<T: AnyBits>(n: usize) -> Vec<T> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if !is_poisoned() {
        let mut numbers = Vec::<T>::with_capacity(n);
        // SAFETY: the vector has room for n. Memory from the allocator holds some bits, any bits are a T, and the empty
        // assembly, which could have written to all that the pointer leads to, keeps the compiler from taking them for
        // undefined.
        unsafe {
            std::arch::asm!("/* {} */", in(reg) numbers.as_mut_ptr(), options(nostack, preserves_flags));
            numbers.set_len(n);
        }
        return numbers;
    }
    vec![T::NAN; n]
}

/// The largest resident size of this process so far, in MiB; 0 where the system does not tell.
#[allow(unsafe_code)]
pub fn peak_rss_mib() -> u64 {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is to a zeroed rusage that getrusage fills; it is read only when the call succeeded.
        let usage = unsafe {
            if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
                return 0;
            }
            usage.assume_init()
        };
        // Linux counts KiB, macOS bytes.
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        usage.ru_maxrss as u64 * unit / (1 << 20)
    }
    #[cfg(not(unix))]
    0
}

/// Memory of this machine in MiB; `None` where the system does not tell.
#[allow(unsafe_code)]
pub fn physical_memory_mib() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: sysconf only reads system constants.
        let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        (pages > 0 && size > 0).then(|| ((pages as u64) * (size as u64)) >> 20)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Cores of this machine, whichever of them this process may use.
#[allow(unsafe_code)]
pub fn online_cores() -> usize {
    #[cfg(unix)]
    {
        // SAFETY: sysconf only reads system constants.
        let cores = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        usize::try_from(cores).unwrap_or(1).max(1)
    }
    #[cfg(not(unix))]
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    #[test]
    fn peak_grows_with_what_is_touched() {
        let before = super::peak_rss_mib();
        let block = vec![1u8; 256 << 20];
        assert!(block.iter().map(|&b| u64::from(b)).sum::<u64>() == 256 << 20);
        let after = super::peak_rss_mib();
        assert!(before > 0 && after >= before && after >= 256, "{before} → {after}");
    }
}
