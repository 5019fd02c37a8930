//! A sweep's figures as one drawing that stands by itself: a panel a figure, a mean with its interval a setting.

use maud::{Markup, html};

use super::mean::Mean;
use super::table::{CHANCE, SCALED, SettingFigures, shown_as};

/// What is drawn where nothing else is asked for, as far as it is there.
const DRAWN: [&str; 10] = [
    "recall@1",
    "class_auroc_macro",
    "match_nll",
    "over_fitting",
    "class_nll",
    "class_ece",
    "class_aurc",
    "class_aurc_normalised",
    "class_set_size",
    "class_agreement",
];

/// Pixels: a panel with the names of settings on its left, and a row of it.
const PANEL: f64 = 430.0;
const NAMES: f64 = 190.0;
const ROW: f64 = 18.0;
const HEAD: f64 = 26.0;
const FOOT: f64 = 24.0;

/// A setting in a panel: as it is, and after temperature scaling where that changes it.
struct Row<'a> {
    name: String,
    mean: &'a Mean,
    scaled: Option<&'a Mean>,
}

/// The drawing, as SVG; empty panels are left out.
pub(super) fn chart(rows: &[SettingFigures], wanted: &[String]) -> String {
    let figures: Vec<&str> =
        if wanted.is_empty() { DRAWN.to_vec() } else { wanted.iter().map(String::as_str).collect() };
    let panels: Vec<(&str, Vec<Row>)> =
        figures.into_iter().map(|figure| (figure, rows_of(rows, figure))).filter(|(_, r)| !r.is_empty()).collect();
    let settings = panels.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
    let height = HEAD + FOOT + ROW * settings as f64;
    let (across, down) = (panels.len().min(2), panels.len().div_ceil(2));
    let style = "text{font:12px sans-serif;fill:#777}.t{font-weight:bold}.n{text-anchor:end}\
                 .m{stroke:#3b78b5;fill:#3b78b5}.s{stroke:#c8702a;fill:none;stroke-width:1.5}\
                 .c{stroke:#999;stroke-dasharray:3 3}.g{stroke:#bbb;stroke-width:.5}";
    let drawing = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (across as f64 * PANEL) " " (down as f64 * height) } {
            style { (maud::PreEscaped(style)) }
            @for (i, (figure, of_figure)) in panels.iter().enumerate() {
                g transform={ "translate(" ((i % 2) as f64 * PANEL) " " ((i / 2) as f64 * height) ")" } {
                    (panel(figure, of_figure, chance(rows, figure)))
                }
            }
        }
    };
    drawing.into_string()
}

fn rows_of<'a>(rows: &'a [SettingFigures], figure: &str) -> Vec<Row<'a>> {
    let mean = |row: &'a SettingFigures| row.figures.get(figure);
    let own = rows.iter().filter(|row| !row.setting.starts_with('(') && !row.setting.ends_with(SCALED));
    let row = |row: &'a SettingFigures| {
        let mean = mean(row)?;
        let after = format!("{}{SCALED}", row.setting);
        let scaled = rows.iter().find(|other| other.setting == after).and_then(|other| other.figures.get(figure));
        let name = row.setting.replace("loss.label_smoothing = ", "ε = ").replace("loss.", "");
        Some(Row { name, mean, scaled: scaled.filter(|scaled| scaled.mean != mean.mean) })
    };
    own.filter_map(row).collect()
}

fn chance(rows: &[SettingFigures], figure: &str) -> Option<f64> {
    Some(rows.iter().find(|row| row.setting == CHANCE)?.figures.get(figure)?.mean)
}

/// Low and high end of what is drawn of a mean.
fn ends(mean: &Mean) -> [f64; 2] {
    let half = mean.half_width.unwrap_or(0.0);
    [mean.mean - half, mean.mean + half]
}

fn panel(figure: &str, rows: &[Row], chance: Option<f64>) -> Markup {
    let (heading, factor, digits) = shown_as(figure);
    let drawn = rows.iter().flat_map(|row| [Some(row.mean), row.scaled]).flatten().flat_map(ends);
    let (low, high) = drawn.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let room = ((high - low) * 0.06).max(1e-9);
    let (low, high) = (low - room, high + room);
    let x = |value: f64| format!("{:.1}", NAMES + (value - low) / (high - low) * (PANEL - NAMES - 20.0));
    let bottom = HEAD + ROW * rows.len() as f64;
    html! {
        text.t x="8" y="15" { (heading) }
        @for share in [0.0, 0.5, 1.0] {
            @let value = low + share * (high - low);
            line.g x1=(x(value)) x2=(x(value)) y1=(HEAD - 4.0) y2=(bottom) {}
            text x=(x(value)) y=(bottom + 14.0) text-anchor="middle" { (format!("{:.digits$}", value * factor)) }
        }
        @if let Some(chance) = chance.filter(|chance| (low..=high).contains(chance)) {
            line.c x1=(x(chance)) x2=(x(chance)) y1=(HEAD - 4.0) y2=(bottom) { title { "chance" } }
        }
        @for (i, row) in rows.iter().enumerate() {
            @let y = HEAD + ROW * (i as f64 + 0.5);
            text.n x=(NAMES - 10.0) y=(y + 4.0) { (row.name.chars().take(28).collect::<String>()) }
            (mark("m", row.mean, y, &x))
            @if let Some(scaled) = row.scaled { (mark("s", scaled, y + 5.0, &x)) }
        }
    }
}

/// A mean with its interval at a height.
fn mark(class: &str, mean: &Mean, y: f64, x: &impl Fn(f64) -> String) -> Markup {
    let [low, high] = ends(mean);
    html! {
        line class=(class) x1=(x(low)) x2=(x(high)) y1=(y) y2=(y) {}
        circle class=(class) cx=(x(mean.mean)) cy=(y) r="3" {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_setting_stands_where_its_figure_says() {
        let row = |setting: &str, mean: f64, half_width| SettingFigures {
            setting: setting.to_string(),
            figures: BTreeMap::from([("class_nll".to_string(), Mean { mean, half_width, seeds: 3 })]),
        };
        let rows = [
            row("loss.label_smoothing = 0", 2.0, Some(0.5)),
            row("loss.label_smoothing = 0.1", 1.0, Some(0.5)),
            row(&format!("loss.label_smoothing = 0{SCALED}"), 1.5, None),
            row(CHANCE, 2.2, None),
        ];
        let drawn = chart(&rows, &[]);
        // From 0.5 to 2.5 with a margin: the means are a quarter of the range apart from the middle.
        let place = |value: f64| format!("cx=\"{:.1}\"", NAMES + (value - 0.38) / 2.24 * (PANEL - NAMES - 20.0));
        for (class, value) in [("m", 2.0), ("m", 1.0), ("s", 1.5)] {
            let mark = format!("<circle class=\"{class}\" {}", place(value));
            assert!(drawn.contains(&mark), "{mark} in {drawn}");
        }
        assert!(drawn.contains("ε = 0.1</text>") && drawn.contains("<title>chance</title>"), "{drawn}");
        assert_eq!(drawn.matches("class NLL").count(), 1);
        assert!(!chart(&rows, &["mean_recall".to_string()]).contains("<circle"));
    }
}
