//! Conformal prediction sets of a model: classes, findings, and reports that are found.

use anyhow::Result;
use candle_core::Tensor;

use super::calibration::{CROSSWISE, Prediction};
use super::encoded::EncodedSplit;
use super::figures::ZeroShotOptions;
use super::pairs::Pairs;
use super::selective::Resamples;
use super::sets::{ConformalFigures, ConformalReport, Held, SetsOfPart, by_subgroup, figures, halves};
use super::zero_shot::{FittedOn, Scores};
use crate::metrics::calibration::softmax;
use crate::metrics::conformal::{Calibrator, Findings, Score, quantile, risk_threshold};

impl Scores {
    /// Sets that leave out what is so in a share of `alpha` at most, calibrated on `fit`, or each half of the
    /// patients on the other half.
    pub(super) fn conformal(&self, alpha: f64, fit: Option<FittedOn>, options: &ZeroShotOptions) -> ConformalReport {
        let other = fit.map(|fit| fit.scores);
        let mut methods = Vec::new();
        if self.multi_label {
            methods.push(self.findings_at_risk(alpha, other, options));
        } else {
            for score in Score::ALL {
                methods.push(self.class_sets(score, alpha, (other, false), options));
            }
            for score in Score::ALL {
                methods.push(self.class_sets(score, alpha, (other, true), options));
            }
        }
        let calibrated_on = fit.map_or(CROSSWISE.to_string(), |fit| fit.name.to_string());
        ConformalReport { alpha, calibrated_on, methods }
    }

    /// By one score; with `by_class` each class has a threshold of its own, calibrated on those that have it.
    fn class_sets(
        &self,
        score: Score,
        alpha: f64,
        (other, by_class): (Option<&Scores>, bool),
        options: &ZeroShotOptions,
    ) -> ConformalFigures {
        let calibrators = |scores: &Scores| -> Vec<(usize, Calibrator)> {
            let of = |p: &&Prediction| {
                (p.target, Calibrator { score: score.of(&p.probabilities(false))[p.target], group: p.group })
            };
            scores.predictions().iter().map(of).collect()
        };
        let (own, other) = (calibrators(self), other.map(calibrators));
        let thresholds_on = |counts: &dyn Fn(usize) -> bool| {
            let fit = |rows: &[&(usize, Calibrator)]| {
                let counted = rows.iter().filter(|(target, _)| counts(*target));
                quantile(&counted.map(|(_, calibrator)| *calibrator).collect::<Vec<_>>(), alpha)
            };
            halves(&own, other.as_deref(), |(_, c)| c.group % 2, fit)
        };
        let classes = 0..self.names.len();
        let thresholds: Vec<[f64; 2]> = if by_class {
            classes.map(|class| thresholds_on(&|target| target == class)).collect()
        } else {
            vec![thresholds_on(&|_| true); classes.len()]
        };
        let held = |p: &Prediction| {
            let scores = score.of(&p.probabilities(false));
            let holds = |class: usize| scores[class] <= thresholds[class][p.group % 2];
            Held {
                covered: f64::from(u8::from(holds(p.target))),
                size: (0..scores.len()).filter(|&class| holds(class)).count(),
                group: p.group,
            }
        };
        let images: Vec<(usize, Held, usize)> = self.tasks[0]
            .iter()
            .enumerate()
            .filter_map(|(image, p)| p.as_ref().map(|p| (image, held(p), p.target)))
            .collect();
        let all: Vec<Held> = images.iter().map(|(_, held, _)| *held).collect();
        let name = if by_class { format!("{}_by_class", score.word()) } else { score.word().to_string() };
        let of_class = |(class, name): (usize, &String)| {
            let rows: Vec<Held> = images.iter().filter(|(.., target)| *target == class).map(|(_, h, _)| *h).collect();
            (!rows.is_empty()).then(|| Held::part(name.clone(), &rows))
        };
        ConformalFigures {
            by_class: self.names.iter().enumerate().filter_map(of_class).collect(),
            by_subgroup: self.parts(images.iter().map(|(image, held, _)| (*image, *held)), options),
            ..figures(&name, &all, alpha, (options.bootstrap, options.seed))
        }
    }

    /// Of images that may have several findings: risk control of the share that is missed.
    fn findings_at_risk(&self, alpha: f64, other: Option<&Scores>, options: &ZeroShotOptions) -> ConformalFigures {
        let own = self.of_findings();
        let images: Vec<Findings> = own.iter().map(|(_, f)| f.clone()).collect();
        let other: Option<Vec<Findings>> = other.map(|s| s.of_findings().into_iter().map(|(_, f)| f).collect());
        let thresholds = halves(
            &images,
            other.as_deref(),
            |f| f.group % 2,
            |rows| risk_threshold(&rows.iter().map(|f| (*f).clone()).collect::<Vec<_>>(), alpha),
        );
        let held = |f: &Findings| {
            let threshold = thresholds[f.group % 2];
            Held { covered: 1.0 - f.missed(threshold), size: f.size(threshold), group: f.group }
        };
        let rows: Vec<(usize, Held)> = own.iter().map(|(image, f)| (*image, held(f))).collect();
        let all: Vec<Held> = rows.iter().map(|(_, held)| *held).collect();
        let of_finding = |(k, name): (usize, &String)| {
            let having = images.iter().filter(|f| f.has[k] == Some(true));
            let rows: Vec<Held> = having
                .map(|f| {
                    let found = f.probabilities[k] >= thresholds[f.group % 2];
                    Held { covered: f64::from(u8::from(found)), ..held(f) }
                })
                .collect();
            (!rows.is_empty()).then(|| Held::part(name.clone(), &rows))
        };
        ConformalFigures {
            by_class: self.names.iter().enumerate().filter_map(of_finding).collect(),
            by_subgroup: self.parts(rows.iter().copied(), options),
            ..figures("risk_control", &all, alpha, (options.bootstrap, options.seed))
        }
    }

