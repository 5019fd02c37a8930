//! The section `loss`, typed.

use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::data::{Blank, LabelPolicy, Uncertain};
use crate::loss::{self, ClassWeights, Direction, FalseNegatives, LocalConfig, ObjectiveKind, Positives, TargetKind};
use crate::metrics::Metric;
use crate::span::Span;

/// What is trained for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LossConfig {
    /// Objectives, each with its weight.
    #[serde(rename = "kind", deserialize_with = "unweighted")]
    pub kinds: Vec<(&'static ObjectiveKind, f64)>,
    /// As written; [`Self::kinds`] has them.
    #[serde(default)]
    pub(super) weights: Vec<f64>,
    pub label_smoothing: Smoothing,
    pub direction: Direction,
    pub prompts: Option<PathBuf>,
    pub class_weights: ClassWeights,
    pub positives: Positives,
    pub positives_threshold: f64,
    pub false_negatives: FalseNegatives,
    pub debias: f64,
    pub teacher: Option<String>,
    pub uncertain: Uncertain,
    pub blank: Blank,
    pub local: LocalConfig,
}

/// Objectives, until their weights are known.
fn unweighted<'de, D: Deserializer<'de>>(written: D) -> Result<Vec<(&'static ObjectiveKind, f64)>, D::Error> {
    let known = |name: &String| loss::find(name).ok_or_else(|| D::Error::custom(format!("no objective {name:?}")));
    Vec::<String>::deserialize(written)?.iter().map(|name| Ok((known(name)?, 1.0))).collect()
}

impl LossConfig {
    /// Puts the weights beside their objectives.
    pub(super) fn weigh(&mut self) {
        self.kinds.iter_mut().zip(&self.weights).for_each(|((_, weight), written)| *weight = *written);
    }

    /// Whether an objective must know this of the rows.
    pub fn asks_for(&self, targets: TargetKind) -> bool {
        self.kinds.iter().any(|(kind, _)| kind.needs.targets == targets)
    }

    /// By what rows are alike, and from which likeness of reports on.
    pub fn alike_by(&self) -> (Positives, f64) {
        (self.positives, self.positives_threshold)
    }

    /// Whether reports are compared by what the text tower makes of them.
    pub fn compares_reports(&self) -> bool {
        self.needs_likeness() && self.positives == Positives::ReportSimilarity
    }

    /// Whether an objective must know how alike rows are.
    pub fn needs_likeness(&self) -> bool {
        self.false_negatives != FalseNegatives::Keep || self.asks_for(TargetKind::Likeness)
    }

    /// Whether what `false_negatives` is about are sentences alone, not whole reports.
    pub fn spares_sentences_alone(&self) -> bool {
        let mut takers =
            self.kinds.iter().filter(|(kind, _)| kind.takes.false_negatives.contains(&self.false_negatives));
        takers.all(|(kind, _)| kind.needs.places)
    }

    /// The objective that sees the model's `logit_bias`, if any does.
    pub fn uses_bias(&self) -> Option<&'static ObjectiveKind> {
        self.kinds.iter().map(|(kind, _)| *kind).find(|kind| kind.needs.bias)
    }

    /// Whether patches are held against sentences.
    pub fn uses_places(&self) -> bool {
        self.kinds.iter().any(|(kind, _)| kind.needs.places)
    }

    /// Whether images are held against prompts.
    pub fn needs_prompts(&self) -> bool {
        self.kinds.iter().any(|(kind, _)| kind.needs.targets.uses_prompts())
    }

    /// What values of a finding's column count as.
    pub fn label_policy(&self) -> LabelPolicy {
        LabelPolicy { uncertain: self.uncertain, blank: self.blank }
    }

    /// What images are held against, in words.
    pub fn held_against(&self) -> String {
        let reports = self.kinds.iter().any(|(kind, _)| kind.needs.reports || kind.needs.places).then_some("reports");
        let labels = self.needs_prompts().then_some("labels");
        reports.into_iter().chain(labels).collect::<Vec<_>>().join(" and ")
    }

    /// By which figure validations are compared where nobody chose, and why.
    pub fn best_metric(&self) -> (Metric, &'static str) {
        let mut chosen = self.kinds.iter().map(|(kind, _)| kind.best_metric);
        let first = chosen.next().unwrap_or((Metric::Loss, "nothing else is known"));
        if chosen.all(|(metric, _)| metric == first.0) { first } else { (Metric::Loss, "objectives are added up") }
    }
}

/// ε of the smoothed targets, which may change during training.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(from = "WrittenSmoothing")]
pub struct Smoothing {
    /// At the first step.
    pub from: f64,
    /// After `over`.
    pub to: f64,
    /// Length of the straight way between.
    pub over: Span,
}

/// How smoothing is written.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenSmoothing {
    Constant(f64),
    Way { from: f64, to: f64, over: Span },
}

impl From<WrittenSmoothing> for Smoothing {
    fn from(written: WrittenSmoothing) -> Self {
        match written {
            WrittenSmoothing::Constant(eps) => Self::constant(eps),
            WrittenSmoothing::Way { from, to, over } => Self { from, to, over },
        }
    }
}

impl Smoothing {
    /// The same all the time.
    pub fn constant(eps: f64) -> Self {
        Self { from: eps, to: eps, over: Span::Steps(0) }
    }

    /// ε at step number `step`, where `over` is `length` steps.
    pub fn at(&self, step: u64, length: u64) -> f64 {
        if step >= length {
            return self.to;
        }
        self.from + (self.to - self.from) * step as f64 / length as f64
    }
}
