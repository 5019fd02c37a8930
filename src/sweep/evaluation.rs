//! What members are compared by: the figures of `eval`, and with prompts of `zero-shot`, on one set of rows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fingerprint::{Digests, Fingerprint};
use super::member::Figures;
use super::process;
use crate::config::Config;
use crate::data::{Columns, Manifest, Prompts};
use crate::error::{Problem, Problems, one_line};
use crate::eval::ByPatient;
use crate::fs::replace_file;
use crate::metrics::hierarchical::PatientFigure;

/// What conformal sets may leave out.
const ALPHA: &str = "0.1";

/// The column in which `data synth --noise` says what is the matter with a report.
const NOISE: &str = "noise";
/// The column with what would have been right, beside that.
const TRUE_REPORT: &str = "true_report";

/// How all members are evaluated.
pub(super) struct Evaluation {
    /// `--data` and what goes with it, for `eval` and `zero-shot`.
    rows: Vec<String>,
    /// The same of the training pairs, where over-fitting is asked for.
    training_rows: Option<Vec<String>>,
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
    by_patient: ByPatient,
}

/// What a member came to.
pub(super) struct Judged {
    /// Its figures.
    pub figures: Figures,
    /// Those of them that can be told by patient, and what was answered.
    pub by_patient: ByPatient,
}

/// What members are to be judged on.
#[derive(Clone, Copy)]
pub(super) struct Judging<'a> {
    /// Of the validation manifest, or of data.train where there is none; by default `test`, else `val`.
    pub split: Option<&'a str>,
    /// Also by zero-shot classification.
    pub prompts: Option<&'a Path>,
    /// Also the loss on the training pairs.
    pub over_fitting: bool,
}

impl Evaluation {
    /// As `judging` says.
    ///
    /// # Errors
    /// There is no such split, or a file cannot be read.
    pub fn new(config: &Config, judging: Judging, digests: &mut Digests) -> Result<Self> {
        let Judging { split, prompts, over_fitting } = judging;
        let d = &config.data;
        let manifest = d.val.first().or(d.train.first()).context("data.train is missing")?;
        let rows = rows(config, manifest, split)?;
        let training_rows = over_fitting.then(|| training_rows(config)).transpose()?;
        let loss_batch = config.samples_per_step();
        let mut fingerprint = Fingerprint::default();
        fingerprint.insert(
            "the manifest",
            &manifest.display().to_string(),
            Some(digests.of_sources(&[manifest], config)?),
        );
        // The manifest itself stands above.
        fingerprint.insert(
            "how members are evaluated",
            &format!("{} {loss_batch} sets {ALPHA}, unsure left out by patient", rows[2..].join(" ")),
            None,
        );
        if let Some(training) = &training_rows {
            fingerprint.insert("the training pairs", &training.join(" "), None);
        }
        if let Some(prompts) = prompts {
            let text = prompts.display().to_string();
            // One that is broken is told before members are trained for it.
            let wrong = |e: Error| Problems(vec![Problem(one_line(&e.context("--prompts")))]);
            Prompts::open(prompts).map_err(wrong)?;
            let content = digests.of(prompts).with_context(|| format!("--prompts {text}"))?;
            fingerprint.insert("--prompts", &text, Some(content));
        }
        Ok(Self { rows, training_rows, loss_batch, prompts: prompts.map(Path::to_path_buf), fingerprint })
    }

    /// Which rows, as arguments.
    pub fn rows(&self) -> &[String] {
        &self.rows
    }

    /// What the best model of the run folder `run` comes to: as it was worked out before, if from the same.
    ///
    /// # Errors
    /// The program's.
    pub fn judge(&self, run: &Path, threads: usize, log: &Path) -> Result<Judged> {
        let path = run.join("evaluation.json");
        let before = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        if let Some(before) = before.filter(|before| self.fingerprint.changes(&before.fingerprint).is_empty()) {
            return Ok(Judged { figures: before.figures, by_patient: before.by_patient });
        }
        let Judged { figures, by_patient } = self.work_out(run, threads, log)?;
        let record = Record { fingerprint: self.fingerprint.clone(), figures, by_patient };
        replace_file(&path, &serde_json::to_vec(&record)?)?;
        Ok(Judged { figures: record.figures, by_patient: record.by_patient })
    }

