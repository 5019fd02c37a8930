//! Zero-shot classification of a manifest: which rows are judged, which are fitted on, and by which labels.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, ensure};

use super::abstention::{Abstention, digest_of};
use super::by_patient::ByPatient;
use super::conformal::Way;
use super::figure::Figure;
use super::figures::{ZeroShotOptions, ZeroShotReport};
use super::head::Head;
use super::kept::Kept;
use super::kept_sets::KeptSets;
use super::kept_temperature::KeptTemperature;
use super::predicted::{Rules, Said};
use super::subgroups::{RareValues, check_names, check_values};
use super::zero_shot::{FittedOn, LabelledPrompts, Scores, score};

use crate::data::leaks::{Side, refuse_shared};
use crate::data::{Columns, LabelPolicy, Labels, Manifest, Prompts, ReportPolicy, Row};
use crate::digest::ContentHash;
use crate::metrics::calibration::{TEMPERATURES, fit_temperature};
use crate::session::{RowSource, Session};

/// The fewest patients whose labels a temperature is fitted on.
const LEAST_PATIENTS: usize = 5;
/// What rules were chosen on where there is no other split.
const JUDGED: &str = "the rows that were judged";

/// How a manifest is read for zero-shot classification.
#[derive(Clone, Debug)]
pub struct ZeroShotRequest {
    /// Split that temperature and thresholds are fitted on; default: val where the manifest has one and another is
    /// judged, else each half of the patients on the other half.
    pub fit_split: Option<String>,
    /// What counts as a label.
    pub labels: LabelPolicy,
    /// Whether the rows that are judged need no labels: figures are left out then.
    pub may_be_unlabelled: bool,
    /// Images at once; does not change the figures.
    pub batch_size: usize,
    /// How figures are worked out.
    pub options: ZeroShotOptions,
}

/// What models are judged on: rows with their labels, prompts, and what is fitted on.
pub struct Classification {
    prompts: Prompts,
    judged: LabelledRows,
    /// Rows of another split with its name.
    fit: Option<(LabelledRows, String)>,
    /// Of the subgroup columns.
    rare: RareValues,
    batch_size: usize,
    options: ZeroShotOptions,
}

/// Rows with what they are labelled with.
pub(super) struct LabelledRows {
    pub rows: Vec<Row>,
    pub labels: Labels,
}

/// A model's figures, and its scores for comparison with another's.
pub struct Classified {
    /// All figures; none where no image has a label.
    pub report: Option<ZeroShotReport>,
    scores: Scores,
    rules: Rules,
    /// Digest of the head that it was scored by.
    head: Option<String>,
    /// Of the split that was fitted on, with its name.
    fit: Option<(Scores, String)>,
}

impl Classification {
    /// Of the rows that `source` names by `prompts`.
    ///
    /// # Errors
    /// A manifest that cannot be read, a row that cannot be used, no row with a label, a split that is not there,
    /// somebody who stands both in the split that is fitted on and in the one that is judged.
    pub fn on(source: &RowSource, policy: &ReportPolicy, prompts: Prompts, request: &ZeroShotRequest) -> Result<Self> {
        let subgroups = &request.options.subgroups;
        check_names(subgroups, &source.columns)?;
        let mut extra = if prompts.multi_label { prompts.names() } else { Vec::new() };
        let skipped = extra.len();
        extra.extend(subgroups.iter().cloned());
        let source = RowSource { columns: Columns { extra, ..source.columns.clone() }, ..source.clone() };
        let manifest = source.all(policy)?;
        let judged = match &source.split {
            Some(split) => source.of_split(&manifest, split)?,
            None => manifest.rows.clone(),
        };
        let rare = check_values(subgroups, &source.columns, &judged, skipped)?;
        let labelled = |rows: Vec<Row>| LabelledRows::new(rows, &prompts, request.labels);
        let fit = match fit_split(&manifest, source.split.as_deref(), request.fit_split.as_deref())? {
            Some(name) => {
                let rows = source.of_split(&manifest, &name)?;
                let name = format!("split {name}");
                let judged_name = format!("split {}", source.split.as_deref().unwrap_or_default());
                let fitted_on = Side { rows: &rows, name: &name };
                refuse_shared(&source.name(), fitted_on, Side { rows: &judged, name: &judged_name })?;
                Some((labelled(rows)?, name))
            }
            None => None,
        };
        let judged = if request.may_be_unlabelled {
            LabelledRows::with_or_without(judged, &prompts, request.labels)?
        } else {
            labelled(judged)?
        };
        ensure!(
            request.options.conformal.is_none() || fit.is_some() || judged.has_labels(),
            "--conformal: no row that is judged has a label to calibrate sets on; calibrate them on a split of \
             labelled rows (--split with --fit-split), or use those that --keep-conformal kept with the model (--sets)"
        );
        Ok(Self { prompts, judged, fit, rare, batch_size: request.batch_size, options: request.options.clone() })
    }

