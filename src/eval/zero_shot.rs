//! Zero-shot classification: images against diagnosis prompts, with intervals by patient, calibration and subgroups.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::calibration::{
    Calibration, CalibrationReport, Prediction, error_with_luck, finer_errors, set_temperatures, vector_scaled,
};
use super::directions::{class_directions, logits};
use super::figure::Figure;
use super::figures::{Finding, Subgroup, ZeroShotOptions, ZeroShotReport};
use super::halves::Halves;
use super::pairs::DistinctImages;
use super::selective::{answers as by_sureness, overall_orders, selective};
use crate::data::{Labels, Prompts, Row};
use crate::metrics::calibration::without_luck;
use crate::metrics::hierarchical::PatientRow;
use crate::metrics::selective::Selective;
use crate::metrics::{bootstrap, classification as metric};
use crate::seed::{Purpose, stream};
use crate::session::Encoder;

/// Images of a split with their scores.
pub struct Scores {
    /// Whether an image may have several classes.
    pub(super) multi_label: bool,
    pub(super) names: Vec<String>,
    /// With one class an image one task, otherwise one a finding: the prediction for each labelled image, by its
    /// number.
    pub(super) tasks: Vec<Vec<Option<Prediction>>>,
    /// Number of each image's patient.
    pub(super) groups: Vec<usize>,
    /// Of each image, labelled or not: one a class, or of each finding those of having it and of not having it.
    pub(super) logits: Vec<Vec<f64>>,
    /// Values of the subgroup columns of each image.
    pub(super) subgroups: Vec<Vec<Option<String>>>,
    /// Line of each image's first row.
    pub(super) lines: Vec<u64>,
}

/// Prompts, and which of them rows have.
#[derive(Clone, Copy, Debug)]
pub struct LabelledPrompts<'a> {
    /// What stands for each class.
    pub prompts: &'a Prompts,
    /// Of the rows.
    pub labels: &'a Labels,
}

/// Scores the distinct images of `rows` against `prompts`. `subgroups` columns stand behind those of the findings.
///
/// # Errors
/// No row that has a label, an image that cannot be read.
pub fn score(encoder: &Encoder, rows: &[Row], prompts: LabelledPrompts, subgroups: usize) -> Result<Scores> {
    let images = DistinctImages::of(rows);
    let scale = f64::from(encoder.model.scale()?.to_scalar::<f32>()?);
    let directions = class_directions(encoder, prompts.prompts)?;
    let logits = logits(&encoder.images(&images.sources)?, &directions, scale)?;
    Ok(scores(images, rows, logits, prompts, subgroups))
}

/// Scores from the logits of each of `images`, those of `rows`.
pub(super) fn scores(
    images: DistinctImages,
    rows: &[Row],
    logits: Vec<Vec<f64>>,
    LabelledPrompts { prompts, labels }: LabelledPrompts,
    subgroups: usize,
) -> Scores {
    let prediction = |image: usize, of: &[usize], target: usize| Prediction {
        logits: of.iter().map(|&k| logits[image][k]).collect(),
        target,
        temperature: 1.0,
        group: images.groups[image],
    };
    let classes = prompts.classes.len();
    let all: Vec<usize> = (0..classes).collect();
    let tasks = match labels {
        Labels::Classes(labels) => {
            let one = |(image, &row): (usize, &usize)| labels[row].map(|target| prediction(image, &all, target));
            vec![images.first_rows.iter().enumerate().map(one).collect()]
        }
        Labels::Findings(labels) => {
            let of_finding = |k: usize| {
                // The second class is "has it".
                let one = |(image, &row): (usize, &usize)| {
                    labels[row][k].map(|has| prediction(image, &[2 * k + 1, 2 * k], usize::from(has)))
                };
                images.first_rows.iter().enumerate().map(one).collect()
            };
            (0..classes).map(of_finding).collect()
        }
    };
    let skipped = if prompts.multi_label { classes } else { 0 };
    let values = |row: &usize| (0..subgroups).map(|i| rows[*row].extra(skipped + i).map(str::to_string)).collect();
    let subgroups = images.first_rows.iter().map(values).collect();
    let lines = images.first_rows.iter().map(|&row| rows[row].line).collect();
    let (multi_label, names, groups) = (prompts.multi_label, prompts.names(), images.groups);
    Scores { multi_label, names, tasks, groups, logits, subgroups, lines }
}