    fn work_out(&self, run: &Path, threads: usize, log: &Path) -> Result<Judged> {
        let model = run.join("model").to_string_lossy().into_owned();
        let program = |name: &str, more: &[&str], rows: &[String]| {
            let args = [name, "--json", "--bootstrap", "0", "--model", &model];
            let args: Vec<String> = args.iter().chain(more).map(ToString::to_string).collect();
            process::run(&[&args[..], rows].concat(), threads, log)
        };
        let batch = self.loss_batch.to_string();
        let wanted = ["--by-patient", "--conformal", ALPHA, "--loss-batch-size", batch.as_str()];
        let retrieval = program("eval", &wanted, &self.rows)?;
        let patients = |report: &Value| serde_json::from_value::<ByPatient>(report["by_patient"].clone());
        let (mut figures, mut by_patient) = (of_retrieval(&retrieval), patients(&retrieval)?);
        if let Some(rows) = &self.training_rows {
            // Where few rows are judged, a batch holds them all: matching is as hard only among as many.
            let among = &retrieval["loss_batch_size"];
            let training = program("eval", &["--loss-batch-size", &among.to_string()], rows)?;
            let loss = training["calibration"]["as_is"]["nll"].as_f64();
            let loss = loss.context("eval told no loss of the training pairs")?;
            if training["loss_batch_size"] == *among {
                over_fitting(&mut figures, &mut by_patient, loss);
            } else {
                tracing::warn!("over-fitting is left out: there are fewer training pairs than a batch of {among}");
            }
        }
        if let Some(prompts) = &self.prompts {
            let prompts = prompts.to_string_lossy();
            let classes = program("zero-shot", &[&["--prompts", &prompts][..], &wanted[..3]].concat(), &self.rows)?;
            let named = classes["figures"].as_array().into_iter().flatten();
            for figure in named {
                let Some(name) = figure["name"].as_str().map(|name| format!("class_{name}")) else { continue };
                figures.extend(figure["chance"].as_f64().map(|chance| (format!("{name}_chance"), chance)));
                figures.extend(figure["value"].as_f64().map(|value| (name, value)));
            }
            figures.extend(of_orders("class", &classes["selective"]));
            figures.extend(of_calibration("class", &classes["calibration"]));
            figures.extend(of_sets("class", &classes["conformal"]["methods"][0]));
            let ByPatient { figures, answers } = patients(&classes)?;
            by_patient.figures.extend(figures);
            by_patient.answers.extend(answers);
        }
        for (name, of) in &by_patient.figures {
            figures.entry(name.clone()).or_insert_with(|| of.value());
        }
        Ok(Judged { figures, by_patient })
    }
}

/// Adds the loss on training pairs, and how much lower it is than on those that are judged: without smoothing, without
/// augmentation. What training pairs there are is not left to chance.
fn over_fitting(figures: &mut Figures, by_patient: &mut ByPatient, training: f64) {
    figures.insert("train_nll".into(), training);
    if let Some(PatientFigure::Mean(parts)) = by_patient.figures.get("match_nll") {
        let less = |&(sum, rows): &(f64, f64)| (sum - rows * training, rows);
        let parts = parts.iter().map(|part| part.iter().map(less).collect()).collect();
        by_patient.figures.insert("over_fitting".into(), PatientFigure::Mean(parts));
    }
}

