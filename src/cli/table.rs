//! Figures as tables for people.

use super::sets_table::{self, pad, width_of};
use crate::eval::{
    CalibrationReport, DirectionFigures, Figure, GroundingReport, NegationReport, ProbeReport, RetrievalReport,
    Validation, ZeroShotReport,
};

/// One row a figure and direction; one column a model, then chance.
pub(super) fn retrieval(models: &[(&str, &RetrievalReport)]) -> String {
    let Some((_, first)) = models.first() else { return String::new() };
    let mut lines = vec![header(models)];
    for (name, pick) in [("image→text", image_to_text as Pick), ("text→image", text_to_image)] {
        for (i, (figure, chance)) in pick(first).chance.figures().into_iter().enumerate() {
            let share = figure.starts_with("recall");
            let mut line = pad(&format!("{name} {figure}"), 24);
            for (_, report) in models {
                let d = pick(report);
                let value = number(d.figures.figures()[i].1, figure);
                let interval = d.interval.as_ref().map_or(String::new(), |(low, high)| {
                    format!(" [{}–{}]", number(low.figures()[i].1, figure), number(high.figures()[i].1, figure))
                });
                line.push_str(&pad(&format!("{value}{interval}{}", if share { " %" } else { "" }), 26));
            }
            line.push_str(&format!("{}{}", number(chance, figure), if share { " %" } else { "" }));
            lines.push(line);
        }
    }
    let mut line = pad(&format!("loss (batch {})", first.loss_batch_size), 24);
    models.iter().for_each(|(_, r)| line.push_str(&pad(&format!("{:.3}", r.loss), 26)));
    line.push_str(&format!("{:.3}", first.loss_chance));
    lines.push(line);
    if let Some(labels) = &first.by_label {
        for (i, (figure, _)) in labels.image_to_text.figures().into_iter().enumerate() {
            for (name, to_text) in [("image→text", true), ("text→image", false)] {
                let mut line = pad(&format!("{name} {figure}"), 24);
                for found in models.iter().filter_map(|(_, r)| r.by_label.as_ref()) {
                    let ranking = if to_text { &found.image_to_text } else { &found.text_to_image };
                    line.push_str(&pad(&format!("{:.1} % by label", 100.0 * ranking.figures()[i].1), 26));
                }
                let chance = if to_text { labels.chance.0 } else { labels.chance.1 };
                lines.push(format!("{line}{:.1} %", 100.0 * chance));
            }
        }
    }
    lines.extend(matching(models, first));
    lines.push(format!(
        "gallery: {} reports, {} images; [95 % interval, bootstrap by patient where every row names one]",
        first.image_to_text.gallery, first.text_to_image.gallery
    ));
    lines.join("\n")
}

/// [`retrieval`], and zero-shot figures where there are some.
pub(super) fn validations(models: &[(&str, &Validation)]) -> String {
    let mut lines = vec![retrieval(&models.iter().map(|(name, v)| (*name, &v.retrieval)).collect::<Vec<_>>())];
    let shown: Vec<Vec<_>> = models.iter().map(|(_, v)| v.zero_shot_shown().collect()).collect();
    for (i, (name, _, chance)) in shown.first().into_iter().flatten().enumerate() {
        let cells = shown.iter().map(|figures| pad(&figures.get(i).map_or("–".into(), |f| format!("{:.3}", f.1)), 26));
        lines.push(format!("{}{}{chance:.3}", pad(&format!("zero-shot {name}"), 24), cells.collect::<String>()));
    }
    lines.join("\n")
}

