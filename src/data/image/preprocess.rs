//! Pixels to model input: resize with antialiasing, centre crop, rescale, normalise. Which files say so is
//! `processors.rs`'s.

use anyhow::{Result, ensure};

use super::augment::Augmented;
use super::picture::Picture;
use super::resize::{Filter, resize_region};

/// How to resize.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resize {
    /// The shorter side becomes this; the longer keeps the shape, rounded down.
    ShortestEdge(u32),
    /// The longer side becomes this; the shorter keeps the shape, rounded.
    LongestEdge(u32),
    /// Both sides are given, (height, width).
    Exact(u32, u32),
}

/// The steps from pixels to `pixel_values`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// transformers' class that does the same from the same fields.
    pub(super) class: &'static str,
    pub(super) resize: Option<Resize>,
    /// Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
    pub(super) resample: u64,
    /// (height, width)
    pub(super) crop: Option<(u32, u32)>,
    /// What stands around an image that is smaller than its crop.
    pub(super) fill: u8,
    /// Pixels are multiplied by this first.
    pub(super) rescale: f32,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
}

impl Preprocess {
    /// The same steps for another image size.
    pub fn with_image_size(mut self, size: usize) -> Self {
        let size = size as u32;
        self.resize = self.resize.map(|r| match r {
            // What is cut off keeps its share.
            Resize::ShortestEdge(n) => Resize::ShortestEdge(match self.crop {
                Some((h, _)) if n > h => (u64::from(n) * u64::from(size) / u64::from(h)) as u32,
                _ => size,
            }),
            Resize::LongestEdge(_) => Resize::LongestEdge(size),
            Resize::Exact(h, _) => match self.crop {
                Some((crop, _)) if h > crop => {
                    let side = (u64::from(h) * u64::from(size) / u64::from(crop)) as u32;
                    Resize::Exact(side, side)
                }
                _ => Resize::Exact(size, size),
            },
        });
        self.crop = self.crop.map(|_| (size, size));
        self
    }

    /// (height, width) of every result; `None` where it depends on the image.
    pub fn output_size(&self) -> Option<(u32, u32)> {
        self.crop.or(match self.resize {
            Some(Resize::Exact(h, w)) => Some((h, w)),
            _ => None,
        })
    }

    /// Pixels before rescaling and normalising. `region` is the part of the image to take, (x, y, width, height).
    ///
    /// # Errors
    /// An image that cannot be resized, such as one of size 0.
    pub fn resize_and_crop(&self, image: &Picture, region: Option<[f64; 4]>) -> Result<Picture> {
        let (width, height) = match region {
            Some([_, _, w, h]) => ((w.round() as u32).max(1), (h.round() as u32).max(1)),
            None => (image.width, image.height),
        };
        ensure!(width > 0 && height > 0, "image is {width}×{height}");
        let (target_h, target_w) = match self.resize {
            None => (height, width),
            Some(Resize::Exact(h, w)) => (h, w),
            Some(Resize::ShortestEdge(n)) => {
                let long = |long: u32, short: u32| (u64::from(n) * u64::from(long) / u64::from(short)) as u32;
                if width <= height { (long(height, width), n) } else { (n, long(width, height)) }
            }
            Some(Resize::LongestEdge(n)) => {
                let ratio = f64::from(width.max(height)) / f64::from(n);
                let side = |x: u32| ((f64::from(x) / ratio).round_ties_even() as u32).max(1);
                (side(height), side(width))
            }
        };
        ensure!(
            u64::from(target_w) * u64::from(target_h) < 1 << 26,
            "image of {width}×{height} would become {target_w}×{target_h}"
        );
        let all = [0.0, 0.0, f64::from(image.width), f64::from(image.height)];
        let resized = resize_region(image, region.unwrap_or(all), (target_w, target_h), self.filter())?;
        Ok(match self.crop {
            Some((h, w)) => centre_crop(&resized, h, w, self.fill),
            None => resized,
        })
    }

    /// Which pixels of what [`Self::resize_and_crop`] gives lie inside of a place, of which `mask` has half white or
    /// more. mask: as large as the image, 255 inside and 0 outside.
    ///
    /// # Errors
    /// As there.
    pub fn place(&self, mask: &Picture) -> Result<Vec<bool>> {
        let seen = Self { fill: 0, ..self.clone() }.resize_and_crop(mask, None)?;
        Ok(seen.colour(0).map(|value| value >= 128).collect())
    }

    fn filter(&self) -> Filter {
        match self.resample {
            0 => Filter::Nearest,
            1 => Filter::Lanczos,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            4 => Filter::Box,
            _ => Filter::Hamming,
        }
    }

    /// Everything but the last step: one byte instead of twelve a pixel while it waits for its turn.
    ///
    /// # Errors
    /// As [`Self::resize_and_crop`].
    pub fn prepare(&self, image: &Picture, augmented: Option<&Augmented>) -> Result<Prepared> {
        let mut picture = self.resize_and_crop(image, augmented.and_then(|a| a.region(image)))?;
        if let Some(augmented) = augmented {
            picture = augmented.geometry(picture);
        }
        Ok(Prepared { picture, augmented: augmented.copied(), rescale: self.rescale, mean: self.mean, std: self.std })
    }

