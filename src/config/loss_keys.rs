//! The rows of the table of keys that say what is trained for.

use super::key::{Key, key};
use super::kind::Kind;
use crate::data::{Blank, Uncertain};
use crate::loss::{Direction, FalseNegatives, LocalForm, OBJECTIVE_NAMES, OBJECTIVES_HELP, Positives};

/// In the order in which they are shown.
pub(super) const LOSS: &[Key] = &[
    key("loss.kind", Kind::ListOf(&OBJECTIVE_NAMES), "[\"clip\"]", OBJECTIVES_HELP),
    key("loss.weights", Kind::Floats(0.0, 1000.0), "", "How much each of several objectives counts; default 1"),
    key(
        "loss.label_smoothing",
        Kind::Smoothing,
        "0.1",
        "ε of the smoothed targets, PyTorch's convention; default 0 where a sigmoid is the only objective",
    ),
    key("loss.direction", Kind::OneOf(Direction::WORDS), "\"both\"", "Which cross-entropies count"),
    key(
        "loss.prompts",
        Kind::Path,
        "",
        "Prompt file: what stands for each class, see prompts/ and `zero-shot --help`. Objectives over classes or \
         findings need it; with others it gives validations zero-shot figures",
    ),
    key(
        "loss.class_weights",
        Kind::ClassWeights,
        "\"none\"",
        "Objectives over classes: how much rows of each count; balanced = rows / (classes × rows of the class)",
    ),
    key(
        "loss.positives",
        Kind::OneOf(Positives::WORDS),
        "\"label\"",
        "Objectives with several positives: which pairs are alike: with one label, by the cosine of their lists of \
         labels, of one study, or with equal reports. Alike pairs with equal texts change nothing, so that \"report\" \
         takes report.section = \"random_sentence\", report.long = \"chunk\" or dropout. report_similarity: by what \
         the text tower makes of reports before training, from positives_threshold on",
    ),
    key(
        "loss.positives_threshold",
        Kind::Float(0.0, 1.0),
        "0.9",
        "With positives = \"report_similarity\": the cosine from which two reports are alike",
    ),
    key(
        "loss.false_negatives",
        Kind::OneOf(FalseNegatives::WORDS),
        "\"keep\"",
        "What becomes of other rows that are alike a row by loss.positives: they stay negatives, are left out, count \
         as one together, or are positives (siglip, and local beside siglip or multi_positive, which is that for \
         whole reports; not with clip). For local, of the sentences of their reports",
    ),
    key(
        "loss.debias",
        Kind::Float(0.0, 0.9),
        "0.0",
        "Share of negatives that are taken to be positives nobody knows of (arXiv 2007.00224); takes \
         label_smoothing = 0",
    ),
    key(
        "loss.teacher",
        Kind::Text,
        "",
        "Folder or hub id of the model that distill learns from; what it makes of the pairs is worked out once, and \
         kept beside kept image features (data.feature_cache)",
    ),
    key(
        "loss.uncertain",
        Kind::OneOf(Uncertain::WORDS),
        "\"ignore\"",
        "Findings: what −1 in a finding's column counts as",
    ),
    key(
        "loss.blank",
        Kind::OneOf(Blank::WORDS),
        "\"negative\"",
        "Findings: what nothing in a finding's column counts as",
    ),
    key(
        "loss.local.form",
        Kind::OneOf(LocalForm::WORDS),
        "\"attention\"",
        "Sentences against patches: with their sum by attention, after GLoRIA, or of patches of length 1, after \
         RadZero's map",
    ),
    key("loss.local.temperature", Kind::Float(1e-3, 10.0), "0.07", "Sentences against patches: divides similarities"),
    key(
        "loss.local.attention_temperature",
        Kind::Float(1e-3, 10.0),
        "0.1",
        "Sentences against patches: divides the cosines before their softmax over an image's patches",
    ),
];