/// Scores of another split that temperatures and thresholds are fitted on.
#[derive(Clone, Copy)]
pub struct FittedOn<'a> {
    /// The scores.
    pub scores: &'a Scores,
    /// The split, in words.
    pub name: &'a str,
}

/// Thresholds of a class: one for each half of the patients, fitted on the other half or on another split.
type Thresholds = [f64; 2];

/// Predictions of one class against the others.
#[derive(Default)]
pub(super) struct OneAgainstRest {
    pub(super) scores: Vec<f64>,
    pub(super) positive: Vec<bool>,
    pub(super) groups: Vec<usize>,
}

impl OneAgainstRest {
    pub(super) fn rows(self) -> Vec<PatientRow> {
        self.scores.into_iter().zip(self.positive).zip(self.groups).map(|((s, has), group)| (s, has, group)).collect()
    }
}

impl Scores {
    /// Fits temperatures and thresholds, on `fit`, or crosswise on halves of the patients; gives all
    /// figures.
    ///
    /// # Errors
    /// No labelled image.
    pub fn report(&mut self, fit: Option<FittedOn>, options: &ZeroShotOptions) -> Result<ZeroShotReport> {
        let words = self.fit_temperatures(fit)?;
        let thresholds = self.fit_thresholds(fit);
        let labelled: Vec<usize> = self.labelled();
        ensure!(!labelled.is_empty(), "no image has a label that counts");
        let predictions = self.predictions();
        let resamples = (options.bootstrap, options.seed);
        let Some(mut calibration) = CalibrationReport::of(&predictions, &words, 1) else {
            anyhow::bail!("no image has a label that counts")
        };
        if !self.multi_label {
            let others = fit.map(|fit| fit.scores.predictions());
            calibration.vector_scaled = vector_scaled(&predictions, others.as_deref(), &self.halves());
        }
        let figures = self.figures(&labelled, options);
        let subgroups = self.subgroups(&labelled, options)?;
        let confusion = if self.multi_label {
            Vec::new()
        } else {
            let (targets, predicted) = answers(&predictions);
            metric::confusion(&targets, &predicted, self.names.len())
        };
        Ok(ZeroShotReport {
            multi_label: self.multi_label,
            classes: self.names.clone(),
            images: labelled.len(),
            unlabelled: self.groups.len() - labelled.len(),
            figures,
            findings: self.findings(&thresholds, options),
            selective: selective(&predictions, resamples),
            conformal: None,
            abstained: None,
            calibration,
            confusion,
            subgroups,
        })
    }

    /// Of all tasks, one task after another.
    pub(super) fn predictions(&self) -> Vec<&Prediction> {
        self.tasks.iter().flatten().flatten().collect()
    }

    /// Sets each prediction's temperature; says what it was fitted on.
    fn fit_temperatures(&mut self, fit: Option<FittedOn>) -> Result<String> {
        if let Some(FittedOn { scores, name }) = fit {
            ensure!(scores.tasks.len() == self.tasks.len(), "{name} was scored with other prompts");
        }
        let flat = |scores: &Scores| scores.tasks.iter().flatten().flatten().cloned().collect::<Vec<_>>();
        let mut predictions = flat(self);
        let others = fit.map(|fit| (flat(fit.scores), fit.name));
        let on = others.as_ref().map(|(others, name)| (others.as_slice(), *name));
        let words = set_temperatures(&mut predictions, on, &self.halves());
        let fitted = self.tasks.iter_mut().flatten().flatten().zip(predictions);
        fitted.for_each(|(p, fitted)| p.temperature = fitted.temperature);
        Ok(words)
    }

    /// Of each class.
    fn fit_thresholds(&self, fit: Option<FittedOn>) -> Vec<Thresholds> {
        let halves = self.halves();
        let best = |rows: &[&PatientRow]| {
            let (scores, positive): (Vec<f64>, Vec<bool>) = rows.iter().map(|(s, has, _)| (*s, *has)).unzip();
            metric::best_threshold(&scores, &positive).unwrap_or(f64::INFINITY)
        };
        let of_class = |class: usize| {
            let rows = |scores: &Scores| scores.one_against_rest(class, None).rows();
            let others = fit.map(|fit| rows(fit.scores));
            halves.fit(&rows(self), others.as_deref(), |row| row.2, best)
        };
        (0..self.names.len()).map(of_class).collect()
    }

    /// Of the patients of all images.
    pub(super) fn halves(&self) -> Halves {
        Halves::of(self.groups.iter().copied())
    }