    /// `pixel_values` of one image, (3, height, width) in channel-major order.
    ///
    /// # Errors
    /// As [`Self::resize_and_crop`].
    pub fn apply(&self, image: &Picture, augmented: Option<&Augmented>) -> Result<Vec<f32>> {
        let prepared = self.prepare(image, augmented)?;
        let mut values = vec![0.0; prepared.len()];
        prepared.write(&mut values);
        Ok(values)
    }
}

/// An image of the model's size that is not rescaled and normalised yet.
#[derive(Clone, Debug)]
pub struct Prepared {
    picture: Picture,
    augmented: Option<Augmented>,
    rescale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Prepared {
    /// How many numbers [`Self::write`] writes: 3 × height × width.
    #[allow(clippy::len_without_is_empty)] // No image is empty.
    pub fn len(&self) -> usize {
        3 * self.picture.width as usize * self.picture.height as usize
    }

    /// What every value that a byte can take becomes in this channel.
    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|v| {
            let v = self.augmented.map_or(v as f32, |a| a.brightness_contrast(v as f32));
            (v * self.rescale - self.mean[channel]) / self.std[channel]
        })
    }

    /// Writes `pixel_values`, (3, height, width).
    pub fn write(&self, values: &mut [f32]) {
        for (channel, plane) in values.chunks_exact_mut(self.len() / 3).enumerate() {
            let table = self.table(channel);
            plane.iter_mut().zip(self.picture.colour(channel)).for_each(|(v, byte)| *v = table[usize::from(byte)]);
        }
    }
}

/// Images as they travel to a GPU, a quarter of the bytes that their numbers would have.
#[derive(Debug, PartialEq)]
pub struct Packed {
    /// (images, height · width, channels)
    pub bytes: Vec<u8>,
    /// 1 where all are gray, else 3.
    pub channels: usize,
    /// What each byte of an image becomes in each of three channels, (images, 3, 256).
    pub tables: Vec<f32>,
}

impl Packed {
    /// Images of one size.
    pub fn new(images: &[Prepared]) -> Self {
        let channels = images.iter().map(|image| image.picture.channels).max().unwrap_or(1);
        let mut bytes = Vec::with_capacity(images.iter().map(Prepared::len).sum::<usize>() / 3 * channels);
        for Prepared { picture, .. } in images {
            if picture.channels == channels {
                bytes.extend_from_slice(&picture.bytes);
            } else {
                picture.bytes.iter().for_each(|&byte| bytes.extend(std::iter::repeat_n(byte, channels)));
            }
        }
        let tables = images.iter().flat_map(|image| (0..3).flat_map(|channel| image.table(channel))).collect();
        Self { bytes, channels, tables }
    }
}

/// The middle of `image`, with `fill` around it where the image is smaller (torchvision's rounding: the odd pixel of
/// padding goes after).
fn centre_crop(image: &Picture, height: u32, width: u32, fill: u8) -> Picture {
    // Offset of the crop in the image, and of the image in the crop.
    let offsets = |size: u32, crop: u32| {
        let inside = size.saturating_sub(crop) / 2;
        let around = crop.saturating_sub(size) / 2;
        (inside as usize, around as usize, size.min(crop) as usize)
    };
    let ((x, to_x, columns), (y, to_y, rows)) = (offsets(image.width, width), offsets(image.height, height));
    let (channels, line, to_line) = (image.channels, image.width as usize, width as usize);
    let mut bytes = vec![fill; width as usize * height as usize * channels];
    for row in 0..rows {
        let from = ((y + row) * line + x) * channels;
        let to = ((to_y + row) * to_line + to_x) * channels;
        bytes[to..to + columns * channels].copy_from_slice(&image.bytes[from..from + columns * channels]);
    }
    Picture { width, height, channels, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_images_give_the_same_numbers() {
        let preprocess = Preprocess::clip(8);
        let image = |channels: usize, start: usize| {
            let bytes = (0..8 * 8 * channels).map(|i| ((start + i * 37) % 256) as u8).collect();
            preprocess.prepare(&Picture { width: 8, height: 8, channels, bytes }, None).unwrap()
        };
        for channels in [[1, 1], [3, 3], [3, 1]] {
            let images = channels.map(|channels| image(channels, 7 * channels));
            let packed = Packed::new(&images);
            assert_eq!(packed.channels, channels[0].max(channels[1]));
            let each = 64;
            for (i, image) in images.iter().enumerate() {
                let mut numbers = vec![0f32; image.len()];
                image.write(&mut numbers);
                for (at, number) in numbers.into_iter().enumerate() {
                    let (colour, pixel) = (at / each, at % each);
                    let place = if packed.channels == 3 { colour } else { 0 };
                    let byte = packed.bytes[(i * each + pixel) * packed.channels + place];
                    assert_eq!(number, packed.tables[(i * 3 + colour) * 256 + usize::from(byte)], "{channels:?}");
                }
            }
        }
    }
}
