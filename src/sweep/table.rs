//! The table of a sweep: means over seeds with their intervals.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Serialize;

use super::agreement::agreements;
use super::axis::{Choice, Setting};
use super::mean::Mean;
use super::member::{Figures, Member};

/// A row of the table: a setting with the mean of each figure over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SettingFigures {
    /// What was tried; the baseline's says so.
    pub setting: String,
    /// By name of figure.
    pub figures: BTreeMap<String, Mean>,
}

const SMOOTHING: &str = "loss.label_smoothing";

/// Means by setting, in the order of their first member. Where label smoothing is swept, each setting stands there once
/// more after temperature scaling, so that no ε alone has the benefit of it. Last, what figures are read against:
/// chance, and the ECE that calibrated probabilities would show on as few predictions.
pub fn table(members: &[Member]) -> Vec<SettingFigures> {
    let settings = settings(members);
    let row = |setting: &Setting, name: String, scaled: bool| {
        let of_setting: Vec<&Member> = members.iter().filter(|m| m.setting == *setting).collect();
        let figures: Vec<&Figures> = of_setting.iter().filter_map(|m| m.figures()).collect();
        let mut figures = means(&figures, scaled);
        figures.extend(agreements(&of_setting));
        SettingFigures { setting: name, figures }
    };
    let mut rows: Vec<SettingFigures> = settings.iter().map(|s| row(s, in_words(s), false)).collect();
    let is_smoothing = |choice: &Choice| choice.key == SMOOTHING;
    for setting in settings.iter().filter(|s| s.iter().any(is_smoothing)) {
        rows.push(row(setting, format!("{}{SCALED}", in_words(setting)), true));
    }
    let all: Vec<&Figures> = members.iter().filter_map(Member::figures).collect();
    rows.extend(READ_AGAINST.iter().map(|(suffix, name)| read_against(&all, suffix, name)));
    rows.retain(|row| !row.figures.is_empty() || READ_AGAINST.iter().all(|(_, name)| row.setting != *name));
    rows
}

/// What was tried, in the order of first members.
pub(super) fn settings(members: &[Member]) -> Vec<&Setting> {
    let mut settings: Vec<&Setting> = Vec::new();
    for member in members {
        if !settings.contains(&&member.setting) {
            settings.push(&member.setting);
        }
    }
    settings
}

/// Endings of names of what a figure is read against, and the rows that these are shown in.
const READ_AGAINST: [(&str, &str); 2] = [("_chance", CHANCE), ("_floor", "(calibrated, by luck)")];

/// The row of chance.
pub(super) const CHANCE: &str = "(chance)";

/// What the name of a setting ends with after temperature scaling.
pub(super) const SCALED: &str = ", then temperature scaling";

/// The mean over all members, without an interval: it is no setting's.
fn read_against(members: &[&Figures], suffix: &str, name: &str) -> SettingFigures {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in members.iter().flat_map(|figures| figures.iter()) {
        if let Some(of) = name.strip_suffix(suffix) {
            values.entry(of.to_string()).or_default().push(*value);
        }
    }
    let mean = |values: &[f64]| Some(Mean { half_width: None, ..Mean::of(values)? });
    let figures = values.into_iter().filter_map(|(name, values)| Some((name, mean(&values)?))).collect();
    SettingFigures { setting: name.to_string(), figures }
}

/// Figures that one temperature for all predictions of a fold leaves as they are: they go by which answer is first.
/// AUROC is not among them, since the probabilities of a softmax change their order over images.
const BY_RANK: [&str; 5] = ["recall@1", "mean_recall", "class_accuracy", "class_balanced_accuracy", "class_macro_f1"];

/// Whether a figure is the same after temperature scaling: by rank, or by logits against their norm.
fn is_the_same_scaled(figure: &str) -> bool {
    BY_RANK.contains(&figure) || figure.ends_with("_normalised")
}

