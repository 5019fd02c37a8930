//! The picture of an explanation.

use anyhow::{Result, ensure};

use super::explain::Explanation;
use crate::data::{Picture, image};

/// The image as the model sees it in gray, with relevance in red, at least 448 pixels a side; PNG.
///
/// # Errors
/// An explanation without patches.
pub fn relevance_map(seen: &Picture, explanation: &Explanation) -> Result<Vec<u8>> {
    ensure!(!explanation.patches.is_empty(), "this image tower has no attention over patches to draw");
    let side = seen.width.max(448);
    let bytes = drawn(seen, (&explanation.patches, explanation.grid), side)?;
    image::png(&Picture { width: side, height: side, channels: 3, bytes })
}

/// The image in gray, `side` pixels a side, with the relevance, 0 to 1, of its `grid` × `grid` patches in red, where
/// there are any: three bytes a pixel.
///
/// # Errors
/// It cannot be scaled.
pub(super) fn drawn(seen: &Picture, (patches, grid): (&[f32], usize), side: u32) -> Result<Vec<u8>> {
    let gray = image::gray_of_side(seen, side)?;
    if patches.is_empty() {
        return Ok(gray.into_iter().flat_map(|light| [light; 3]).collect());
    }
    let mut rgb = Vec::with_capacity(gray.len() * 3);
    for (&light, value) in gray.iter().zip(at_pixels(patches, grid, side as usize)) {
        let heat = 0.65 * value;
        let mix = |color: f32| (f32::from(light) * (1.0 - heat) + color * heat) as u8;
        rgb.extend([mix(255.0), mix(40.0), mix(20.0)]);
    }
    Ok(rgb)
}

/// A square of `grid` values a side, row by row, as one of `side` pixels: bilinear between the patches' middles.
pub(super) fn at_pixels(patches: &[f32], grid: usize, side: usize) -> impl Iterator<Item = f32> {
    let at = move |row: i64, column: i64| {
        let clamp = |v: i64| v.clamp(0, grid as i64 - 1) as usize;
        patches[clamp(row) * grid + clamp(column)]
    };
    let place = move |pixel: usize| (pixel as f32 + 0.5) / side as f32 * grid as f32 - 0.5;
    (0..side * side).map(move |i| {
        let (y, x) = (place(i / side), place(i % side));
        let (row, column) = (y.floor() as i64, x.floor() as i64);
        let (down, right) = (y - y.floor(), x - x.floor());
        let above = at(row, column) * (1.0 - right) + at(row, column + 1) * right;
        let below = at(row + 1, column) * (1.0 - right) + at(row + 1, column + 1) * right;
        above * (1.0 - down) + below * down
    })
}