/// Calibration of matching, where every model has it.
fn matching(models: &[(&str, &RetrievalReport)], first: &RetrievalReport) -> Vec<String> {
    if models.iter().any(|(_, r)| r.calibration.is_none()) {
        return Vec::new();
    }
    let row = |name: &str, chance: Option<f64>, value: &dyn Fn(&CalibrationReport) -> (f64, f64)| {
        let cells = models.iter().filter_map(|(_, r)| r.calibration.as_ref()).map(value);
        let cell = |(as_is, scaled): (f64, f64)| pad(&format!("{as_is:.3} (scaled {scaled:.3})"), 26);
        let chance = chance.map_or(String::new(), |c| format!("{c:.3}"));
        format!("{}{}{chance}", pad(name, 24), cells.map(cell).collect::<String>()).trim_end().to_string()
    };
    let uniform = 1.0 - 1.0 / first.loss_batch_size as f64;
    let temperature = |c: &CalibrationReport| {
        let each =
            c.by_direction.map_or(String::new(), |(to_text, to_image)| format!(" ({to_text:.3}, {to_image:.3})"));
        pad(&format!("{:.3}{each}", c.temperature), 26)
    };
    let cells: String = models.iter().filter_map(|(_, r)| r.calibration.as_ref()).map(temperature).collect();
    vec![
        format!("{:<24}{cells}", "temperature of matching").trim_end().to_string(),
        row("ECE of matching", None, &|c| (c.as_is.ece, c.scaled.ece)),
        row(" if calibrated, by luck", None, &|c| (c.ece_floor, c.ece_floor_scaled)),
        row("Brier of matching", Some(uniform), &|c| (c.as_is.brier, c.scaled.brier)),
        row("NLL of matching", Some(first.loss_chance), &|c| (c.as_is.nll, c.scaled.nll)),
    ]
}

