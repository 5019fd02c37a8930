//! Random changes to training images that are safe for radiographs: small crops, small rotations, brightness and
//! contrast. A horizontal flip moves the heart to the right and makes "left" in a report wrong, so it is off unless
//! forced or the reports name no side.

use rand::{Rng, RngExt};

use super::picture::Picture;
use crate::data::config::{AugmentConfig, Flip};

/// The changes drawn for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmented {
    /// Share of each side that is kept, and where the region starts, as shares of the room there is.
    keep: f64,
    start: (f64, f64),
    /// Radians, counter-clockwise.
    angle: f64,
    flip: bool,
    /// Added, in units of pixel values.
    brightness: f32,
    /// Factor on the distance from mid-gray.
    contrast: f32,
}

impl Augmented {
    /// Draws changes; `None` where the config asks for none.
    pub fn draw(config: &AugmentConfig, rng: &mut impl Rng) -> Option<Self> {
        if config.is_off() {
            return None;
        }
        let mut unit = || rng.random::<f64>();
        let mut signed = |bound: f64| (2.0 * unit() - 1.0) * bound;
        let angle = signed(config.rotation).to_radians();
        let brightness = (signed(config.brightness) * 255.0) as f32;
        let contrast = (1.0 + signed(config.contrast)) as f32;
        let area = config.crop + (1.0 - config.crop) * unit();
        Some(Self {
            keep: area.sqrt(),
            start: (unit(), unit()),
            angle,
            flip: config.horizontal_flip != Flip::Off && unit() < 0.5,
            brightness,
            contrast,
        })
    }

    /// The part of the image to take: (x, y, width, height) in pixels.
    pub(super) fn region(&self, image: &Picture) -> Option<[f64; 4]> {
        if self.keep >= 1.0 {
            return None;
        }
        let (w, h) = (f64::from(image.width), f64::from(image.height));
        let (kept_w, kept_h) = ((w * self.keep).max(1.0), (h * self.keep).max(1.0));
        Some([(w - kept_w) * self.start.0, (h - kept_h) * self.start.1, kept_w, kept_h])
    }

    /// Rotation about the centre (bilinear, black outside) and flip.
    pub(super) fn geometry(&self, image: Picture) -> Picture {
        let mut image = if self.angle == 0.0 { image } else { rotate(&image, self.angle) };
        if self.flip {
            let (line, channels) = (image.width as usize * image.channels, image.channels);
            for row in image.bytes.chunks_exact_mut(line) {
                row.reverse();
                // Colours of a pixel keep their order.
                row.chunks_exact_mut(channels).for_each(<[u8]>::reverse);
            }
        }
        image
    }

    /// One pixel value, 0 to 255, changed and kept in range.
    pub(super) fn brightness_contrast(&self, v: f32) -> f32 {
        ((v - 127.5) * self.contrast + 127.5 + self.brightness).clamp(0.0, 255.0)
    }
}

fn rotate(image: &Picture, angle: f64) -> Picture {
    let (width, height, channels) = (image.width, image.height, image.channels);
    let (cx, cy) = ((f64::from(width) - 1.0) / 2.0, (f64::from(height) - 1.0) / 2.0);
    let (sin, cos) = angle.sin_cos();
    let at = |x: i64, y: i64, c: usize| {
        let inside = x >= 0 && y >= 0 && x < i64::from(width) && y < i64::from(height);
        if inside { f64::from(image.bytes[(y as usize * width as usize + x as usize) * channels + c]) } else { 0.0 }
    };
    let mut bytes = Vec::with_capacity(image.bytes.len());
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let (dx, dy) = (f64::from(x) - cx, f64::from(y) - cy);
        let (sx, sy) = (cx + dx * cos - dy * sin, cy + dx * sin + dy * cos);
        let (x0, y0) = (sx.floor(), sy.floor());
        let (fx, fy) = (sx - x0, sy - y0);
        let (x0, y0) = (x0 as i64, y0 as i64);
        bytes.extend((0..channels).map(|c| {
            let top = at(x0, y0, c) * (1.0 - fx) + at(x0 + 1, y0, c) * fx;
            let bottom = at(x0, y0 + 1, c) * (1.0 - fx) + at(x0 + 1, y0 + 1, c) * fx;
            (top * (1.0 - fy) + bottom * fy).round() as u8
        }));
    }
    Picture { width, height, channels, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Purpose, stream};

    fn config() -> AugmentConfig {
        let off = 0.0;
        AugmentConfig { rotation: off, crop: 1.0, brightness: off, contrast: off, horizontal_flip: Flip::Off }
    }

    #[test]
    fn nothing_asked_nothing_drawn() {
        assert_eq!(Augmented::draw(&config(), &mut stream(0, Purpose::Augment, 0)), None);
    }

    #[test]
    fn a_quarter_turn_moves_the_corner() {
        for channels in [1, 3] {
            let mut image = Picture { width: 5, height: 5, channels, bytes: vec![0; 25 * channels] };
            image.bytes[..channels].fill(200);
            let turned = rotate(&image, std::f64::consts::FRAC_PI_2);
            let bottom_left = 4 * 5 * channels;
            assert_eq!(turned.bytes[bottom_left..bottom_left + channels], [200, 200, 200][..channels], "left turn");
            assert_eq!(turned.bytes.iter().map(|&b| usize::from(b)).sum::<usize>(), 200 * channels);
        }
    }

    #[test]
    fn a_flip_keeps_colours() {
        let config = AugmentConfig { horizontal_flip: Flip::On, ..config() };
        let draw = |i| Augmented::draw(&config, &mut stream(1, Purpose::Augment, i)).unwrap();
        let flip = (0..50).map(draw).find(|a| a.flip).unwrap();
        let image = Picture { width: 2, height: 1, channels: 3, bytes: vec![1, 2, 3, 4, 5, 6] };
        assert_eq!(flip.geometry(image).bytes, [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn draws_stay_in_bounds_and_vary() {
        let config = AugmentConfig { rotation: 10.0, crop: 0.8, brightness: 0.2, contrast: 0.1, ..config() };
        let draws: Vec<Augmented> =
            (0..200).map(|i| Augmented::draw(&config, &mut stream(7, Purpose::Augment, i)).unwrap()).collect();
        let image = Picture { width: 100, height: 50, channels: 1, bytes: vec![0; 5000] };
        for d in &draws {
            assert!(
                d.angle.abs() <= 10f64.to_radians() && d.brightness.abs() <= 51.0 && (d.contrast - 1.0).abs() <= 0.1
            );
            let [x, y, w, h] = d.region(&image).unwrap_or([0.0, 0.0, 100.0, 50.0]);
            assert!(w * h >= 0.8 * 5000.0 - 1e-6 && x >= 0.0 && y >= 0.0 && x + w <= 100.0 && y + h <= 50.0);
            assert!(!d.flip);
        }
        let left = draws.iter().filter(|d| d.angle < 0.0).count();
        assert!((60..140).contains(&left), "{left} of 200 turn right");
        assert_ne!(draws[0], draws[1]);
    }
}
