//! Whether a device computes what it should: every operation against itself in f64, where no kernel has a part; every
//! kind of model against what the library that published it gave. Where there is no GPU the CPU's kernels are judged
//! the same way, which is how this is tested itself.

mod models;
mod operations;
mod shapes;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::ops::{Uploader, Value, linear_no_bias};

pub use models::models;
pub use operations::operations;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was compared.
    pub what: String,
    /// "f32" or "bf16".
    pub precision: &'static str,
    /// The largest difference, as a share of the largest number expected; what failed has none.
    pub difference: Option<f64>,
    /// The largest that is allowed.
    pub allowed: f64,
    /// Where the difference is largest, or what failed.
    pub note: String,
    /// Whether it is within what is allowed.
    pub ok: bool,
}

/// What becomes of each comparison, at once.
pub type OnFinding<'a> = dyn FnMut(Finding) -> Result<()> + 'a;

/// Whether the device works at all: numbers there and back, bit for bit, and a product.
///
/// # Errors
/// Those of `on_finding`.
pub fn quick(device: &Device, on_finding: &mut OnFinding) -> Result<()> {
    let sequence = |shape: (usize, usize)| {
        let numbers: Vec<f32> = (0..shape.0 * shape.1).map(|i| (i as f32 * 0.7).sin()).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu)
    };
    let there_and_back = || {
        let x = sequence((1 << 10, 1 << 12))?;
        let mut worst = Worst::new();
        worst.see(
            "there and back",
            difference(&(x.to_device(device)? + 1.0)?.to_device(&Device::Cpu)?, &(x + 1.0)?, 0.0)?,
        );
        Ok(worst)
    };
    on_finding(finding("copy of 16 MiB".into(), "f32", 0.0, there_and_back()))?;
    if let Some(uploader) = Uploader::new(device)? {
        on_finding(finding("images from pinned memory".into(), "f32", 0.0, uploaded(&uploader, device)))?;
    }
    for (precision, products, allowed) in [("f32", DType::F32, 1e-5), ("bf16", DType::BF16, 1e-2)] {
        let product = || {
            let (a, b) = (sequence((129, 257))?, sequence((65, 257))?);
            let value =
                |x: &Tensor| Ok::<_, candle_core::Error>(Value::from(x.to_device(device)?).with_products(products));
            let y = linear_no_bias(&value(&a)?, &value(&b)?)?;
            let exact = a.to_dtype(DType::F64)?.matmul(&b.to_dtype(DType::F64)?.t()?)?;
            let mut worst = Worst::new();
            worst.see("product", difference(y.tensor(), &exact, 0.0)?);
            Ok(worst)
        };
        on_finding(finding("product 129 × 257 × 65".into(), precision, allowed, product()))?;
    }
    Ok(())
}

/// Images on a stream of their own, more batches of them than there are buffers, begun while the GPU has work that
/// takes it longer, used after the last has been begun; one more is dropped before each, unused, so that its memory is
/// the next one's.
fn uploaded(uploader: &Uploader, device: &Device) -> Result<Worst> {
    let (images, each) = (2, 224 * 224);
    let tables: Vec<f32> = (0..images * 3 * 256).map(|i| (i as f32 * 0.3).cos()).collect();
    let bytes = |number: usize| (0..images * each * 3).map(|i| (i * 31 + number * 7) as u8).collect::<Vec<u8>>();
    let batches: Vec<Vec<u8>> = (0..8).map(bytes).collect();
    let factor = Tensor::ones((1 << 12, 1 << 12), DType::F32, device)?;
    let busy = (0..20).map(|_| factor.matmul(&factor)).collect::<candle_core::Result<Vec<_>>>()?;
    let begin = |bytes: &Vec<u8>| {
        uploader.begin(&vec![u8::MAX; bytes.len()], &tables, (images, 3)).map(|_| ())?;
        uploader.begin(bytes, &tables, (images, 3))
    };
    let begun = batches.iter().map(begin).collect::<Vec<_>>();
    drop(busy);
    let mut worst = Worst::new();
    for (bytes, begun) in batches.iter().zip(begun) {
        let number = |i: usize| {
            let (image, colour, pixel) = (i / each / 3, i / each % 3, i % each);
            tables[(image * 3 + colour) * 256 + usize::from(bytes[(image * each + pixel) * 3 + colour])]
        };
        let expected = (0..images * 3 * each).map(number).collect();
        let expected = Tensor::from_vec(expected, (images, 3, each), &Device::Cpu)?;
        worst.see("images", difference(&begun?.pixels()?, &expected, 0.0)?);
    }
    Ok(worst)
}

/// The worst of the comparisons of one operation or model.
struct Worst {
    difference: f64,
    note: String,
}

impl Worst {
    fn new() -> Self {
        Self { difference: 0.0, note: String::new() }
    }

    fn see(&mut self, note: &str, difference: f64) {
        let worst = worse(self.difference, difference);
        if worst.to_bits() != self.difference.to_bits() {
            (self.difference, self.note) = (worst, note.to_string());
        }
    }
}

/// What came of the comparisons of `what`.
fn finding(what: String, precision: &'static str, allowed: f64, worst: Result<Worst>) -> Finding {
    match worst {
        Ok(Worst { difference, note }) => {
            let ok = difference <= allowed;
            Finding { what, precision, difference: Some(difference).filter(|d| d.is_finite()), allowed, note, ok }
        }
        Err(e) => {
            let note = crate::error::one_line(&e);
            Finding { what, precision, difference: None, allowed, note, ok: false }
        }
    }
}

/// The larger; what is no number is larger than any.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a >= b { a } else { b }
}

fn numbers(x: &Tensor) -> candle_core::Result<Vec<f64>> {
    x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

/// max |a − b| / max |b|, of what is not zero everywhere; NaN where anything is not finite. `floor` is added to what is
/// divided by, for numbers that are rounding noise throughout.
fn difference(ours: &Tensor, expected: &Tensor, floor: f64) -> Result<f64> {
    anyhow::ensure!(ours.dims() == expected.dims(), "shape {:?}, expected {:?}", ours.dims(), expected.dims());
    let (a, b) = (numbers(ours).context("reading the result")?, numbers(expected)?);
    let largest = b.iter().fold(0f64, |m, v| m.max(v.abs()));
    let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, worse);
    Ok(if off == 0.0 { 0.0 } else { off / (largest + floor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_seen() {
        let tensor = |numbers: &[f32]| Tensor::new(numbers, &Device::Cpu).unwrap();
        let expected = tensor(&[1.0, -2.0]);
        assert_eq!(difference(&tensor(&[1.0, -2.0]), &expected, 0.0).unwrap(), 0.0);
        assert_eq!(difference(&tensor(&[1.5, -2.0]), &expected, 0.0).unwrap(), 0.25);
        assert!(difference(&tensor(&[f32::NAN, -2.0]), &expected, 0.0).unwrap().is_nan());
        assert!(difference(&tensor(&[1.0]), &expected, 0.0).is_err());
        let mut worst = Worst::new();
        worst.see("b", 0.5);
        worst.see("c", f64::NAN);
        worst.see("d", 2.0);
        let found = finding("x".into(), "f32", 1.0, Ok(worst));
        assert!(!found.ok && found.note == "c" && found.difference.is_none(), "{found:?}");
    }
}