/// The mean of each figure; with `scaled`, of those alone that are known after temperature scaling.
fn means(members: &[&Figures], scaled: bool) -> BTreeMap<String, Mean> {
    let own = |name: &&String| READ_AGAINST.iter().all(|(suffix, _)| !name.ends_with(suffix));
    let names: BTreeSet<&String> = members.iter().flat_map(|figures| figures.keys()).filter(own).collect();
    let mean = |name: &String| {
        let after = format!("{name}_scaled");
        let source = match scaled {
            true if members.iter().any(|f| f.contains_key(&after)) => &after,
            true if !is_the_same_scaled(name) => return None,
            _ => name,
        };
        let values: Vec<f64> = members.iter().filter_map(|f| f.get(source)).copied().filter(|v| !v.is_nan()).collect();
        Some((name.clone(), Mean::of(&values)?))
    };
    names.into_iter().filter_map(mean).collect()
}

/// Whether label smoothing is among what is tried, and is 0.
pub(super) fn is_unsmoothed(setting: &Setting) -> bool {
    let zero = |choice: &Choice| choice.key == SMOOTHING && choice.value.parse::<f64>().is_ok_and(|v| v == 0.0);
    setting.iter().any(zero)
}

pub(super) fn in_words(setting: &Setting) -> String {
    setting.iter().map(|choice| format!("{} = {}", choice.key, choice.value)).collect::<Vec<_>>().join(", ")
}

/// The columns in Markdown: figure, heading, factor.
const COLUMNS: [(&str, &str, f64); 25] = [
    ("recall@1", "recall@1 %", 100.0),
    ("mean_recall", "mean recall %", 100.0),
    ("match_nll", "matching NLL", 1.0),
    ("match_brier", "matching Brier", 1.0),
    ("match_ece", "matching ECE", 1.0),
    ("match_temperature", "matching temperature", 1.0),
    ("over_fitting", "over-fitting", 1.0),
    ("match_aurc", "matching AURC", 1.0),
    ("match_aurc_normalised", "matching AURC, logits normalised", 1.0),
    ("match_accuracy_of_80", "matches right of surest 80 %, %", 100.0),
    ("match_coverage_at_90", "matches answered at 90 % right, %", 100.0),
    ("report_set_size", "reports in a 90 % set", 1.0),
    ("report_agreement", "reports alike across seeds %", 100.0),
    ("class_accuracy", "accuracy %", 100.0),
    ("class_auroc_macro", "AUROC", 1.0),
    ("class_nll", "class NLL", 1.0),
    ("class_brier", "class Brier", 1.0),
    ("class_ece", "class ECE", 1.0),
    ("class_temperature", "class temperature", 1.0),
    ("class_aurc", "class AURC", 1.0),
    ("class_aurc_normalised", "class AURC, logits normalised", 1.0),
    ("class_accuracy_of_80", "right of surest 80 %, %", 100.0),
    ("class_coverage_at_90", "answered at 90 % right, %", 100.0),
    ("class_set_size", "classes in a 90 % set", 1.0),
    ("class_agreement", "classes alike across seeds %", 100.0),
];

/// How a figure, or the same after temperature scaling, is shown: its heading, factor and digits.
pub(super) fn shown_as(figure: &str) -> (String, f64, usize) {
    let of = |name: &str| COLUMNS.iter().find(|(known, ..)| *known == name);
    let scaled =
        || of(figure.strip_suffix("_scaled")?).map(|(_, heading, factor)| (format!("{heading}, scaled"), *factor));
    let plain = of(figure).map(|(_, heading, factor)| (heading.to_string(), *factor));
    let (heading, factor) = plain.or_else(scaled).unwrap_or_else(|| (figure.to_string(), 1.0));
    (heading, factor, digits(factor))
}

/// Per cent have one, others three.
fn digits(factor: f64) -> usize {
    if factor > 1.0 { 1 } else { 3 }
}

/// Whether figures of these names can be shown, with or without `_scaled`.
///
/// # Errors
/// One cannot.
pub fn check_shown(figures: &[String]) -> Result<()> {
    let known = |name: &str| COLUMNS.iter().any(|(known, ..)| *known == name);
    match figures.iter().find(|f| !known(f) && !known(f.strip_suffix("_scaled").unwrap_or_default())) {
        Some(other) => {
            let all: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
            bail!("--figures {other}: there is no such figure; known are {}", all.join(", "))
        }
        None => Ok(()),
    }
}

/// Whether a figure is among those that are wanted: all where none is named.
pub(super) fn is_wanted(figure: &str, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|name| name == figure)
}

