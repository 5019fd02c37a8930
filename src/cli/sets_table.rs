//! What a model answers where it may be unsure, and conformal sets, as tables for people.

use std::collections::BTreeMap;

use crate::data::UNSURE;
use crate::eval::{Abstained, ConformalReport, Figure, SelectiveFigures, TopKFigures};

/// A character is a column in all that is printed here. What is as wide or wider is followed by a space, so that it
/// does not run into the next column. (`{:<width$}` ends the program where a width is beyond 65,535.)
pub(super) fn pad(text: &str, width: usize) -> String {
    let padded = text.to_string() + &" ".repeat(width.saturating_sub(text.chars().count()));
    if padded.is_empty() || padded.ends_with(' ') { padded } else { padded + " " }
}

/// The width of a column of `names`, at least `least`; a name longer than most lines does not widen the others'.
pub(super) fn width_of<'a>(names: impl IntoIterator<Item = &'a str>, least: usize) -> usize {
    names.into_iter().map(|name| (name.chars().count() + 1).min(80)).fold(least, usize::max)
}

/// A share between 0 and 1, and not so near to these that no number of patients could show it.
pub(super) fn alpha(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (1e-4..=1.0 - 1e-4).contains(&share) => Ok(share),
        _ => Err("allowed are numbers between 0 and 1, such as 0.1, from 0.0001 to 0.9999".into()),
    }
}

/// A figure with its interval, found by its name.
fn cell(figures: &[Figure], name: &str) -> String {
    let Some(f) = figures.iter().find(|f| f.name == name) else { return pad("–", 22) };
    // The logarithm of 1 may be -0.
    let value = |value: f64| format!("{:.3}", value + 0.0);
    let interval = f.interval.map_or(String::new(), |(low, high)| format!(" [{}–{}]", value(low), value(high)));
    pad(&format!("{}{interval}", value(f.value)), 22)
}

/// A row for each score of sureness.
pub(super) fn selective(scores: &[SelectiveFigures]) -> String {
    let shown = ["aurc", "excess_aurc", "accuracy_of_80", "coverage_at_90"];
    let headings = ["AURC", "excess AURC", "right of surest 80 %", "answered at 90 % right"];
    let mut lines =
        vec![format!("{:<18}{}", "surest by", headings.map(|h| pad(h, 22)).concat()).trim_end().to_string()];
    let row =
        |s: &SelectiveFigures| format!("{}{}", pad(&s.score, 18), shown.map(|name| cell(&s.figures, name)).concat());
    lines.extend(scores.iter().map(|s| row(s).trim_end().to_string()));
    if let Some(first) = scores.first() {
        let chance = |name: &str| first.figures.iter().find(|f| f.name == name)?.chance;
        let cells = shown.map(|name| pad(&chance(name).map_or(String::new(), |c| format!("{c:.3}")), 22)).concat();
        lines.push(format!("{:<18}{cells}", "random order").trim_end().to_string());
    }
    lines.join("\n")
}

/// A row for each direction and k.
pub(super) fn top_k(directions: &[TopKFigures]) -> String {
    let headings = ["ECE", "NLL", "ECE, scaled", "NLL, scaled"].map(|h| pad(h, 22)).concat();
    let mut lines = vec![format!("\n{:<24}{headings}NLL by chance", "a right one among")];
    for direction in directions {
        let arrow = direction.direction.replace("_to_", "→");
        for k in [1, 5, 10] {
            let names = ["ece", "nll"].map(|figure| format!("{figure}_top_{k}"));
            let cells = names.iter().cloned().chain(names.iter().map(|name| format!("{name}_scaled")));
            let cells: String = cells.map(|name| cell(&direction.figures, &name)).collect();
            let chance = direction.figures.iter().find(|f| f.name == names[1]).and_then(|f| f.chance);
            let chance = chance.map_or(String::new(), |c| format!("{c:.3}"));
            lines.push(format!("{:<24}{cells}{chance}", format!("{arrow} first {k}")).trim_end().to_string());
        }
    }
    lines.join("\n")
}

/// What is answered, by answer.
pub(super) fn abstained(report: &Abstained) -> String {
    let rule = &report.rule;
    let mut lines = vec![format!(
        "\nanswered where {} is at least {:.4}, chosen for {:.1} % right (there {:.1} % of {} were answered)",
        rule.score,
        rule.threshold,
        100.0 * rule.wanted_accuracy,
        100.0 * rule.coverage,
        rule.predictions
    )];
    lines.push(format!("answered {}right {}", cell(&report.figures, "coverage"), cell(&report.figures, "accuracy")));
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for given in &report.answers {
        let (all, right) = counts.entry(&given.answer).or_default();
        *all += 1;
        *right += usize::from(given.right == Some(true));
    }
    for (answer, (all, right)) in counts.iter().filter(|(answer, _)| **answer != UNSURE) {
        lines.push(format!("{answer:<24}{all:>6}, right {right}"));
    }
    lines.push(format!("{UNSURE:<24}{:>6}", counts.get(UNSURE).map_or(0, |(all, _)| *all)));
    lines.join("\n")
}

/// A row for each way of making sets, then for each part.
pub(super) fn conformal(report: &ConformalReport) -> String {
    let mut lines = vec![format!(
        "\nsets for {:.0} % of patients to come, calibrated on {}",
        100.0 * (1.0 - report.alpha),
        report.calibrated_on
    )];
    if report.calibrated_on.split(',').next() == Some("split val") {
        lines.push("if training chose its step on val, they hold rather less often; --fit-split names another".into());
    }
    let parts = report.methods.iter().flat_map(|method| method.by_class.iter().chain(&method.by_subgroup));
    let width = width_of(parts.map(|part| part.name.as_str()), 22);
    let heading = ["hold what is so", "size", "empty"].map(|h| pad(h, 22)).concat();
    lines.push(format!("{}{heading}rows", pad("sets by", width + 2)));
    for method in &report.methods {
        let cells = ["coverage", "size", "empty"].map(|name| cell(&method.figures, name)).concat();
        lines.push(format!("{}{cells}", pad(&method.method, width + 2)).trim_end().to_string());
        for part in method.by_class.iter().chain(&method.by_subgroup) {
            let (coverage, size) = (format!("{:.3}", part.coverage), format!("{:.3}", part.size));
            lines.push(format!("  {}{coverage:<22}{size:<44}{}", pad(&part.name, width), part.rows));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{alpha, pad, width_of};

    #[test]
    fn columns_never_touch() {
        assert_eq!(
            ["", "ab", "abc", "abcd", "肺炎"].map(|text| pad(text, 3)),
            ["   ", "ab ", "abc ", "abcd ", "肺炎 "]
        );
        assert_eq!((width_of(["a", "pneumothorax"], 4), width_of(["a"], 4)), (13, 4));
    }

    #[test]
    fn shares_are_between_0_and_1() {
        assert_eq!(alpha("0.1"), Ok(0.1));
        assert!(["0", "1e-300", "0.99999", "1", "-0.1", "nan", "x"].iter().all(|text| alpha(text).is_err()));
    }
}
