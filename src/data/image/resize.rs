//! The one resizer: Pillow's kernels, whose support grows with the reduction (antialiasing).

use anyhow::{Context, Result};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{F32, U8, U8x3};
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use super::picture::Picture;

/// How a pixel of the result comes from those around its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) enum Filter {
    Nearest,
    Lanczos,
    Bilinear,
    /// Pillow's bicubic is the cubic with a = −0.5.
    Bicubic,
    Box,
    Hamming,
}

impl Filter {
    fn algorithm(self) -> ResizeAlg {
        ResizeAlg::Convolution(match self {
            Self::Nearest => return ResizeAlg::Nearest,
            Self::Lanczos => FilterType::Lanczos3,
            Self::Bilinear => FilterType::Bilinear,
            Self::Bicubic => FilterType::CatmullRom,
            Self::Box => FilterType::Box,
            Self::Hamming => FilterType::Hamming,
        })
    }
}

/// `region`, (x, y, width, height) of the image, as `width` × `height` pixels. Across first and then down, each rounded
/// to bytes, as Pillow does it: overshoot at sharp edges is cut off after each pass, so the order shows.
///
/// # Errors
/// An image or a result without pixels.
pub(in crate::data) fn resize_region(
    image: &Picture,
    [x, y, kept_width, kept_height]: [f64; 4],
    (width, height): (u32, u32),
    filter: Filter,
) -> Result<Picture> {
    let across = pass(image, [x, 0.0, kept_width, f64::from(image.height)], (width, image.height), filter)?;
    pass(&across, [0.0, y, f64::from(width), kept_height], (width, height), filter)
}

/// All of the image as `width` × `height` pixels.
///
/// # Errors
/// As [`resize_region`].
pub(in crate::data) fn resize(image: &Picture, size: (u32, u32), filter: Filter) -> Result<Picture> {
    resize_region(image, [0.0, 0.0, f64::from(image.width), f64::from(image.height)], size, filter)
}

fn pass(image: &Picture, [x, y, w, h]: [f64; 4], (width, height): (u32, u32), filter: Filter) -> Result<Picture> {
    let options = ResizeOptions::new().resize_alg(filter.algorithm()).crop(x, y, w, h);
    let mut bytes = vec![0; width as usize * height as usize * image.channels];
    // Typed: the other form compiles kernels for every pixel type into this crate, a minute of build.
    if image.channels == 1 {
        let source = TypedImageRef::<U8>::from_buffer(image.width, image.height, &image.bytes)?;
        let mut target = TypedImage::<U8>::from_buffer(width, height, &mut bytes)?;
        Resizer::new().resize_typed(&source, &mut target, &options).context("cannot be resized")?;
    } else {
        let source = TypedImageRef::<U8x3>::from_buffer(image.width, image.height, &image.bytes)?;
        let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut bytes)?;
        Resizer::new().resize_typed(&source, &mut target, &options).context("cannot be resized")?;
    }
    Ok(Picture { width, height, channels: image.channels, bytes })
}

/// Mean gray of each cell of a grid of `side` × `side` over a gray image, row after row, not rounded.
///
/// # Errors
/// As [`resize_region`].
pub(in crate::data) fn cell_means(gray: &Picture, side: u32) -> Result<Vec<f32>> {
    // More pixels than this a cell say nothing more, and take four bytes each.
    const ENOUGH: u32 = 1024;
    let size = (gray.width.min(ENOUGH), gray.height.min(ENOUGH));
    let smaller = if size == (gray.width, gray.height) { None } else { Some(resize(gray, size, Filter::Box)?) };
    let bytes = &smaller.as_ref().unwrap_or(gray).bytes;
    let pixels = bytes.iter().map(|&byte| F32::new(f32::from(byte))).collect();
    let source = TypedImage::<F32>::from_pixels(size.0, size.1, pixels)?;
    let mut target = TypedImage::<F32>::new(side, side);
    let options = ResizeOptions::new().resize_alg(Filter::Box.algorithm());
    Resizer::new().resize_typed(&source, &mut target, &options).context("cannot be resized")?;
    Ok(target.pixels().iter().map(|pixel| pixel.0).collect())
}
