//! Conformal prediction sets of a model: classes, findings, and reports that are found.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::calibration::{CROSSWISE, Prediction};
use super::encoded::EncodedSplit;
use super::figures::ZeroShotOptions;
use super::kept::Kept;
use super::kept_sets::KeptSets;
use super::pairs::Pairs;
use super::retrieval::each_query;
use super::selective::Resamples;
use super::sets::{ConformalFigures, ConformalReport, GivenSet, Held, SetsOfPart, by_subgroup, figures};
use super::subgroups::RareValues;
use super::zero_shot::{FittedOn, Scores};
use crate::metrics::calibration::softmax;
use crate::metrics::conformal::{Calibrator, Findings, Score, quantile, risk_threshold};

/// A way of making sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    /// By a score of classes; each with a threshold of its own, calibrated on those that have it, or one for all.
    Classes { score: Score, by_class: bool },
    /// Of findings: risk control of the share that is missed.
    Findings,
}

impl Way {
    /// The sets that a prediction names, of several ways the one whose sets are smallest.
    pub(super) fn first(multi_label: bool) -> Self {
        if multi_label { Self::Findings } else { Self::Classes { score: Score::Lac, by_class: false } }
    }

    fn all(multi_label: bool) -> Vec<Self> {
        if multi_label {
            return vec![Self::Findings];
        }
        let of = |by_class| Score::ALL.map(|score| Self::Classes { score, by_class });
        [of(false), of(true)].concat()
    }

    /// As results are called.
    pub(super) fn name(self) -> String {
        match self {
            Self::Classes { score, by_class: true } => format!("{}_by_class", score.word()),
            Self::Classes { score, by_class: false } => score.word().to_string(),
            Self::Findings => "risk_control".to_string(),
        }
    }
}

/// Thresholds of a way, one or one a class, for each half of the patients.
pub(super) type Thresholds = Vec<[f64; 2]>;

impl Scores {
    /// Sets that leave out what is so in a share of `alpha` at most, calibrated on `fit`, or each half of the
    /// patients on the other half.
    pub(super) fn conformal(&self, alpha: f64, fit: Option<FittedOn>, options: &ZeroShotOptions) -> ConformalReport {
        let other = fit.map(|fit| fit.scores);
        let sets = |way| self.sets(way, &self.thresholds(way, alpha, other), alpha, options);
        let methods = Way::all(self.multi_label).into_iter().map(sets).collect();
        let calibrated_on = fit.map_or(CROSSWISE.to_string(), |fit| fit.name.to_string());
        ConformalReport { alpha, calibrated_on, methods }
    }

    /// Sets by thresholds that were kept.
    ///
    /// # Errors
    /// They are of other ways, or of other numbers of classes.
    pub(super) fn conformal_by(&self, kept: &KeptSets, options: &ZeroShotOptions) -> Result<ConformalReport> {
        let sets = |way| Ok(self.sets(way, &self.kept_thresholds(way, kept)?, kept.alpha, options));
        let methods = Way::all(self.multi_label).into_iter().map(sets).collect::<Result<_>>()?;
        let calibrated_on = format!("{}, kept with the model ({} patients)", kept.calibrated_on, kept.patients);
        Ok(ConformalReport { alpha: kept.alpha, calibrated_on, methods })
    }

    /// Thresholds calibrated on all of these patients, for others. `name` says who they are.
    pub(super) fn calibrated(&self, alpha: f64, name: &str, prompts: String) -> KeptSets {
        let of = |way: Way| {
            let thresholds = self.thresholds(way, alpha, Some(self));
            (way.name(), thresholds.iter().map(|of_halves| of_halves[0]).collect())
        };
        let mut patients: Vec<usize> = self.labelled().into_iter().map(|image| self.groups[image]).collect();
        patients.sort_unstable();
        patients.dedup();
        KeptSets {
            alpha,
            calibrated_on: name.to_string(),
            patients: patients.len(),
            prompts,
            thresholds: Way::all(self.multi_label).into_iter().map(of).collect(),
        }
    }

    /// What `kept` says of `way`, for either half of the patients.
    ///
    /// # Errors
    /// Nothing, or of another number of classes.
    pub(super) fn kept_thresholds(&self, way: Way, kept: &KeptSets) -> Result<Thresholds> {
        let name = way.name();
        let file = KeptSets::FILE;
        let found = kept.thresholds.get(&name).with_context(|| format!("{file}: has no thresholds of {name}"))?;
        let expected = if matches!(way, Way::Classes { by_class: true, .. }) { self.names.len() } else { 1 };
        ensure!(found.len() == expected, "{file}: has {} thresholds of {name}, not {expected}", found.len());
        Ok(found.iter().map(|&threshold| [threshold; 2]).collect())
    }

