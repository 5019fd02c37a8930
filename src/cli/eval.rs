//! `reportclip eval`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{output, table};
use crate::data::table::format_names;
use crate::data::{Columns, Manifest, ReportPolicy, Row};
use crate::dist::Single;
use crate::eval::{Encoder, RetrievalOptions, evaluate, linear_probe, retrieval_difference};
use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::LoadOptions;
use crate::model::{Builder, ClipModel, Params};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip eval --model runs/demo/model --data data/phantom/manifest.csv --split test
  reportclip eval --model runs/demo/model --data data/phantom/manifest.csv --split test --linear-probe train
  reportclip eval --model runs/b/model --compare runs/a/model --data pairs.csv --split test
  reportclip eval --model openai/clip-vit-base-patch32 --data pairs.csv --image-root images --json")]
pub(super) struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    #[command(flatten)]
    data: DataArgs,
    /// Pairs at once; does not change the figures
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Pairs over which each loss is taken
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    loss_batch_size: u32,
    /// Bootstrap resamples for 95 % intervals; 0 = none
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    bootstrap: u32,
    /// Also fit a logistic regression of the labels on the image embeddings of this split, and judge it on --split
    #[arg(long, value_name = "SPLIT")]
    linear_probe: Option<String>,
    /// Another model to compare with, paired on the same rows
    #[arg(long, value_name = "DIR|HUB_ID", conflicts_with = "wise_ft")]
    compare: Option<String>,
    /// Also evaluate mixtures with this model, the one that it was fine-tuned from
    #[arg(long, value_name = "DIR|HUB_ID")]
    wise_ft: Option<String>,
    /// Shares of the fine-tuned model for --wise-ft
    #[arg(long, value_delimiter = ',', default_value = "0,0.25,0.5,0.75,1", requires = "wise_ft")]
    alphas: Vec<f64>,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What may be given as a manifest.
pub(super) fn manifest_help() -> String {
    format!("Manifest: {}, a folder, hf://datasets/org/name", format_names())
}

/// How a manifest is read, shared by all commands that take one.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DataArgs {
    #[arg(long, value_name = "MANIFEST", help = manifest_help())]
    pub data: PathBuf,
    /// Only the rows of this split; default all rows
    #[arg(long)]
    pub split: Option<String>,
    /// Folder that image paths start at; default the manifest's
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    #[command(flatten)]
    pub columns: ColumnArgs,
}

/// Names of a manifest's columns.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(super) struct ColumnArgs {
    /// Column of image paths
    #[arg(long, default_value = "image")]
    pub image_column: String,
    /// Column of reports
    #[arg(long, default_value = "report")]
    pub report_column: String,
    /// Column of patients, used if there
    #[arg(long, default_value = "patient_id")]
    pub patient_id_column: String,
    /// Column of studies, used if there
    #[arg(long, default_value = "study_id")]
    #[serde(default = "study_id")]
    pub study_id_column: String,
    /// Column of splits, used if there
    #[arg(long, default_value = "split")]
    pub split_column: String,
    /// Column of labels, used if there
    #[arg(long, default_value = "label")]
    #[serde(default = "label")]
    pub label_column: String,
}

// Older indexes were written without these.
fn study_id() -> String {
    "study_id".into()
}

fn label() -> String {
    "label".into()
}

impl ColumnArgs {
    pub fn columns(&self) -> Columns {
        Columns {
            image: self.image_column.clone(),
            report: self.report_column.clone(),
            patient_id: self.patient_id_column.clone(),
            study_id: self.study_id_column.clone(),
            split: self.split_column.clone(),
            label: self.label_column.clone(),
            ..Columns::default()
        }
    }
}

impl DataArgs {
    /// The rows asked for, of each report what `policy` reads.
    ///
    /// # Errors
    /// A manifest that cannot be read, a row that cannot be used, no row left.
    pub fn rows(&self, policy: ReportPolicy) -> Result<Vec<Row>> {
        self.only_split(self.manifest(&Columns { policy, ..self.columns.columns() })?)
    }

    /// All rows.
    ///
    /// # Errors
    /// A manifest that cannot be read, a row that cannot be used.
    pub fn manifest(&self, columns: &Columns) -> Result<Manifest> {
        let manifest = Manifest::open(&self.data, columns, self.image_root.as_deref())?;
        if let Some(problem) = manifest.problems.first() {
            let more = match manifest.problems.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more rows)"),
            };
            anyhow::bail!("{problem}{more}");
        }
        Ok(manifest)
    }

    /// The rows of the split asked for, all rows without one.
    ///
    /// # Errors
    /// There is no such split.
    pub fn only_split(&self, manifest: Manifest) -> Result<Vec<Row>> {
        let Some(split) = &self.split else { return Ok(manifest.rows) };
        let known = manifest.splits().join(", ");
        ensure!(!known.is_empty(), "{}: has no splits; leave --split out", self.data.display());
        let rows = manifest.only_split(split).rows;
        ensure!(!rows.is_empty(), "{}: no row has split {split:?}; there are {known}", self.data.display());
        Ok(rows)
    }
}