/// One figure a row.
pub(super) fn figures(figures: &[Figure]) -> String {
    let line = |f: &Figure| {
        let chance = f.chance.map_or(String::new(), |c| format!("{c:.3}"));
        format!("{}{}{chance}", pad(&f.name, 24), cell(f)).trim_end().to_string()
    };
    figures.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How well maps find places.
pub(super) fn grounding(report: &GroundingReport) -> String {
    let GroundingReport { reason, places, images, elsewhere, unseen, cut, .. } = report;
    let more = |count: usize, what: &str| if count > 0 { format!("; {count} {what}") } else { String::new() };
    format!(
        "\nplaces found by the map of {} ({reason}): {places} on {images} images{}{}{}\n{}",
        report.map.word(),
        more(*cut, "of these places reach beyond their image, and what lies within counts"),
        more(*elsewhere, "more are on images that are not among these rows"),
        more(*unseen, "more are too small or too large to be judged"),
        beside_others(&report.figures, report.of_others.as_deref(), (24, "another's map", "uniform")),
    )
}

/// Figures beside what they are with images of other patients, and chance, below a line that names these. `width`: that
/// of the names.
fn beside_others(figures: &[Figure], others: Option<&[Figure]>, (width, other, chance): (usize, &str, &str)) -> String {
    let line = |(i, f): (usize, &Figure)| {
        let other = others.map_or(pad("–", 26), |others| cell(&others[i]));
        let chance = f.chance.map_or(String::new(), |c| format!("{c:.3}"));
        format!("{}{}{other}{chance}", pad(&f.name, width), cell(f))
    };
    let lines: Vec<String> = figures.iter().enumerate().map(line).collect();
    format!("{}{}{chance}\n{}", pad("", width + 26), pad(other, 26), lines.join("\n"))
}

/// A figure with its interval; of too few rows some cannot be worked out.
fn cell(f: &Figure) -> String {
    let interval = f.interval.map_or(String::new(), |(low, high)| format!(" [{low:.3}–{high:.3}]"));
    pad(&if f.value.is_nan() { "–".into() } else { format!("{:.3}{interval}", f.value) }, 26)
}

/// Overall figures, each class, subgroups.
pub(super) fn zero_shot(report: &ZeroShotReport) -> String {
    let mut lines = vec![format!("{:<24}{:<26}chance", "", "model"), figures(&report.figures)];
    lines.push(format!(
        "temperature             {:.3}, fitted on {} (above 1: the model was too sure of itself)",
        report.calibration.temperature, report.calibration.fitted_on
    ));
    lines.push(format!(
        "ECE if calibrated, by luck {:.3}, scaled {:.3}: so much is no fault with this few predictions",
        report.calibration.ece_floor, report.calibration.ece_floor_scaled
    ));
    lines.extend(
        report
            .calibration
            .vector_scaled
            .map(|c| format!("after vector scaling: NLL {:.3}, Brier {:.3}, ECE {:.3}", c.nll, c.brier, c.ece)),
    );
    lines.push(format!("\n{}", sets_table::selective(&report.selective)));
    lines.extend(report.abstained.as_ref().map(sets_table::abstained));
    lines.extend(report.conformal.as_ref().map(sets_table::conformal));
    let width = width_of(report.findings.iter().map(|f| f.name.as_str()), 24);
    let heading = ["AUROC", "AUPRC", "F1"].map(|h| pad(h, 26)).concat();
    lines.push(format!("\n{}{heading}images with it / without", pad("class", width)));
    for f in &report.findings {
        let cells: String = f.figures.iter().map(cell).collect();
        lines.push(format!("{}{cells}{} / {}", pad(&f.name, width), f.positives, f.negatives));
    }
    let shown = if report.multi_label { ["auroc_macro", "ece", "nll"] } else { ["accuracy", "auroc_macro", "ece"] };
    let groups: Vec<String> = report.subgroups.iter().map(|g| format!("{} = {}", g.column, g.value)).collect();
    let width = width_of(groups.iter().map(String::as_str), 24);
    for (i, (group, name)) in report.subgroups.iter().zip(&groups).enumerate() {
        if i == 0 {
            lines.push(format!("\n{}{}images", pad("subgroup", width), shown.map(|h| pad(h, 26)).concat()));
        }
        let figure = |name: &str| group.figures.iter().find(|f| f.name == name);
        let cells: String = shown.iter().map(|name| figure(name).map_or_else(|| pad("", 26), cell)).collect();
        lines.push(format!("{}{cells}{}", pad(name, width), group.images));
    }
    lines.push(format!("\n{} images; {} more have no label that counts", report.images, report.unlabelled));
    lines.join("\n")
}

/// Shares of true sentences that are preferred, and of how many.
pub(super) fn negation(report: &NegationReport) -> String {
    if report.sentences.iter().all(|(_, count)| *count == 0) {
        let line = "--negation: no sentence of these reports can be turned round, so there is nothing to tell";
        return format!("\n{line}; docs/negatives.md says which can");
    }
    let of = |(kind, count): &(&str, usize)| format!("{kind} {count}");
    let counts: Vec<String> = report.sentences.iter().map(of).collect();
    let own = "\nits own image minus another's, paired on the same sentences [95 % interval]\n";
    let over = report.over_others.as_deref().map_or(String::new(), |over| format!("\n{own}{}", figures(over)));
    format!(
        "\ntrue sentences against their opposites: {} [95 % interval]\n{}{over}",
        counts.join(", "),
        beside_others(&report.figures, report.of_others.as_deref(), (45, "another's image", "chance"))
    )
}

/// A linear probe in a few lines.
pub(super) fn probe(p: &ProbeReport) -> String {
    format!(
        "linear probe of {} labels, fitted on {} images, judged on {} ({} with a label never seen): accuracy {:.1} % \
         (most frequent label {:.1} %), balanced accuracy {:.1} %, macro F1 {:.3}, AUROC {:.3}",
        p.classes.len(),
        p.fitted_on,
        p.images,
        p.unseen,
        100.0 * p.accuracy,
        100.0 * p.accuracy_chance,
        100.0 * p.balanced_accuracy,
        p.macro_f1,
        p.auroc_macro
    )
}

type Pick = fn(&RetrievalReport) -> &DirectionFigures;

fn image_to_text(report: &RetrievalReport) -> &DirectionFigures {
    &report.image_to_text
}

fn text_to_image(report: &RetrievalReport) -> &DirectionFigures {
    &report.text_to_image
}

fn header(models: &[(&str, &RetrievalReport)]) -> String {
    let names: String = models.iter().map(|(name, _)| pad(name, 26)).collect();
    format!("{:<24}{names}chance", "")
}

fn number(value: f64, figure: &str) -> String {
    match figure {
        "mean_rank" | "median_rank" => format!("{value:.1}"),
        "mrr" => format!("{value:.3}"),
        _ => format!("{:.1}", 100.0 * value),
    }
}
