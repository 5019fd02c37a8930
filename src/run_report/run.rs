//! What is shown of one run: similarities, calibration, examples, config.

use maud::{Markup, html};
use serde_json::Value;

use super::charts::{Bar, Line, bars, chart, heat_map, number};
use super::read::Run;

pub(super) fn section(run: &Run) -> Markup {
    let matrix = |pictures: &Value| -> Vec<Vec<f64>> {
        let row = |row: &Value| list(row).iter().filter_map(Value::as_f64).collect();
        list(&pictures["similarities"]).iter().map(row).collect()
    };
    let best = &run.pictures_best;
    html! {
        section {
            h2 { (run.name) }
            div.charts {
                (heat_map("sim_i2t before training", &matrix(&run.pictures_untuned)))
                (heat_map("sim_i2t of the best model", &matrix(best)))
                @if let Some(best) = run.best() { (calibration(&best["calibration"], "matching")) }
                @if let Some(report) = &run.zero_shot {
                    (calibration(&report["calibration"], "zero-shot"))
                    (zero_shot(report))
                }
            }
            @if best["gallery"].as_array().is_some_and(Vec::is_empty) {
                p.note { "No images and reports were kept; eval.gallery = 6 keeps some for this page." }
            }
            (examples("Examples", &best["gallery"]))
            (examples("Hardest", &best["hardest"]))
            details {
                summary { "Config and environment" }
                pre { (run.config) }
                pre { (serde_json::to_string_pretty(&run.record).unwrap_or_default()) }
            }
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Reliability and risk–coverage.
fn calibration(report: &Value, of: &str) -> Markup {
    let curve = |bins: &Value, x: &str, y: &str| -> Vec<(f64, f64)> {
        list(bins).iter().filter_map(|bin| Some((bin[x].as_f64()?, bin[y].as_f64()?))).collect()
    };
    let line = |name: &str, points, color, reference| Line { name: name.into(), points, color, reference };
    let reliability = [
        line("as it is", curve(&report["reliability"], "confidence", "accuracy"), 0, false),
        line("after temperature scaling", curve(&report["reliability_scaled"], "confidence", "accuracy"), 1, false),
        line("perfect", vec![(0.0, 0.0), (1.0, 1.0)], 2, true),
    ];
    let risk = curve(&report["risk_coverage"], "coverage", "risk");
    let Some(&(_, level)) = risk.last() else { return html! {} };
    let risk_lines = [line("risk", risk, 0, false), line("random order", vec![(0.0, level), (1.0, level)], 2, true)];
    html! {
        (chart(&format!("reliability of {of}: share right by confidence"), "confidence", &reliability))
        (chart(&format!("risk of {of} when only the surest are answered"), "coverage", &risk_lines))
    }
}

fn zero_shot(report: &Value) -> Markup {
    let bar = |name: String, figures: &Value, figure: &str| {
        let figure = list(figures).iter().find(|f| f["name"] == figure).cloned().unwrap_or_default();
        Bar {
            name,
            value: figure["value"].as_f64().unwrap_or(f64::NAN),
            interval: figure["interval"][0].as_f64().zip(figure["interval"][1].as_f64()),
            chance: figure["chance"].as_f64(),
        }
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let classes: Vec<Bar> =
        list(&report["findings"]).iter().map(|f| bar(text(&f["name"]), &f["figures"], "auroc")).collect();
    let groups: Vec<Bar> = list(&report["subgroups"])
        .iter()
        .map(|g| {
            let name = format!("{} {} ({})", text(&g["column"]), text(&g["value"]), g["images"]);
            bar(name, &g["figures"], "auroc_macro")
        })
        .collect();
    html! {
        (bars("zero-shot AUROC by class", &classes, 1.0))
        (bars("zero-shot AUROC by subgroup (images)", &groups, 1.0))
    }
}

fn examples(title: &str, examples: &Value) -> Markup {
    let examples = list(examples);
    html! {
        @if !examples.is_empty() { h3 { (title) } }
        @for example in examples { (self::example(example)) }
    }
}

fn example(example: &Value) -> Markup {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    // Nothing but base 64 may follow `data:`.
    let is_base64 = |data: &&str| data.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    let image = example["image"].as_str().filter(|data| !data.is_empty()).filter(is_base64);
    html! {
        article {
            @if let Some(data) = image {
                img alt={ "line " (example["line"]) } src={ "data:image/jpeg;base64," (data) };
            }
            div {
                p { (text(&example["report"])) }
                p.note {
                    "line " (example["line"]) ": its own report stands at place " (example["rank"]) " of "
                    (example["gallery"])
                }
                ol {
                    @for found in list(&example["found"]) {
                        li.right[found["right"] == true] {
                            @if found["right"] == true { "✓ " }
                            b { (number(found["score"].as_f64().unwrap_or(f64::NAN))) } " " (text(&found["report"]))
                        }
                    }
                }
            }
        }
    }
}
