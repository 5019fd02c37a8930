//! Blocks of 32 by 32 results in four of eight tile registers, the others taking two tiles of each operand: each tile
//! that is read serves two products.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::blocks::{Blocks, Sums};
use super::pack::{Line, SIDE, TILE};
use super::support;

/// Eight registers of 16 rows of 64 bytes.
pub(super) trait Tiles {
    fn zero<const TO: u8>(&mut self);
    fn load<const TO: u8>(&mut self, from: &[Line; TILE]);
    /// Adds the products of pairs: row i of `A` by the rows of `B`, to 16 sums in row i of `TO`.
    fn multiply<const TO: u8, const A: u8, const B: u8>(&mut self);
    /// Writes 16 rows of 16 sums to `to`, rows [`SIDE`] apart.
    fn store<const FROM: u8>(&self, to: &mut [f32]);
    /// Says that lines will soon be read from here on.
    fn expect(&self, lines: *const Line);
}

/// Registers 0 to 3 hold results, 4 and 5 tiles of `a`, 6 and 7 tiles of `b`.
#[inline(always)]
pub(super) fn block(tiles: &mut impl Tiles, a: &[Line], b: &[Line], sums: &mut Sums) {
    /// How far ahead lines are asked for. The processor alone does not keep up with two streams of tiles.
    const AHEAD: usize = 2 * SIDE;
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    for ([a0, a1], [b0, b1]) in steps(a).zip(steps(b)) {
        let expect = |tiles: &mut _, of: &[Line; TILE]| {
            for i in 0..TILE {
                Tiles::expect(tiles, of.as_ptr().wrapping_add(AHEAD + i));
            }
        };
        tiles.load::<6>(b0);
        tiles.load::<4>(a0);
        tiles.multiply::<0, 4, 6>();
        expect(tiles, a0);
        tiles.load::<7>(b1);
        tiles.multiply::<1, 4, 7>();
        expect(tiles, b0);
        tiles.load::<5>(a1);
        tiles.multiply::<2, 5, 6>();
        expect(tiles, a1);
        tiles.multiply::<3, 5, 7>();
        expect(tiles, b1);
    }
    tiles.store::<0>(&mut sums.0);
    tiles.store::<1>(&mut sums.0[TILE..]);
    tiles.store::<2>(&mut sums.0[TILE * SIDE..]);
    tiles.store::<3>(&mut sums.0[TILE * SIDE + TILE..]);
}

/// The two tiles of each step.
#[inline(always)]
fn steps(sliver: &[Line]) -> impl Iterator<Item = &[[Line; TILE]; 2]> {
    sliver.as_chunks::<TILE>().0.as_chunks::<2>().0.iter()
}

/// The registers of a processor with AMX, configured for this thread as long as it lives.
pub(super) struct Amx(());

/// What `ldtilecfg` reads: palette 1, 64 bytes a row, 16 rows, for all eight.
#[repr(C, align(64))]
struct Config([u8; 64]);

static CONFIG: Config = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = TILE as u8;
        tile += 1;
    }
    Config(bytes)
};

#[allow(unsafe_code)]
impl Amx {
    fn configure() -> Self {
        assert!(support::amx().is_ok(), "tile registers are there and lent");
        // SAFETY: the processor has AMX and Linux lends its registers (asserted); the configuration is 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, preserves_flags, readonly)) };
        Self(())
    }
}

#[allow(unsafe_code)]
impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: whoever has a value has configured the registers; nothing is left in them.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

// Every block of assembly is one instruction on tile registers, which the compiler never uses, with the memory that it
// touches borrowed by the function around it; blocks stay in order. A value of the type says that the registers are
// configured.
#[allow(unsafe_code)]
impl Tiles for Amx {
    #[inline(always)]
    fn zero<const TO: u8>(&mut self) {
        // SAFETY: see above.
        unsafe { asm!("tilezero tmm{}", const TO, options(nostack, preserves_flags, nomem)) }
    }

    #[inline(always)]
    fn load<const TO: u8>(&mut self, from: &[Line; TILE]) {
        // SAFETY: see above; 16 rows of 64 bytes are read, each 64 bytes after the other.
        unsafe {
            asm!("tileloadd tmm{}, [{} + {}]", const TO, in(reg) from, in(reg) size_of::<Line>(),
                options(nostack, preserves_flags, readonly));
        }
    }

    #[inline(always)]
    fn multiply<const TO: u8, const A: u8, const B: u8>(&mut self) {
        // SAFETY: see above.
        unsafe {
            asm!("tdpbf16ps tmm{}, tmm{}, tmm{}", const TO, const A, const B,
                options(nostack, preserves_flags, nomem));
        }
    }

    #[inline(always)]
    fn store<const FROM: u8>(&self, to: &mut [f32]) {
        assert!(to.len() >= (TILE - 1) * SIDE + TILE, "room for a tile");
        // SAFETY: see above; 16 rows of 16 numbers are written, 32 numbers apart.
        unsafe {
            asm!("tilestored [{} + {}], tmm{}", in(reg) to.as_mut_ptr(), in(reg) SIDE * size_of::<f32>(), const FROM,
                options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn expect(&self, lines: *const Line) {
        // SAFETY: a hint; whatever the address, nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(lines.cast()) }
    }
}

impl Blocks for Amx {
    fn start() -> Self {
        Self::configure()
    }

    fn block(&mut self, a: &[Line], b: &[Line], sums: &mut Sums) {
        block(self, a, b, sums);
    }
}
