//! `reportclip search`.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use super::manifest_args::precision;
use super::{output, usage};
use crate::config::Precision;
use crate::hub::HubError;
use crate::search::{
    APPROXIMATE_ABOVE, CANDIDATES, Found, Gallery, HAS_GRAPHS, Hit, Index, Names, Queries, Query, Side, check_model,
    check_texts, find, find_late, late_query_vectors, query_vectors, read_queries,
};
use crate::session::Session;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip search --index all.safetensors --text \"left pleural effusion\" -k 5
  reportclip search --index all.safetensors --image new.png --json
  reportclip search --index index/ --image new.png --text \"no effusion any more\" --weights 0.7,0.3
  reportclip search --index index/ --queries questions.txt --json > hits.jsonl
  reportclip search --late --index late/ --text \"left pleural effusion\"

Shows reports and names of images from the manifest that the index was made of. Of an index of image files it shows
their rows, in the order of `embed --images` from 0, and their names if `embed --keep-names` kept them. A row is one of
the index's tensors, which count from 0, and a line one of the manifest, which counts from 1.")]
pub(super) struct Args {
    /// File or folder written by `reportclip embed`
    #[arg(long, value_name = "FILE|FOLDER")]
    index: PathBuf,
    /// Text to look for among the images (among the texts where the index has no images)
    #[arg(long)]
    text: Option<String>,
    /// Image to look for: alone among the texts (among the images where the index has no texts), with --text where that
    /// looks
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// How much text and image count where both are given [default: 0.5,0.5]
    #[arg(long, value_name = "TEXT,IMAGE", allow_hyphen_values = true, value_parser = weights)]
    weights: Option<(f32, f32)>,
    /// Many queries: a text a line; a CSV, TSV or JSONL with the columns text, image or both; or vectors, a float32
    /// matrix as .npy. A line of JSON each
    #[arg(long, value_name = "FILE.txt|csv|npy", conflicts_with_all = ["text", "image"])]
    queries: Option<PathBuf>,
    /// How many to show
    #[arg(short, default_value_t = 10, value_parser = usage::count)]
    k: usize,
    /// Look at rows that a graph of neighbours names, made once beside the shards
    #[arg(long, conflicts_with = "exact")]
    approximate: bool,
    /// Look at every row, however many there are: the default, without a word above a million rows
    #[arg(long)]
    exact: bool,
    /// Compare the tokens of a text or the patches of an image with each row's patches or tokens (MaxSim), in an index
    /// that `embed --late` made
    #[arg(long, conflicts_with_all = ["weights", "approximate"])]
    late: bool,
    /// Model folder or hub id, where the one that made the index lies today; default where the index says
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: Option<String>,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    /// Operands of products, "f32" or "bf16"; default as in the index
    #[arg(long, value_parser = precision)]
    precision: Option<Precision>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Queries that are answered together: hits of a long file are printed while it is gone through.
const AT_ONCE: usize = 1024;
/// The same with --late, where each has vectors of its own by the hundred.
const LATE_AT_ONCE: usize = 64;
/// Vectors that are read once and held for a file of queries: 1 GiB.
const HELD: usize = 1 << 30;

fn weights(text: &str) -> Result<(f32, f32), String> {
    let text = usage::value(text)?;
    let not_so = || "allowed are two numbers from 0 on, not both 0, such as 0.7,0.3".to_string();
    let parts: Vec<f32> = text.split(',').map(|w| w.trim().parse().map_err(|_| not_so())).collect::<Result<_, _>>()?;
    match parts[..] {
        [text, image] if text >= 0.0 && image >= 0.0 && (text + image).is_normal() => Ok((text, image)),
        [text, image] if text + image == f32::INFINITY => Err(format!("too large; {}", not_so())),
        _ => Err(not_so()),
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let queries = queries(args)?;
    let mut index = Index::open(&args.index)?;
    let place = || args.index.display().to_string();
    let (names, sides) = (Names::read(&index), queries.sides(&index));
    let looked_at: Vec<Side> = [Side::Images, Side::Texts].into_iter().filter(|side| sides.contains(side)).collect();
    if args.late {
        index.check_late(&looked_at).with_context(place)?;
    } else {
        // Graphs know whole rows only.
        looked_at.iter().try_for_each(|side| use_graphs(args, &mut index, *side)).with_context(place)?;
    }
    if args.queries.is_some() && !args.late && looks_at_all(args, &index, &sides) {
        index.hold(HELD).with_context(place)?;
    }
    let session = match &queries {
        Queries::Asked(asked) => {
            let session = open_model(args, &index)?;
            check_texts(&session, asked).with_context(|| asked_by(args))?;
            Some(session)
        }
        Queries::Vectors(_) => None,
    };
    let at_once = if args.late { LATE_AT_ONCE } else { AT_ONCE };
    for start in (0..queries.len()).step_by(at_once) {
        let part = start..queries.len().min(start + at_once);
        // What is wrong with a query is no fault of the index.
        let vectors = match (&queries, &session) {
            (Queries::Asked(asked), Some(session)) => {
                let asked = &asked[part.clone()];
                let vectors =
                    if args.late { late_query_vectors(&index, session, asked) } else { query_vectors(session, asked) };
                vectors.context(asked_by(args))?
            }
            (queries, _) => queries.vectors(part.clone()).context(asked_by(args))?,
        };
        let asked: Vec<(Side, Vec<f32>)> = sides[part].iter().copied().zip(vectors).collect();
        let find = if args.late { find_late } else { find };
        let found = find((&index, &names), &asked, args.k).with_context(place)?;
        for (number, found) in (start..).zip(&found) {
            show(args, number, found)?;
        }
    }
    Ok(())
}

/// Whether about as many rows are read as there are: graphs name a few for each query, each of which is read by itself,
/// and the vectors of the others stay unread.
fn looks_at_all(args: &Args, index: &Index, sides: &[Side]) -> bool {
    let galleries = || sides.iter().filter_map(|side| index.gallery(*side));
    let most = galleries().map(Gallery::rows).max().unwrap_or(0);
    let read = sides.len().saturating_mul(args.k).saturating_mul(CANDIDATES);
    !args.approximate || read >= most || galleries().any(Gallery::is_in_groups)
}

/// What is asked for, on the command line or in a file.
fn queries(args: &Args) -> Result<Queries> {
    let says_nothing = args.text.as_ref().is_some_and(|text| text.trim().is_empty());
    usage::ensure(!says_nothing, || "--text is empty; name what to look for".into())?;
    let asks = args.text.is_some() || args.image.is_some() || args.queries.is_some();
    usage::ensure(asks, || {
        "nothing to look for; name --text TEXT, --image FILE, both of them, or --queries FILE; see `reportclip search \
         --help`"
            .into()
    })?;
    let weights = args.weights.unwrap_or((0.5, 0.5));
    let queries = match &args.queries {
        Some(path) => read_queries(path, weights).with_context(|| asked_by(args))?,
        None => {
            let (text, image) = (args.text.clone(), args.image.clone().map(Into::into));
            Queries::Asked(vec![Query { text, image, weights, place: None }])
        }
    };
    usage::ensure(args.weights.is_none() || queries.has_both(), || {
        "--weights: no query has a text and an image to be weighed; name both, or leave it out".into()
    })?;
    if args.late {
        check_late(args, &queries)?;
    }
    Ok(queries)
}

/// Late interaction compares what a model makes of one text or one image.
fn check_late(args: &Args, queries: &Queries) -> Result<()> {
    usage::ensure(matches!(queries, Queries::Asked(_)), || {
        format!("--late: {} holds a vector a query; name texts or images", asked_by(args))
    })?;
    usage::ensure(!queries.has_both(), || {
        "--late: a query has a text and an image together; name one of them, or leave --late out".into()
    })?;
    Ok(())
}

/// Where what is asked for stands.
fn asked_by(args: &Args) -> String {
    args.queries.as_ref().map_or("what is looked for".into(), |path| format!("--queries {}", path.display()))
}

fn open_model(args: &Args, index: &Index) -> Result<Session> {
    let model = args.model.as_deref().unwrap_or(&index.source.model);
    let precision = args.precision.unwrap_or(index.source.precision);
    let session = match &args.model {
        Some(model) => Session::open(model, &args.device)?,
        // The index may come from somewhere else: what it names is not fetched unasked.
        None => Session::open_cached(model, &args.device).map_err(|e| match e.downcast_ref() {
            Some(HubError::Offline(..)) => anyhow!(
                "{}: was made by {model}, which is not in the cache; `--model {model}` fetches it",
                args.index.display()
            ),
            _ => e,
        })?,
    };
    let session = session.in_precision(precision);
    check_model(&index.source, model).with_context(|| args.index.display().to_string())?;
    Ok(session)
}

fn use_graphs(args: &Args, index: &mut Index, side: Side) -> Result<()> {
    let is_large = index.gallery(side).is_some_and(|gallery| gallery.rows() > APPROXIMATE_ABOVE);
    if !args.exact && !args.approximate && is_large && HAS_GRAPHS && index.is_of_shards() {
        tracing::warn!(
            "looks at every one of more than {APPROXIMATE_ABOVE} rows; --approximate makes graphs of them in the \
             index's folder, which are faster"
        );
    }
    if !args.approximate {
        return Ok(());
    }
    let recall = index.approximate(side)?;
    tracing::info!(
        "approximate: {:.1} % of the best {} are found, as {} rows of the index tell; --exact looks at every row",
        100.0 * recall.recall,
        recall.k,
        recall.queries
    );
    Ok(())
}

fn show(args: &Args, number: usize, found: &Found) -> Result<()> {
    if args.json {
        let mut value = serde_json::to_value(found)?;
        if let (Some(fields), true) = (value.as_object_mut(), args.queries.is_some()) {
            fields.shift_insert(0, "query".into(), (number + 1).into());
        }
        return output::print_json(&value);
    }
    if args.queries.is_some() {
        output::print(&format!("query {}", number + 1))?;
    }
    found.hits.iter().try_for_each(|hit| output::print(&line(hit)))
}

fn line(hit: &Hit) -> String {
    let name = hit.image.as_deref().or(hit.text.as_deref()).unwrap_or_default().replace('\n', " ");
    let flag = if hit.changed { "(changed or gone since the index was made)" } else { "" };
    // A line as the manifest and its messages count; else the row, from 0 as in JSON.
    let place = hit.line.map_or(format!("row {}", hit.row), |line| format!("line {line}"));
    format!("{:>3}  {:.4}  {place}  {name} {flag}", hit.rank, hit.score).trim_end().to_string()
}