    /// Probability of each finding of each labelled image, by its number.
    fn of_findings(&self) -> Vec<(usize, Findings)> {
        let of_image = |image: usize| {
            let known: Vec<Option<&Prediction>> = self.tasks.iter().map(|task| task[image].as_ref()).collect();
            Findings {
                // What has no label is no reason for a larger set.
                probabilities: known.iter().map(|p| p.map_or(-1.0, |p| p.probabilities(false)[1])).collect(),
                has: known.iter().map(|p| p.map(|p| p.target == 1)).collect(),
                group: self.groups[image],
            }
        };
        self.labelled().into_iter().map(|image| (image, of_image(image))).collect()
    }

    /// By the values of the subgroup columns.
    fn parts(&self, rows: impl Iterator<Item = (usize, Held)>, options: &ZeroShotOptions) -> Vec<SetsOfPart> {
        by_subgroup(&options.subgroups, rows.map(|(image, held)| (self.subgroups[image].as_slice(), held)))
    }
}

/// The smallest sets of reports that hold one that is right of an image, and of images that hold one of a report, by
/// the softmax over the whole gallery, each half of the patients calibrated on the other half; also by the values of
/// `columns`, the further ones of the rows, in a query's first row.
///
/// # Errors
/// Whatever the device reports.
pub(super) fn retrieval_sets(
    split: &EncodedSplit,
    alpha: f64,
    columns: &[String],
    resamples: Resamples,
) -> Result<ConformalReport> {
    let EncodedSplit { pairs, images, texts, scale } = split;
    let of_images = subgroups(pairs, &pairs.images.first_rows, columns);
    let of_texts = subgroups(pairs, &pairs.first_rows_of_texts, columns);
    let direction = |name: &str, [queries, gallery]: [&Tensor; 2], relevant: &[Vec<usize>], groups: &[usize]| {
        let gallery = gallery.t()?.contiguous()?;
        // Of each query the score of its best right item, and those of all: 1 − probability.
        let scores = |query: usize| -> Result<Vec<f64>> {
            let row: Vec<f32> = queries.narrow(0, query, 1)?.matmul(&gallery)?.flatten_all()?.to_vec1()?;
            let logits: Vec<f64> = row.into_iter().map(|cosine| scale * f64::from(cosine)).collect();
            Ok(Score::Lac.of(&softmax(&logits, 1.0)))
        };
        let best = |query: usize| -> Result<Calibrator> {
            let all = scores(query)?;
            let score = relevant[query].iter().map(|&item| all[item]).fold(f64::INFINITY, f64::min);
            Ok(Calibrator { score, group: groups[query] })
        };
        let calibrators = (0..relevant.len()).map(best).collect::<Result<Vec<_>>>()?;
        let thresholds = halves(
            &calibrators,
            None,
            |c| c.group % 2,
            |rows| quantile(&rows.iter().map(|c| **c).collect::<Vec<_>>(), alpha),
        );
        let held = |query: usize| -> Result<Held> {
            let threshold = thresholds[groups[query] % 2];
            let size = scores(query)?.iter().filter(|score| **score <= threshold).count();
            let covered = f64::from(u8::from(calibrators[query].score <= threshold));
            Ok(Held { covered, size, group: groups[query] })
        };
        let held = (0..relevant.len()).map(held).collect::<Result<Vec<_>>>()?;
        let values = if name == TO_TEXT { &of_images } else { &of_texts };
        let rows = values.iter().map(Vec::as_slice).zip(held.iter().copied());
        let by_subgroup = by_subgroup(columns, rows);
        anyhow::Ok(ConformalFigures { by_subgroup, ..figures(name, &held, alpha, resamples) })
    };
    let methods = vec![
        direction(TO_TEXT, [images, texts], &pairs.texts_of_image, &pairs.images.groups)?,
        direction("text_to_image", [texts, images], &pairs.images_of_text, &pairs.text_groups)?,
    ];
    Ok(ConformalReport { alpha, calibrated_on: CROSSWISE.to_string(), methods })
}

const TO_TEXT: &str = "image_to_text";

/// Values of `columns` in each of these rows.
fn subgroups(pairs: &Pairs, first_rows: &[usize], columns: &[String]) -> Vec<Vec<Option<String>>> {
    let values = |&row: &usize| (0..columns.len()).map(|i| pairs.rows[row].extra(i).map(str::to_string)).collect();
    first_rows.iter().map(values).collect()
}
