//! What few-shot adaptation is asked for, and comes to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::metrics::counted::Counted;
use crate::metrics::few_shot::Method;
use crate::metrics::seeds::Spread;
use crate::words::words;

words!(
    /// How shots are drawn.
    Draw {
        /// As many of each class, all of a class that has fewer.
        Balanced = "balanced",
        /// As many in all, as the data lie: of rare classes few or none.
        Natural = "natural",
    }
);

/// What is tried.
#[derive(Clone, Debug)]
pub struct AdaptRequest {
    /// Split that shots come from; default train.
    pub shots_split: Option<String>,
    /// Numbers of shots a class.
    pub shots: Vec<usize>,
    /// Ways of drawing them.
    pub draws: Vec<Draw>,
    /// Draws of each.
    pub seeds: usize,
    /// Seed of draws, halves and resamples.
    pub seed: u64,
    /// Resamples for intervals; 0 = none.
    pub bootstrap: usize,
    /// Images at once; does not change the figures.
    pub batch_size: usize,
}

/// What it came to.
#[derive(Clone, Debug, Serialize)]
pub struct AdaptReport {
    /// In the prompt file's order.
    pub classes: Vec<String>,
    /// Images that were judged.
    pub judged: usize,
    /// Where these are.
    pub judged_on: String,
    /// Where shots are.
    pub shots_from: String,
    /// Images with a class that shots were drawn from.
    pub pool: usize,
    /// Draws of each setting.
    pub seeds: usize,
    /// What knowing nothing gives, by figure.
    pub chance: BTreeMap<String, f64>,
    /// The prompts alone, by figure.
    pub zero_shot: BTreeMap<String, Spread>,
    /// Each method with each number of shots, drawn in each way.
    pub settings: Vec<Setting>,
}

/// One method with one number of shots.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// How heads were made.
    pub method: Method,
    /// How shots were drawn.
    pub draw: Draw,
    /// Shots a class that were asked for.
    pub shots: usize,
    /// Shots in all, mean over seeds.
    pub images: f64,
    /// Classes of which there was none, mean over seeds.
    pub classes_without: f64,
    /// By name: accuracy, balanced_accuracy, auroc_macro, nll, ece.
    pub figures: BTreeMap<String, Spread>,
}

pub(super) fn named(spreads: Vec<Spread>) -> BTreeMap<String, Spread> {
    Counted::NAMES.map(str::to_string).into_iter().zip(spreads).collect()
}
