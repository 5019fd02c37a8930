//! The model's side of the queue: what waits goes through a tower together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use super::metrics::Metrics;
use super::queue::{Item, Job, Waiting};
use crate::data::Prepared;
use crate::error::one_line;
use crate::model::ClipModel;
use crate::session::Session;

/// The model as work on its thread sees it.
pub(super) struct Model<'a> {
    pub session: &'a Session,
    towers: ClipModel,
}

/// Works off what waits, on the thread that calls it.
pub(super) struct Engine(Receiver<Job>);

impl Engine {
    pub fn new(receiver: Receiver<Job>) -> Self {
        Self(receiver)
    }

    /// Works until nobody can hand in more. A batch has at most `max_batch` images and texts, and waits `window` for
    /// them.
    ///
    /// # Errors
    /// The model cannot be built.
    pub fn run(self, session: &Session, max_batch: usize, window: Duration, metrics: &Metrics) -> Result<()> {
        let model = Model { session, towers: session.model()? };
        while let Ok(job) = self.0.recv() {
            let mut batch = Vec::new();
            let mut next = Some(job);
            let full = Instant::now() + window;
            while let Some(job) = next {
                match job {
                    // Who went away needs no answer.
                    Job::Encode(waiting) if waiting.reply.is_closed() => {}
                    Job::Encode(waiting) => batch.push(waiting),
                    Job::Run(work) => {
                        // What came before it does not wait for it.
                        model.encode(std::mem::take(&mut batch), metrics);
                        if catch_unwind(AssertUnwindSafe(|| work(&model))).is_err() {
                            tracing::warn!("one request failed; the server goes on");
                        }
                        break;
                    }
                }
                next = if batch.len() < max_batch { self.until(full) } else { None };
            }
            model.encode(batch, metrics);
        }
        Ok(())
    }

    fn until(&self, when: Instant) -> Option<Job> {
        match self.0.recv_timeout(when.saturating_duration_since(Instant::now())) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Model<'_> {
    /// Encodes what waits and answers it.
    fn encode(&self, batch: Vec<Waiting>, metrics: &Metrics) {
        let (images, texts): (Vec<_>, Vec<_>) = batch.into_iter().partition(|w| matches!(w.item, Item::Image(_)));
        for part in [images, texts].into_iter().filter(|part| !part.is_empty()) {
            metrics.batch(part.len());
            let items: Vec<&Item> = part.iter().map(|waiting| &waiting.item).collect();
            let rows = catch_unwind(AssertUnwindSafe(|| self.rows(&items)));
            let rows = rows.unwrap_or_else(|_| Err(anyhow::anyhow!("a bug, which was told of before")));
            let rows = rows.inspect_err(|e| tracing::warn!("encoding {} items: {}", part.len(), one_line(e))).ok();
            let mut rows = rows.into_iter().flatten();
            part.into_iter().for_each(|waiting| drop(waiting.reply.send(rows.next())));
        }
    }

    /// A row for each item, all of one kind.
    fn rows(&self, items: &[&Item]) -> Result<Vec<Vec<f32>>> {
        let device = &self.session.device;
        let texts: Vec<&[u32]> = items.iter().filter_map(|item| item.text()).collect();
        let rows = if texts.is_empty() {
            let size = self.session.folder.config.vision.image_size();
            let mut values = vec![0.0; items.len() * 3 * size * size];
            for (values, image) in values.chunks_exact_mut(3 * size * size).zip(items.iter().filter_map(|i| i.image()))
            {
                ensure!(image.len() == values.len(), "an image of {} numbers", image.len());
                image.write(values);
            }
            self.towers.image_embeds(&Tensor::from_vec(values, (items.len(), 3, size, size), device)?)?
        } else {
            let (ids, tokens) = self.session.folder.tokenizer.pad(&texts);
            self.towers.text_embeds(&Tensor::from_vec(ids, (texts.len(), tokens), device)?)?
        };
        let rows: Vec<Vec<f32>> = rows.to_device(&Device::Cpu)?.to_vec2()?;
        ensure!(rows.iter().flatten().all(|v| v.is_finite()), "the features are not finite: the weights are broken");
        Ok(rows)
    }
}

impl Item {
    fn image(&self) -> Option<&Prepared> {
        match self {
            Self::Image(image) => Some(image),
            Self::Text(_) => None,
        }
    }

    fn text(&self) -> Option<&[u32]> {
        match self {
            Self::Text(ids) => Some(ids),
            Self::Image(_) => None,
        }
    }
}
