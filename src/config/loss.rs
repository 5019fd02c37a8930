//! The section `loss`, typed.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::data::{Blank, Uncertain};
use crate::span::Span;
use crate::words::words;

words!(
    /// The objective.
    LossKind {
        /// Symmetric cross-entropy over the batch diagonal.
        Clip = "clip",
        /// Sigmoid of every pair (arXiv 2303.15343).
        Siglip = "siglip",
        /// Symmetric cross-entropy over all pairs that are alike.
        MultiPositive = "multi_positive",
        /// Images against the classes of a prompt file.
        Class = "class",
        /// Images against its findings, of which one may have several.
        MultiLabel = "multi_label",
    }
);
words!(
    /// Which pairs are alike.
    Positives {
        /// Those with the same report.
        Report = "report",
        /// Those of one study.
        Study = "study",
        /// Those with the same label.
        Label = "label",
        /// By the cosine of their sets of labels.
        LabelSimilarity = "label_similarity",
    }
);
words!(
    /// Which cross-entropies count.
    Direction {
        /// Both.
        Both = "both",
        /// Image to text.
        ImageToText = "i2t",
        /// Text to image.
        TextToImage = "t2i",
    }
);

/// The objective.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LossConfig {
    /// Each with its weight.
    #[serde(rename = "kind", deserialize_with = "unweighted")]
    pub kinds: Vec<(LossKind, f64)>,
    /// As written; [`Self::kinds`] has them.
    #[serde(default)]
    pub(super) weights: Vec<f64>,
    pub label_smoothing: Smoothing,
    pub direction: Direction,
    pub prompts: Option<PathBuf>,
    pub class_weights: ClassWeights,
    pub positives: Positives,
    pub uncertain: Uncertain,
    pub blank: Blank,
}

/// Objectives, until their weights are known.
fn unweighted<'de, D: Deserializer<'de>>(written: D) -> Result<Vec<(LossKind, f64)>, D::Error> {
    Ok(Vec::<LossKind>::deserialize(written)?.into_iter().map(|kind| (kind, 1.0)).collect())
}

impl LossConfig {
    /// Puts the weights beside their objectives.
    pub(super) fn weigh(&mut self) {
        self.kinds.iter_mut().zip(&self.weights).for_each(|((_, weight), written)| *weight = *written);
    }

    /// Whether this objective is one of them.
    pub fn has(&self, kind: LossKind) -> bool {
        self.kinds.iter().any(|(k, _)| *k == kind)
    }

    /// Whether images are held against prompts.
    pub fn needs_prompts(&self) -> bool {
        self.has(LossKind::Class) || self.has(LossKind::MultiLabel)
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