    /// Figures of the images with each value of each subgroup column.
    fn subgroups(&self, labelled: &[usize], options: &ZeroShotOptions) -> Result<Vec<Subgroup>> {
        let mut subgroups = Vec::new();
        for (i, column) in options.subgroups.iter().enumerate() {
            let mut values: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for &image in labelled {
                values.entry(self.subgroups[image][i].as_deref().unwrap_or("(blank)")).or_default().push(image);
            }
            ensure!(
                values.keys().any(|v| *v != "(blank)"),
                "no row has a value in column {column:?}; name a column of the manifest"
            );
            subgroups.extend(values.iter().map(|(value, images)| Subgroup {
                column: column.clone(),
                value: value.to_string(),
                images: images.len(),
                figures: self.figures(images, options),
            }));
        }
        Ok(subgroups)
    }

    /// The overall figures without intervals, of probabilities as they are.
    pub(super) fn unfitted(&self) -> Vec<Figure> {
        let images = self.labelled();
        let mut figures = Figure::list(self.names(&images), self.values(&images), None);
        figures.retain(|figure| !figure.name.ends_with("_scaled"));
        figures
    }

    /// Numbers of the images that have a label.
    pub(super) fn labelled(&self) -> Vec<usize> {
        (0..self.groups.len()).filter(|&image| self.tasks.iter().any(|task| task[image].is_some())).collect()
    }

    /// Of class `k` over `images` (repeats count) or all.
    pub(super) fn one_against_rest(&self, k: usize, images: Option<&[usize]>) -> OneAgainstRest {
        let (task, class, positive) = if self.multi_label { (k, 1, 1) } else { (0, k, k) };
        let mut found = OneAgainstRest::default();
        let take = |p: &Prediction| {
            found.scores.push(p.probabilities(false)[class]);
            found.positive.push(p.target == positive);
            found.groups.push(p.group);
        };
        match images {
            None => self.tasks[task].iter().flatten().for_each(take),
            Some(images) => images.iter().filter_map(|&i| self.tasks[task][i].as_ref()).for_each(take),
        }
        found
    }

    /// Names of the overall figures with what chance gives for each.
    pub(super) fn names(&self, images: &[usize]) -> Vec<(&'static str, Option<f64>)> {
        let k = self.classes() as f64;
        let shares: Vec<f64> = (0..self.names.len())
            .map(|k| self.one_against_rest(k, Some(images)).positive)
            .map(|p| p.iter().filter(|p| **p).count() as f64 / p.len() as f64)
            .collect();
        let mut names = if self.multi_label {
            let known: Vec<f64> = shares.into_iter().filter(|s| *s > 0.0 && *s < 1.0).collect();
            vec![("auroc_macro", Some(0.5)), ("auprc_macro", Some(known.iter().sum::<f64>() / known.len() as f64))]
        } else {
            vec![
                ("accuracy", shares.into_iter().reduce(f64::max)),
                ("balanced_accuracy", Some(1.0 / k)),
                ("macro_f1", None),
                ("auroc_macro", Some(0.5)),
            ]
        };
        let (nll, brier) = (Some(k.ln()), Some(1.0 - 1.0 / k));
        names.extend([("nll", nll), ("brier", brier), ("ece", None), ("ece_equal_mass", None), ("mce", None)]);
        names.extend([("nll_scaled", nll), ("brier_scaled", brier), ("ece_scaled", None)]);
        names.extend([("ece_equal_mass_scaled", None), ("mce_scaled", None)]);
        names.extend([("ece_classwise", None), ("rms_debiased", None)]);
        names.extend([("ece_classwise_scaled", None), ("rms_debiased_scaled", None)]);
        // A random order risks what answering all does.
        let predictions = self.predictions_of(images);
        let wrong = predictions.iter().filter(|p| p.predicted() != p.target).count() as f64 / predictions.len() as f64;
        names.extend(overall_orders(self.classes()).map(|(name, _)| (name, Some(wrong))));
        names
    }

    /// Of a prediction: a finding is a choice of two.
    fn classes(&self) -> usize {
        if self.multi_label { 2 } else { self.names.len() }
    }

    /// Of `images`, of which some may stand there several times.
    fn predictions_of(&self, images: &[usize]) -> Vec<&Prediction> {
        let of_images = |task| images.iter().filter_map(move |&i| <[Option<Prediction>]>::get(task, i)?.as_ref());
        self.tasks.iter().map(Vec::as_slice).flat_map(of_images).collect()
    }

