//! Soft-edged shapes that the phantom is drawn from, and how the picture is taken. Owns plain geometry and exposure;
//! knows no anatomy.

use super::random::uniform;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// How the picture was taken: position of the patient and exposure.
pub(super) struct View {
    shift: [f32; 2],
    cos: f32,
    sin: f32,
    zoom: f32,
    gain: f32,
    lift: f32,
    bend: f32,
    /// Standard deviation of one pixel, of 1.
    pub(super) noise: f32,
}

impl View {
    /// Draws a position and an exposure.
    pub(super) fn new(rng: &mut ChaCha8Rng) -> Self {
        // The rational form of a rotation, by at most 5 degrees; it needs no sine.
        let t = uniform(rng, -0.044, 0.044);
        Self {
            shift: [uniform(rng, -0.06, 0.06), uniform(rng, -0.06, 0.06)],
            cos: (1.0 - t * t) / (1.0 + t * t),
            sin: 2.0 * t / (1.0 + t * t),
            zoom: uniform(rng, 0.96, 1.08),
            gain: uniform(rng, 0.85, 1.10),
            lift: uniform(rng, -0.03, 0.05),
            bend: uniform(rng, -0.25, 0.25),
            noise: uniform(rng, 0.010, 0.035),
        }
    }

    /// Body coordinates of a place in the picture.
    pub(super) fn body(&self, u: f32, v: f32) -> (f32, f32) {
        let (u, v) = ((u - self.shift[0]) * self.zoom, (v - self.shift[1]) * self.zoom);
        (self.cos * u + self.sin * v, self.cos * v - self.sin * u)
    }

    /// Gray value in 0..=1 of an attenuation.
    pub(super) fn expose(&self, value: f32) -> f32 {
        let value = (value * self.gain + self.lift).clamp(0.0, 1.0);
        value + self.bend * value * (1.0 - value)
    }
}

/// Noise of one pixel: mean 0, standard deviation about 1, from one random number.
pub(super) fn grain(rng: &mut ChaCha8Rng) -> f32 {
    let sum: u32 = rng.random::<u32>().to_le_bytes().iter().map(|&b| u32::from(b)).sum();
    (sum as f32 - 510.0) / 148.0
}

/// 1 where `value` is well below `limit`, 0 well above, smooth over `soft` on either side.
pub(super) fn below(value: f32, limit: f32, soft: f32) -> f32 {
    let t = ((limit - value) / (2.0 * soft) + 0.5).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A disc with a soft rim.
pub(super) fn blob(dx: f32, dy: f32, radius: f32, soft: f32) -> f32 {
    below((dx * dx + dy * dy).sqrt(), radius, soft)
}

/// A haze: 1 at its centre, a quarter at `reach`.
pub(super) fn falloff(dx: f32, dy: f32, reach: f32) -> f32 {
    let t = 1.0 / (1.0 + (dx * dx + dy * dy) / (reach * reach));
    t * t
}

/// A thick line from `a` to `b`.
pub(super) fn segment(x: f32, y: f32, a: [f32; 2], b: [f32; 2], half_width: f32, soft: f32) -> f32 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let t = (((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    blob(x - a[0] - t * dx, y - a[1] - t * dy, half_width, soft)
}

/// The part after the decimal point, in 0..1 for negative numbers too.
pub(super) fn fraction(t: f32) -> f32 {
    t - t.floor()
}
