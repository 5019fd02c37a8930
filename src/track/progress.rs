//! Progress for people, on stderr: a bar on a terminal, a plain line every few steps elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::event::{Event, Sink, StepRecord};
use super::note::Level;

/// Draws events on stderr.
pub struct ProgressSink {
    /// Absent where stderr is not a terminal.
    bar: Option<ProgressBar>,
    log_every: u64,
    total: u64,
    last: Option<StepRecord>,
    samples_per_s: f64,
    /// What the last line about features told of, and how many.
    prepared: (&'static str, usize),
}

impl ProgressSink {
    /// `log_every`: steps between lines where there is no bar.
    pub fn new(log_every: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{bar:24} {pos}/{len} {elapsed}<{eta} {msg}";
            let bar = ProgressBar::new(0);
            bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, log_every, total: 0, last: None, samples_per_s: 0.0, prepared: ("", 0) }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            // A closed stderr is no reason to stop training.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn step_line(&self, r: &StepRecord) -> String {
        format!(
            "loss {:.4} (hard {:.4}, chance {:.4}) acc {:.3} scale {:.1} grad {:.2} lr {:.1e} {:.1} samples/s",
            r.loss,
            r.loss_hard,
            r.chance,
            r.batch_accuracy,
            r.logit_scale.exp(),
            r.grad_norm,
            r.lr,
            self.samples_per_s
        )
    }
}

impl Sink for ProgressSink {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Start { step, total } => {
                self.total = *total;
                if let Some(bar) = &self.bar {
                    bar.set_length(*total);
                    bar.set_position(*step);
                    bar.reset_eta();
                    bar.enable_steady_tick(Duration::from_millis(500));
                }
            }
            Event::Step(record) => self.last = Some(*record),
            Event::Timing { step, samples_per_s, .. } => {
                // Smoothed over about ten steps.
                let first = self.samples_per_s == 0.0;
                self.samples_per_s =
                    if first { *samples_per_s } else { 0.9 * self.samples_per_s + 0.1 * samples_per_s };
                let Some(record) = &self.last else { return Ok(()) };
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(*step);
                        bar.set_message(self.step_line(record));
                    }
                    None if step.is_multiple_of(self.log_every) || *step == self.total || *step == 1 => {
                        self.line(&format!("step {step}/{}: {}", self.total, self.step_line(record)));
                    }
                    None => {}
                }
            }
            Event::Eval { step, line, best, .. } => {
                let mark = if *best && *step > 0 { ", best so far" } else { "" };
                self.line(&format!("step {step}/{}: validation: {line}{mark}", self.total));
            }
            Event::Skipped { manifest, lines, total, unread } => {
                let list = lines.iter().map(|(line, _)| line.to_string()).collect::<Vec<_>>().join(", ");
                let unread = unread.as_ref().map_or(String::new(), |told| format!(", {told}"));
                let rows = format!("line {list} of the {manifest} manifest ({total} rows so far)");
                self.line(&format!("warning: skipped {rows}{unread}"));
            }
            Event::Note(note) => match note.level {
                Level::Choice => self.line(&note.text),
                Level::Warning => self.line(&format!("warning: {}", note.text)),
            },
            Event::Preparing { what, done, total } => match &self.bar {
                Some(bar) => {
                    bar.set_length(*total as u64);
                    bar.set_position(*done as u64);
                    bar.set_message(*what);
                }
                // A line at each tenth.
                None if self.prepared.0 != *what || 10 * done / total != 10 * self.prepared.1 / total => {
                    self.line(&format!("{what}: {done} of {total}"));
                    self.prepared = (what, *done);
                }
                None => {}
            },
            // The table at the end has them.
            Event::Test { .. } => {}
            Event::End(_) => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
            }
        }
        Ok(())
    }
}
