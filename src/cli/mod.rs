//! The command line: the only place that prints. Results go to stdout, talk to stderr.
//!
//! Exit codes: 0 done, 2 bad usage or config, 3 stopped before the end by a signal, with everything saved, 1 any other
//! failure.

mod adapt;
mod bench;
mod bench_lines;
mod bench_volumes;
mod completions;
mod config;
mod data;
mod embed;
mod eval;
mod explain;
mod export;
mod loss;
mod man;
mod manifest_args;
mod model;
mod output;
mod parity;
mod predictions;
mod run_report;
mod search;
mod serve;
mod sets_table;
mod sweep;
mod table;
mod train;
mod usage;
mod zero_shot;

use std::ffi::OsString;
use std::process::ExitCode;
use std::rc::Rc;

use clap::{CommandFactory, Parser, Subcommand};

use crate::device;
use crate::dist::{self, Collective};
use crate::error::{Interrupted, Problems, one_line};

/// Fine-tune CLIP on medical images and their reports.
///
/// Examples:
///   reportclip train configs/demo.toml
///   reportclip train my.toml --set optim.lr=5e-6 --out runs/try-1
///   reportclip eval --model runs/demo/model --data data/phantom/manifest.csv --split test
///   reportclip loss explain
///
/// Exit codes: 0 done, 1 failed, 2 wrong arguments or config, 3 stopped by a signal with everything saved.
#[derive(Debug, Parser)]
#[command(version, bin_name = "reportclip", verbatim_doc_comment, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more on stderr (twice: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = LAST)]
    verbose: u8,
    /// MiB that decoding one image may take [default: 512]
    #[arg(long, global = true, hide = true, value_name = "MIB", display_order = LAST - 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    max_image_mib: Option<u64>,
}

/// Behind all of a command's own options and before clap's, however many commands there are.
const LAST: usize = 998;

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model as a config file says
    Train(train::Args),
    /// Train and judge many variants of a config, and compare them in one table
    Sweep(sweep::Args),
    /// Draw runs and sweeps as one page that opens from disk
    RunReport(run_report::Args),
    /// Retrieval figures of a model on a manifest
    Eval(eval::Args),
    /// Classify images by prompts: accuracy, AUROC, calibration, subgroups
    ZeroShot(zero_shot::Args),
    /// Adapt a model's classes to a few labelled images, without a validation set, and judge that
    Adapt(adapt::Args),
    /// Why a model finds an image and a text alike: patches and tokens
    Explain(explain::Args),
    /// Write embeddings of images and texts
    Embed(embed::Args),
    /// Find the images or reports of an index that fit a text or an image best
    Search(search::Args),
    /// Serve a model over HTTP: embeddings, classes, search, explanations, and a page
    Serve(serve::Args),
    /// What a label-smoothed cross-entropy does
    #[command(subcommand)]
    Loss(loss::Command),
    /// Make, prepare, split and check data
    #[command(subcommand)]
    Data(data::Command),
    /// Fetch, inspect and merge models
    #[command(subcommand)]
    Model(model::Command),
    /// Write models for other programs
    #[command(subcommand)]
    Export(export::Command),
    /// Show and check config files
    #[command(subcommand)]
    Config(config::Command),
    /// Measure speed and memory on this machine
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print what a shell completes commands and options by
    Completions(completions::Args),
    /// Write manual pages, for `man`
    Man(man::Args),
}

/// Commands that decode images as no config says: their help shows `--max-image-mib`, which all take.
const DECODES: [&str; 12] = [
    "eval",
    "zero-shot",
    "adapt",
    "explain",
    "embed",
    "search",
    "serve",
    "export onnx",
    "data lint",
    "data split",
    "data prepare",
    "bench loader",
];

/// All arguments.
fn arguments() -> clap::Command {
    let command = Cli::command();
    let limit = command.get_arguments().find(|arg| arg.get_id() == "max_image_mib").cloned();
    DECODES.iter().fold(command, |command, name| {
        let shown = |command: clap::Command| command.args(limit.clone().map(|limit| limit.hide(false)));
        match name.split_once(' ') {
            Some((group, name)) => command.mut_subcommand(group, |group| group.mut_subcommand(name, shown)),
            None => command.mut_subcommand(name, shown),
        }
    })
}

