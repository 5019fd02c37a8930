//! The model's side of the queue: what waits goes through a tower together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::model::{Item, Model};
use super::queue::{Job, Waiting};
use crate::error::one_line;

/// How requests share the towers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches {
    /// Most images and texts of a batch.
    pub most: usize,
    /// How long a batch waits for more.
    pub window: Duration,
}

/// Works off what waits until nobody can hand in more, on the thread that calls it.
pub(super) fn run(jobs: &Receiver<Job>, model: &Model, batches: Batches, metrics: &Metrics) {
    while let Ok(job) = jobs.recv() {
        let mut batch = Vec::new();
        let mut next = Some(job);
        let full = Instant::now() + batches.window;
        while let Some(job) = next {
            match job {
                // Who went away needs no answer.
                Job::Encode(waiting) if waiting.reply.is_closed() => {}
                Job::Encode(waiting) => batch.push(waiting),
                Job::Run(work) => {
                    // What came before it does not wait for it.
                    encode(model, std::mem::take(&mut batch), metrics);
                    if catch_unwind(AssertUnwindSafe(|| work(model))).is_err() {
                        tracing::warn!("one request failed; the server goes on");
                    }
                    break;
                }
            }
            let wait = full.saturating_duration_since(Instant::now());
            next = if batch.len() < batches.most { jobs.recv_timeout(wait).ok() } else { None };
        }
        encode(model, batch, metrics);
    }
}

/// Encodes what waits and answers it.
fn encode(model: &Model, batch: Vec<Waiting>, metrics: &Metrics) {
    let (images, texts): (Vec<_>, Vec<_>) = batch.into_iter().partition(|w| matches!(w.item, Item::Image(_)));
    for part in [images, texts].into_iter().filter(|part| !part.is_empty()) {
        metrics.batch(part.len());
        let items: Vec<&Item> = part.iter().map(|waiting| &waiting.item).collect();
        let rows = catch_unwind(AssertUnwindSafe(|| model.rows(&items)));
        let rows = rows.unwrap_or_else(|_| Err(anyhow::anyhow!("a bug, which was told of before")));
        let rows = rows.inspect_err(|e| tracing::warn!("encoding {} items: {}", part.len(), one_line(e))).ok();
        let mut rows = rows.into_iter().flatten();
        part.into_iter().for_each(|waiting| drop(waiting.reply.send(rows.next())));
    }
}
