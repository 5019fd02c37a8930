//! What a model says of every image, labelled or not.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::abstention::{Abstention, word};
use super::conformal::{Thresholds, Way};
use super::zero_shot::Scores;
use crate::metrics::calibration::{argmax, softmax};
use crate::metrics::conformal::Score;
use crate::metrics::selective::Sureness;

/// What a model says of an image, or of a finding of an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said {
    /// Line of the manifest: of the image's first row.
    pub line: u64,
    /// The finding that was asked for, where an image may have several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
    /// A class, or "yes" or "no" to a finding, or "unsure".
    pub answer: String,
    /// Of the most probable class; of "yes" to a finding. By the kept temperature where there is one.
    pub probability: f64,
    /// The conformal set of the image's classes, or of its findings, where sets were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<Vec<String>>,
}

/// By what answers and sets are given.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    /// From which sureness on there is an answer; always without it.
    pub abstention: Option<Abstention>,
    /// What is in a set by [`Way::first`]; none without it.
    pub thresholds: Option<Thresholds>,
    /// What logits are divided by for the probabilities that are told; 1 without it. Sureness and sets go by the
    /// model's own.
    pub temperature: Option<f64>,
}

impl Scores {
    /// Of every image, one after the other, of each of its findings where it may have several.
    ///
    /// # Errors
    /// The abstention goes by an unknown score.
    pub(super) fn said(&self, rules: &Rules) -> Result<Vec<Said>> {
        let score = rules.abstention.as_ref().map(|rule| Sureness::find(&rule.score));
        ensure!(score != Some(None), "the kept abstention goes by an unknown score");
        let threshold = rules.abstention.as_ref().map_or(f64::NEG_INFINITY, |rule| rule.threshold);
        let is_sure = |logits: &[f64]| score.flatten().is_none_or(|score| score.of(logits) >= threshold);
        let temperature = rules.temperature.unwrap_or(1.0);
        let (halves, mut said) = (self.halves(), Vec::new());
        for image in 0..self.groups.len() {
            let set = rules.thresholds.as_ref().map(|t| self.set_of(image, t, halves.half(self.groups[image])));
            for task in 0..self.tasks.len() {
                let logits = self.task_logits(task, image);
                let (best, probabilities) = (argmax(&logits), softmax(&logits, temperature));
                let word = word(&self.names, self.multi_label, (best, is_sure(&logits)));
                said.push(Said {
                    line: self.lines[image],
                    finding: self.multi_label.then(|| self.names[task].clone()),
                    answer: word.to_string(),
                    probability: probabilities[if self.multi_label { 1 } else { best }],
                    set: set.clone(),
                });
            }
        }
        Ok(said)
    }

    /// Logits of an image: of all classes, or of "no" and "yes" to a finding.
    pub(super) fn task_logits(&self, task: usize, image: usize) -> Vec<f64> {
        let logits = &self.logits[image];
        // The second class is "has it".
        if self.multi_label { vec![logits[2 * task + 1], logits[2 * task]] } else { logits.clone() }
    }

    fn set_of(&self, image: usize, thresholds: &Thresholds, half: usize) -> Vec<String> {
        let holds: Vec<bool> = match Way::first(self.multi_label) {
            Way::Findings => {
                let has = |task| softmax(&self.task_logits(task, image), 1.0)[1];
                (0..self.tasks.len()).map(|task| has(task) >= thresholds[0][half]).collect()
            }
            Way::Classes { .. } => {
                self.class_set(Score::Lac, thresholds, half, &softmax(&self.task_logits(0, image), 1.0))
            }
        };
        let held = self.names.iter().zip(holds).filter(|(_, holds)| *holds);
        held.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(multi_label: bool, logits: Vec<Vec<f64>>) -> Scores {
        let n = logits.len();
        Scores {
            multi_label,
            names: (0..2).map(|i| format!("c{i}")).collect(),
            tasks: vec![vec![None; n]; if multi_label { 2 } else { 1 }],
            groups: (0..n).collect(),
            logits,
            subgroups: vec![Vec::new(); n],
            lines: (2..n as u64 + 2).collect(),
        }
    }

    fn rule(threshold: f64) -> Option<Abstention> {
        Some(Abstention {
            score: "max_probability".into(),
            threshold,
            wanted_accuracy: 0.9,
            accuracy: 0.9,
            coverage: 0.5,
            predictions: 10,
            prompts: String::new(),
        })
    }

    #[test]
    fn images_without_labels_get_their_answer_and_their_set() {
        // Probabilities of 0.5 each, and of 0.1 and 0.9.
        let of = scores(false, vec![vec![0.0, 0.0], vec![0.0, 9f64.ln()]]);
        let rules = Rules { abstention: rule(0.8), thresholds: Some(vec![[0.6; 2]]), temperature: None };
        let said = of.said(&rules).unwrap();
        let lines: Vec<(u64, &str)> = said.iter().map(|s| (s.line, s.answer.as_str())).collect();
        assert_eq!(lines, [(2, "unsure"), (3, "c1")]);
        assert!((said[1].probability - 0.9).abs() < 1e-12);
        // 1 − probability is at most 0.6.
        assert_eq!(said[0].set.as_deref().unwrap(), ["c0", "c1"]);
        assert_eq!(said[1].set.as_deref().unwrap(), ["c1"]);
        let said = of.said(&Rules::default()).unwrap();
        assert_eq!((said[0].answer.as_str(), &said[0].set), ("c0", &None));
        // A temperature changes what is told of it, and neither answers nor sets: 9 to 1 becomes 3 to 1.
        let cooled = of.said(&Rules { temperature: Some(2.0), ..rules }).unwrap();
        assert_eq!((cooled[1].answer.as_str(), cooled[1].set.as_deref().unwrap()), ("c1", &["c1".to_string()][..]));
        assert!((cooled[1].probability - 0.75).abs() < 1e-12);
    }

    #[test]
    fn findings_without_labels_are_asked_for_one_by_one() {
        // Yes and no of the first finding, then of the second: 0.9 and 0.3.
        let of = scores(true, vec![vec![9f64.ln(), 0.0, 3f64.ln(), 7f64.ln()]]);
        let rules = Rules { abstention: rule(0.8), thresholds: Some(vec![[0.25; 2]]), temperature: None };
        let said = of.said(&rules).unwrap();
        let found: Vec<(&str, &str)> =
            said.iter().map(|s| (s.finding.as_deref().unwrap(), s.answer.as_str())).collect();
        assert_eq!(found, [("c0", "yes"), ("c1", "unsure")]);
        assert!((said[1].probability - 0.3).abs() < 1e-12);
        assert_eq!(said[0].set.as_deref().unwrap(), ["c0", "c1"]);
    }
}