/// A model opened for inference.
pub(super) struct OpenModel {
    pub model: ClipModel,
    pub folder: crate::export::ModelFolder,
    pub device: Device,
    /// The model's tensors are views of these.
    params: Params,
}

/// What of a report a model reads.
///
/// # Errors
/// There is no such model, or what it says of reports cannot be read.
pub(super) fn policy_of(model: &str) -> Result<ReportPolicy> {
    crate::train::report_policy(&ModelFiles::open(&Source::parse(model)?)?)
}

impl OpenModel {
    /// Opens a folder or hub id.
    ///
    /// # Errors
    /// Anything that is missing or broken in it.
    pub fn open(name: &str, device: &str) -> Result<Self> {
        let (device, reason) = crate::device::choose(device, (0, 1))?;
        tracing::debug!("device: {reason}");
        let files = ModelFiles::open(&Source::parse(name)?)?;
        let (loaded, folder) = crate::train::open_pretrained(&files, &LoadOptions::default(), None, &device)?;
        let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params))?;
        Ok(Self { model, folder, device, params: loaded.params })
    }

    /// Its weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// This model with every weight mixed with `base`'s: share × this + (1 − share) × base.
    ///
    /// # Errors
    /// Models of two shapes.
    pub fn mixed(&self, base: &Self, share: f64) -> Result<Self> {
        let params = self.params.mixed(&base.params, share).context("--wise-ft: the models differ in shape")?;
        let model = ClipModel::new(&self.folder.config, &Builder::eval(&params))?;
        Ok(Self { model, folder: self.folder.clone(), device: self.device.clone(), params })
    }

    /// To encode `batch_size` items at once, with two decoding threads.
    pub fn encoder(&self, batch_size: usize) -> Encoder<'_> {
        Encoder {
            world: &Single,
            model: &self.model,
            preprocess: &self.folder.preprocess,
            tokenizer: &self.folder.tokenizer,
            device: &self.device,
            batch_size,
            workers: 2,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(args.batch_size > 0, "--batch-size is 0; allowed is 1 and more");
    let rows = args.data.rows(policy_of(&args.model)?)?;
    let m = OpenModel::open(&args.model, &args.device)?;
    let options = RetrievalOptions {
        bootstrap: args.bootstrap as usize,
        loss_batch_size: args.loss_batch_size as usize,
        seed: args.seed,
    };
    if let Some(base) = &args.wise_ft {
        return sweep_alphas(args, (&m, &OpenModel::open(base, &args.device)?), &rows, &options);
    }
    let report = evaluate(&m.encoder(args.batch_size), &rows, &options)?;
    let probe = match &args.linear_probe {
        Some(split) => {
            ensure!(
                args.data.split.as_ref().is_some_and(|s| s != split),
                "--linear-probe {split}: needs --split, which must be another split than the probe is fitted on"
            );
            let train = DataArgs { split: Some(split.clone()), ..args.data.clone() }.rows(policy_of(&args.model)?)?;
            Some(linear_probe(&m.encoder(args.batch_size), &train, &rows)?)
        }
        None => None,
    };
    let difference = match &args.compare {
        Some(other) => {
            let other = OpenModel::open(other, &args.device)?;
            let (ours, theirs) = (m.encoder(args.batch_size), other.encoder(args.batch_size));
            Some(retrieval_difference(&ours, &theirs, &rows, &options)?)
        }
        None => None,
    };
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        if let Some(difference) = &difference {
            value["difference"] = serde_json::to_value(difference)?;
        }
        if let Some(probe) = &probe {
            value["linear_probe"] = serde_json::to_value(probe)?;
        }
        return output::print_json(&value);
    }
    output::print(&table::retrieval(&[("model", &report)]))?;
    if let Some(difference) = difference {
        output::print("\nthis model minus the other, paired on the same rows [95 % interval]")?;
        output::print(&table::figures(&difference))?;
    }
    probe.map_or(Ok(()), |probe| output::print(&table::probe(&probe)))
}

/// WiSE-FT: the same figures for each share of the fine-tuned weights.
fn sweep_alphas(
    args: &Args,
    (tuned, base): (&OpenModel, &OpenModel),
    rows: &[Row],
    options: &RetrievalOptions,
) -> Result<()> {
    ensure!(args.alphas.iter().all(|a| (0.0..=1.0).contains(a)), "--alphas: allowed are shares from 0 to 1");
    let mut reports = Vec::new();
    for &alpha in &args.alphas {
        let mixed = tuned.mixed(base, alpha)?;
        reports.push((format!("alpha {alpha}"), evaluate(&mixed.encoder(args.batch_size), rows, options)?));
    }
    if args.json {
        let each = args.alphas.iter().zip(&reports);
        let each: Vec<_> =
            each.map(|(alpha, (_, report))| serde_json::json!({"alpha": alpha, "report": report})).collect();
        return output::print_json(&each.into());
    }
    let columns: Vec<(&str, &crate::eval::RetrievalReport)> = reports.iter().map(|(n, r)| (n.as_str(), r)).collect();
    output::print(&table::retrieval(&columns))
}
