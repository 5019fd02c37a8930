//! `reportclip bench`.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};

use super::bench_lines::{spread, step_lines};
use super::bench_volumes::{self, VolumesArgs};
use super::manifest_args::PrecisionArg;
use super::parity::{self, ParityArgs};
use super::{output, usage};
use crate::bench::{self, DataBench, LoaderBench, Spread, TrainStepBench};
use crate::config::Precision;
use crate::device;
use crate::dist::{self, Collective};
use crate::model::checkpoint;
use crate::ops;
use crate::session::{PrecisionRequest, Products};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Time and memory of training steps, random weights on random input
    TrainStep(TrainStepArgs),
    /// Images and texts a second through the towers, random weights on random input
    Encode(EncodeArgs),
    /// Image files to model input and texts to token ids, on one core
    Data(DataArgs),
    /// Volumes to slices, on one core
    Volumes(VolumesArgs),
    /// A data set to batches of model input, as training reads it
    Loader(LoaderArgs),
    /// Floating-point operations a second of a large matrix product: what steps are measured against
    Matmul(MatmulArgs),
    /// Seconds of gathers and sums over the processes of a launcher, by size
    Collectives(CollectivesArgs),
    /// Whether a device computes what it should: operations against f64, models against their libraries' figures
    Parity(ParityArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip bench train-step --batch-size 8 --steps 5 --threads 2 --json
  reportclip bench train-step --batch-size 64 --accum-freq 8 --steps 2
  reportclip bench train-step --text-lengths lengths.txt
  reportclip bench train-step --batch-size 32 --profile")]
pub(super) struct TrainStepArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Chunks a step
    #[arg(long, default_value_t = 1, value_parser = usage::count)]
    accum_freq: usize,
    /// Steps; the first is told apart
    #[arg(long, default_value_t = 6, value_parser = usage::count)]
    steps: usize,
    /// Leave the image tower as it is
    #[arg(long)]
    freeze_image: bool,
    /// With --freeze-image: take the tower's output as cached, as training does from the second epoch on
    #[arg(long, requires = "freeze_image")]
    cached_features: bool,
    /// Keep only each block's input for the backward pass
    #[arg(long)]
    checkpoint_activations: bool,
    /// Tell seconds by operation, forward and backward; of a GPU by events in its stream
    #[arg(long)]
    profile: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip bench encode --batch-size 32 --steps 5 --threads 2
  reportclip bench encode --model vit-base-patch16+bert-base --text-lengths lengths.txt --json")]
pub(super) struct EncodeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Rounds, after one that does not count
    #[arg(long, default_value_t = 6, value_parser = usage::count)]
    steps: usize,
}

