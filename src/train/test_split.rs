//! The split that chooses nothing: its figures before the first step and of the model that is handed over, once each.
//! The first rank works them out alone.

use anyhow::{Context, Result};

use super::records::{TEST, TestFigures};
use super::skipped::{Skipped, leave_out};
use super::stop::{Cause, Stopped};
use super::trainer::Trainer;
use crate::data::Row;
use crate::dist::Single;
use crate::error::one_line;
use crate::eval::Validation;
use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::LoadOptions;
use crate::session::{Encoder, Session};
use crate::track::{Event, Note};

impl Trainer<'_> {
    /// Of the weights as they are before the first step.
    pub(super) fn judge_untuned(&mut self) -> Result<()> {
        if self.test.is_empty() {
            return Ok(());
        }
        let mut left = None;
        let (figures, skipped) = self.world.from_first(|| {
            let judged = self.judged(&self.encoder(&Single)?);
            left = Some(judged.rows);
            Ok((judged.figures, judged.skipped))
        })?;
        self.state.progress.untuned_test = self.told(figures, left, skipped)?;
        Ok(())
    }

    /// Of the model that was handed over, unless the run goes on later.
    pub(super) fn judge_handed_over(&mut self, stopped: Option<&Stopped>) -> Result<Option<TestFigures>> {
        let goes_on = stopped.is_some_and(|stopped| stopped.cause != Cause::EarlyStopping);
        if self.test.is_empty() || goes_on {
            return Ok(None);
        }
        let mut left = None;
        let (figures, skipped) = self.world.from_first(|| {
            let run = self.writer.run().context("the first rank has a run folder")?;
            let files = ModelFiles::open(&Source::Folder(run.model()))?;
            let judge = || -> Result<Judged> {
                let opened = Session::pretrained(&files, &LoadOptions::default(), None, &self.device)?;
                let session = Session { products: self.products, ..opened };
                Ok(self.judged(&session.encoder(self.config.eval.batch_size)?))
            };
            Ok(match judge() {
                Ok(judged) => {
                    left = Some(judged.rows);
                    (judged.figures, judged.skipped)
                }
                Err(error) => (Err(one_line(&error)), Vec::new()),
            })
        })?;
        let untuned = self.state.progress.untuned_test.clone();
        let tuned = self.told(figures, left, skipped)?;
        let pairs = self.test.len();
        Ok(tuned.map(|tuned| TestFigures { pairs, untuned, tuned }))
    }

    /// Figures of the rows that can be read; as in validations, the others are left out where `data.on_error` says so.
    fn judged(&self, encoder: &Encoder) -> Judged {
        let (known, allowed) = (&self.state.progress.skipped, self.config.data.max_skipped);
        let (mut rows, mut skipped) = (self.test.clone(), Vec::new());
        let figures = loop {
            let error = match self.figures(encoder, &rows, 0) {
                Ok((figures, _)) => break Ok(figures),
                Err(error) => error,
            };
            match leave_out(error, &mut rows, TEST, self.config.data.on_error) {
                Ok((_, more)) => skipped.extend(more),
                Err(error) => break Err(one_line(&error)),
            }
            let total = known.len() + skipped.iter().filter(|(row, _): &&Skipped| !known.contains(row)).count();
            if total > allowed {
                skipped.clear();
                break Err(format!(
                    "rows of it that cannot be read make {total} that cannot be used, and data.max_skipped is {allowed}"
                ));
            }
        };
        Judged { figures, rows, skipped }
    }

    /// What cannot be judged is no reason to lose a run.
    fn told(
        &mut self,
        figures: Result<Validation, String>,
        left: Option<Vec<Row>>,
        skipped: Vec<Skipped>,
    ) -> Result<Option<Validation>> {
        self.note_skipped(skipped)?;
        match figures {
            Ok(figures) => {
                // The first rank's, which judges alone.
                self.test = left.unwrap_or_else(|| std::mem::take(&mut self.test));
                Ok(Some(figures))
            }
            Err(why) => {
                self.test.clear();
                self.emit(&Event::Note(Note::warning(format!("the split {TEST} is not judged: {why}"))))?;
                Ok(None)
            }
        }
    }
}

/// What came of the split.
struct Judged {
    /// Or why there are none.
    figures: Result<Validation, String>,
    /// Those that can be read.
    rows: Vec<Row>,
    /// The others.
    skipped: Vec<Skipped>,
}
