//! The threshold below which a model says that it is unsure: chosen on patients, kept in the model's folder, used on
//! others.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::kept::{Kept, check_share};
use crate::data::{Prompts, UNSURE};
use crate::digest::ContentHash;
use crate::metrics::selective::Sureness;

/// From which sureness on a model answers, as its folder keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abstention {
    /// A word of [`Sureness`].
    pub score: String,
    /// What is less sure than that is not answered.
    pub threshold: f64,
    /// The share of right answers that was wanted.
    pub wanted_accuracy: f64,
    /// The share that was right of what was answered of the predictions that it was chosen on.
    pub accuracy: f64,
    /// The share of them that was answered.
    pub coverage: f64,
    /// How many predictions these were.
    pub predictions: usize,
    /// SHA-256 of classes and sentences, and of the head where there is one: others are other predictions.
    pub prompts: String,
}

impl Kept for Abstention {
    const FILE: &'static str = "reportclip_abstention.toml";
    const MADE_BY: &'static str = "--keep-abstention 0.9";

    fn check(&self) -> Result<()> {
        let words = Sureness::WORDS;
        ensure!(words.contains(&self.score.as_str()), "score is {:?}; allowed are {}", self.score, words.join(", "));
        ensure!(self.threshold.is_finite(), "threshold is {}; allowed are finite numbers", self.threshold);
        check_share("wanted_accuracy", self.wanted_accuracy)?;
        check_share("accuracy", self.accuracy)?;
        check_share("coverage", self.coverage)?;
        ensure!(self.predictions > 0, "predictions is 0; allowed are numbers from 1 on");
        Ok(())
    }
}

/// What prompts are, as an abstention knows them.
pub(super) fn digest_of(prompts: &Prompts) -> String {
    let mut hash = ContentHash::default();
    prompts.names().iter().for_each(|name| hash.field(name));
    let (sentences, counts) = prompts.sentences();
    sentences.iter().for_each(|sentence| hash.field(sentence));
    counts.iter().for_each(|count| hash.field(count.to_string()));
    hash.hex()
}

/// The word of an answer, of which the model may not be sure: the class of this number, or of findings "yes" for 1 and
/// "no" for 0.
pub(super) fn word(names: &[String], multi_label: bool, (answer, sure): (usize, bool)) -> &str {
    match (sure, multi_label) {
        (false, _) => UNSURE,
        (true, true) => ["no", "yes"][answer],
        (true, false) => &names[answer],
    }
}

/// What a model that may be unsure came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Abstained {
    /// What it went by.
    pub rule: Abstention,
    /// coverage and accuracy of what is answered, with intervals over patients; chance of the accuracy: that of all.
    pub figures: Vec<Figure>,
    /// Of each labelled image (of each of its findings that has a label) what is answered.
    pub answers: Vec<GivenAnswer>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenAnswer {
    /// Line of the manifest.
    pub line: u64,
    /// The finding that was asked for, where an image may have several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
    /// A class, or "yes" or "no" to a finding, or "unsure".
    pub answer: String,
    /// Whether that is right; nothing for "unsure".
    pub right: Option<bool>,
}