    /// Calibrated on `other` patients, or on each half of these for the other half.
    pub(super) fn thresholds(&self, way: Way, alpha: f64, other: Option<&Scores>) -> Thresholds {
        match way {
            Way::Classes { score, by_class } => self.class_thresholds(score, alpha, (other, by_class)),
            Way::Findings => {
                let images = |scores: &Scores| scores.of_findings().into_iter().map(|(_, f)| f).collect::<Vec<_>>();
                let fit =
                    |rows: &[&Findings]| risk_threshold(&rows.iter().copied().cloned().collect::<Vec<_>>(), alpha);
                vec![self.halves().fit(&images(self), other.map(images).as_deref(), |f| f.group, fit)]
            }
        }
    }

    fn class_thresholds(&self, score: Score, alpha: f64, (other, by_class): (Option<&Scores>, bool)) -> Thresholds {
        let calibrators = |scores: &Scores| -> Vec<(usize, Calibrator)> {
            let of = |p: &&Prediction| {
                (p.target, Calibrator { score: score.of(&p.probabilities(false))[p.target], group: p.group })
            };
            scores.predictions().iter().map(of).collect()
        };
        let (own, other, halves) = (calibrators(self), other.map(calibrators), self.halves());
        let thresholds_on = |counts: &dyn Fn(usize) -> bool| {
            let fit = |rows: &[&(usize, Calibrator)]| {
                let counted = rows.iter().filter(|(target, _)| counts(*target));
                quantile(&counted.map(|(_, calibrator)| *calibrator).collect::<Vec<_>>(), alpha)
            };
            halves.fit(&own, other.as_deref(), |(_, c)| c.group, fit)
        };
        if by_class {
            (0..self.names.len()).map(|class| thresholds_on(&|target| target == class)).collect()
        } else {
            vec![thresholds_on(&|_| true)]
        }
    }

    fn sets(&self, way: Way, thresholds: &Thresholds, alpha: f64, options: &ZeroShotOptions) -> ConformalFigures {
        match way {
            Way::Classes { score, .. } => self.class_sets((way.name(), score), thresholds, alpha, options),
            Way::Findings => self.findings_at_risk(thresholds[0], alpha, options),
        }
    }

    /// Which classes the set of an image of this half of the patients holds.
    pub(super) fn class_set(
        &self,
        score: Score,
        thresholds: &Thresholds,
        half: usize,
        probabilities: &[f64],
    ) -> Vec<bool> {
        let of_class = |class: usize| thresholds[class.min(thresholds.len() - 1)][half];
        score.set(probabilities, &(0..self.names.len()).map(of_class).collect::<Vec<f64>>())
    }

    /// By one score, called `name`.
    fn class_sets(
        &self,
        (name, score): (String, Score),
        thresholds: &Thresholds,
        alpha: f64,
        options: &ZeroShotOptions,
    ) -> ConformalFigures {
        let halves = self.halves();
        let of_image = |(image, p): (usize, &Option<Prediction>)| {
            let p = p.as_ref()?;
            let set = self.class_set(score, thresholds, halves.half(p.group), &p.probabilities(false));
            let size = set.iter().filter(|holds| **holds).count();
            let held = Held { covered: f64::from(u8::from(set[p.target])), size, group: p.group };
            Some(((image, held, p.target), self.given_set(image, Some(set[p.target]), |class| set[class])))
        };
        let (images, sets): (Vec<(usize, Held, usize)>, Vec<GivenSet>) =
            self.tasks[0].iter().enumerate().filter_map(of_image).unzip();
        let all: Vec<Held> = images.iter().map(|(_, held, _)| *held).collect();
        let of_class = |(class, name): (usize, &String)| {
            let rows: Vec<Held> = images.iter().filter(|(.., target)| *target == class).map(|(_, h, _)| *h).collect();
            (!rows.is_empty()).then(|| Held::part(name.clone(), &rows))
        };
        ConformalFigures {
            thresholds: thresholds.iter().map(finite).collect(),
            sets,
            by_class: self.names.iter().enumerate().filter_map(of_class).collect(),
            by_subgroup: self.parts(images.iter().map(|(image, held, _)| (*image, *held)), options),
            ..figures(&name, &all, alpha, (options.bootstrap, options.seed))
        }
    }

