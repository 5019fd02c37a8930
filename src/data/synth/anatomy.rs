//! Shapes of phantom bodies and of the devices in them, in the body coordinates of `draw`. Owns measures, no pixels.

use super::random::uniform;
use super::scene::Device;
use rand_chacha::ChaCha8Rng;

/// A patient's own shape, the same in all studies.
pub(super) struct Body {
    /// Half the inner width of the chest.
    pub(super) wall: f32,
    /// Height of the lung apices.
    pub(super) apex: f32,
    /// Height of the right diaphragm's dome at a usual breath.
    pub(super) dome: f32,
    /// How much higher the right dome is than the left.
    pub(super) dome_gap: f32,
    /// Cardiothoracic ratio of the healthy heart.
    pub(super) heart: f32,
    /// Height from one rib to the next.
    pub(super) rib_gap: f32,
    /// How steeply ribs run down behind.
    pub(super) rib_slope: f32,
    /// Thickness of the soft tissue outside the ribs.
    pub(super) flank: f32,
    /// How steeply the shoulders fall.
    pub(super) shoulder: f32,
}

impl Body {
    /// Draws a patient's shape.
    pub(super) fn new(rng: &mut ChaCha8Rng) -> Self {
        Self {
            wall: uniform(rng, 0.70, 0.82),
            apex: uniform(rng, -0.84, -0.74),
            dome: uniform(rng, 0.38, 0.48),
            dome_gap: uniform(rng, 0.03, 0.08),
            heart: uniform(rng, 0.39, 0.46),
            rib_gap: uniform(rng, 0.15, 0.20),
            rib_slope: uniform(rng, 0.25, 0.5),
            flank: uniform(rng, 0.05, 0.20),
            shoulder: uniform(rng, 0.25, 0.45),
        }
    }
}

/// A tube, wire or box: a polyline with a thickness.
pub(super) struct Stroke {
    pub(super) points: Vec<[f32; 2]>,
    pub(super) half_width: f32,
}

/// What a device is made of. `dome` is the height of the right diaphragm.
pub(super) fn strokes(device: Device, body: &Body, dome: f32) -> Vec<Stroke> {
    let top = body.apex;
    match device {
        Device::EndotrachealTube => {
            vec![Stroke { points: vec![[0.0, -1.3], [0.0, top + 0.5]], half_width: 0.028 }]
        }
        Device::NasogastricTube => {
            let points =
                vec![[0.05, -1.3], [0.05, dome], [0.14, dome + 0.18], [0.40, dome + 0.26], [0.48, dome + 0.18]];
            vec![Stroke { points, half_width: 0.022 }]
        }
        Device::CentralLine(side) => {
            let s = side.sign();
            let points = vec![[0.75 * s, top + 0.02], [0.45 * s, top + 0.10], [-0.12, top + 0.38], [-0.13, top + 0.75]];
            vec![Stroke { points, half_width: 0.018 }]
        }
        Device::Pacemaker(side) => {
            let s = side.sign();
            let can = vec![[0.54 * s, top + 0.22], [0.66 * s, top + 0.22]];
            let lead = vec![[0.54 * s, top + 0.2], [-0.10, top + 0.36], [-0.12, dome - 0.3], [0.20, dome - 0.02]];
            vec![Stroke { points: can, half_width: 0.075 }, Stroke { points: lead, half_width: 0.014 }]
        }
    }
}
