//! How volumes become pictures. Kept in the model's folder, so that inference reads them as training did.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::geometry;
use super::window::Window;
use crate::json;
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
    /// Most slices that may be asked for.
    pub const MOST_SLICES: usize = geometry::MOST_SLICES;
    /// Which steps spacing may have, in words.
    pub const SPACING_ALLOWED: &'static str = "a list of three numbers above 0 and up to 100";

    /// Whether spacing may be these steps; `None` for what is no number.
    pub fn allows_spacing(steps: impl ExactSizeIterator<Item = Option<f64>>) -> bool {
        steps.len() == 3 && steps.into_iter().all(|step| step.is_some_and(|mm| mm > 0.0 && mm <= 100.0))
    }

    /// What a model's folder keeps.
    ///
    /// # Errors
    /// A number is none that JSON has.
    pub fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self).context("the policy of volumes cannot be kept")
    }

    /// What [`Self::to_json`] gave, or somebody wrote: each key as configs take it; what is not there has its default.
    ///
    /// # Errors
    /// An unknown key, or a value that the key does not have.
    pub fn from_json(kept: &Value) -> Result<Self> {
        let mut policy = Self::default();
        for (key, value) in json::fields(kept, &["axis", "spacing", "slices", "orientation", "window"])? {
            match key.as_str() {
                "axis" => policy.axis = json::word(key, value, Axis::WORDS, Axis::find)?,
                "spacing" => policy.spacing = Some(json::field(key, value, Self::SPACING_ALLOWED, spacing)?),
                "slices" => policy.slices = Some(json::count(key, value, Self::MOST_SLICES)?),
                "orientation" => policy.orientation = json::word(key, value, Orientation::WORDS, Orientation::find)?,
                _ => policy.window = json::field(key, value, Window::ALLOWED, |w| Window::deserialize(w).ok())?,
            }
        }
        Ok(policy)
    }
}

fn spacing(value: &Value) -> Option<[f64; 3]> {
    let steps = value.as_array()?;
    VolumePolicy::allows_spacing(steps.iter().map(Value::as_f64)).then_some(())?;
    steps.iter().filter_map(Value::as_f64).collect::<Vec<_>>().try_into().ok()
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
        for (wrong, told) in [
            (r#"{"axes": "axial"}"#, "axes is no key; allowed are axis, spacing, slices, orientation, window; did you"),
            (r#"{"axis": 1}"#, r#"axis is 1; allowed is "axial", "coronal", "sagittal""#),
            (r#"{"window": "liver"}"#, r#"window is "liver"; allowed is "percentile", "file""#),
            (r#"{"window": [80, 0]}"#, "window is [80,0]; allowed is"),
            (r#"{"window": [1, 2, 3]}"#, "window is [1,2,3]; allowed is"),
            (r#"{"spacing": [1, 1, -2]}"#, "spacing is [1,1,-2]; allowed is a list of three numbers above 0"),
            (r#"{"spacing": [1, 1]}"#, "spacing is [1,1]; allowed is"),
            (r#"{"slices": 0}"#, "slices is 0; allowed is a whole number from 1 to 30000"),
            (r#"{"slices": 2.5}"#, "slices is 2.5; allowed is"),
            (r#"{"slices": null}"#, "slices is null; allowed is"),
            ("[]", "is []; allowed is an object of axis,"),
        ] {
            let error = VolumePolicy::from_json(&serde_json::from_str(wrong).unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(told), "{wrong}: {error}");
        }
    }
}