/// Arguments that name the training pairs: those whose report is right, where the manifest says of which it is not.
/// The loss on others would be told as less over-fitting.
fn training_rows(config: &Config) -> Result<Vec<String>> {
    let d = &config.data;
    let [manifest] = d.train.as_slice() else {
        bail!("--over-fitting: data.train names {} manifests; allowed is one", d.train.len());
    };
    let columns = Columns { extra: [NOISE, TRUE_REPORT].map(String::from).to_vec(), ..Columns::from(d) };
    let opened = Manifest::open(manifest, &columns, d.image_root.as_deref())?;
    let mut args = of_split(config, manifest, opened.has_splits().then_some(d.train_split.as_str()));
    if opened.rows.iter().any(|row| row.extra(0).is_some() && row.extra(1).is_some()) {
        args.extend(["--only-blank", NOISE].map(String::from));
    }
    Ok(args)
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
    Ok(of_split(config, manifest, split))
}

/// Arguments that name the rows of a manifest, or of one of its splits.
fn of_split(config: &Config, manifest: &Path, split: Option<&str>) -> Vec<String> {
    let d = &config.data;
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
    args
}

/// Figures of what `eval --json` prints.
fn of_retrieval(report: &Value) -> Figures {
    let mut figures = Figures::new();
    let mut put = |name: &str, value: Option<f64>| figures.extend(value.map(|v| (name.to_string(), v)));
    let recall = |direction: &str| report[direction]["figures"]["recall@1"].as_f64();
    let chance = |direction: &str| report[direction]["chance"]["recall@1"].as_f64();
    put("mean_recall", report["mean_recall"].as_f64());
    put("recall@1", recall("image_to_text").zip(recall("text_to_image")).map(|(a, b)| (a + b) / 2.0));
    let calibration = &report["calibration"];
    for name in ["ece", "ece_equal_mass", "mce", "brier", "nll"] {
        put(&format!("match_{name}"), calibration["as_is"][name].as_f64());
        put(&format!("match_{name}_scaled"), calibration["scaled"][name].as_f64());
    }
    put("recall@1_chance", chance("image_to_text").zip(chance("text_to_image")).map(|(a, b)| (a + b) / 2.0));
    put("match_nll_chance", report["loss_chance"].as_f64());
    put("match_brier_chance", report["loss_batch_size"].as_f64().map(|pairs| 1.0 - 1.0 / pairs));
    figures.extend(of_calibration("match", calibration));
    figures.extend(of_orders("match", &report["selective"]));
    figures.extend(of_sets("report", &report["conformal"]["methods"][0]));
    figures
}

/// What leaving out unsure predictions gives, by the highest probability and by the normalised logit.
fn of_orders(of: &str, orders: &Value) -> Figures {
    let mut found = Figures::new();
    for order in orders.as_array().into_iter().flatten() {
        let by = match order["score"].as_str() {
            Some("max_probability") => "",
            Some("normalised_logit") => "_normalised",
            _ => continue,
        };
        for figure in order["figures"].as_array().into_iter().flatten() {
            let known = ["aurc", "excess_aurc", "accuracy_of_80", "coverage_at_90"];
            let Some(name) = figure["name"].as_str().filter(|name| known.contains(name)) else { continue };
            let name = format!("{of}_{name}{by}");
            found.extend(figure["chance"].as_f64().map(|value| (format!("{name}_chance"), value)));
            found.extend(figure["value"].as_f64().map(|value| (name, value)));
        }
    }
    found
}

/// How large conformal sets are, and how often they hold what is so.
fn of_sets(of: &str, method: &Value) -> Figures {
    let figures = method["figures"].as_array().into_iter().flatten();
    let value = |f: &Value| {
        let name = match f["name"].as_str()? {
            "size" => "set_size",
            "coverage" => "set_coverage",
            _ => return None,
        };
        Some((format!("{of}_{name}"), f["value"].as_f64()?))
    };
    figures.filter_map(value).collect()
}

/// The temperature that was fitted, and the ECE that would be no fault.
fn of_calibration(of: &str, report: &Value) -> Figures {
    let names = [("temperature", "temperature"), ("ece_floor", "ece_floor"), ("ece_floor_scaled", "ece_scaled_floor")];
    names.iter().filter_map(|(key, name)| Some((format!("{of}_{name}"), report[*key].as_f64()?))).collect()
}
