//! Whether a map over an image finds a place in it: contrast-to-noise ratio, overlap, pointing game.

/// Of the largest value, on a map shifted and stretched to 0…1: from there on a pixel counts as found.
pub const THRESHOLDS: [f64; 5] = [0.3, 0.4, 0.5, 0.6, 0.7];

/// What a map comes to on one place; higher is better everywhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grounding {
    /// `(mean inside − mean outside) / √(variance inside + variance outside)`, as in BioViL (arXiv 2204.09817), but
    /// with its sign: a map that avoids the place is not taken for one that finds it. 0 for a map that is flat.
    pub contrast: f64,
    /// Intersection over union of the place and of what is found, at each of [`THRESHOLDS`].
    pub overlap: [f64; THRESHOLDS.len()],
    /// Whether the highest pixel lies inside; of several that are equally high, their share inside.
    pub pointing: f64,
    /// About the overlap of the same values dealt out uniformly over the pixels, the expected intersection over the
    /// expected union; no smooth map is dealt out so.
    pub overlap_by_chance: [f64; THRESHOLDS.len()],
    /// The same of the highest pixel: the place's share of the image.
    pub pointing_by_chance: f64,
}

impl Grounding {
    /// Of a map and the place that it should find, pixel by pixel. `None` where the place has no pixel or all of them.
    ///
    /// # Panics
    /// Different numbers of pixels.
    pub fn of(map: &[f32], inside: &[bool]) -> Option<Self> {
        assert_eq!(map.len(), inside.len(), "a map and a place of one image");
        let (all, place) = (map.len(), inside.iter().filter(|i| **i).count());
        if place == 0 || place == all {
            return None;
        }
        let low = f64::from(map.iter().copied().fold(f32::INFINITY, f32::min));
        let high = f64::from(map.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let stretched = |v: f32| if high > low { (f64::from(v) - low) / (high - low) } else { 0.0 };
        let counted = |found: &dyn Fn(f32) -> bool| {
            let (mut count, mut both) = (0usize, 0usize);
            for (v, inside) in map.iter().zip(inside).filter(|(v, _)| found(**v)) {
                count += 1;
                both += usize::from(*inside && v.is_finite());
            }
            (count as f64, both as f64)
        };
        let (all, place) = (all as f64, place as f64);
        let at = |t: f64| {
            let (found, both) = counted(&|v| stretched(v) >= t);
            let by_chance = found * place / all;
            (both / (found + place - both), by_chance / (found + place - by_chance))
        };
        let overlaps = THRESHOLDS.map(at);
        let (highest, right) = counted(&|v| f64::from(v) == high);
        Some(Self {
            contrast: contrast(map, inside),
            overlap: overlaps.map(|o| o.0),
            pointing: if highest > 0.0 { right / highest } else { 0.0 },
            overlap_by_chance: overlaps.map(|o| o.1),
            pointing_by_chance: place / all,
        })
    }

    /// The mean overlap over all thresholds.
    pub fn mean_overlap(&self) -> f64 {
        self.overlap.iter().sum::<f64>() / self.overlap.len() as f64
    }

    /// The same by chance.
    pub fn mean_overlap_by_chance(&self) -> f64 {
        self.overlap_by_chance.iter().sum::<f64>() / self.overlap.len() as f64
    }
}

fn contrast(map: &[f32], inside: &[bool]) -> f64 {
    let [(mean, variance), (around, noise)] = [true, false].map(|side| {
        let values = || map.iter().zip(inside).filter(|(_, inside)| **inside == side).map(|(v, _)| f64::from(*v));
        let count = values().count() as f64;
        let mean = values().sum::<f64>() / count;
        (mean, values().map(|v| (v - mean).powi(2)).sum::<f64>() / count)
    });
    let spread = (variance + noise).sqrt();
    if spread > 0.0 { (mean - around) / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_are_found_missed_and_unseen() {
        let inside = [true, true, false, false, false, false, false, false];
        let found = Grounding::of(&[1.0, 0.9, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0], &inside).unwrap();
        assert_eq!((found.pointing, found.overlap), (1.0, [1.0; 5]));
        assert!(found.contrast > 5.0);
        assert_eq!(found.pointing_by_chance, 0.25);
        // Two of eight found by chance: half a pixel of two and two.
        assert!(found.overlap_by_chance.iter().all(|o| (o - 0.5 / 3.5).abs() < 1e-12));
        let missed = Grounding::of(&[0.0, 0.0, 1.0, 0.9, 0.0, 0.0, 0.0, 0.0], &inside).unwrap();
        assert_eq!((missed.pointing, missed.overlap), (0.0, [0.0; 5]));
        assert!(missed.contrast < -0.5, "a map that avoids the place is below chance");
        let flat = Grounding::of(&[0.5; 8], &inside).unwrap();
        assert_eq!((flat.pointing, flat.contrast, flat.overlap), (0.25, 0.0, [0.0; 5]));
        assert_eq!(Grounding::of(&[0.5; 2], &[true; 2]), None);
    }
}
