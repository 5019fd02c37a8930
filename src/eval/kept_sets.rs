//! Thresholds of conformal sets that were calibrated on some patients, kept in the model's folder, used on others.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::kept::{Kept, check_share};

/// What is in a set, as a model's folder keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSets {
    /// The share that may be left out.
    pub alpha: f64,
    /// What it was calibrated on.
    pub calibrated_on: String,
    /// How many patients these were.
    pub patients: usize,
    /// SHA-256 of classes and sentences, and of the head where there is one: others are other predictions.
    pub prompts: String,
    /// By method ([`super::ConformalFigures::method`]) the threshold, or one a class; infinite where sets hold
    /// everything.
    pub thresholds: BTreeMap<String, Vec<f64>>,
}

impl Kept for KeptSets {
    const FILE: &'static str = "reportclip_conformal.toml";
    const MADE_BY: &'static str = "--keep-conformal 0.1";

    fn check(&self) -> Result<()> {
        check_share("alpha", self.alpha)?;
        ensure!(self.patients > 0, "patients is 0; allowed are numbers from 1 on");
        for (method, thresholds) in &self.thresholds {
            let wrong = thresholds.iter().find(|t| t.is_nan() || **t < 0.0);
            ensure!(!thresholds.is_empty(), "thresholds of {method:?} are none; allowed are 1, or 1 a class");
            if let Some(wrong) = wrong {
                anyhow::bail!("a threshold of {method:?} is {wrong}; allowed is 0 and above");
            }
        }
        Ok(())
    }
}
