//! The section `loss`, typed.

use std::path::PathBuf;

use super::span::Span;

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
    /// What an uncertain finding (−1) counts as.
    Uncertain {
        /// Nothing.
        Ignore = "ignore",
        /// That it is there.
        Positive = "positive",
        /// That it is not.
        Negative = "negative",
    }
);
words!(
    /// What a finding counts as that a row does not mention.
    Blank {
        /// That it is not there.
        Negative = "negative",
        /// Nothing.
        Ignore = "ignore",
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
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct LossConfig {
    /// Each with its weight.
    pub kinds: Vec<(LossKind, f64)>,
    pub label_smoothing: Smoothing,
    pub direction: Direction,
    pub prompts: Option<PathBuf>,
    pub class_weights: ClassWeights,
    pub positives: Positives,
    pub uncertain: Uncertain,
    pub blank: Blank,
}

impl LossConfig {
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothing {
    /// At the first step.
    pub from: f64,
    /// After `over`.
    pub to: f64,
    /// Length of the straight way between.
    pub over: Span,
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
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// All alike.
    None,
    /// Rows / (classes · rows of the class), as scikit-learn balances.
    Balanced,
    /// In the prompt file's order.
    List(Vec<f64>),
}
