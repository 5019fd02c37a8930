//! Where the text tower is frozen, what it makes of the sentences of all reports is worked out once, at the first step.

use anyhow::Result;
use candle_core::Tensor;

use super::found::Run;
use super::sentence_tokens::SentenceTokens;
use super::step::TrainStep;
use super::trainer::Trainer;
use crate::config::Config;
use crate::track::{Event, Note};

/// The most that is kept, in MiB; each process keeps all of it.
const MOST_MIB: usize = 1024;

/// Whether they are kept, and why, where the text tower stays the same.
fn choose(config: &Config, mib: usize, epochs: f64) -> (bool, &'static str) {
    if !config.data.cache_features {
        (false, "data.cache_features is false")
    } else if epochs <= 1.0 {
        (false, "no report is seen twice")
    } else if mib > MOST_MIB {
        (false, "they would take more than 1 GiB of memory")
    } else {
        (true, "the frozen text tower gives the same at each step")
    }
}

impl Trainer<'_> {
    /// Decides whether features of sentences are kept, and tells of it.
    pub(super) fn keep_sentences(&mut self) -> Result<()> {
        let Some(sentences) = self.supervision.sentences().filter(|_| self.frozen.text_stays()) else { return Ok(()) };
        let mib = (sentences.count() * self.folder.config.text.width() * 4) >> 20;
        let epochs = self.plan.total_steps as f64 / self.plan.steps_per_epoch.max(1) as f64;
        let (kept, reason) = choose(self.config, mib, epochs);
        self.keeps_sentences = kept;
        let how = if kept { "kept in memory" } else { "worked out at each step" };
        self.emit(&Event::Note(Note::choice(format!("sentence features are {how} ({mib} MiB): {reason}"))))
    }
}

impl TrainStep<'_> {
    /// What the text tower makes of all sentences, (sentences, width), where that is kept. Ranks share the work.
    ///
    /// All at once, in parts that are always the same, though a step needs few: how sentences are put together changes
    /// the last bits of what they give, and a run that goes on shall do as one that was not stopped.
    pub(super) fn kept_sentences(&self, run: Run, tokens: &SentenceTokens) -> Result<Option<&Tensor>> {
        let Some(frozen) = self.frozen.filter(|_| self.keeps_sentences) else { return Ok(None) };
        frozen.sentence_states(|| {
            let own: Vec<u32> = self.world.share(tokens.count()).map(|number| number as u32).collect();
            let part = |numbers: &[u32]| -> Result<Tensor> {
                let (ids, each) = tokens.padded(numbers);
                let ids = Tensor::from_vec(ids, (numbers.len(), each), self.device)?;
                Ok(run.model.text_states(&ids)?.tensor().clone())
            };
            let parts = || own.chunks(self.images_at_once).map(part).collect::<Result<Vec<_>>>();
            self.world.gather_parts(&run.tape.paused(parts)?, self.config.text.width(), self.device)
        })
    }
}