    /// The prompts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Figures of `model`, by `head` where there is one in place of its prompts.
    ///
    /// # Errors
    /// No labelled image, an image that cannot be read, a head of another width.
    pub fn judge(&self, model: &Session, head: Option<&Head>) -> Result<Classified> {
        let encoder = model.encoder(self.batch_size)?;
        let subgroups = self.options.subgroups.len();
        let scored = |of: &LabelledRows| {
            let prompts = LabelledPrompts { prompts: &self.prompts, labels: &of.labels };
            match head {
                Some(head) => head.score(&encoder, &of.rows, prompts, subgroups),
                None => score(&encoder, &of.rows, prompts, subgroups),
            }
        };
        let mut scores = scored(&self.judged)?;
        self.rare.fold(&mut scores.subgroups);
        let fit = self.fit.as_ref().map(|(rows, name)| anyhow::Ok((scored(rows)?, name.clone()))).transpose()?;
        let on = fit.as_ref().map(|(scores, name)| FittedOn { scores, name });
        let is_labelled = !scores.labelled().is_empty();
        let mut report = is_labelled.then(|| scores.report(on, &self.options)).transpose()?;
        let mut rules = Rules::default();
        if let Some(alpha) = self.options.conformal {
            let way = Way::first(scores.multi_label);
            let thresholds = scores.thresholds(way, alpha, on.map(|on| on.scores));
            warn_of_everything(&format!("--conformal {alpha}"), thresholds.iter().flatten());
            rules.thresholds = Some(thresholds);
            if let Some(report) = &mut report {
                report.conformal = Some(scores.conformal(alpha, on, &self.options));
            }
        }
        Ok(Classified { report, scores, rules, head: head.map(Head::digest), fit })
    }

    /// Figures of `model` as sums by patient.
    pub fn by_patient(&self, model: &Classified) -> ByPatient {
        model.scores.by_patient()
    }

    /// The threshold below which `model` is to be unsure, so that a share of `accuracy` of its answers is right:
    /// chosen on the split that is fitted on, or where there is none on the one that is judged. Says on which.
    ///
    /// # Errors
    /// No threshold reaches it.
    pub fn choose_abstention(&self, model: &Classified, accuracy: f64) -> Result<(Abstention, Option<String>)> {
        let (scores, name) = Self::chosen_on(model);
        Ok((scores.abstention(accuracy, self.digest(model))?, name))
    }

    /// What is in sets that leave out what is so in a share of `alpha` of patients to come at most: calibrated on the
    /// split that is fitted on, or where there is none on the one that is judged. Says on which.
    ///
    /// # Errors
    /// No image of it has a label.
    pub fn calibrate_sets(&self, model: &Classified, alpha: f64) -> Result<(KeptSets, Option<String>)> {
        let (scores, name) = Self::chosen_on(model);
        ensure!(!scores.labelled().is_empty(), "--keep-conformal {alpha}: no image has a label to calibrate sets on");
        let words = name.as_deref().unwrap_or(JUDGED);
        let kept = scores.calibrated(alpha, words, self.digest(model));
        let first = kept.thresholds.get(&Way::first(scores.multi_label).name());
        warn_of_everything(&format!("--keep-conformal {alpha}"), first.into_iter().flatten());
        Ok((kept, name))
    }

