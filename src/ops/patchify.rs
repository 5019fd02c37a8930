//! Images cut into patches.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu;

/// The `grid` × `grid` patches from the top left corner of each image, `patch` pixels a side, one a row, as a
/// convolution whose stride is its kernel multiplies them. pixel_values: (batch, channels, height, width) → (batch ·
/// grid², channels · patch²). Pixels get no gradient.
///
/// # Errors
/// Images smaller than that.
pub fn patchify(pixel_values: &Tensor, grid: usize, patch: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = pixel_values.dims4()?;
    // Checks the sizes too.
    let whole = pixel_values.narrow(2, 0, grid * patch)?.narrow(3, 0, grid * patch)?;
    let shape = (batch * grid * grid, channels * patch * patch);
    if !cpu::has_kernels(pixel_values) || !pixel_values.is_contiguous() || batch * grid * patch * channels == 0 {
        let patches = whole.reshape((batch, channels, grid, patch, grid, patch))?;
        return patches.permute((0, 2, 4, 1, 3, 5))?.reshape(shape);
    }
    let (pixels, mut rows) = (cpu::read(pixel_values)?, overwritten(shape.0 * shape.1));
    // A line of patches a task: candle's copy is one thread's alone.
    rows.par_chunks_mut(grid * shape.1).enumerate().for_each(|(line, rows)| {
        let (item, top) = (line / grid, line % grid * patch);
        for (column, row) in rows.chunks_exact_mut(shape.1).enumerate() {
            for (i, to) in row.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (i / patch, top + i % patch);
                let from = ((item * channels + channel) * height + y) * width + column * patch;
                to.copy_from_slice(&pixels[from..from + patch]);
            }
        }
    });
    Tensor::from_vec(rows, shape, pixel_values.device())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn patches_are_those_of_the_plain_copy() {
        for (batch, channels, height, width, grid, patch) in
            [(2, 3, 9, 8, 2, 4), (1, 1, 5, 7, 5, 1), (3, 2, 6, 6, 1, 6), (2, 3, 10, 11, 3, 3)]
        {
            let count = (batch * channels * height * width) as f32;
            let pixels = Tensor::arange(0f32, count, &Device::Cpu).unwrap();
            let pixels = pixels.reshape((batch, channels, height, width)).unwrap();
            let ours = patchify(&pixels, grid, patch).unwrap();
            // f64 takes candle's way.
            let plain = patchify(&pixels.to_dtype(DType::F64).unwrap(), grid, patch).unwrap();
            assert_eq!(ours.dims(), [batch * grid * grid, channels * patch * patch]);
            assert_eq!(ours.to_vec2::<f32>().unwrap(), plain.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap());
        }
        let small = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(patchify(&small, 3, 4).is_err());
    }
}
