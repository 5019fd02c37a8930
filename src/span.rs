//! Lengths of training in the unit that the user thinks in.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A length of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    /// Optimizer steps.
    Steps(u64),
    /// Pairs seen.
    Samples(u64),
    /// Passes over the training pairs.
    Epochs(f64),
    /// Share of the whole run, 0 to 100.
    Percent(f64),
}

impl Span {
    /// Reads "500 samples", "0.5 epochs", "10%", "20 steps".
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(number) = text.strip_suffix('%') {
            return number.trim().parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(Self::Percent);
        }
        let (number, unit) = text.split_once(char::is_whitespace)?;
        match unit.trim() {
            "step" | "steps" => number.parse().ok().map(Self::Steps),
            "sample" | "samples" => number.parse().ok().map(Self::Samples),
            "epoch" | "epochs" => number.parse().ok().filter(|e: &f64| e.is_finite() && *e >= 0.0).map(Self::Epochs),
            _ => None,
        }
    }

    /// In steps of `samples_per_step` pairs, with `steps_per_epoch` and `total_steps` known; rounded up.
    pub fn steps(&self, samples_per_step: u64, steps_per_epoch: u64, total_steps: u64) -> u64 {
        match self {
            Self::Steps(n) => *n,
            Self::Samples(n) => n.div_ceil(samples_per_step),
            Self::Epochs(e) => (e * steps_per_epoch as f64).ceil() as u64,
            Self::Percent(p) => (p / 100.0 * total_steps as f64).ceil() as u64,
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    /// From a number of steps, or as [`Span::parse`] reads it.
    fn deserialize<D: Deserializer<'de>>(written: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Steps(u64),
            Text(String),
        }
        match Written::deserialize(written)? {
            Written::Steps(steps) => Ok(Self::Steps(steps)),
            Written::Text(text) => {
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no length of training")))
            }
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(n) => write!(f, "{n} steps"),
            Self::Samples(n) => write!(f, "{n} samples"),
            Self::Epochs(n) => write!(f, "{n} epochs"),
            Self::Percent(n) => write!(f, "{n}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_converts() {
        let steps = |text: &str| Span::parse(text).map(|s| s.steps(32, 10, 200));
        assert_eq!(steps("7 steps"), Some(7));
        assert_eq!(steps("100 samples"), Some(4));
        assert_eq!(steps("1.5 epochs"), Some(15));
        assert_eq!(steps("10%"), Some(20));
        for bad in ["", "ten steps", "5 weeks", "-1 epochs", "120%", "nan epochs"] {
            assert_eq!(Span::parse(bad), None, "{bad:?}");
        }
    }
}
