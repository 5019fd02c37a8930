//! Resizing learnt positions to another image size or text length. Done once, when weights are loaded.

use candle_core::{Result, Tensor};

/// Image positions from a `from`×`from` grid to a `to`×`to` one, with the first rows, those of the class token and its
/// like, kept: bicubic
/// (a = −0.75, no antialiasing, half-pixel centres), as `torch.nn.functional.interpolate` in transformers'
/// `interpolate_pos_encoding`. positions: (before + from², width) → (before + to², width).
///
/// # Errors
/// Whatever the device reports.
pub(in crate::model) fn image_positions(positions: &Tensor, before: usize, from: usize, to: usize) -> Result<Tensor> {
    let rows: Vec<Vec<f32>> = positions.to_vec2()?;
    let width = positions.dim(1)?;
    let taps: Vec<[(usize, f32); 4]> = (0..to).map(|i| cubic_taps(i, from, to)).collect();
    let mut out = rows[..before].concat();
    for y in &taps {
        for x in &taps {
            let mut cell = vec![0f32; width];
            for &(row, wy) in y {
                for &(column, wx) in x {
                    let source = &rows[before + row * from + column];
                    cell.iter_mut().zip(source).for_each(|(c, s)| *c += wy * wx * s);
                }
            }
            out.extend(cell);
        }
    }
    Tensor::from_vec(out, (before + to * to, width), positions.device())
}

/// The four source cells of target cell `i` and their weights.
fn cubic_taps(i: usize, from: usize, to: usize) -> [(usize, f32); 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let source = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let (base, t) = (source.floor(), source - source.floor());
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|k| {
        let cell = (base as i64 + k as i64 - 1).clamp(0, from as i64 - 1);
        (cell as usize, weights[k] as f32)
    })
}

/// Text positions to a longer context, linear with both ends kept; a shorter one keeps the first rows.
/// positions: (from, width) → (to, width).
///
/// # Errors
/// Whatever the device reports.
pub(in crate::model) fn text_positions(positions: &Tensor, to: usize) -> Result<Tensor> {
    let (from, width) = positions.dims2()?;
    if to <= from {
        return positions.narrow(0, 0, to)?.copy();
    }
    let rows: Vec<Vec<f32>> = positions.to_vec2()?;
    let mut out = Vec::with_capacity(to * width);
    for i in 0..to {
        let source = i as f64 * (from - 1) as f64 / (to - 1) as f64;
        let (low, t) = (source.floor() as usize, (source - source.floor()) as f32);
        let high = (low + 1).min(from - 1);
        out.extend(rows[low].iter().zip(&rows[high]).map(|(a, b)| a + (b - a) * t));
    }
    Tensor::from_vec(out, (to, width), positions.device())
}
