//! What a run writes about itself beside its figures: run.json, and the state of a checkpoint.

use serde::{Deserialize, Serialize};

use crate::data::RowProblem;
use crate::data::lint::FindingKind;
use crate::eval::Validation;

/// run.json: what is needed to say later what this run was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this program.
    pub version: String,
    /// Revision of its source, where the build knew it.
    pub revision: Option<String>,
    /// Seed.
    pub seed: u64,
    /// Device and why.
    pub device: String,
    /// In which type products were worked out, and why.
    #[serde(default)]
    pub products: String,
    /// SHA-256 over all that training takes from the data.
    pub data_fingerprint: String,
    /// Training and validation pairs.
    pub pairs: (usize, usize),
    /// Weights, all and trainable.
    pub parameters: (usize, usize),
    /// Optimizer steps in all.
    pub total_steps: u64,
    /// Processes that trained together.
    #[serde(default = "one")]
    pub ranks: usize,
}

fn one() -> usize {
    1
}

/// A row that could not be read, by where it stands: names of files may name patients, so none is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SkippedRow {
    /// "train" (data.train) or "val" (data.val), "test" for the split `test` of either, where files of data.val count
    /// on after those of data.train; with the number of the file where it is not the first.
    pub manifest: String,
    /// Line of that manifest.
    pub line: u64,
    /// The kind of fault, by the word that `data lint` has for it; older checkpoints do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A row is the one that stands there, whatever is wrong with it.
impl PartialEq for SkippedRow {
    fn eq(&self, other: &Self) -> bool {
        (self.line, &self.manifest) == (other.line, &other.manifest)
    }
}

impl Eq for SkippedRow {}

impl SkippedRow {
    /// A row of file number `file`, from 0, of the manifests called `manifest`.
    fn new(manifest: &str, (file, line): (usize, u64), fault: FindingKind) -> Self {
        let manifest = if file == 0 { manifest.to_string() } else { format!("{manifest} file {}", file + 1) };
        Self { manifest, line, reason: Some(fault.word().into()) }
    }

    /// One that reading the manifest found.
    pub fn of(manifest: &str, problem: &RowProblem) -> Self {
        Self::new(manifest, (problem.file.number, problem.line), FindingKind::of_problem(problem.kind).0)
    }

    /// One whose image cannot be read; `place`: number of its file, and line.
    pub fn unreadable(manifest: &str, place: (usize, u64)) -> Self {
        Self::new(manifest, place, FindingKind::UnreadableImage)
    }
}

/// The best validation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestStep {
    /// Optimizer steps done.
    pub step: u64,
    /// Its figures.
    pub validation: Validation,
}

/// The split of data.train, or of data.val, whose rows are judged in the end and choose nothing.
pub(super) const TEST: &str = "test";

/// Figures of that split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestFigures {
    /// Pairs.
    pub pairs: usize,
    /// Before the first step; absent in a run whose first part was of an earlier version.
    pub untuned: Option<Validation>,
    /// Of the model in model/.
    pub tuned: Validation,
}

/// state.json of a checkpoint: everything that is not a tensor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: u64,
    /// Steps in all, as planned: the schedule depends on it.
    pub total_steps: u64,
    /// In which type products were worked out, "bf16, then f32" where that changed; older checkpoints do not say.
    #[serde(default)]
    pub products: Option<String>,
    /// SHA-256 over all that training takes from the data.
    pub data_fingerprint: String,
    /// SHA-256 over where the rows stand in their manifests: what `skipped` says goes by that.
    #[serde(default)]
    pub row_places: Option<String>,
    /// The step of the last validation.
    pub last_eval: Option<u64>,
    /// Figures before the first step.
    pub untuned: Option<Validation>,
    /// The same of the split that chooses nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untuned_test: Option<Validation>,
    /// The best validation after the start.
    pub best: Option<BestStep>,
    /// Validations since then.
    pub evals_without_best: u64,
    /// Rows that could not be read so far.
    pub skipped: Vec<SkippedRow>,
    /// Length of skipped.jsonl.
    pub skipped_bytes: u64,
    /// Length of metrics.jsonl.
    pub metrics_bytes: u64,
    /// Length of timing.jsonl.
    pub timing_bytes: u64,
}
