//! What an objective is: what it asks for, what it looks at, what it gives.

use std::fmt::Debug;

use candle_core::{Result, Tensor, bail};

use super::false_negatives::FalseNegatives;
use super::local_config::LocalConfig;
use super::targets::PairTargets;
use crate::metrics::Metric;
use crate::ops::Segments;
use crate::words::words;

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

impl Direction {
    /// The loss of this direction, or the mean of both.
    pub(super) fn mean(
        self,
        of_images: impl FnOnce() -> Result<Term>,
        of_texts: impl FnOnce() -> Result<Term>,
    ) -> Result<Term> {
        match self {
            Self::ImageToText => of_images(),
            Self::TextToImage => of_texts(),
            Self::Both => Term::sum(&[(0.5, of_images()?), (0.5, of_texts()?)]),
        }
    }
}

/// One objective, ready to be worked out.
pub trait Objective: Debug + Send + Sync {
    /// Its row of the table.
    fn kind(&self) -> &'static ObjectiveKind;

    /// The loss of a batch.
    ///
    /// # Errors
    /// Shapes that do not fit; something that it needs and `inputs` lacks.
    fn forward(&self, inputs: &Inputs) -> Result<Term>;
}

/// A row of the table of objectives.
#[derive(Debug)]
pub struct ObjectiveKind {
    /// Its word in `loss.kind`.
    pub name: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    /// What it must be given.
    pub needs: Needs,
    /// What it can make use of beside that.
    pub takes: Takes,
    /// ε where the config names none and no other objective.
    pub label_smoothing: f64,
    /// What makes a checkpoint the best where the config leaves that open, and why.
    pub best_metric: (Metric, &'static str),
    /// Makes it as the config wants it.
    pub build: fn(&Settings) -> Box<dyn Objective>,
}

impl PartialEq for ObjectiveKind {
    /// Names are unique.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// What an objective must be given beside image features and a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Features of the reports.
    pub reports: bool,
    /// The model's `logit_bias`: a softmax does not see what is added to all similarities alike, a sigmoid does.
    pub bias: bool,
    /// Features of patches, and of the reports' sentences.
    pub places: bool,
    /// What is known of the rows.
    pub targets: TargetKind,
}

/// What an objective can make use of where the config asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Texts that say the opposite of a row's report, as negatives of its image.
    pub opposites: bool,
    /// What becomes of alike rows, as far as it can be told.
    pub false_negatives: &'static [FalseNegatives],
    /// A share of negatives that are positives.
    pub debias: bool,
}

impl Takes {
    /// Nothing of all that.
    pub const NOTHING: Self = Self { opposites: false, false_negatives: &[], debias: false };
}

/// What an objective must know of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Nothing: image i belongs to report i.
    Pairs,
    /// How alike two rows are.
    Likeness,
    /// What another model makes of them.
    Teacher,
    /// One class a row, of a prompt file without negative sentences.
    Classes,
    /// Which findings a row has, of a prompt file with negative sentences.
    Findings,
}

impl TargetKind {
    /// Whether images are held against the sentences of a prompt file.
    pub fn uses_prompts(self) -> bool {
        matches!(self, Self::Classes | Self::Findings)
    }
}

/// What the config says to all objectives; each takes what it has a use for.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
    /// One a class, or none for 1 each.
    pub class_weights: Option<Vec<f64>>,
    /// How sentences are held against patches.
    pub local: LocalConfig,
    /// What becomes of rows that are alike.
    pub false_negatives: FalseNegatives,
    /// The share of negatives that are taken to be positives, below 1.
    pub debias: f64,
}

/// What an objective may look at.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// (batch, embed_dim), not normalised.
    pub image: &'a Tensor,
    /// The same of the reports: row i belongs to image i. `None` where no objective needs it.
    pub text: Option<&'a Tensor>,
    /// `logit_scale.exp()`, a scalar.
    pub scale: &'a Tensor,
    /// What is added to scaled similarities, a scalar, where the model has it.
    pub bias: Option<&'a Tensor>,
    /// Features of the prompts' sentences.
    pub prompts: Option<PromptFeatures<'a>>,
    /// Features of patches and sentences. `None` where no objective needs them.
    pub local: Option<LocalFeatures<'a>>,
    /// Features of what says the opposite of some of the reports.
    pub opposed: Option<Opposed<'a>>,
    /// What the rows are.
    pub targets: &'a PairTargets,
}

/// Features of the patches of images, and of the sentences of their reports.
#[derive(Clone, Copy, Debug)]
pub struct LocalFeatures<'a> {
    /// (patches, embed_dim), not normalised, image by image.
    pub patches: &'a Tensor,
    /// Which of them belong to each pair.
    pub segments: &'a Segments,
    /// (sentences, embed_dim), not normalised; each once, however many reports have it.
    pub sentences: &'a Tensor,
    /// Which of them the report of each pair has.
    pub of_pairs: &'a [Vec<u32>],
}

/// Features of texts that say the opposite of reports.
#[derive(Clone, Copy, Debug)]
pub struct Opposed<'a> {
    /// (texts, embed_dim), not normalised.
    pub features: &'a Tensor,
    /// The row of the batch whose report each contradicts.
    pub of: &'a [usize],
}

/// Features of the sentences that stand for classes.
#[derive(Clone, Copy, Debug)]
pub struct PromptFeatures<'a> {
    /// (sentences, embed_dim), not normalised.
    pub sentences: &'a Tensor,
    /// How many of them belong to each direction of the shared space, in order.
    pub counts: &'a [usize],
}

impl<'a> Inputs<'a> {
    /// Features of the reports.
    ///
    /// # Errors
    /// There are none.
    pub fn reports(&self) -> Result<&'a Tensor> {
        let Some(text) = self.text else { bail!("this objective needs the features of the reports") };
        Ok(text)
    }
}

/// What one objective adds to a loss.
#[derive(Clone, Debug)]
pub struct Term {
    /// Scalar, differentiable.
    pub loss: Tensor,
    /// The same without smoothing.
    pub hard: f64,
    /// The lowest value that the targets allow.
    pub floor: f64,
    /// What knowing nothing costs.
    pub chance: f64,
    /// Share of rows whose highest similarity is right.
    pub accuracy: f64,
}

impl Term {
    /// The weighted sum; of accuracy the weighted mean.
    ///
    /// # Errors
    /// No terms.
    pub fn sum(terms: &[(f64, Self)]) -> Result<Self> {
        let Some((_, first)) = terms.first() else { bail!("a sum of no objectives") };
        let mut loss = (&first.loss * terms[0].0)?;
        for (weight, term) in &terms[1..] {
            loss = (loss + (&term.loss * *weight)?)?;
        }
        let sum = |pick: fn(&Self) -> f64| terms.iter().map(|(weight, term)| weight * pick(term)).sum();
        let accuracy =
            terms.iter().map(|(w, t)| w * t.accuracy).sum::<f64>() / terms.iter().map(|(w, _)| w).sum::<f64>();
        Ok(Self { loss, hard: sum(|t| t.hard), floor: sum(|t| t.floor), chance: sum(|t| t.chance), accuracy })
    }
}
