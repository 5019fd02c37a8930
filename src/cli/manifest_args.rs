//! Arguments that several commands take: a manifest with its columns, and how models are judged.

use std::path::PathBuf;

use super::usage;
use crate::config::Precision;
use crate::data::table::format_names;
use crate::data::{BagBy, BagColumns, Columns};
use crate::session::{RowSource, Session, bag_policy_of};

/// What may be given as a manifest.
pub(super) fn manifest_help() -> String {
    format!("Manifest: {}, a folder, hf://datasets/org/name", format_names())
}

/// How a manifest is read.
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
#[derive(Clone, Debug, clap::Args)]
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
    pub study_id_column: String,
    /// Column of splits, used if there
    #[arg(long, default_value = "split")]
    pub split_column: String,
    /// Column of labels, used if there
    #[arg(long, default_value = "label")]
    pub label_column: String,
    /// What stands between the images that a row names
    #[arg(long, value_name = "TEXT", default_value = ";")]
    pub bag_separator: String,
    /// What is one report with its images: "row", or "study_id" for all rows of a study
    #[arg(long, value_name = "row|study_id", default_value = "row", value_parser = bag_by)]
    pub bag_by: BagBy,
}

/// In which type products are worked out.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct PrecisionArg {
    /// Operands of products: "f32", or "bf16" where the GPU or the CPU (AMX, AVX512-BF16) has them
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: Precision,
}

/// A type of products, as `train.precision` names it.
pub(super) fn precision(word: &str) -> Result<Precision, String> {
    Precision::find(word).ok_or_else(|| format!("allowed are {}", Precision::WORDS.join(" and ")))
}

fn bag_by(word: &str) -> Result<BagBy, String> {
    BagBy::find(word).ok_or_else(|| format!("allowed are {}", BagBy::WORDS.join(" and ")))
}

/// How models are judged on a manifest.
#[derive(Debug, clap::Args)]
pub(super) struct JudgeArgs {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    pub model: String,
    #[command(flatten)]
    pub data: DataArgs,
    /// Another model to compare with, paired on the same rows
    #[arg(long, value_name = "DIR|HUB_ID")]
    pub compare: Option<String>,
    /// Items at once; does not change the figures
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch_size: u32,
    /// Bootstrap resamples for 95 % intervals; 0 = none
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub bootstrap: u32,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    pub device: String,
    #[command(flatten)]
    pub precision: PrecisionArg,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl JudgeArgs {
    /// The rows, whose bags lack what the model's may lack.
    pub fn source(&self) -> anyhow::Result<RowSource> {
        self.data.source(&self.model)
    }

    /// A model, opened as these arguments say.
    pub fn open(&self, model: &str) -> anyhow::Result<Session> {
        Ok(Session::open(model, &self.device)?.in_precision(self.precision.precision))
    }
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
            bag: BagColumns { separator: self.bag_separator.clone(), by: self.bag_by, ..BagColumns::default() },
            ..Columns::default()
        }
    }

    /// [`Self::columns`] for a model, whose bags may lack images where it was trained so.
    pub fn of_model(&self, model: &str) -> anyhow::Result<Columns> {
        let mut columns = self.columns();
        columns.bag.on_bad = bag_policy_of(model)?.on_bad;
        Ok(columns)
    }
}

impl DataArgs {
    fn source(&self, model: &str) -> anyhow::Result<RowSource> {
        Ok(RowSource {
            manifest: self.data.clone(),
            split: self.split.clone(),
            only_blank: None,
            image_root: self.image_root.clone(),
            columns: self.columns.of_model(model)?,
        })
    }
}
