//! The model's side of the queue: what waits goes through a tower together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::metrics::Metrics;
use super::model::{Item, Model};
use super::queue::{Embedding, Job, Waiting};
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
    let (images, texts): (Vec<_>, Vec<_>) = batch.into_iter().partition(|w| matches!(w.item, Item::Images(_)));
    for part in [images, texts].into_iter().filter(|part| !part.is_empty()) {
        metrics.batch(part.len());
        let items: Vec<&Item> = part.iter().map(|waiting| &waiting.item).collect();
        let rows = apart(&items, &|items| model.rows(items));
        let broken = rows.iter().filter(|row| row.is_none()).count();
        if broken > 0 {
            tracing::warn!("{broken} of {} items have no embedding, or one that is not finite", part.len());
        }
        part.into_iter().zip(rows).for_each(|(waiting, row)| drop(waiting.reply.send(row)));
    }
}

/// What `rows` makes of `items`; where it fails at several together, of each by itself, for one may be at fault.
fn apart<T>(items: &[&T], rows: &impl Fn(&[&T]) -> Result<Vec<Embedding>>) -> Vec<Embedding> {
    let tried = catch_unwind(AssertUnwindSafe(|| rows(items)));
    let tried = tried.unwrap_or_else(|_| Err(anyhow::anyhow!("a bug, which was told of before")));
    match tried.inspect_err(|e| tracing::warn!("encoding {} items: {}", items.len(), one_line(e))) {
        Ok(found) => found,
        Err(_) if items.len() > 1 => items.iter().flat_map(|item| apart(&[*item], rows)).collect(),
        Err(_) => vec![None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_fails_alone() {
        let rows = |items: &[&i32]| {
            assert!(!items.contains(&&3), "the third breaks what it is in");
            anyhow::ensure!(!items.contains(&&5), "and so does the fifth");
            Ok(items.iter().map(|&&i| Some(vec![i as f32])).collect())
        };
        let all = [1, 2, 3, 4, 5];
        let found = apart(&all.iter().collect::<Vec<_>>(), &rows);
        assert_eq!(found, [Some(vec![1.0]), Some(vec![2.0]), None, Some(vec![4.0]), None]);
    }
}
