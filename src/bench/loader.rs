//! A data set to batches of `pixel_values`, as training reads it: shuffled over all rows, on several threads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::Serialize;

use super::Spread;
use crate::data::{Columns, Images, Manifest, Prefetch, Preprocess, Sampler, Sampling, StepShape};
use crate::ops::peak_rss_mib;

/// What is measured.
#[derive(Clone, Debug)]
pub struct LoaderBench {
    /// As `data.train` names it.
    pub source: PathBuf,
    /// Images of a batch.
    pub batch_size: usize,
    /// Side of the model's images.
    pub image_size: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Passes over the data, after one for nothing; 0 = open it only.
    pub rounds: usize,
    /// As `data.shuffle_buffer`.
    pub shuffle_buffer: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct LoaderFigures {
    /// Rows of the data set.
    pub rows: usize,
    /// Seconds to open it.
    pub open_s: f64,
    /// Memory at most until it was open.
    pub open_peak_rss_mib: u64,
    /// Images of whole batches a second; absent where it was opened only.
    pub images_per_s: Option<Spread>,
    /// Memory at most in all.
    pub peak_rss_mib: u64,
}

/// Runs it.
///
/// # Errors
/// The data cannot be opened, a row cannot be used, fewer rows than a batch.
pub fn loader(bench: &LoaderBench) -> Result<LoaderFigures> {
    let started = Instant::now();
    let manifest = Manifest::open(&bench.source, &Columns::default(), None)?;
    let open_s = started.elapsed().as_secs_f64();
    let open_peak_rss_mib = peak_rss_mib();
    if let Some(problem) = manifest.problems.first() {
        anyhow::bail!("{problem}");
    }
    let rows = manifest.rows.len();
    ensure!(rows >= bench.batch_size || bench.rounds == 0, "{rows} rows do not fill a batch of {}", bench.batch_size);
    let sampling = Sampling { shuffle_buffer: bench.shuffle_buffer, ..Sampling::default() };
    let all = Arc::new(manifest.rows);
    let mut rates = Vec::new();
    if bench.rounds > 0 {
        let step = StepShape { batch_size: bench.batch_size, batches: 1 };
        let sampler = Arc::new(Sampler::new(0, &all, &[rows], sampling, step));
        let preprocess = Preprocess::clip(bench.image_size);
        let batches = sampler.steps_per_epoch();
        let shape = (bench.batch_size, 3, bench.image_size, bench.image_size);
        for round in 0..=bench.rounds as u64 {
            let (rows, sampler, preprocess) = (Arc::clone(&all), Arc::clone(&sampler), preprocess.clone());
            let make = move |batch: u64| {
                (batch < batches).then(|| -> Result<Tensor> {
                    let one = |row: usize| preprocess.prepare(&rows[row].image().read()?, None);
                    let prepared =
                        sampler.rows(round * batches + batch, 0..sampler.rows_per_step()).into_iter().map(one);
                    Ok(Images::Prepared(prepared.collect::<Result<_>>()?).to_tensor(shape, &Device::Cpu)?)
                })
            };
            let started = Instant::now();
            let mut seen = 0;
            for pixels in Prefetch::start(0, bench.workers, 2 * bench.workers, make)? {
                seen += pixels.context("reading a batch")?.elem_count();
            }
            ensure!(seen > 0, "a data worker ended unexpectedly");
            if round > 0 {
                rates.push((batches as usize * bench.batch_size) as f64 / started.elapsed().as_secs_f64());
            }
        }
    }
    let images_per_s = (!rates.is_empty()).then(|| Spread::of(&rates));
    Ok(LoaderFigures { rows, open_s, open_peak_rss_mib, images_per_s, peak_rss_mib: peak_rss_mib() })
}