/// Runs the program with the given arguments, the program's name first.
///
/// ```
/// let code = reportclip::cli::run(["reportclip", "loss", "explain"].map(Into::into));
/// assert_eq!(code, std::process::ExitCode::SUCCESS);
/// ```
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    hide_panics();
    let cli: Cli = match usage::read(arguments(), args) {
        Ok(cli) => cli,
        // Help and version go to stdout and are no failure; clap knows which is which.
        Err(e) if !e.use_stderr() => {
            return match output::shown(&e.print()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    output::error(&one_line(&e));
                    ExitCode::FAILURE
                }
            };
        }
        Err(e) => {
            match usage::complaint(&e) {
                Some(line) => output::error(&line),
                None => output::usage(&e.render().to_string()),
            }
            return ExitCode::from(2);
        }
    };
    let run_on_several = matches!(cli.command, Command::Train(_) | Command::Embed(_) | Command::Bench(_));
    let connected = match dist::launched() {
        n if n > 1 && !run_on_several => {
            Err(anyhow::anyhow!("a launcher started {n} processes; only `train`, `embed` and `bench` run on several"))
        }
        _ => dist::connect(),
    };
    let world = match connected {
        Ok(world) => world,
        Err(e) => {
            output::error(&one_line(&e));
            return ExitCode::from(2);
        }
    };
    if !world.is_first() {
        output::be_silent();
    }
    talk_on_stderr(cli.verbose, world.is_first());
    // Ranks share the cores of their host, and benchmarks say how many they take.
    if world.size() == 1 && !matches!(cli.command, Command::Bench(_)) {
        device::start_threads();
    }
    if let Some(mib) = cli.max_image_mib {
        crate::data::image::set_max_image_mib(mib);
    }
    let trains = matches!(cli.command, Command::Train(_));
    // A panic has been told of by then; the other ranks would wait for this one.
    let run = std::panic::AssertUnwindSafe(|| dispatch(cli.command, &world));
    match std::panic::catch_unwind(run) {
        Ok(Ok(())) => match world.part() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e, &world, trains),
        },
        Ok(Err(e)) => match e.downcast_ref::<Interrupted>() {
            // Every rank was asked, and has told and saved what it had to.
            Some(interrupted) => {
                tracing::warn!("{interrupted}");
                world.part().map_or_else(|e| fail(&e, &world, trains), |()| ExitCode::from(3))
            }
            None => fail(&e, &world, trains),
        },
        Err(_) => {
            dist::fail(&world, 101, |_| {});
            ExitCode::from(101)
        }
    }
}

fn dispatch(command: Command, world: &Rc<dyn Collective>) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => train::run(&args, world),
        Command::Sweep(args) => sweep::run(&args),
        Command::RunReport(args) => run_report::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::ZeroShot(args) => zero_shot::run(&args),
        Command::Adapt(args) => adapt::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Embed(args) => embed::run(&args, world),
        Command::Search(args) => search::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Loss(command) => loss::run(&command),
        Command::Data(command) => data::run(&command),
        Command::Model(command) => model::run(&command),
        Command::Export(command) => export::run(&command),
        Command::Config(command) => config::run(&command),
        Command::Bench(command) => bench::run(&command, world),
        Command::Completions(args) => completions::run(&args, arguments()),
        Command::Man(args) => man::run(&args, arguments()),
    }
}

/// What to do about a full disk; a run that `trains` goes on where it stood.
fn hint(error: &anyhow::Error, trains: bool) -> &'static str {
    let full = error.chain().any(|e| e.to_string().contains("No space left"));
    match (full, trains) {
        (false, _) => "",
        (true, false) => "; free some space, then run it again",
        (true, true) => "; free some space, then run it again with --resume latest",
    }
}

/// Tells of the error, and ends the other ranks where there are some.
fn fail(error: &anyhow::Error, world: &Rc<dyn Collective>, trains: bool) -> ExitCode {
    let (code, lines) = match error.downcast_ref::<Problems>() {
        Some(problems) => (2, problems.0.iter().map(|p| p.0.clone()).collect()),
        None => (1, vec![format!("{}{}", one_line(error), hint(error, trains))]),
    };
    dist::fail(world, code, |rank| {
        let rank = rank.map_or(String::new(), |rank| format!("{rank}: "));
        lines.iter().for_each(|line| output::error(&format!("{rank}{line}")));
    });
    ExitCode::from(code)
}

/// A bug should read as one, in one line, whatever RUST_BACKTRACE says.
fn hide_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if crate::error::is_catching() {
            return;
        }
        let place = panic.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
        let text = panic.payload_as_str().unwrap_or("no message").lines().next().unwrap_or_default().to_string();
        output::error(&format!("a bug in reportclip{place}: {text}; please report it"));
    }));
}

/// Of several ranks, the first talks; the others tell of errors.
fn talk_on_stderr(verbose: u8, is_first: bool) {
    let level = match verbose {
        _ if !is_first => "error",
        0 => "warn,reportclip=info",
        1 => "info,reportclip=debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("REPORTCLIP_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // Colours are put on behind it, onto what is made visible.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| output::Talk).with_ansi(false);
    // A stderr that is full or closed is no reason to stop: the subscriber would tell of it there, and panic.
    let subscriber = subscriber.without_time().with_target(false).log_internal_errors(false);
    // Tests run several commands in one process; the first subscriber stays.
    let _ = subscriber.try_init();
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::hint;

    #[test]
    fn only_training_goes_on_where_it_stood() {
        let full = anyhow!("No space left on device (os error 28)").context("writing x");
        assert_eq!(hint(&full, false), "; free some space, then run it again");
        assert!(hint(&full, true).ends_with("with --resume latest"));
        assert_eq!(hint(&anyhow!("other"), true), "");
    }
}