    /// The set of an image.
    fn given_set(&self, image: usize, holds: Option<bool>, is_in: impl Fn(usize) -> bool) -> GivenSet {
        let members = self.names.iter().enumerate().filter(|(class, _)| is_in(*class));
        GivenSet { line: self.lines[image], set: members.map(|(_, name)| name.clone()).collect(), holds }
    }

    /// Of images that may have several findings: risk control of the share that is missed. Those that have none tell
    /// nothing of it, and are neither calibrated nor judged on.
    fn findings_at_risk(&self, thresholds: [f64; 2], alpha: f64, options: &ZeroShotOptions) -> ConformalFigures {
        let (own, halves) = (self.of_findings(), self.halves());
        let threshold = |f: &Findings| thresholds[halves.half(f.group)];
        let held = |f: &Findings| {
            let missed = f.missed(threshold(f))?;
            Some(Held { covered: 1.0 - missed, size: f.size(threshold(f)), group: f.group })
        };
        let rows: Vec<(usize, Held)> = own.iter().filter_map(|(image, f)| Some((*image, held(f)?))).collect();
        let all: Vec<Held> = rows.iter().map(|(_, held)| *held).collect();
        let of_finding = |(k, name): (usize, &String)| {
            let having = own.iter().map(|(_, f)| f).filter(|f| f.has[k] == Some(true));
            let of = |f: &Findings| {
                let found = f.probabilities[k] >= threshold(f);
                Some(Held { covered: f64::from(u8::from(found)), ..held(f)? })
            };
            let rows: Vec<Held> = having.filter_map(of).collect();
            (!rows.is_empty()).then(|| Held::part(name.clone(), &rows))
        };
        let given = |(image, f): &(usize, Findings)| {
            let holds = f.missed(threshold(f)).map(|missed| missed == 0.0);
            self.given_set(*image, holds, |k| f.probabilities[k] >= threshold(f))
        };
        ConformalFigures {
            thresholds: vec![thresholds.map(Some)],
            sets: own.iter().map(given).collect(),
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
/// `columns`, the further ones of the rows, in a query's first row, those of few patients together.
///
/// # Errors
/// Whatever the device reports.
pub(super) fn retrieval_sets(
    split: &EncodedSplit,
    alpha: f64,
    (columns, rare): (&[String], &RareValues),
    resamples: Resamples,
) -> Result<ConformalReport> {
    let EncodedSplit { pairs, images, texts, scale } = split;
    let mut of_images = subgroups(pairs, &pairs.images.first_rows, columns);
    let mut of_texts = subgroups(pairs, &pairs.first_rows_of_texts, columns);
    [&mut of_images, &mut of_texts].into_iter().for_each(|values| rare.fold(values));
    let halves = pairs.halves();
    let direction = |name: &str, sides: [&Tensor; 2], relevant: &[Vec<usize>], groups: &[usize]| {
        // Of each query the score of its best right item.
        let best = |query: usize, scores: &[f64]| Calibrator {
            score: relevant[query].iter().map(|&item| scores[item]).fold(f64::INFINITY, f64::min),
            group: groups[query],
        };
        let calibrators = each_scored(sides, *scale, best)?;
        let fit = |rows: &[&Calibrator]| quantile(&rows.iter().map(|c| **c).collect::<Vec<_>>(), alpha);
        let thresholds = halves.fit(&calibrators, None, |c| c.group, fit);
        let held = |query: usize, scores: &[f64]| {
            let threshold = thresholds[halves.half(groups[query])];
            let size = scores.iter().filter(|score| **score <= threshold).count();
            let covered = f64::from(u8::from(calibrators[query].score <= threshold));
            Held { covered, size, group: groups[query] }
        };
        let held = each_scored(sides, *scale, held)?;
        let values = if name == TO_TEXT { &of_images } else { &of_texts };
        let rows = values.iter().map(Vec::as_slice).zip(held.iter().copied());
        let by_subgroup = by_subgroup(columns, rows);
        let thresholds = vec![finite(&thresholds)];
        anyhow::Ok(ConformalFigures { thresholds, by_subgroup, ..figures(name, &held, alpha, resamples) })
    };
    let methods = vec![
        direction(TO_TEXT, [images, texts], &pairs.texts_of_image, &pairs.images.groups)?,
        direction("text_to_image", [texts, images], &pairs.images_of_text, &pairs.text_groups)?,
    ];
    Ok(ConformalReport { alpha, calibrated_on: CROSSWISE.to_string(), methods })
}

const TO_TEXT: &str = "image_to_text";

/// [`each_query`] with its scores over the gallery, 1 − probability.
fn each_scored<T: Send>(
    [queries, gallery]: [&Tensor; 2],
    scale: f64,
    of: impl Fn(usize, &[f64]) -> T + Sync,
) -> Result<Vec<T>> {
    each_query(queries, gallery, |query, cosines| {
        let logits: Vec<f64> = cosines.iter().map(|cosine| scale * f64::from(*cosine)).collect();
        of(query, &Score::Lac.of(&softmax(&logits, 1.0)))
    })
}

/// `None` where it is infinite, which JSON does not know.
fn finite(thresholds: &[f64; 2]) -> [Option<f64>; 2] {
    thresholds.map(|t| Some(t).filter(|t| t.is_finite()))
}

/// Values of `columns` in each of these rows.
fn subgroups(pairs: &Pairs, first_rows: &[usize], columns: &[String]) -> Vec<Vec<Option<String>>> {
    let values = |&row: &usize| (0..columns.len()).map(|i| pairs.rows[row].extra(i).map(str::to_string)).collect();
    first_rows.iter().map(values).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ZeroShotOptions {
        ZeroShotOptions { bootstrap: 0, seed: 0, subgroups: Vec::new(), conformal: None }
    }

    /// An image a patient, a task a finding or one of classes.
    fn scores(multi_label: bool, tasks: Vec<Vec<Option<Prediction>>>) -> Scores {
        let n = tasks[0].len();
        let names = if multi_label { tasks.len() } else { 2 };
        Scores {
            multi_label,
            names: (0..names).map(|i| format!("c{i}")).collect(),
            tasks,
            groups: (0..n).collect(),
            logits: vec![Vec::new(); n],
            subgroups: vec![Vec::new(); n],
            lines: (0..n as u64).collect(),
        }
    }

    fn prediction(logits: [f64; 2], target: usize, group: usize) -> Option<Prediction> {
        Some(Prediction { logits: logits.to_vec(), target, temperature: 1.0, group })
    }

    /// Every second patient is a case, of which the model knows less: halves by that order would each be calibrated on
    /// the other kind, and one be covered nearly always, the other hardly ever.
    #[test]
    fn a_manifest_in_turns_of_case_and_control_is_covered_in_either() {
        let of = |i: usize| {
            let sure = (i * 37 % 400) as f64 / 100.0;
            let (case, right) = (i % 2, if i % 2 == 1 { sure - 3.0 } else { sure + 1.0 });
            let logits = if case == 1 { [0.0, right] } else { [right, 0.0] };
            prediction(logits, case, i)
        };
        let report = scores(false, vec![(0..400).map(of).collect()]).conformal(0.1, None, &options());
        let by_class = report.methods.iter().find(|m| m.method == "lac_by_class").unwrap();
        assert!(by_class.by_class.iter().all(|part| (part.coverage - 0.9).abs() < 0.08), "{:?}", by_class.by_class);
        let lac = &report.methods[0];
        assert!((lac.figures[0].value - 0.9).abs() < 0.06, "{:?}", lac.figures);
        // By parity 1 and next to nothing.
        assert!(lac.by_class[1].coverage > 0.7, "{:?}", lac.by_class);
        assert_eq!((lac.thresholds.len(), by_class.thresholds.len(), lac.sets.len()), (1, 2, 400));
        let held = lac.sets.iter().filter(|set| set.holds == Some(true)).count() as f64 / 400.0;
        assert!((held - lac.figures[0].value).abs() < 1e-12);
    }

    /// Nine in ten images have no finding: what is missed of the others is a tenth all the same.
    #[test]
    fn images_without_findings_do_not_buy_missed_ones() {
        let of = |i: usize| {
            let has = usize::from(i.is_multiple_of(10));
            prediction([0.0, (i * 7919 % 1000) as f64 / 200.0 - 2.5], has, i)
        };
        let report = scores(true, vec![(0..2000).map(of).collect()]).conformal(0.1, None, &options());
        let risk = &report.methods[0];
        assert!((risk.figures[0].value - 0.9).abs() < 0.06, "{:?}", risk.figures);
        assert_eq!(risk.by_class[0].rows, 200);
        assert_eq!(risk.sets.len(), 2000);
        assert!(risk.sets.iter().all(|set| set.holds.is_some() == (set.line % 10 == 0)));
    }
}
