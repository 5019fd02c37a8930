//! `reportclip serve`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::manifest_args::precision;
use super::{output, usage};
use crate::config::Precision;
use crate::data::Prompts;
use crate::eval::{Classifier, Head};
use crate::hub::Source;
use crate::search::{Index, Side, check_model};
use crate::serve::{Searched, ServeOptions, ServedWith, Token, serve};
use crate::session::Session;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip serve --model runs/demo/model
  reportclip serve --model runs/demo/model --index all.safetensors --prompts prompts/phantom.toml
  reportclip serve --model runs/demo/model --host 0.0.0.0 --token-file token.txt

Paths, with examples for curl, are in docs/serve.md; a page is at /. Nothing of what is sent gets into logs. There is no
encryption: beyond this machine, put a server that has it in front. Ctrl-C or SIGTERM answers what was asked, then
ends.")]
pub(super) struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    /// What /search looks through: what `embed` wrote, a file or a folder
    #[arg(long, value_name = "FILE|FOLDER")]
    index: Option<PathBuf>,
    /// MiB of an index that are held in memory; a larger one is read for each search
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    hold_mib: u32,
    /// Prompt file: the classes of /zero-shot, as `zero-shot` reads it
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Classify by this head, which `adapt --save` made, in place of the prompts
    #[arg(long, value_name = "FILE.safetensors", requires = "prompts")]
    head: Option<PathBuf>,
    /// Port; 0 takes one that is free
    #[arg(long, default_value_t = 8417)]
    port: u16,
    /// Address to listen on; other than this machine's own demands a --token-file
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// File with the word that requests must bring, as `Authorization: Bearer WORD`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Milliseconds that a batch waits for more
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    batch_window: u64,
    /// Most images and texts of a batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_batch: u32,
    /// Most images and texts that wait for the model; more are refused with 503
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    queue: u32,
    /// MiB that the body of a request may have
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=64))]
    max_body_mib: u32,
    /// Seconds that a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    /// Operands of products, "f32" or "bf16"; default as in the index, else f32
    #[arg(long, value_parser = precision)]
    precision: Option<Precision>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    usage::ensure(args.host.is_loopback() || args.token_file.is_some(), || {
        format!("--host {} is open to other machines; name a --token-file for that", args.host)
    })?;
    let token = args.token_file.as_ref().map(|path| Token::read(path)).transpose().context("--token-file")?;
    let index = args.index.as_ref().map(|path| Index::open_for_long(path)).transpose()?;
    let of_index = index.as_ref().map_or(Precision::F32, |index| index.source.precision);
    let session = Session::open(&args.model, &args.device)?.in_precision(args.precision.unwrap_or(of_index));
    // A path may name a patient or a project; its last part is what people call a model.
    let name = Path::new(&args.model).file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let options = ServeOptions {
        host: args.host,
        port: args.port,
        token,
        name,
        batch_window: Duration::from_millis(args.batch_window),
        max_batch: args.max_batch as usize,
        queue: args.queue as usize,
        max_body: (args.max_body_mib as usize) << 20,
        timeout: Duration::from_secs(args.timeout),
    };
    let searched = index.map(|index| searched(args, index, &session)).transpose().context("--index")?;
    let with = ServedWith { classifier: classifier(args, &session)?, searched };
    serve(&session, options, with, |address| output::print(&format!("listening on http://{address}")))
}

fn classifier(args: &Args, session: &Session) -> Result<Option<Classifier>> {
    let Some(prompts) = &args.prompts else { return Ok(None) };
    let prompts = Prompts::open(prompts)?;
    let head = args.head.as_ref().map(|path| Head::read(path)).transpose()?;
    if let Some(head) = &head {
        head.check(&args.model, &prompts)?;
    }
    let source = Source::parse(&args.model)?;
    let classifier = Classifier::new(&session.encoder(32)?, &prompts, head, source.folder())?;
    if !classifier.is_calibrated() {
        tracing::info!("probabilities are the model's own; `zero-shot --keep-temperature` makes it keep a temperature");
    }
    if !classifier.may_abstain() {
        tracing::info!("the model is never unsure; `zero-shot --keep-abstention 0.9` makes it keep a threshold");
    }
    Ok(Some(classifier))
}

fn searched(args: &Args, index: Index, session: &Session) -> Result<Searched> {
    check_model(&index.source, &args.model)?;
    let width = session.folder.config.embed_dim;
    for gallery in [Side::Images, Side::Texts].into_iter().filter_map(|side| index.gallery(side)) {
        ensure!(gallery.width() == width, "has embeddings of width {}, the model {width}", gallery.width());
    }
    Searched::new(index, (args.hold_mib as usize) << 20)
}
