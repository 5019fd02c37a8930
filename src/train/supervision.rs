//! What is known of rows beside their pairs, as far as the objectives ask: labels, likeness, prompts.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::frozen_texts::FrozenTexts;
use super::opposed;
use super::prompt_tokens::PromptTokens;
use super::sentence_tokens::SentenceTokens;
use super::teacher::Teacher;
use crate::config::{Config, LossConfig, ModelInit};
use crate::data::{Labels, Prompts, ReportTokenizer, Row, Views};
use crate::loss::{
    ClassWeights, Drawing, Likeness, Loss, PairTargets, RowFacts, RowTargets, Settings, TargetKind,
    likeness_of_negatives, likeness_of_training,
};
use crate::track::Note;

/// Of the training rows, by their number.
#[derive(Debug, Default)]
pub struct Supervision {
    targets: RowTargets,
    class_weights: Option<Vec<f64>>,
    prompts: Option<PromptTokens>,
    sentences: Option<SentenceTokens>,
    /// What reports are compared by, where they are.
    texts: Option<FrozenTexts>,
    /// The model that is learnt from.
    teacher: Option<Teacher>,
}

impl Supervision {
    /// What the model that is learnt from holds, as a SHA-256.
    pub(super) fn teacher_content(&self) -> Option<&str> {
        self.teacher.as_ref().map(Teacher::content)
    }

    /// Reads what `config`'s objectives ask for off `rows`. Adds to `notes` what a person should know.
    ///
    /// # Errors
    /// Rows without labels, positives that change nothing, class weights that do not fit.
    pub(super) fn new(
        config: &Config,
        rows: &[Row],
        (prompts, texts, teacher): (Option<&Prompts>, Option<FrozenTexts>, Option<Teacher>),
        tokenizer: &ReportTokenizer,
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let c = &config.loss;
        let mut supervision = Self { texts, teacher, ..Self::default() };
        notes.extend(opposed::told(config, rows).map_err(anyhow::Error::msg)?);
        supervision.targets.teacher = supervision.teacher.as_ref().and_then(|teacher| teacher.rows(rows));
        if c.needs_likeness() {
            let drawing = Drawing { texts_vary: texts_vary(config), one_view: config.data.views == Views::One };
            let facts = supervision.facts(rows);
            let likeness = match c.asks_for(TargetKind::Likeness) {
                true => likeness_of_training(c.alike_by(), &facts, drawing),
                false => likeness_of_negatives(c.alike_by(), &facts, c.spares_sentences_alone()),
            };
            let (likeness, note) = likeness.map_err(anyhow::Error::msg)?;
            notes.push(Note::choice(format!("likeness: {note}")));
            if c.compares_reports() && config.model.init == ModelInit::Random {
                let line = "loss.positives: \"report_similarity\" goes by a text tower of random weights (model.init)";
                notes.push(Note::warning(line));
            }
            supervision.targets.likeness = Some(likeness);
        }
        if c.uses_places() {
            let sentences = SentenceTokens::new(rows, tokenizer)?;
            notes.push(Note::choice(sentences.note()));
            supervision.sentences = Some(sentences);
        }
        let Some(prompts) = prompts.filter(|_| c.needs_prompts()) else { return Ok(supervision) };
        let findings = c.asks_for(TargetKind::Findings);
        ensure!(
            prompts.multi_label == findings,
            "loss.prompts: has {} negative sentences, and loss.kind names an objective that takes them {}; see \
             `zero-shot --help`",
            if prompts.multi_label { "positive and" } else { "no" },
            if findings { "with such" } else { "without" }
        );
        let (labels, unknown) = prompts.labels(rows, c.label_policy())?;
        notes.extend(unknown_labels(&unknown).map(Note::warning));
        put(labels, &mut supervision.targets);
        if c.asks_for(TargetKind::Classes) {
            let weights = c.class_weights.of_rows(&supervision.targets.classes, prompts.classes.len());
            supervision.class_weights = weights.map_err(anyhow::Error::msg)?;
        } else {
            let is_list = matches!(c.class_weights, ClassWeights::List(_));
            ensure!(!is_list, "loss.class_weights: is a list, but no objective that loss.kind names has classes");
        }
        supervision.prompts = Some(PromptTokens::new(prompts, tokenizer)?);
        Ok(supervision)
    }

    /// Of rows whose reports consist of sentences: ids of each distinct one, and which of them each row has.
    pub fn of_sentences(ids: Vec<Vec<u32>>, of_rows: Vec<Vec<u32>>, tokenizer: &ReportTokenizer) -> Self {
        Self { sentences: Some(SentenceTokens::of_ids(ids, of_rows, tokenizer)), ..Self::default() }
    }

    /// The objective that `config` names, with smoothing `label_smoothing`.
    pub fn loss(&self, config: &LossConfig, label_smoothing: f64) -> Loss {
        let class_weights = self.class_weights.clone();
        let (direction, local) = (config.direction, config.local);
        let (false_negatives, debias) = (config.false_negatives, config.debias);
        Loss::new(
            &config.kinds,
            &Settings { label_smoothing, direction, class_weights, local, false_negatives, debias },
        )
    }

    /// What is known of a batch made of these rows.
    pub(super) fn targets(&self, rows: &[u32]) -> PairTargets {
        self.targets.of(rows)
    }

    /// The sentences of the rows' reports, where patches are held against them.
    pub(super) fn sentences(&self) -> Option<&SentenceTokens> {
        self.sentences.as_ref()
    }

    /// What the objectives ask for of rows that are not trained on, such as those of a validation. `labels` are those
    /// of the prompt file, where rows have any.
    pub(super) fn targets_of(&self, config: &LossConfig, rows: &[Row], labels: Option<&Labels>) -> RowTargets {
        let (by, threshold) = config.alike_by();
        let likeness = config.needs_likeness().then(|| Likeness::of(by, &self.facts(rows), threshold));
        let teacher = self.teacher.as_ref().and_then(|teacher| teacher.rows(rows));
        let mut targets = RowTargets { likeness, teacher, ..RowTargets::default() };
        if let Some(labels) = labels {
            put(labels.clone(), &mut targets);
        }
        targets
    }

    fn facts<'a>(&'a self, rows: &'a [Row]) -> Vec<RowFacts<'a>> {
        let of_row = |row: &'a Row| RowFacts {
            report: row.report(),
            study: row.study_id(),
            label: row.label(),
            labels: row.labels().collect(),
            features: self.texts.as_ref().map_or(&[], |texts| texts.get(row.report())),
        };
        rows.iter().map(of_row).collect()
    }

    /// The prompts that images are held against.
    pub(super) fn prompts(&self) -> Option<&PromptTokens> {
        self.prompts.as_ref()
    }
}

fn put(labels: Labels, targets: &mut RowTargets) {
    match labels {
        Labels::Classes(classes) => targets.classes = classes,
        Labels::Findings(findings) => targets.findings = findings,
    }
}

/// Whether equal reports may have unequal text features.
fn texts_vary(config: &Config) -> bool {
    config.report.draws() || config.train.dropout > 0.0 || (config.lora.rank > 0 && config.lora.dropout > 0.0)
}

fn unknown_labels(unknown: &BTreeMap<String, usize>) -> Option<String> {
    let rows: usize = unknown.values().sum();
    let shown: Vec<String> = unknown.keys().take(5).map(|label| format!("{label:?}")).collect();
    let shown = shown.join(", ");
    (rows > 0).then(|| format!("{rows} training rows have labels that no prompt stands for, and are ignored: {shown}"))
}
