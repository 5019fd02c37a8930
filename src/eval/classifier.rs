//! Classes of single images, by their embeddings: what a server answers, with the temperature and the threshold that
//! the model's folder keeps.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::abstention::{Abstention, digest_of, word};
use super::classify::digest_with;
use super::directions::class_directions;
use super::head::Head;
use super::kept::{Kept, OF_OTHERS};
use super::kept_temperature::KeptTemperature;
use crate::data::Prompts;
use crate::metrics::calibration::{argmax, softmax};
use crate::metrics::selective::Sureness;
use crate::session::Encoder;

/// Classes, by prompts or by a head.
pub struct Classifier {
    names: Vec<String>,
    multi_label: bool,
    by: By,
    /// `None` where the model keeps none for these prompts.
    temperature: Option<f64>,
    /// From which sureness on it answers.
    rule: Option<(Sureness, f64)>,
}

enum By {
    /// A unit vector a direction, and what cosines are multiplied by.
    Prompts(Vec<Vec<f32>>, f64),
    /// A head, and which of its classes stands at each place of the prompts.
    Head(Head, Vec<usize>),
}

/// What an image shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// Whether an image may have several classes, each with an answer of its own.
    pub multi_label: bool,
    /// Whether probabilities are by a temperature that was fitted on patients.
    pub calibrated: bool,
    /// Whether the model may say that it is unsure.
    pub may_abstain: bool,
    /// The class, or "unsure"; with several classes an image, nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// In the order of the prompts.
    pub classes: Vec<ClassAnswer>,
}

/// What is said of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassAnswer {
    /// Its name.
    pub name: String,
    /// Of this class among all, or with several classes an image, of having it.
    pub probability: f64,
    /// "yes", "no" or "unsure", where an image may have several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl Classifier {
    /// By `prompts`, or by `head` in their place, with what the model in `folder` keeps for these. Says what it does
    /// not keep.
    ///
    /// # Errors
    /// Whatever the encoder reports; a head of other classes or another width; what is kept cannot be read.
    pub fn new(encoder: &Encoder, prompts: &Prompts, head: Option<Head>, folder: Option<&Path>) -> Result<Self> {
        let digest = digest_with(&digest_of(prompts), head.as_ref());
        let by = match head {
            Some(head) => {
                let order = head.order(prompts, encoder.model.embed_dim())?;
                By::Head(head, order)
            }
            None => {
                let scale = f64::from(encoder.model.scale()?.to_scalar::<f32>()?);
                By::Prompts(class_directions(encoder, prompts)?.to_vec2()?, scale)
            }
        };
        let temperature = folder.map(|folder| KeptTemperature::of(folder, &digest)).transpose()?.flatten();
        let temperature = temperature.map(|kept| kept.temperature);
        let rule = folder.map(Abstention::find).transpose()?.flatten();
        if rule.as_ref().is_some_and(|rule| rule.prompts != digest) {
            tracing::warn!("the abstention that the model keeps {OF_OTHERS}");
        }
        let rule = rule.filter(|rule| rule.prompts == digest).map(|rule| {
            let score = Sureness::find(&rule.score);
            let unknown = || format!("the kept abstention goes by {:?}, which is unknown", rule.score);
            anyhow::Ok((score.with_context(unknown)?, rule.threshold))
        });
        let rule = rule.transpose()?;
        Ok(Self { names: prompts.names(), multi_label: prompts.multi_label, by, temperature, rule })
    }

    /// Whether its probabilities are by a temperature that was fitted on patients.
    pub fn is_calibrated(&self) -> bool {
        self.temperature.is_some()
    }

    /// Whether it may say that it is unsure.
    pub fn may_abstain(&self) -> bool {
        self.rule.is_some()
    }

    /// What the image with this embedding, embed_dim numbers of unit length, shows.
    ///
    /// # Errors
    /// An embedding of another width.
    pub fn answer(&self, embedding: &[f32]) -> Result<Answer> {
        let logits = self.logits(embedding)?;
        let sure = |logits: &[f64]| self.rule.is_none_or(|(score, least)| score.of(logits) >= least);
        let temperature = self.temperature.unwrap_or(1.0);
        let (mut answer, mut classes) = (None, Vec::with_capacity(self.names.len()));
        if self.multi_label {
            for (name, pair) in self.names.iter().zip(logits.chunks_exact(2)) {
                // Positive before negative; the second class is "has it".
                let pair = [pair[1], pair[0]];
                let word = word(&self.names, true, (argmax(&pair), sure(&pair)));
                let probability = softmax(&pair, temperature)[1];
                classes.push(ClassAnswer { name: name.clone(), probability, answer: Some(word.into()) });
            }
        } else {
            let word = word(&self.names, false, (argmax(&logits), sure(&logits)));
            answer = Some(word.to_string());
            let probabilities = self.names.iter().zip(softmax(&logits, temperature));
            let class =
                |(name, probability): (&String, f64)| ClassAnswer { name: name.clone(), probability, answer: None };
            classes = probabilities.map(class).collect();
        }
        let (calibrated, may_abstain) = (self.is_calibrated(), self.may_abstain());
        Ok(Answer { multi_label: self.multi_label, calibrated, may_abstain, answer, classes })
    }

    fn logits(&self, embedding: &[f32]) -> Result<Vec<f64>> {
        match &self.by {
            By::Prompts(directions, scale) => {
                let width = directions.first().map_or(0, Vec::len);
                ensure!(embedding.len() == width, "an embedding of width {}, not {width}", embedding.len());
                let cosine = |direction: &Vec<f32>| -> f64 {
                    direction.iter().zip(embedding).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                };
                Ok(directions.iter().map(|direction| scale * cosine(direction)).collect())
            }
            By::Head(head, order) => {
                let embedding: Vec<f64> = embedding.iter().copied().map(f64::from).collect();
                Ok(head.logits(&embedding, order))
            }
        }
    }
}
