//! What members are compared by: the figures of `eval`, and with prompts of `zero-shot`, on one set of rows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fingerprint::{Digests, Fingerprint};
use super::member::Figures;
use super::process;
use crate::config::Config;
use crate::data::{Columns, Manifest};
use crate::fs::replace_file;

/// How all members are evaluated.
pub(super) struct Evaluation {
    /// `--data` and what goes with it, for `eval` and `zero-shot`.
    rows: Vec<String>,
    loss_batch: usize,
    prompts: Option<PathBuf>,
    /// Of rows, prompts and options.
    fingerprint: Fingerprint,
}

/// evaluation.json of a member: figures, and what they were worked out from.
#[derive(Serialize, Deserialize)]
struct Record {
    fingerprint: Fingerprint,
    figures: Figures,
}

impl Evaluation {
    /// On `split` of the validation manifest, or of data.train where there is none; with `prompts` also by zero-shot
    /// classification.
    ///
    /// # Errors
    /// There is no such split, or a file cannot be read.
    pub fn new(config: &Config, split: Option<&str>, prompts: Option<&Path>, digests: &mut Digests) -> Result<Self> {
        let d = &config.data;
        let manifest = d.val.first().or(d.train.first()).context("data.train is missing")?;
        let rows = rows(config, manifest, split)?;
        let loss_batch = config.samples_per_step();
        let mut fingerprint = Fingerprint::default();
        fingerprint.insert(
            "the manifest",
            &manifest.display().to_string(),
            Some(digests.of_sources(&[manifest], config)?),
        );
        // The manifest itself stands above.
        fingerprint.insert("how members are evaluated", &format!("{} {loss_batch}", rows[2..].join(" ")), None);
        if let Some(prompts) = prompts {
            let text = prompts.display().to_string();
            let content = digests.of(prompts).with_context(|| format!("--prompts {text}"))?;
            fingerprint.insert("--prompts", &text, Some(content));
        }
        Ok(Self { rows, loss_batch, prompts: prompts.map(Path::to_path_buf), fingerprint })
    }

    /// Which rows, as arguments.
    pub fn rows(&self) -> &[String] {
        &self.rows
    }

    /// Figures of the best model of the run folder `run`: those that were worked out before, if from the same.
    ///
    /// # Errors
    /// The program's.
    pub fn figures(&self, run: &Path, threads: usize, log: &Path) -> Result<Figures> {
        let path = run.join("evaluation.json");
        let before = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        if let Some(before) = before.filter(|before| self.fingerprint.changes(&before.fingerprint).is_empty()) {
            return Ok(before.figures);
        }
        let figures = self.work_out(run, threads, log)?;
        let record = Record { fingerprint: self.fingerprint.clone(), figures };
        replace_file(&path, &serde_json::to_vec_pretty(&record)?)?;
        Ok(record.figures)
    }

    fn work_out(&self, run: &Path, threads: usize, log: &Path) -> Result<Figures> {
        let model = run.join("model").to_string_lossy().into_owned();
        let program = |name: &str, more: [String; 2]| {
            let args = [name, "--json", "--bootstrap", "0", "--model", &model].map(str::to_string);
            process::run(&[&args[..], &more, &self.rows].concat(), threads, log)
        };
        let retrieval = program("eval", ["--loss-batch-size".into(), self.loss_batch.to_string()])?;
        let mut figures = of_retrieval(&retrieval);
        if let Some(prompts) = &self.prompts {
            let classes = program("zero-shot", ["--prompts".into(), prompts.to_string_lossy().into_owned()])?;
            let named = classes["figures"].as_array().into_iter().flatten();
            figures
                .extend(named.filter_map(|f| Some((format!("class_{}", f["name"].as_str()?), f["value"].as_f64()?))));
        }
        Ok(figures)
    }
}

/// Arguments that name the rows.
fn rows(config: &Config, manifest: &Path, split: Option<&str>) -> Result<Vec<String>> {
    let d = &config.data;
    let opened = Manifest::open(manifest, &Columns::from(d), d.image_root.as_deref())?;
    let known: Vec<String> = opened.splits().iter().map(ToString::to_string).collect();
    let has = |name: &str| known.iter().any(|s| s == name);
    let split = match split {
        Some(name) => {
            ensure!(has(name), "--split {name}: the splits of {} are {}", manifest.display(), known.join(", "));
            Some(name)
        }
        None => ["test", d.val_split.as_str()].into_iter().find(|name| has(name)),
    };
    let mut args = vec!["--data".to_string(), manifest.to_string_lossy().into_owned()];
    args.extend(split.into_iter().flat_map(|split| ["--split".to_string(), split.to_string()]));
    for (name, value) in [
        ("--image-column", &d.image_column),
        ("--report-column", &d.report_column),
        ("--patient-id-column", &d.patient_id_column),
        ("--study-id-column", &d.study_id_column),
        ("--split-column", &d.split_column),
        ("--label-column", &d.label_column),
    ] {
        args.extend([name.to_string(), value.clone()]);
    }
    if let Some(root) = &d.image_root {
        args.extend(["--image-root".into(), root.to_string_lossy().into_owned()]);
    }
    Ok(args)
}

/// Figures of what `eval --json` prints.
fn of_retrieval(report: &Value) -> Figures {
    let mut figures = Figures::new();
    let mut put = |name: &str, value: Option<f64>| figures.extend(value.map(|v| (name.to_string(), v)));
    let recall = |direction: &str| report[direction]["figures"]["recall@1"].as_f64();
    put("mean_recall", report["mean_recall"].as_f64());
    put("recall@1", recall("image_to_text").zip(recall("text_to_image")).map(|(a, b)| (a + b) / 2.0));
    let calibration = &report["calibration"];
    for name in ["ece", "ece_equal_mass", "mce", "brier", "nll"] {
        put(&format!("match_{name}"), calibration["as_is"][name].as_f64());
        put(&format!("match_{name}_scaled"), calibration["scaled"][name].as_f64());
    }
    put("match_temperature", calibration["temperature"].as_f64());
    figures
}