    /// Values of [`Self::names`] over `images`, of which some may stand there several times.
    pub(super) fn values(&self, images: &[usize]) -> Vec<f64> {
        let ranked: Vec<(f64, f64)> = (0..self.names.len())
            .map(|k| self.one_against_rest(k, Some(images)))
            .filter(|of| of.positive.contains(&true) && of.positive.contains(&false))
            .map(|of| (metric::auroc(&of.scores, &of.positive), metric::average_precision(&of.scores, &of.positive)))
            .collect();
        let mean = |pick: fn(&(f64, f64)) -> f64| ranked.iter().map(pick).sum::<f64>() / ranked.len() as f64;
        let predictions = self.predictions_of(images);
        let mut values = if self.multi_label {
            vec![mean(|r| r.0), mean(|r| r.1)]
        } else {
            let (targets, predicted) = answers(&predictions);
            let k = self.names.len();
            vec![
                metric::accuracy(&targets, &predicted),
                metric::balanced_accuracy(&targets, &predicted, k),
                metric::macro_f1(&targets, &predicted, k),
                mean(|r| r.0),
            ]
        };
        for scaled in [false, true] {
            values.extend(Calibration::of(&predictions, scaled).figures().map(|(_, v)| v));
        }
        values.extend([false, true].map(|scaled| finer_errors(&predictions, scaled)).concat());
        values.extend(
            overall_orders(self.classes()).map(|(_, score)| Selective::of(&by_sureness(&predictions, score)).aurc),
        );
        values
    }

    fn figures(&self, images: &[usize], options: &ZeroShotOptions) -> Vec<Figure> {
        let (names, predictions) = (self.names(images), self.predictions_of(images));
        let with_luck = |predictions: &[&Prediction]| [false, true].map(|scaled| error_with_luck(predictions, scaled));
        let values =
            |images: &[usize]| [self.values(images), with_luck(&self.predictions_of(images)).to_vec()].concat();
        let mut bounds = self.interval(images, options, values);
        let own = self.values(images);
        for (i, (name, error)) in
            ["rms_debiased", "rms_debiased_scaled"].iter().zip(with_luck(&predictions)).enumerate()
        {
            let place = names.iter().position(|(known, _)| known == name);
            if let (Some(bounds), Some(place)) = (&mut bounds, place) {
                bounds[place] = without_luck(own[place], error, bounds[names.len() + i]);
            }
        }
        Figure::list(names, own, bounds)
    }

    pub(super) fn interval(
        &self,
        images: &[usize],
        options: &ZeroShotOptions,
        values: impl Fn(&[usize]) -> Vec<f64> + Sync,
    ) -> Option<Vec<(f64, f64)>> {
        let groups: Vec<usize> = images.iter().map(|&i| self.groups[i]).collect();
        let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
        bootstrap::interval(images, &groups, options.bootstrap, rng, values)
    }

    fn findings(&self, thresholds: &[Thresholds], options: &ZeroShotOptions) -> Vec<Finding> {
        let (labelled, halves) = (self.labelled(), self.halves());
        let finding = |(k, name): (usize, &String)| {
            let values = |images: &[usize]| {
                let OneAgainstRest { scores, positive, groups } = self.one_against_rest(k, Some(images));
                // A margin above the threshold that was not fitted on this patient.
                let margins: Vec<f64> =
                    scores.iter().zip(&groups).map(|(s, group)| s - thresholds[k][halves.half(*group)]).collect();
                vec![
                    metric::auroc(&scores, &positive),
                    metric::average_precision(&scores, &positive),
                    metric::f1_at(&margins, &positive, 0.0),
                ]
            };
            let bounds = self.interval(&labelled, options, values);
            let positive = self.one_against_rest(k, None).positive;
            let positives = positive.iter().filter(|p| **p).count();
            let share = positives as f64 / positive.len() as f64;
            let chances = [Some(0.5), Some(share), Some(2.0 * share / (1.0 + share))];
            let names = ["auroc", "auprc", "f1"].into_iter().zip(chances);
            Finding {
                name: name.clone(),
                positives,
                negatives: positive.len() - positives,
                figures: Figure::list(names, values(&labelled), bounds),
            }
        };
        self.names.iter().enumerate().map(finding).collect()
    }
}

/// Targets, and the classes that were predicted.
fn answers(predictions: &[&Prediction]) -> (Vec<usize>, Vec<usize>) {
    predictions.iter().map(|p| (p.target, p.predicted())).unzip()
}