/// The table in Markdown: mean ± half of the 95 % interval over seeds, of those `wanted` figures that any setting has.
pub fn markdown(rows: &[SettingFigures], wanted: &[String]) -> String {
    let there = |name: &str| is_wanted(name, wanted) && rows.iter().any(|r| r.figures.contains_key(name));
    let shown: Vec<_> = COLUMNS.iter().filter(|(name, ..)| there(name)).collect();
    let cells = |row: &SettingFigures| {
        let cell = |(name, _, factor): &&(&str, &str, f64)| {
            let Some(m) = row.figures.get(*name) else { return " – |".to_string() };
            let digits = digits(*factor);
            let half = m.half_width.map_or(String::new(), |h| format!(" ± {:.digits$}", h * factor));
            format!(" {:.digits$}{half} |", m.mean * factor)
        };
        shown.iter().map(cell).collect::<String>()
    };
    let mut lines = vec![
        format!("| setting |{}", shown.iter().map(|(_, heading, _)| format!(" {heading} |")).collect::<String>()),
        format!("|---|{}", "---|".repeat(shown.len())),
    ];
    lines.extend(rows.iter().map(|row| format!("| {} |{}", row.setting, cells(row))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::member::State;

    #[test]
    fn means_have_student_intervals_and_the_baseline_is_scaled() {
        let m = Mean::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(m.mean, 2.0);
        // scipy.stats.t.interval(0.95, 2, 2, 1/sqrt(3)) is 2 ± 2.4841.
        assert!((m.half_width.unwrap() - 2.4841).abs() < 1e-3);
        assert_eq!(Mean::of(&[1.0]).unwrap().half_width, None);
        let member = |value: &str, seed, ece: Option<f64>| {
            let setting = vec![Choice { key: "loss.label_smoothing".into(), value: value.into() }];
            let named = |(name, value): (&str, f64)| (name.to_string(), value);
            let figures = ece.map(|e| {
                let all = [("ece", e), ("ece_scaled", e / 2.0), ("ece_floor", e / 4.0), ("nll_chance", 1.5)];
                let unscaled = ["class_set_size", "class_temperature", "class_auroc_macro", "class_accuracy_of_80"];
                let same = ["recall@1", "class_aurc_normalised"];
                let all = all.into_iter().chain(unscaled.into_iter().chain(same).map(|name| (name, 3.0)));
                Figures::from_iter(all.map(named))
            });
            Member { state: figures.map_or(State::Unfinished, State::Evaluated), ..Member::new(setting, seed) }
        };
        let rows = table(&[member("0", 0, Some(0.2)), member("0.1", 0, Some(0.3)), member("0.1", 1, None)]);
        let ece: Vec<(&str, f64, usize)> =
            rows[..4].iter().map(|r| (r.setting.as_str(), r.figures["ece"].mean, r.figures["ece"].seeds)).collect();
        assert_eq!(ece[0], ("loss.label_smoothing = 0", 0.2, 1));
        assert_eq!(ece[1], ("loss.label_smoothing = 0.1", 0.3, 1));
        assert_eq!(ece[2], ("loss.label_smoothing = 0, then temperature scaling", 0.1, 1));
        assert_eq!(ece[3], ("loss.label_smoothing = 0.1, then temperature scaling", 0.15, 1));
        let against = |row: usize, name: &str| (rows[row].setting.as_str(), rows[row].figures[name].mean);
        assert_eq!(against(4, "nll"), ("(chance)", 1.5));
        assert_eq!(against(5, "ece"), ("(calibrated, by luck)", 0.0625));
        assert_eq!(rows.len(), 6);
        assert!(!rows[0].figures.contains_key("ece_floor") && !rows[4].figures.contains_key("ece"));
        // What was not worked out after scaling is not told as if it had been.
        let scaled: Vec<&str> = rows[2].figures.keys().map(String::as_str).collect();
        assert_eq!(scaled, ["class_aurc_normalised", "ece", "recall@1"]);
        assert!(rows[0].figures.contains_key("class_set_size"));
        assert!(markdown(&rows, &["class_set_size".to_string()]).contains("temperature scaling | – |"));
    }
}
