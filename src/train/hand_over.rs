//! The model that a run leaves: model/, and adapter/ where it trains adapters.

use anyhow::Result;
use candle_core::Tensor;

use super::checkpoint;
use super::records::BestStep;
use super::trainer::Trainer;
use crate::export::{AdapterOptions, write_adapter, write_model};
use crate::model::lora;
use crate::track::{Event, Note};

impl Trainer<'_> {
    /// Writes the weights as they are evaluated.
    pub(super) fn write_model(&self) -> Result<()> {
        self.hand_over(self.state.evaluated().tensors())
    }

    /// Without a validation there is no best model: the last one is handed over.
    pub(super) fn leave_model(&mut self) -> Result<()> {
        if self.state.progress.best.is_some() {
            return Ok(());
        }
        self.folder.summary = self.summary(self.step_number(), None);
        self.write_model()
    }

    /// After going back to an earlier checkpoint, model/ may hold a later step's weights: puts the best one's back, as
    /// far as its checkpoint is still there.
    pub(super) fn restore_best(&mut self) -> Result<()> {
        let Some(BestStep { step, validation }) = self.state.progress.best.clone() else { return Ok(()) };
        self.folder.summary = self.summary(step, Some(&validation));
        let (run, averaged) = (self.writer.run(), self.state.ema.is_some());
        let mut weights = None;
        let found = self.world.from_first(|| {
            weights = run.map(|run| checkpoint::evaluated(run, step, averaged)).transpose()?.flatten();
            Ok(weights.is_some())
        })?;
        if !found {
            self.state.progress.best = None;
            let text = format!("the checkpoint of the best step, {step}, is gone: the search starts anew");
            return self.emit(&Event::Note(Note::warning(text)));
        }
        weights.map_or(Ok(()), |weights| self.hand_over(weights))
    }

    /// Writes model/, with adapters multiplied out, and adapter/ with the adapters alone.
    fn hand_over(&self, weights: Vec<(String, Tensor)>) -> Result<()> {
        let Some(scale) = self.state.params.adapter_scale() else {
            return self.writer.replace_folder("model", |folder| write_model(folder, &self.folder, &weights));
        };
        let options = AdapterOptions {
            rank: self.config.lora.rank,
            alpha: self.config.lora.alpha,
            dropout: self.config.lora.dropout,
        };
        self.writer.replace_folder("adapter", |folder| write_adapter(folder, &self.folder, &options, &weights))?;
        let merged = lora::merge(weights, scale)?;
        self.writer.replace_folder("model", |folder| write_model(folder, &self.folder, &merged))
    }
}
