//! The split that chooses nothing: its figures before the first step and of the model that is handed over, once each.
//! The first rank works them out alone.

use anyhow::{Context, Error, Result};

use super::records::{TEST, TestFigures};
use super::stop::{Cause, Stopped};
use super::trainer::Trainer;
use crate::dist::Single;
use crate::error::one_line;
use crate::eval::Validation;
use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::LoadOptions;
use crate::session::{Session, UnreadableImage};
use crate::track::{Event, Note};

impl Trainer<'_> {
    /// Of the weights as they are before the first step.
    pub(super) fn judge_untuned(&mut self) -> Result<()> {
        if self.test.is_empty() {
            return Ok(());
        }
        let figures = self.world.from_first(|| {
            let judged = self.figures(&self.encoder(&Single)?, &self.test, 0);
            Ok(judged.map(|(figures, _)| figures).map_err(|e| self.why(&e)))
        })?;
        self.state.progress.untuned_test = self.told(figures)?;
        Ok(())
    }

    /// Of the model that was handed over, unless the run goes on later.
    pub(super) fn judge_handed_over(&mut self, stopped: Option<&Stopped>) -> Result<Option<TestFigures>> {
        let goes_on = stopped.is_some_and(|stopped| stopped.cause != Cause::EarlyStopping);
        if self.test.is_empty() || goes_on {
            return Ok(None);
        }
        let figures = self.world.from_first(|| {
            let run = self.writer.run().context("the first rank has a run folder")?;
            let files = ModelFiles::open(&Source::Folder(run.model()))?;
            let opened = Session::pretrained(&files, &LoadOptions::default(), None, &self.device);
            let judged = opened.and_then(|session| {
                let session = Session { products: self.products, ..session };
                self.figures(&session.encoder(self.config.eval.batch_size)?, &self.test, 0)
            });
            Ok(judged.map(|(figures, _)| figures).map_err(|e| self.why(&e)))
        })?;
        let untuned = self.state.progress.untuned_test.clone();
        let pairs = self.test.len();
        Ok(self.told(figures)?.map(|tuned| TestFigures { pairs, untuned, tuned }))
    }

    /// An error in a line, with the place of the row that it is about.
    fn why(&self, error: &Error) -> String {
        let bad = error.downcast_ref::<UnreadableImage>();
        let row = bad.and_then(|bad| self.test.iter().find(|row| row.image() == bad.image));
        row.map_or_else(|| one_line(error), |row| format!("{}: {}", row.place(), one_line(error)))
    }

    /// What cannot be judged is no reason to lose a run.
    fn told(&mut self, figures: Result<Validation, String>) -> Result<Option<Validation>> {
        match figures {
            Ok(figures) => Ok(Some(figures)),
            Err(why) => {
                self.test.clear();
                self.emit(&Event::Note(Note::warning(format!("the split {TEST} is not judged: {why}"))))?;
                Ok(None)
            }
        }
    }
}
