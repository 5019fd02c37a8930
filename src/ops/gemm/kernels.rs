//! The kernels of products, one by one, to measure them.

use candle_core::DType;

use super::bf16::{Epilogue, Kernel, Output, product_by};
use super::operands::{Into, Layout, Matrix, Threads};

/// A product of f32 by one kernel.
type ProductF32 = fn((&mut [f32], Layout, Into), f32, Matrix, Matrix, Threads);

/// A kernel that this machine can run.
#[derive(Clone, Copy, Debug)]
pub struct MatmulKernel {
    /// What it is called.
    pub name: &'static str,
    /// Whether it is the one that large products go to.
    pub chosen: bool,
    by: By,
}

#[derive(Clone, Copy, Debug)]
enum By {
    F32(ProductF32),
    Bf16(Kernel),
}

impl MatmulKernel {
    /// Those for products in `products`: f32, or bf16 (all that can run, also where f32 is faster).
    pub fn all(products: DType) -> Vec<Self> {
        if products == DType::BF16 {
            let chosen = Kernel::of_this_machine();
            let named = |by: Kernel| Self { name: by.name(), chosen: by == chosen, by: By::Bf16(by) };
            return Kernel::all_of_this_machine().into_iter().map(named).collect();
        }
        let mut all: Vec<Self> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if super::avx512::is_available() {
            all.push(Self { name: "AVX-512", chosen: true, by: By::F32(super::avx512::product) });
        }
        all.push(Self { name: "gemm crate", chosen: all.is_empty(), by: By::F32(super::by_crate) });
        all
    }

    /// y = x · weightᵀ on all threads; x: (rows, inner), weight: (outer, inner), y: (rows, outer). A kernel in bf16
    /// rounds both operands within the call.
    ///
    /// # Panics
    /// Where there are fewer numbers than that.
    pub fn multiply(&self, (rows, inner, outer): (usize, usize, usize), x: &[f32], weight: &[f32], y: &mut [f32]) {
        let (x, weight) = (Layout::plain(rows, inner).of(x), Layout::plain(outer, inner).of(weight).transposed());
        let to = Layout::plain(rows, outer);
        assert!(to.span() <= y.len(), "{to:?} does not lie in {} numbers", y.len());
        match self.by {
            By::F32(product) => product((y, to, Into::Over), 1.0, x, weight, Threads::All),
            By::Bf16(kernel) => {
                let output = Output::F32(y, to, Into::Over);
                product_by(kernel, output, (x.into(), weight.into()), Epilogue::default(), Threads::All);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_gives_the_product_and_one_is_chosen() {
        let (x, weight) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        for products in [DType::F32, DType::BF16] {
            let all = MatmulKernel::all(products);
            assert_eq!(all.iter().filter(|k| k.chosen).count(), 1, "{all:?}");
            for kernel in all {
                let mut y = [0.0; 6];
                kernel.multiply((2, 2, 3), &x, &weight, &mut y);
                assert_eq!(y, [17.0, 23.0, 29.0, 39.0, 53.0, 67.0], "{kernel:?}");
            }
        }
    }
}
