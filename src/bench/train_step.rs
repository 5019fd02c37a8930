//! Training steps of a model with random weights on random input.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use rand::RngExt;
use serde::Serialize;

use super::{Spread, matmul_gflops};
use crate::data::{Batch, Images, Preprocess, image::Picture};
use crate::dist::Collective;
use crate::error::{Problem, Problems};
use crate::fs::text_up_to;
use crate::json;
use crate::loss::{ClipLoss, Direction, Loss};
use crate::model::freeze::{FreezeConfig, FreezeDepth};
use crate::model::{ClipConfig, checkpoint};
use crate::ops::profile::{self, PARTS, Spent};
use crate::ops::{gpu_memory, peak_rss_mib};
use crate::optim::{AdamW, AdamWOptions};
use crate::seed::{Purpose, stream};
use crate::session::Frozen;
use crate::train::TrainStep;

/// What is measured.
#[derive(Clone, Debug)]
pub struct TrainStepBench {
    /// Shape of the model.
    pub config: ClipConfig,
    /// Pairs that pass through the towers at once.
    pub batch_size: usize,
    /// Chunks a step.
    pub accum_freq: usize,
    /// Steps, the first one apart.
    pub steps: usize,
    /// Tokens of each text, over and over.
    pub text_lengths: Vec<usize>,
    /// Whether the image tower is left as it is.
    pub freeze_image: bool,
    /// With a frozen image tower: take its output as given, as from the second epoch on.
    pub cached_features: bool,
    /// Whether blocks keep only their input for the backward pass.
    pub checkpoint_activations: bool,
    /// In which type products with weights are worked out.
    pub products: DType,
    /// Whether seconds are told apart by operation.
    pub profile: bool,
}

impl TrainStepBench {
    /// Whether there is something to measure.
    pub(super) fn check(&self) -> Result<(), Problems> {
        let (most, one) = (self.config.text.context_length(), |line: String| Err(Problems(vec![Problem(line)])));
        if let Some(length) = self.text_lengths.iter().find(|length| !(1..=most).contains(*length)) {
            return one(format!("texts of {length} tokens; allowed are 1 to {most}"));
        }
        if self.steps == 0 || self.batch_size == 0 || self.accum_freq == 0 || self.text_lengths.is_empty() {
            return one("steps, batch size and chunks start at 1, and so does the number of texts".into());
        }
        Ok(())
    }
}

/// The tokens of each text, from a file with one number a line.
///
/// # Errors
/// It cannot be read, a line is no number, there is none.
pub fn read_lengths(path: &Path) -> Result<Vec<usize>> {
    let text = text_up_to(path, json::MAX_BYTES)?;
    let parse = |(i, line): (usize, &str)| {
        let length = line.trim().parse::<usize>();
        length.with_context(|| format!("{}:{}: {line:?} is not a number of tokens", path.display(), i + 1))
    };
    let lengths = text.lines().enumerate().map(parse).collect::<Result<Vec<_>>>()?;
    ensure!(!lengths.is_empty(), "{}: is empty; one number of tokens a line is wanted", path.display());
    Ok(lengths)
}

/// What came of it. Seconds, but for the last three.
#[derive(Clone, Debug, Serialize)]
pub struct TrainStepFigures {
    /// The first step, in which memory is taken from the system.
    pub first_step_s: f64,
    /// Middle of the others.
    pub median_step_s: f64,
    /// Fastest of the others.
    pub min_step_s: f64,
    /// Slowest of the others.
    pub max_step_s: f64,
    /// From the process's start to the end of the first step, random weights included.
    pub start_to_first_step_s: f64,
    /// Pairs over the median.
    pub samples_per_s: f64,
    /// Largest resident size of the process.
    pub peak_rss_mib: u64,
    /// Loss of the last step, so that nobody measures nothing.
    pub loss: f64,
    /// Where the seconds went, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Vec<PartFigures>>,
    /// On a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuFigures>,
}

/// Mean seconds of one part of a step, over the steps but the first.
#[derive(Clone, Debug, Serialize)]
pub struct PartFigures {
    /// Its name in [`PARTS`].
    pub part: &'static str,
    /// On the way to the loss.
    pub forward_s: f64,
    /// On the way back, with the updates of weights.
    pub backward_s: f64,
}

/// What a GPU's figures are read against.
#[derive(Clone, Debug, Serialize)]
pub struct GpuFigures {
    /// Memory in use after the last step, everybody's.
    pub memory_mib: u64,
    /// The most that tensors took at once.
    pub peak_memory_mib: u64,
    /// 10⁹ operations a second of a large product of the same type, measured after the steps.
    pub matmul_gflops: f64,
    /// Of the multiply-adds of the textbook step (forward once, backward twice, every token) over the median step; for
    /// towers whose multiply-adds are counted, trained whole in one chunk.
    pub share_of_matmul: Option<f64>,
}

/// Runs the steps, of which each rank of `world` has its share.
///
/// # Errors
/// A batch of nothing, texts longer than the model's.
pub fn train_step(
    bench: &TrainStepBench,
    device: &Device,
    started: Instant,
    world: &dyn Collective,
) -> Result<TrainStepFigures> {
    bench.check()?;
    let mut params = checkpoint::random(&bench.config, 0, device)?;
    let image = if bench.freeze_image { FreezeDepth::All } else { FreezeDepth::None };
    let frozen = Frozen::apply(FreezeConfig { image, ..FreezeConfig::NONE }, 0.0, &mut params);
    let mut optimizer = AdamW::new(&params, OPTIONS)?;
    let loss = Loss::of(ClipLoss::plain(0.1, Direction::Both));
    let step = TrainStep {
        products: bench.products,
        checkpoint_activations: bench.checkpoint_activations,
        frozen: Some(&frozen),
        ..TrainStep::new(world, &bench.config, &params, &loss)
    };
    let own = TrainStepBench { batch_size: world.share(bench.batch_size).len(), ..bench.clone() };
    let first = world.rank() * bench.accum_freq;
    let batches: Vec<Batch> =
        (first..first + bench.accum_freq).map(|i| random_batch(&own, i)).collect::<Result<_>>()?;
    let figures = run(&step, &batches, &mut optimizer, bench, started)?;
    let of_this_gpu = figures.samples_per_s / world.size() as f64;
    Ok(TrainStepFigures { gpu: gpu_figures(bench, device, of_this_gpu)?, ..figures })
}