/// Whose towers, and what passes through them.
#[derive(Debug, clap::Args)]
pub(super) struct ModelArgs {
    /// Built-in architecture
    #[arg(long, default_value = "clip-vit-base-patch32")]
    model: String,
    /// Pairs that pass through the towers at once
    #[arg(long, default_value_t = 8, value_parser = usage::count)]
    batch_size: usize,
    /// Threads; default: as many as the machine has cores
    #[arg(long)]
    threads: Option<usize>,
    /// Tokens of each text; default: as many as the model takes
    #[arg(long, conflicts_with = "text_lengths", value_parser = usage::count)]
    tokens: Option<usize>,
    /// File with the tokens of each text, one number a line; longer ones are cut to what the model takes
    #[arg(long, value_name = "FILE")]
    text_lengths: Option<PathBuf>,
    /// Side of the images
    #[arg(long, value_parser = usage::side)]
    image_size: Option<usize>,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    #[command(flatten)]
    precision: BenchPrecision,
    /// On a GPU with --precision bf16: attention and convolutions in bf16 as well, as train.tensor_cores has it
    #[arg(long)]
    tensor_cores: bool,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

/// In which type products are worked out.
#[derive(Debug, clap::Args)]
pub(super) struct BenchPrecision {
    #[command(flatten)]
    asked: PrecisionArg,
    /// As it was called before
    #[arg(long, hide = true, conflicts_with = "precision")]
    bf16: bool,
    /// On a processor without bf16, round as its kernels would and multiply in f32: for memory, not for speed
    #[arg(long)]
    emulate_bf16: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip bench data --images images/
  reportclip bench data --images images/ --texts lines.txt --tokenizer runs/demo/model")]
pub(super) struct DataArgs {
    /// Folder of PNG and JPEG files
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Side of the model's images
    #[arg(long, default_value_t = 224, value_parser = usage::side)]
    image_size: usize,
    /// Text file, one text a line
    #[arg(long, value_name = "FILE", requires = "tokenizer")]
    texts: Option<PathBuf>,
    /// Folder with the tokenizer's files
    #[arg(long, value_name = "DIR", requires = "texts")]
    tokenizer: Option<PathBuf>,
    /// How often all is done
    #[arg(long, default_value_t = 3, value_parser = usage::count)]
    rounds: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip bench loader 'shards/train-*.tar' --workers 2
  reportclip bench loader pairs.csv --rounds 0")]
pub(super) struct LoaderArgs {
    /// As data.train names it
    #[arg(value_name = "MANIFEST")]
    source: PathBuf,
    /// Images of a batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Side of the model's images
    #[arg(long, default_value_t = 224, value_parser = usage::side)]
    image_size: usize,
    /// Threads that decode
    #[arg(long, default_value_t = 2, value_parser = workers)]
    workers: usize,
    /// Passes over the data, after one for nothing; 0 = open it only
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// As data.shuffle_buffer
    #[arg(long, default_value_t = 0)]
    shuffle_buffer: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct MatmulArgs {
    /// Threads; default: as many as the machine has cores
    #[arg(long)]
    threads: Option<usize>,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    #[command(flatten)]
    precision: BenchPrecision,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mpirun -n 2 --bind-to none reportclip bench collectives
  mpirun -n 2 --bind-to none reportclip bench collectives --mib 1,25,600 --json")]
pub(super) struct CollectivesArgs {
    /// MiB that each process gives
    #[arg(long, value_delimiter = ',', default_values_t = [0.001, 0.1, 1.0, 25.0, 100.0])]
    #[arg(allow_hyphen_values = true, value_parser = usage::number)]
    mib: Vec<f64>,
    /// How often each is done, after one for nothing
    #[arg(long, default_value_t = 10, value_parser = usage::count)]
    rounds: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command, world: &Rc<dyn Collective>) -> Result<()> {
    let started = Instant::now();
    match command {
        Command::TrainStep(args) => train_step(args, started, world),
        Command::Collectives(args) => collectives(args, &**world),
        Command::Encode(args) => encode(args),
        Command::Data(args) => data(args),
        Command::Volumes(args) => bench_volumes::run(args),
        Command::Loader(args) => loader(args),
        Command::Matmul(args) => matmul(args),
        Command::Parity(args) => parity::run(args),
    }
}

/// As data.workers.
fn workers(text: &str) -> Result<usize, String> {
    usage::from_one(text, 256)
}

fn choose_device(name: &str, threads: Option<usize>, local: (usize, usize)) -> Result<Device> {
    if let Some(threads) = threads {
        device::use_threads(threads).map_err(|e| usage::wrong(&e))?;
    }
    let (device, reason) = device::choose(name, local)?;
    tracing::debug!("device: {reason}");
    Ok(device)
}

impl BenchPrecision {
    fn choose(&self, device: &Device, tensor_cores: bool) -> Products {
        ops::use_tensor_cores(tensor_cores);
        let request = PrecisionRequest::from(if self.bf16 { Precision::Bf16 } else { self.asked.precision });
        let request = PrecisionRequest { emulate: self.emulate_bf16, tensor_cores, ..request };
        let products = Products::choose(request, device);
        products.tell_once(request);
        products
    }
}

/// As JSON, with what worked out the products.
fn print_json(figures: impl serde::Serialize, products: &Products) -> Result<()> {
    let mut figures = serde_json::to_value(figures)?;
    figures["precision"] = products.kind().into();
    figures["products"] = products.reason.as_str().into();
    output::print_json(&figures)
}

/// One plain step of the model.
fn model_bench(args: &ModelArgs) -> Result<TrainStepBench> {
    let mut config = checkpoint::builtin(&args.model)?;
    if let Some(size) = args.image_size {
        config.vision.set_image_size(size);
        config.vision.check().with_context(|| format!("--image-size {size}")).map_err(|e| usage::wrong(&e))?;
    }
    let longest = config.text.context_length();
    let text_lengths = match &args.text_lengths {
        Some(path) => bench::read_lengths(path)?.into_iter().map(|n| n.min(longest)).collect(),
        None => vec![args.tokens.unwrap_or(longest)],
    };
    Ok(TrainStepBench {
        config,
        batch_size: args.batch_size,
        accum_freq: 1,
        steps: 1,
        text_lengths,
        freeze_image: false,
        cached_features: false,
        checkpoint_activations: false,
        products: DType::F32,
        profile: false,
    })
}

fn train_step(args: &TrainStepArgs, started: Instant, world: &Rc<dyn Collective>) -> Result<()> {
    if args.model.threads.is_none() {
        device::share_cores(world.local().1, ops::online_cores())?;
    }
    let device = choose_device(&args.model.device, args.model.threads, world.local())?;
    let products = args.model.precision.choose(&device, args.model.tensor_cores);
    let bench = TrainStepBench {
        accum_freq: args.accum_freq,
        steps: args.steps,
        freeze_image: args.freeze_image,
        cached_features: args.cached_features,
        checkpoint_activations: args.checkpoint_activations,
        products: products.dtype,
        profile: args.profile,
        ..model_bench(&args.model)?
    };
    let figures = bench::train_step(&bench, &device, started, &*dist::on_device(world, &device)?)?;
    if args.model.json {
        return print_json(figures, &products);
    }
    output::print(&step_lines(&figures, device.is_cuda()))
}

fn encode(EncodeArgs { model, steps }: &EncodeArgs) -> Result<()> {
    let device = choose_device(&model.device, model.threads, (0, 1))?;
    let products = model.precision.choose(&device, model.tensor_cores);
    let bench = TrainStepBench { steps: *steps, products: products.dtype, ..model_bench(model)? };
    let figures = bench::encode(&bench, &device)?;
    if model.json {
        return print_json(figures, &products);
    }
    output::print(&format!(
        "images: {}\ntexts: {}\n{} MiB at most",
        spread(&figures.images_per_s),
        spread(&figures.texts_per_s),
        figures.peak_rss_mib
    ))
}

fn data(args: &DataArgs) -> Result<()> {
    let texts = args.texts.as_deref().zip(args.tokenizer.as_deref());
    let bench = DataBench::open(&args.images, texts, args.image_size, args.rounds)?;
    // Whatever runs in parallel elsewhere: figures are for one core.
    device::use_threads(1)?;
    let figures = bench::data(&bench)?;
    if args.json {
        return output::print_json(&serde_json::to_value(figures)?);
    }
    let texts = figures.texts_per_s.as_ref().map(|s| format!("\ntexts: {}", spread(s))).unwrap_or_default();
    output::print(&format!(
        "images: {}, {:.0} % of it decoding, {:.0} % resizing{texts}",
        spread(&figures.images_per_s),
        100.0 * figures.decode_share,
        100.0 * figures.resize_share
    ))
}

fn loader(args: &LoaderArgs) -> Result<()> {
    // Workers are the threads that are counted.
    device::use_threads(1)?;
    let figures = bench::loader(&LoaderBench {
        source: args.source.clone(),
        batch_size: args.batch_size as usize,
        image_size: args.image_size,
        workers: args.workers,
        rounds: args.rounds,
        shuffle_buffer: args.shuffle_buffer,
    })?;
    if args.json {
        return output::print_json(&serde_json::to_value(figures)?);
    }
    let images = figures.images_per_s.as_ref().map(|s| format!("images: {}\n", spread(s))).unwrap_or_default();
    output::print(&format!(
        "{images}opening {} rows: {:.2} s, {} MiB; {} MiB at most",
        figures.rows, figures.open_s, figures.open_peak_rss_mib, figures.peak_rss_mib
    ))
}

fn matmul(args: &MatmulArgs) -> Result<()> {
    let device = choose_device(&args.device, args.threads, (0, 1))?;
    let products = args.precision.choose(&device, false);
    let gflops = bench::matmul_gflops(&device, products.dtype)?;
    let kernels = if device.is_cpu() { bench::matmul_kernels(products.dtype)? } else { Vec::new() };
    if args.json {
        return print_json(serde_json::json!({ "gflops": gflops, "kernels": kernels }), &products);
    }
    output::print(&format!("{gflops:.1} GFLOP/s"))?;
    let line = |k: &bench::KernelFigures| {
        format!("{:24} {:8.1} GFLOP/s{}", k.kernel, k.gflops, if k.chosen { ", in use" } else { "" })
    };
    kernels.iter().try_for_each(|kernel| output::print(&line(kernel)))
}

fn collectives(args: &CollectivesArgs, world: &dyn Collective) -> Result<()> {
    ensure!(world.size() > 1, "this is one process; start several: mpirun -n 2 reportclip bench collectives");
    let figures = bench::collectives(world, &args.mib, args.rounds)?;
    if args.json {
        return output::print_json(&serde_json::json!({ "ranks": world.size(), "figures": figures }));
    }
    output::print(&format!("{} processes; milliseconds, median (fastest–slowest)", world.size()))?;
    for f in &figures {
        let ms = |s: &Spread| format!("{:.3} ({:.3}–{:.3})", 1e3 * s.median, 1e3 * s.min, 1e3 * s.max);
        output::print(&format!("{} MiB each: gather {}, sum {}", f.mib, ms(&f.gather_s), ms(&f.sum_s)))?;
    }
    Ok(())
}
