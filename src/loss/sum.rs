//! What is trained: an objective, or several that are added up.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::objective::{Inputs, Objective, ObjectiveKind, Settings, Term};

/// Objectives, each with its weight.
#[derive(Clone, Debug)]
pub struct Loss(Vec<(f64, Arc<dyn Objective>)>);

/// The loss and what is logged beside it.
#[derive(Clone, Debug)]
pub struct LossOutput {
    /// Scalar, differentiable.
    pub loss: Tensor,
    /// Its number.
    pub value: f64,
    /// The same without smoothing.
    pub loss_hard: f64,
    /// `loss` minus the lowest value that the targets allow.
    pub loss_excess: f64,
    /// What knowing nothing costs: `ln N` for cross-entropy.
    pub chance: f64,
    /// Share of rows (over the counted directions; over objectives by weight) whose highest similarity is right.
    pub accuracy: f64,
}

impl Loss {
    /// One objective alone.
    pub fn of(objective: impl Objective + 'static) -> Self {
        Self(vec![(1.0, Arc::new(objective))])
    }

    /// Rows of the table with their weights, as the config wants them.
    pub fn new(kinds: &[(&'static ObjectiveKind, f64)], settings: &Settings) -> Self {
        Self(kinds.iter().map(|(kind, weight)| (*weight, Arc::from((kind.build)(settings)))).collect())
    }

    /// Several, each with its weight.
    pub fn sum(losses: impl IntoIterator<Item = (f64, Self)>) -> Self {
        let weighted = |(weight, loss): (f64, Self)| loss.0.into_iter().map(move |(w, one)| (weight * w, one));
        Self(losses.into_iter().flat_map(weighted).collect())
    }

    /// Each objective alone, with its weight.
    pub fn terms(&self) -> impl Iterator<Item = (f64, Self)> {
        self.0.iter().map(|(weight, one)| (*weight, Self(vec![(1.0, Arc::clone(one))])))
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// Shapes that do not fit; something that the loss needs and `inputs` lacks.
    pub fn forward(&self, inputs: &Inputs) -> Result<LossOutput> {
        let term = match self.0.as_slice() {
            [(1.0, one)] => one.forward(inputs)?,
            several => {
                let terms = several.iter().map(|(weight, one)| Ok((*weight, one.forward(inputs)?)));
                Term::sum(&terms.collect::<Result<Vec<_>>>()?)?
            }
        };
        let value = term.loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(LossOutput {
            loss: term.loss,
            value,
            loss_hard: term.hard,
            loss_excess: value - term.floor,
            chance: term.chance,
            accuracy: term.accuracy,
        })
    }

    /// Whether a bias changes it.
    pub fn uses_bias(&self) -> bool {
        self.0.iter().any(|(_, one)| one.kind().needs.bias)
    }

    /// Whether it looks at patches and sentences.
    pub fn uses_places(&self) -> bool {
        self.0.iter().any(|(_, one)| one.kind().needs.places)
    }

    /// Whether it looks at reports.
    pub fn uses_reports(&self) -> bool {
        self.0.iter().any(|(_, one)| one.kind().needs.reports)
    }
}
