//! How volumes become pictures. Kept in the model's folder, so that inference reads them as training did.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::words::words;

words!(
    /// Which way slices lie.
    Axis {
        /// Across the body, from the feet to the head.
        Axial = "axial",
        /// From front to back, or back to front.
        Coronal = "coronal",
        /// From one side to the other.
        Sagittal = "sagittal",
    }
);
words!(
    /// Which way the sides of slices run.
    Orientation {
        /// As radiologists hang them: the patient's right side, front or head at the picture's left or top edge.
        Lps = "lps",
        /// The axes of nibabel's `as_closest_canonical`, the first one that is left across, the second down.
        Ras = "ras",
        /// As the file has them: its third axis is axial, its second coronal, its first sagittal.
        Stored = "stored",
    }
);

/// Number `k` of `wanted` of `count` things, evenly spaced: the middle of each of `wanted` equal parts.
pub fn evenly_spaced(k: usize, wanted: usize, count: usize) -> usize {
    (2 * k + 1) * count / (2 * wanted)
}

/// How volumes become pictures.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumePolicy {
    /// Which way slices lie.
    pub axis: Axis,
    /// Millimetres from voxel to voxel after resampling: right to left, front to back, feet to head; of stored axes
    /// along the file's three. `None`: the file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spacing: Option<[f64; 3]>,
    /// Most slices, evenly spaced ones of those that there are. `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slices: Option<usize>,
    /// Which way their sides run.
    pub orientation: Orientation,
    /// Which values become black and white.
    pub window: Window,
}

impl Default for VolumePolicy {
    /// All axial slices as they are, hung as radiologists do.
    fn default() -> Self {
        let (spacing, slices, window) = (None, None, Window::default());
        Self { axis: Axis::Axial, spacing, slices, orientation: Orientation::Lps, window }
    }
}

impl VolumePolicy {
    /// What a model's folder keeps.
    ///
    /// # Errors
    /// A number is none that JSON has.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).context("the policy of volumes cannot be kept")
    }

    /// What [`Self::to_json`] gave; what it lacks has its default.
    ///
    /// # Errors
    /// It says something else.
    pub fn from_json(kept: &serde_json::Value) -> Result<Self> {
        Self::deserialize(kept).context("is no policy of volumes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        for window in ["\"lung\"", "\"percentile\"", "[\"lung\", [0, 80], \"bone\"]", "[-10.5, 30]"] {
            let numbers = r#""spacing": [1, 2, 3.5], "slices": 7"#;
            let text = format!(r#"{{"axis": "coronal", {numbers}, "orientation": "ras", "window": {window}}}"#);
            let policy = VolumePolicy::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(policy.spacing, Some([1.0, 2.0, 3.5]));
            assert_eq!(VolumePolicy::from_json(&policy.to_json().unwrap()).unwrap(), policy);
        }
        let empty = VolumePolicy::from_json(&serde_json::json!({})).unwrap();
        assert_eq!(empty, VolumePolicy::default());
        for wrong in [r#"{"axes": 1}"#, r#"{"window": "liver"}"#, r#"{"window": [80, 0]}"#, r#"{"window": [1, 2, 3]}"#]
        {
            assert!(VolumePolicy::from_json(&serde_json::from_str(wrong).unwrap()).is_err(), "{wrong}");
        }
    }
}
