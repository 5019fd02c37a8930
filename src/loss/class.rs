//! `class`: images against the classes of a prompt file, of which each has one.

use candle_core::{Result, bail};
use serde::Deserialize;

use super::objective::{Inputs, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use super::prompt_similarity::similarities;
use super::soft_targets::SoftTargets;
use crate::metrics::Metric;

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "class",
    help: "images against the classes of loss.prompts",
    needs: Needs { reports: false, bias: false, places: false, targets: TargetKind::Classes },
    takes: Takes::NOTHING,
    label_smoothing: 0.1,
    best_metric: (Metric::BalancedAccuracy, "it trains to find each image's class"),
    build: |s| Box::new(ClassLoss { label_smoothing: s.label_smoothing, weights: s.class_weights.clone() }),
};

/// How much each class counts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "WrittenClassWeights")]
pub enum ClassWeights {
    /// All alike.
    None,
    /// Rows / (classes · rows of the class), as scikit-learn balances.
    Balanced,
    /// In the prompt file's order.
    List(Vec<f64>),
}

/// How class weights are written.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenClassWeights {
    Word(String),
    List(Vec<f64>),
}

impl From<WrittenClassWeights> for ClassWeights {
    fn from(written: WrittenClassWeights) -> Self {
        match written {
            WrittenClassWeights::List(weights) => Self::List(weights),
            WrittenClassWeights::Word(word) if word == "balanced" => Self::Balanced,
            WrittenClassWeights::Word(_) => Self::None,
        }
    }
}

impl ClassWeights {
    /// Weights of `count` classes, of which `rows` are; none for 1 each.
    ///
    /// # Errors
    /// A list of another length.
    pub fn of_rows(&self, rows: &[Option<usize>], count: usize) -> std::result::Result<Option<Vec<f64>>, String> {
        match self {
            Self::None => Ok(None),
            Self::Balanced => Ok(Some(balanced(rows, count))),
            Self::List(list) if list.len() == count => Ok(Some(list.clone())),
            Self::List(list) => Err(format!("loss.class_weights: has {} numbers for {count} classes", list.len())),
        }
    }
}

/// Rows / (classes · rows of the class) of the labelled rows; 1 for a class without any.
fn balanced(rows: &[Option<usize>], classes: usize) -> Vec<f64> {
    let mut counts = vec![0usize; classes];
    rows.iter().flatten().for_each(|&k| counts[k] += 1);
    let all: usize = counts.iter().sum();
    counts.iter().map(|&n| if n == 0 { 1.0 } else { all as f64 / (classes * n) as f64 }).collect()
}

/// `F.cross_entropy(sim_i2t, classes, weight, ignore_index, label_smoothing)` of sim_i2t (batch, classes).
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// One a class, or none for 1 each.
    pub weights: Option<Vec<f64>>,
}

impl Objective for ClassLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
        let logits = similarities(inputs)?;
        let (batch, classes) = logits.dims2()?;
        let targets = &inputs.targets.classes;
        if targets.len() != batch {
            bail!("{} class targets for {batch} images", targets.len());
        }
        let weights = self.weights.clone().unwrap_or_else(|| vec![1.0; classes]);
        if weights.len() != classes {
            bail!("loss.class_weights has {} numbers for {classes} classes", weights.len());
        }
        SoftTargets::of_classes(targets, &weights, self.label_smoothing)?.loss(&logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_few_rows_count_more() {
        let rows = [Some(0), Some(0), None, Some(1)];
        assert_eq!(ClassWeights::Balanced.of_rows(&rows, 3).unwrap().unwrap(), [0.5, 1.0, 1.0]);
        let error = ClassWeights::List(vec![1.0; 2]).of_rows(&rows, 3).unwrap_err();
        assert_eq!(error, "loss.class_weights: has 2 numbers for 3 classes");
    }
}