    /// The patients that rules are chosen on: others where there are such, with the name of their split.
    fn chosen_on(model: &Classified) -> (&Scores, Option<String>) {
        match &model.fit {
            Some((scores, name)) => (scores, Some(name.clone())),
            None => (&model.scores, None),
        }
    }

    /// What `model` was scored by, as an abstention knows it.
    fn digest(&self, model: &Classified) -> String {
        digest_of_both(digest_of(&self.prompts), model.head.as_deref())
    }

    /// The temperature that makes the probabilities of `model` true: fitted on the split that is fitted on, or where
    /// there is none on the one that is judged. Says on which.
    ///
    /// # Errors
    /// Labels of fewer than five patients count, or no temperature is best: all predictions are right, or
    /// the wrong ones are as sure as the right.
    pub fn temperature(&self, model: &Classified) -> Result<(KeptTemperature, Option<String>)> {
        let (scores, name) = Self::chosen_on(model);
        let fitted_on = name.clone().unwrap_or_else(|| JUDGED.to_string());
        let predictions = scores.predictions();
        let patients = predictions.iter().map(|p| p.group).collect::<HashSet<_>>().len();
        ensure!(
            patients >= LEAST_PATIENTS,
            "a temperature cannot be fitted on labels of {patients} patients ({fitted_on}); allowed are \
             {LEAST_PATIENTS} and more (--fit-split)"
        );
        let temperature = fit_temperature(predictions.iter().map(|p| (p.logits.as_slice(), p.target)));
        // The fit halves its interval sixty times: what ends this near to a bound would have gone beyond.
        let (least, most) = (1.001 * TEMPERATURES.start(), 0.999 * TEMPERATURES.end());
        ensure!(
            (least..=most).contains(&temperature),
            "of {} predictions ({fitted_on}) no temperature is best: the fit ended at its bound of {temperature:.2}, \
             since all are right or being sure says nothing of being right; take more patients (--fit-split)",
            predictions.len()
        );
        let kept =
            KeptTemperature { temperature, fitted_on, predictions: predictions.len(), prompts: self.digest(model) };
        Ok((kept, name))
    }

    /// The temperature that the model in `folder` keeps for these prompts and `head`, where it keeps one; says where
    /// it is for others.
    ///
    /// # Errors
    /// As [`Kept::find`].
    pub fn kept_temperature(&self, folder: &Path, head: Option<&Head>) -> Result<Option<KeptTemperature>> {
        KeptTemperature::of(folder, &digest_with(&digest_of(&self.prompts), head))
    }

    /// Lets `model` tell probabilities by the temperature that was kept, as a server does. Figures of how calibrated
    /// it is stay as they are: by the temperature that is fitted here.
    pub fn calibrate(&self, model: &mut Classified, kept: &KeptTemperature) {
        model.rules.temperature = Some(kept.temperature);
    }

    /// Lets `model` answer by `rule`, and adds to its report what that comes to.
    ///
    /// # Errors
    /// The rule was chosen with other prompts.
    pub fn abstain(&self, model: &mut Classified, rule: &Abstention) -> Result<()> {
        ensure!(
            rule.prompts == self.digest(model),
            "the kept abstention ({}) was chosen with other prompts, or another head; choose one for these with \
             --keep-abstention",
            Abstention::FILE
        );
        let resamples = (self.options.bootstrap, self.options.seed);
        if let Some(report) = &mut model.report {
            report.abstained = Some(model.scores.abstained(rule, resamples)?);
        }
        model.rules.abstention = Some(rule.clone());
        Ok(())
    }

    /// Lets `model` give sets by what was `kept`, and adds to its report what these come to.
    ///
    /// # Errors
    /// They were calibrated with other prompts.
    pub fn give_sets(&self, model: &mut Classified, kept: &KeptSets) -> Result<()> {
        ensure!(
            kept.prompts == self.digest(model),
            "the kept sets ({}) were calibrated with other prompts, or another head; calibrate some for these with \
             --keep-conformal",
            KeptSets::FILE
        );
        let way = Way::first(model.scores.multi_label);
        model.rules.thresholds = Some(model.scores.kept_thresholds(way, kept)?);
        if let Some(report) = &mut model.report {
            report.conformal = Some(model.scores.conformal_by(kept, &self.options)?);
        }
        Ok(())
    }