/// As the peer's script has them.
const OPTIONS: AdamWOptions = AdamWOptions {
    lr_image: 1e-5,
    lr_text: 1e-5,
    lr_heads: 1e-5,
    layer_decay: 1.0,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.2,
    clip_grad_norm: 0.0,
};

fn run(
    step: &TrainStep,
    batches: &[Batch],
    optimizer: &mut AdamW,
    bench: &TrainStepBench,
    started: Instant,
) -> Result<TrainStepFigures> {
    let (mut seconds, mut spent, mut loss, mut start_to_first_step_s) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for i in 0..bench.steps {
        let begun = Instant::now();
        if bench.profile {
            profile::start(step.device);
        }
        let (output, _) = step.run(batches, optimizer, 1.0)?;
        step.device.synchronize()?;
        spent.extend(profile::stop()?);
        seconds.push(begun.elapsed().as_secs_f64());
        loss = output.value;
        if i == 0 {
            start_to_first_step_s = started.elapsed().as_secs_f64();
        }
    }
    let rest = Spread::of(but_first(&seconds));
    let own = batches.iter().map(|b| b.pairs as u32).sum();
    let pairs: u32 = step.world.gather_numbers(&[own])?.0.iter().sum();
    Ok(TrainStepFigures {
        first_step_s: seconds[0],
        median_step_s: rest.median,
        min_step_s: rest.min,
        max_step_s: rest.max,
        start_to_first_step_s,
        samples_per_s: f64::from(pairs) / rest.median,
        peak_rss_mib: peak_rss_mib(),
        loss,
        profile: bench.profile.then(|| parts(but_first(&spent))),
        gpu: None,
    })
}

/// All but the first, unless that is the only one.
fn but_first<T>(steps: &[T]) -> &[T] {
    if steps.len() > 1 { &steps[1..] } else { steps }
}

/// The means of each part over `steps`.
fn parts(steps: &[Spent]) -> Vec<PartFigures> {
    let mean = |part: usize, way: usize| steps.iter().map(|s| s[part][way]).sum::<f64>() / steps.len() as f64;
    let figures = |(i, (_, part)): (usize, &(_, &'static str))| PartFigures {
        part,
        forward_s: mean(i, 0),
        backward_s: mean(i, 1),
    };
    PARTS.iter().enumerate().map(figures).collect()
}

fn gpu_figures(bench: &TrainStepBench, device: &Device, samples_per_s: f64) -> Result<Option<GpuFigures>> {
    let Some(memory) = gpu_memory(device) else { return Ok(None) };
    let matmul_gflops = matmul_gflops(device, bench.products)?;
    let tokens = bench.text_lengths.iter().sum::<usize>() / bench.text_lengths.len().max(1);
    let whole = !bench.freeze_image && bench.accum_freq == 1;
    let image = bench.config.vision.multiply_adds().filter(|_| whole);
    let of_pair = image.map(|image| 3 * (image + bench.config.text.multiply_adds(tokens)));
    let share_of_matmul = of_pair.map(|of_pair| 2.0 * of_pair as f64 * samples_per_s / 1e9 / matmul_gflops);
    Ok(Some(GpuFigures { memory_mib: memory.in_use, peak_memory_mib: memory.peak, matmul_gflops, share_of_matmul }))
}

/// Random pixels and token ids, an end mark at each text's end.
pub(super) fn random_batch(bench: &TrainStepBench, number: usize) -> Result<Batch> {
    let (vision, text) = (&bench.config.vision, &bench.config.text);
    let mut rng = stream(0, Purpose::Augment, number as u64);
    let images = if bench.freeze_image && bench.cached_features {
        Images::Features((0..bench.batch_size * vision.width()).map(|_| 4.0 * rng.random::<f32>() - 2.0).collect())
    } else {
        // As the loader hands them over: bytes of the model's size.
        let (side, preprocess) = (vision.image_size(), Preprocess::clip(vision.image_size()));
        let mut one = || {
            let bytes = (0..3 * side * side).map(|_| rng.random::<u8>()).collect();
            preprocess.prepare(&Picture { width: side as u32, height: side as u32, channels: 3, bytes }, None)
        };
        Images::Prepared((0..bench.batch_size).map(|_| one()).collect::<Result<_>>()?)
    };
    let first = number * bench.batch_size;
    let lengths: Vec<usize> =
        (first..first + bench.batch_size).map(|i| bench.text_lengths[i % bench.text_lengths.len()]).collect();
    let tokens = lengths.iter().max().copied().unwrap_or(1);
    let end = text.end_id();
    let mut input_ids = Vec::with_capacity(bench.batch_size * tokens);
    for &length in &lengths {
        input_ids.extend((1..length).map(|_| rng.random_range(1..text.vocab_size().min(end as usize) as u32)));
        input_ids.extend(std::iter::repeat_n(end, 1 + tokens - length));
    }
    Ok(Batch {
        images,
        bags: None,
        input_ids,
        pairs: bench.batch_size,
        rows: (0..bench.batch_size).collect(),
        tokens,
        text_states: None,
        opposed: Vec::new(),
        errors: Vec::new(),
    })
}
