//! Choosing the threshold below which a model is unsure, and answering by it.

use anyhow::{Result, ensure};

use super::abstention::{Abstained, Abstention, GivenAnswer, word};
use super::figure::Figure;
use super::selective::{Resamples, answers, orders_of};
use super::zero_shot::Scores;
use crate::metrics::bootstrap;
use crate::metrics::calibration::Answer;
use crate::metrics::selective::{Selective, Sureness, safe_threshold};
use crate::seed::{Purpose, stream};

impl Scores {
    /// The lowest threshold at which a share of `accuracy` of answers is right with 95 % confidence, by the score that
    /// orders these best.
    ///
    /// # Errors
    /// No threshold reaches it.
    pub(super) fn abstention(&self, accuracy: f64, prompts: String) -> Result<Abstention> {
        let predictions = self.predictions();
        let mut best: Option<(f64, Abstention)> = None;
        let groups: Vec<usize> = predictions.iter().map(|p| p.group).collect();
        let classes = predictions.iter().map(|p| p.logits.len()).max().unwrap_or(0);
        for score in orders_of(classes) {
            let answers = answers(&predictions, score);
            let Some(threshold) = safe_threshold(&answers, &groups, accuracy) else { continue };
            let area = Selective::of(&answers).aurc;
            if best.as_ref().is_none_or(|(least, _)| area < *least) {
                let found = Abstention {
                    score: score.word().to_string(),
                    threshold: threshold.value,
                    wanted_accuracy: accuracy,
                    accuracy: threshold.accuracy,
                    coverage: threshold.coverage,
                    predictions: predictions.len(),
                    prompts: prompts.clone(),
                };
                best = Some((area, found));
            }
        }
        let n = predictions.len();
        let Some((_, found)) = best else {
            anyhow::bail!(
                "--keep-abstention {accuracy}: of no threshold on {n} predictions can it be said with 95 % confidence \
                 that as many are right; take a lower share, or more patients (--fit-split)"
            )
        };
        Ok(found)
    }

    /// What this model answers by `rule`.
    ///
    /// # Errors
    /// The rule goes by an unknown score.
    pub(super) fn abstained(&self, rule: &Abstention, (resamples, seed): Resamples) -> Result<Abstained> {
        let score = Sureness::find(&rule.score);
        ensure!(score.is_some(), "the kept abstention goes by {:?}, which is unknown", rule.score);
        let score = score.unwrap_or(Sureness::MaxProbability);
        let predictions = self.predictions();
        ensure!(!predictions.is_empty(), "no image has a label that counts");
        let all = answers(&predictions, score);
        let groups: Vec<usize> = predictions.iter().map(|p| p.group).collect();
        let values = |answers: &[Answer]| {
            let given = answers.iter().filter(|a| a.confidence >= rule.threshold).count() as f64;
            let right = answers.iter().filter(|a| a.confidence >= rule.threshold && a.right).count() as f64;
            vec![given / answers.len() as f64, right / given]
        };
        let bounds = bootstrap::interval(&all, &groups, resamples, |i| stream(seed, Purpose::Bootstrap, i), values);
        let right = all.iter().filter(|a| a.right).count() as f64 / all.len() as f64;
        let names = [("coverage", None), ("accuracy", Some(right))];
        Ok(Abstained {
            rule: rule.clone(),
            figures: Figure::list(names, values(&all), bounds),
            answers: self.given(score, rule.threshold),
        })
    }

    fn given(&self, score: Sureness, threshold: f64) -> Vec<GivenAnswer> {
        let mut given = Vec::new();
        for (number, task) in self.tasks.iter().enumerate() {
            for (prediction, &line) in task.iter().zip(&self.lines) {
                let Some(p) = prediction else { continue };
                let sure = score.of(&p.logits) >= threshold;
                let (answer, right) = (p.predicted(), p.predicted() == p.target);
                let word = word(&self.names, self.multi_label, (answer, sure));
                given.push(GivenAnswer {
                    line,
                    finding: self.multi_label.then(|| self.names[number].clone()),
                    answer: word.to_string(),
                    right: sure.then_some(right),
                });
            }
        }
        given
    }
}