    /// What `model` says of every image, labelled or not, by the rules that it was given.
    ///
    /// # Errors
    /// A rule goes by an unknown score.
    pub fn said(&self, model: &Classified) -> Result<Vec<Said>> {
        model.scores.said(&model.rules)
    }

    /// Overall figures of one model minus another's, both judged here, with paired intervals.
    ///
    /// # Errors
    /// The two saw different images, or none with a label.
    pub fn difference(&self, model: &Classified, other: &Classified) -> Result<Vec<Figure>> {
        ensure!(model.report.is_some(), "--compare: no image has a label to compare the models by");
        model.scores.difference(&other.scores, &self.options)
    }
}

impl LabelledRows {
    /// [`Self::new`] for rows that need no labels; where some have one, it must be of the prompts all the same.
    ///
    /// # Errors
    /// Labels, and none of them counts.
    pub fn with_or_without(rows: Vec<Row>, prompts: &Prompts, policy: LabelPolicy) -> Result<Self> {
        let classes = prompts.classes.len();
        let has_column = |row: &Row| prompts.multi_label && (0..classes).any(|k| row.extra(k).is_some());
        if rows.iter().any(|row| row.label().is_some() || has_column(row)) {
            return Self::new(rows, prompts, policy);
        }
        let labels = if prompts.multi_label {
            Labels::Findings(vec![vec![None; classes]; rows.len()])
        } else {
            Labels::Classes(vec![None; rows.len()])
        };
        Ok(Self { rows, labels })
    }

    fn has_labels(&self) -> bool {
        match &self.labels {
            Labels::Classes(classes) => classes.iter().any(Option::is_some),
            Labels::Findings(findings) => findings.iter().flatten().any(Option::is_some),
        }
    }

    /// By the classes of `prompts`; tells of labels that are none of them.
    ///
    /// # Errors
    /// No row has a label that counts.
    pub fn new(rows: Vec<Row>, prompts: &Prompts, policy: LabelPolicy) -> Result<Self> {
        let (labels, unknown) = prompts.labels(&rows, policy)?;
        if !unknown.is_empty() {
            let list: Vec<String> = unknown.iter().take(5).map(|(label, n)| format!("{label:?} ({n})")).collect();
            tracing::warn!(
                "{} labels are no class of the prompt file and do not count: {}",
                unknown.len(),
                list.join(", ")
            );
        }
        Ok(Self { rows, labels })
    }
}

/// Sets that leave nothing out keep their promise and say nothing.
fn warn_of_everything<'a>(option: &str, mut thresholds: impl Iterator<Item = &'a f64>) {
    if thresholds.any(|threshold| threshold.is_infinite()) {
        tracing::warn!("{option}: of so few patients, sets hold everything; take a larger share, or more patients");
    }
}

/// What prompts with the digest `prompts` and `head` are together.
pub(super) fn digest_with(prompts: &str, head: Option<&Head>) -> String {
    digest_of_both(prompts.to_string(), head.map(Head::digest).as_deref())
}

fn digest_of_both(prompts: String, head: Option<&str>) -> String {
    let Some(head) = head else { return prompts };
    let mut hash = ContentHash::default();
    hash.field(prompts);
    hash.field(head);
    hash.hex()
}

/// The split to fit on, where that is another than the one that is judged.
fn fit_split(manifest: &Manifest, judged: Option<&str>, asked: Option<&str>) -> Result<Option<String>> {
    let known = manifest.splits();
    if let Some(name) = asked {
        ensure!(known.contains(&name), "--fit-split {name}: the splits are {}", known.join(", "));
        ensure!(
            judged.is_some_and(|judged| judged != name),
            "--fit-split {name}: needs --split, which must be another"
        );
    }
    let name = asked.or(known.into_iter().find(|split| *split == "val" && judged.is_some()));
    Ok(name.filter(|name| Some(*name) != judged).map(str::to_string))
}
