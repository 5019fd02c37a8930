//! The objective's own loss on a split.

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::loss::{Inputs, Loss, PromptFeatures, RowTargets};

/// What is trained, and what it asks for of the rows that it is worked out on.
#[derive(Clone, Copy, Debug)]
pub struct RowObjective<'a> {
    /// Without smoothing, so that its values can be compared while that changes.
    pub loss: &'a Loss,
    /// Of the rows, by their number.
    pub targets: &'a RowTargets,
}

/// The objective's own loss, without smoothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveFigures {
    /// Lower is better.
    pub loss: f64,
    /// What knowing nothing costs.
    pub chance: f64,
}

/// Features of a split, a row each.
pub(super) struct RowFeatures<'a> {
    /// (rows, embed_dim)
    pub images: Tensor,
    /// The same of the reports.
    pub texts: Tensor,
    /// `logit_scale.exp()`.
    pub scale: Tensor,
    /// `logit_bias`, where the model has it.
    pub bias: Option<Tensor>,
    /// Of the prompts' sentences.
    pub prompts: Option<PromptFeatures<'a>>,
}

impl RowObjective<'_> {
    /// The weighted sum of the objectives: those that hold rows against one another as the mean over whole batches of
    /// `batch_size` rows in order, as they are trained; the others over all rows at once. Those that look at patches
    /// are left out: of a split only features of whole images and reports are kept.
    pub(super) fn figures(&self, features: &RowFeatures, batch_size: usize) -> Result<ObjectiveFigures> {
        let rows = features.images.dim(0)?;
        let mut sum = ObjectiveFigures { loss: 0.0, chance: 0.0 };
        for (weight, one) in self.loss.terms().filter(|(_, one)| !one.uses_places()) {
            let batch = if one.uses_reports() { batch_size.min(rows) } else { rows };
            let batches = rows / batch;
            for number in 0..batches {
                let own: Vec<u32> = (number * batch..(number + 1) * batch).map(|row| row as u32).collect();
                let index = Tensor::new(own.as_slice(), &Device::Cpu)?;
                let text = features.texts.index_select(&index, 0)?;
                let output = one.forward(&Inputs {
                    image: &features.images.index_select(&index, 0)?,
                    text: Some(&text),
                    scale: &features.scale,
                    bias: features.bias.as_ref(),
                    prompts: features.prompts,
                    local: None,
                    opposed: None,
                    targets: &self.targets.of(&own),
                })?;
                sum.loss += weight * output.loss_hard / batches as f64;
                sum.chance += weight * output.chance / batches as f64;
            }
        }
        Ok(sum)
    }
}
