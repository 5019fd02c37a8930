//! Which differences between settings are more than chance, over seeds and patients together.

use serde::Serialize;

use super::axis::Setting;
use super::member::Member;
use super::table::{in_words, is_unsmoothed, is_wanted, settings, shown_as};
use crate::metrics::hierarchical::{Compared, PatientFigure, compare};
use crate::seed::{Purpose, stream};

/// How a figure of a setting differs from that of the setting that all are held against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The one setting.
    pub setting: String,
    /// The other: no label smoothing where that is swept, else the first.
    pub against: String,
    /// The figure's name.
    pub figure: String,
    /// The one's mean over seeds minus the other's.
    pub difference: f64,
    /// 95 % interval over seeds and patients, by hierarchical bootstrap.
    pub interval: (f64, f64),
    /// How often a difference of 0 would look so, two-sided.
    pub p: f64,
    /// Seeds of each with which a difference like this would be more than chance; absent where the patients are too few
    /// for any number of seeds.
    pub seeds_needed: Option<usize>,
}

/// Resamples of seeds and patients.
const RESAMPLES: usize = 2000;

/// The figures that are compared, in the order of the table: those that can be told by patient.
const FIGURES: [&str; 25] = [
    "recall@1",
    "mean_recall",
    "match_nll",
    "match_nll_scaled",
    "match_ece",
    "match_ece_scaled",
    "over_fitting",
    "match_aurc",
    "match_aurc_scaled",
    "match_aurc_normalised",
    "match_coverage_at_90",
    "match_coverage_at_90_scaled",
    "class_accuracy",
    "class_auroc_macro",
    "class_nll",
    "class_nll_scaled",
    "class_brier",
    "class_brier_scaled",
    "class_ece",
    "class_ece_scaled",
    "class_aurc",
    "class_aurc_scaled",
    "class_aurc_normalised",
    "class_coverage_at_90",
    "class_coverage_at_90_scaled",
];

/// Of every setting against one. None below two seeds.
pub fn differences(members: &[Member]) -> Vec<Difference> {
    let settings = settings(members);
    let Some(&against) = settings.iter().find(|s| is_unsmoothed(s)).or(settings.first()) else { return Vec::new() };
    let of = |setting: &Setting, figure: &str| -> Vec<&PatientFigure> {
        members.iter().filter(|m| m.setting == *setting).filter_map(|m| m.by_patient.figures.get(figure)).collect()
    };
    let mut found = Vec::new();
    for setting in settings.into_iter().filter(|s| *s != against) {
        for figure in FIGURES {
            let (ours, theirs) = (of(setting, figure), of(against, figure));
            let rng = |i: u64| stream(0, Purpose::Bootstrap, i);
            let Some(Compared { difference, interval, p, seeds_needed }) = compare(&ours, &theirs, RESAMPLES, rng)
            else {
                continue;
            };
            found.push(Difference {
                setting: in_words(setting),
                against: in_words(against),
                figure: figure.to_string(),
                difference,
                interval,
                p,
                seeds_needed,
            });
        }
    }
    found
}

/// The differences of those `wanted` figures that there are, in Markdown; nothing without any.
pub fn differences_markdown(rows: &[Difference], wanted: &[String]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let mut lines = vec![
        format!("\nDifferences from {}, over seeds and patients together (hierarchical bootstrap):\n", first.against),
        "| setting | figure | difference [95 % interval] | p | more than chance | seeds it would take |".into(),
        "|---|---|---|---|---|---|".into(),
    ];
    for row in rows.iter().filter(|row| is_wanted(&row.figure, wanted)) {
        let (heading, factor, digits) = shown_as(&row.figure);
        let [value, low, high] = [row.difference, row.interval.0, row.interval.1].map(|v| v * factor);
        let chance = if row.p < 0.05 { "yes" } else { "no" };
        let seeds = row.seeds_needed.map_or("more patients".to_string(), |n| n.to_string());
        lines.push(format!(
            "| {} | {heading} | {value:+.digits$} [{low:+.digits$} to {high:+.digits$}] | {:.3} | {chance} | {seeds} |",
            row.setting, row.p
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ByPatient;
    use crate::sweep::axis::Choice;

    #[test]
    fn settings_are_held_against_no_smoothing_and_told_apart_only_where_they_differ() {
        let member = |value: &str, level: f64, seed: u64| {
            let setting = vec![Choice { key: "loss.label_smoothing".into(), value: value.into() }];
            let patient = |i: u64| (level + ((i * 7 + seed * 3) % 5) as f64 / 10.0, 1.0);
            let of = PatientFigure::Mean(vec![(0..40).map(patient).collect()]);
            let by_patient = ByPatient { figures: [("class_nll".to_string(), of)].into(), ..ByPatient::default() };
            Member { by_patient, ..Member::new(setting, seed) }
        };
        let runs = [("0.1", 1.0), ("0", 2.0), ("0.2", 2.0)];
        let members: Vec<Member> =
            runs.iter().flat_map(|(value, level)| (0..3).map(move |seed| member(value, *level, seed))).collect();
        let found = differences(&members);
        let told: Vec<(&str, bool)> = found.iter().map(|d| (d.setting.as_str(), d.p < 0.05)).collect();
        assert_eq!(told, [("loss.label_smoothing = 0.1", true), ("loss.label_smoothing = 0.2", false)]);
        assert!(found.iter().all(|d| d.against == "loss.label_smoothing = 0" && d.figure == "class_nll"));
        assert!((found[0].difference + 1.0).abs() < 0.05, "{found:?}");
        let text = differences_markdown(&found, &[]);
        assert!(text.contains("| class NLL | -1.0") && text.contains("| yes | 2 |"), "{text}");
        assert!(differences(&members[..1]).is_empty() && differences_markdown(&[], &[]).is_empty());
        let other = differences_markdown(&found, &["mean_recall".to_string()]);
        assert!(!other.contains("class NLL"), "{other}");
    }
}
