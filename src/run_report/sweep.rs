//! The table of a sweep, and each figure by setting with its interval.

use maud::{Markup, html};
use serde_json::Value;

use super::charts::{Bar, bars, number};

/// Settings, members and figures that are shown at most.
const MOST_ROWS: usize = 1000;
const MOST_FIGURES: usize = 60;

pub(super) fn section(sweep: &Value) -> Markup {
    let rows = sweep["table"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = &rows[..rows.len().min(MOST_ROWS)];
    let names = figure_names(rows);
    let words = |name: &str| name.replace('_', " ");
    let without_figures: Vec<String> = sweep["members"]
        .as_array()
        .into_iter()
        .flatten()
        .take(MOST_ROWS)
        .filter_map(|m| Some(format!("{}: {}", m["name"].as_str()?, m["problem"].as_str()?)))
        .collect();
    html! {
        section {
            h2 { "Sweep" }
            table {
                tr { th { "setting" } @for name in &names { th { (words(name)) } } }
                @for row in rows {
                    tr { td { (setting(row)) } @for name in &names { td { (cell(&row["figures"][name])) } } }
                }
            }
            p.note { "Mean over seeds ± half of its 95 % interval (Student's t)." }
            (differences(&sweep["differences"]))
            div.charts { @for name in &names { (by_setting(rows, name, &words(name))) } }
            @if !without_figures.is_empty() { p.note { "Without figures: " (without_figures.join("; ")) } }
        }
    }
}

/// Which settings differ by more than chance.
fn differences(rows: &Value) -> Markup {
    const HEADINGS: [&str; 5] = ["setting", "figure", "difference", "p", "seeds it would take"];
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    let rows = &rows[..rows.len().min(MOST_ROWS)];
    let shown = |value: &Value| value.as_f64().map_or("–".into(), number);
    html! {
        @if let Some(first) = rows.first() {
            h3 { "Differences from " (first["against"].as_str().unwrap_or_default()) }
            table {
                tr { @for heading in HEADINGS { th { (heading) } } }
                @for row in rows {
                    tr {
                        td { (setting(row)) }
                        td { (row["figure"].as_str().unwrap_or_default().replace('_', " ")) }
                        td {
                            (shown(&row["difference"])) " [" (shown(&row["interval"][0])) " to "
                            (shown(&row["interval"][1])) "]"
                        }
                        td { (shown(&row["p"])) @if row["p"].as_f64().is_some_and(|p| p < 0.05) { " *" } }
                        td { (row["seeds_needed"].as_u64().map_or("more patients".to_string(), |n| n.to_string())) }
                    }
                }
            }
            p.note {
                "Over seeds and patients together (hierarchical bootstrap), 95 % intervals; * more than chance at 5 %, \
                 one figure at a time."
            }
        }
    }
}

/// Every figure that a row has, in their order; those after scaling are left out.
fn figure_names(rows: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for name in rows.iter().flat_map(|row| row["figures"].as_object()).flat_map(|f| f.keys()) {
        if !names.contains(&name.as_str()) && !name.ends_with("_scaled") {
            names.push(name);
        }
    }
    names.truncate(MOST_FIGURES);
    names
}

fn setting(row: &Value) -> &str {
    row["setting"].as_str().unwrap_or_default()
}

fn cell(figure: &Value) -> String {
    let half = figure["half_width"].as_f64().map_or(String::new(), |h| format!(" ± {}", number(h)));
    figure["mean"].as_f64().map_or("–".into(), number) + &half
}

fn by_setting(rows: &[Value], name: &str, title: &str) -> Markup {
    let bar = |row: &Value| {
        let figure = &row["figures"][name];
        let mean = figure["mean"].as_f64()?;
        let interval = figure["half_width"].as_f64().map(|h| (mean - h, mean + h));
        let setting = setting(row).replace("loss.label_smoothing = ", "ε = ");
        Some(Bar { name: setting, value: mean, interval, chance: None })
    };
    let list: Vec<Bar> = rows.iter().filter_map(bar).collect();
    let most = list.iter().map(|b| b.interval.map_or(b.value, |i| i.1)).fold(0.0, f64::max);
    bars(title, &list, most.max(1e-9))
}
