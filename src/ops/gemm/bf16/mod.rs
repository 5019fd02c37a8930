//! Products of operands that are rounded to bf16, their sums in f32: by tile registers ([`tiles`]), by vectors of pairs
//! ([`avx512bf16`]), or as the product of f32 on rounded operands ([`rounded`]), which every machine can run. The first
//! two share how operands are packed ([`pack`]) and how the result is shared out ([`blocks`]).

#[cfg(target_arch = "x86_64")]
mod avx512bf16;
#[cfg(target_arch = "x86_64")]
mod blocks;
mod factor;
#[cfg(all(test, target_arch = "x86_64"))]
mod model;
mod output;
#[cfg(target_arch = "x86_64")]
mod pack;
mod round;
mod rounded;
mod support;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub(in crate::ops) use factor::{Factor, Packed};
pub(in crate::ops) use output::{Epilogue, Output, Piece};
pub use support::{Bf16Kernel, Bf16Support, bf16_support};

use super::operands::{Layout, Threads};
use crate::ops::alloc::overwritten;

/// What works on a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Kernel {
    /// That of f32, on rounded operands.
    Rounded,
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// Tile registers in plain Rust.
    #[cfg(all(test, target_arch = "x86_64"))]
    Model,
    /// Vectors of pairs in plain Rust.
    #[cfg(all(test, target_arch = "x86_64"))]
    Pairs,
}

impl Kernel {
    /// Those that this machine can run, whether or not they are its choice.
    pub fn all_of_this_machine() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let able = [(Self::Amx, support::amx().is_ok()), (Self::Avx512Bf16, support::has_avx512_bf16())];
        #[cfg(not(target_arch = "x86_64"))]
        let able: [(Self, bool); 0] = [];
        let able = able.into_iter().filter(|(_, able)| *able).map(|(kernel, _)| kernel);
        able.chain([Self::Rounded]).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Rounded => "f32 of rounded operands",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Bf16Kernel::Amx.name(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Bf16Kernel::Avx512Bf16.name(),
            #[cfg(all(test, target_arch = "x86_64"))]
            Self::Model => "tile registers in plain Rust",
            #[cfg(all(test, target_arch = "x86_64"))]
            Self::Pairs => "vectors of pairs in plain Rust",
        }
    }

    pub fn of_this_machine() -> Self {
        #[cfg(test)]
        if let Some(kernel) = tests::kernel_instead() {
            return kernel;
        }
        match bf16_support().kernel {
            #[cfg(target_arch = "x86_64")]
            Some(Bf16Kernel::Amx) => Self::Amx,
            #[cfg(target_arch = "x86_64")]
            Some(Bf16Kernel::Avx512Bf16) => Self::Avx512Bf16,
            _ => Self::Rounded,
        }
    }
}

impl Packed {
    /// Rounds and packs `b`, a second operand, for the machine's kernel.
    pub fn new<'a>(b: impl Into<Factor<'a>>, threads: Threads) -> Self {
        Self::second(Kernel::of_this_machine(), b.into(), threads)
    }

    /// Rounds and packs `a`, a first operand, for the machine's kernel.
    pub fn rows<'a>(a: impl Into<Factor<'a>>, threads: Threads) -> Self {
        Self::first(Kernel::of_this_machine(), a.into(), threads)
    }

    fn first(kernel: Kernel, a: Factor, threads: Threads) -> Self {
        match kernel {
            Kernel::Rounded => Self::rounded(a, threads),
            #[cfg(target_arch = "x86_64")]
            _ => Self::in_slivers(a, pack::Role::A, threads),
        }
    }

    fn second(kernel: Kernel, b: Factor, threads: Threads) -> Self {
        match kernel {
            Kernel::Rounded => Self::rounded(b, threads),
            #[cfg(target_arch = "x86_64")]
            _ => Self::in_slivers(b, pack::Role::B, threads),
        }
    }
}

/// `a · b` with both rounded to bf16, sums in f32, into `output` by way of `epilogue`.
pub(in crate::ops) fn product_bf16<'a>(
    output: Output,
    a: impl Into<Factor<'a>>,
    b: impl Into<Factor<'a>>,
    epilogue: Epilogue,
    threads: Threads,
) {
    product_by(Kernel::of_this_machine(), output, (a.into(), b.into()), epilogue, threads);
}

/// What `epilogue` makes of `a · b`, rounded and packed as the first operand of another product.
pub(in crate::ops) fn packed_product(a: Factor, b: Factor, epilogue: Epilogue, threads: Threads) -> Packed {
    packed_product_by(Kernel::of_this_machine(), (a, b), epilogue, threads)
}

fn packed_product_by(kernel: Kernel, (a, b): (Factor, Factor), epilogue: Epilogue, threads: Threads) -> Packed {
    let (rows, columns) = (a.shape().0, b.shape().1);
    let layout = Layout::plain(rows, columns);
    #[cfg(target_arch = "x86_64")]
    if kernel != Kernel::Rounded {
        // A block of results is what the other product reads together: nothing is packed again.
        let mut lines = overwritten(rows.div_ceil(pack::SIDE) * pack::sliver(columns));
        product_by(kernel, Output::Slivers(&mut lines, layout), (a, b), epilogue, threads);
        return Packed::of_lines((rows, columns), lines);
    }
    let mut numbers = overwritten(rows * columns);
    product_by(kernel, Output::Bf16(&mut numbers, layout), (a, b), epilogue, threads);
    Packed::rounded(layout.of(&numbers).into(), threads)
}

pub(super) fn product_by(
    kernel: Kernel,
    output: Output,
    (a, b): (Factor, Factor),
    epilogue: Epilogue,
    threads: Threads,
) {
    let ((rows, depth), (depth_of_b, columns)) = (a.shape(), b.shape());
    let to = output.layout();
    assert!(depth == depth_of_b && (to.rows, to.columns) == (rows, columns), "shapes fit");
    match kernel {
        Kernel::Rounded => rounded::product(output, a, b, epilogue, threads),
        #[cfg(target_arch = "x86_64")]
        Kernel::Amx => blocks::product::<tiles::Amx>(output, a, b, epilogue, threads),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Bf16 => blocks::product::<avx512bf16::Avx512Bf16>(output, a, b, epilogue, threads),
        #[cfg(all(test, target_arch = "x86_64"))]
        Kernel::Model => blocks::product::<model::Model>(output, a, b, epilogue, threads),
        #[cfg(all(test, target_arch = "x86_64"))]
        Kernel::Pairs => blocks::product::<model::Pairs>(output, a, b, epilogue, threads),
    }
}

#[cfg(test)]
pub(in crate::ops) mod tests;
