//! What is shown of one run: similarities, calibration, examples, config.

use maud::{Markup, html};
use serde_json::Value;

use super::charts::{Bar, Line, bars, chart, heat_map, number};
use super::read::Run;

/// What a page shows at most of a folder that may come from anybody.
const MOST_HEAT: usize = 64;
const MOST_EXAMPLES: usize = 100;
const MOST_FOUND: usize = 20;
const MOST_BARS: usize = 200;
const MOST_POINTS: usize = 1000;
/// Characters of a report, and of a name; bytes of a thumbnail in base 64.
const MOST_REPORT: usize = 20_000;
const MOST_NAME: usize = 200;
const MOST_IMAGE: usize = 1 << 20;

fn cut(value: &Value, most: usize) -> String {
    value.as_str().unwrap_or_default().chars().take(most).collect()
}

/// A count, and nothing else.
fn count(value: &Value) -> String {
    value.as_u64().map_or("–".into(), |n| n.to_string())
}

pub(super) fn section(run: &Run) -> Markup {
    let matrix = |pictures: &Value| -> Vec<Vec<f64>> {
        let row = |row: &Value| list(row).iter().take(MOST_HEAT).filter_map(Value::as_f64).collect();
        list(&pictures["similarities"]).iter().take(MOST_HEAT).map(row).collect()
    };
    let best = &run.pictures_best;
    html! {
        section {
            h2 { (run.name) }
            div.charts {
                (heat_map("sim_i2t before training", &matrix(&run.pictures_untuned)))
                (heat_map("sim_i2t of the best model", &matrix(best)))
                @if let Some(best) = run.best() {
                    (calibration(&best["calibration"], "matching"))
                    (selective(&best["selective"], "matching"))
                }
                @if let Some(report) = &run.zero_shot {
                    (calibration(&report["calibration"], "zero-shot"))
                    (selective(&report["selective"], "zero-shot"))
                    (zero_shot(report))
                    (sets(&report["conformal"]))
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
        list(bins).iter().take(MOST_POINTS).filter_map(|bin| Some((bin[x].as_f64()?, bin[y].as_f64()?))).collect()
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

/// The figure of this name with its interval and chance.
fn bar(name: String, figures: &Value, figure: &str) -> Bar {
    let figure = list(figures).iter().find(|f| f["name"] == figure).cloned().unwrap_or_default();
    Bar {
        name,
        value: figure["value"].as_f64().unwrap_or(f64::NAN),
        interval: figure["interval"][0].as_f64().zip(figure["interval"][1].as_f64()),
        chance: figure["chance"].as_f64(),
    }
}

/// Scores of sureness, and ways of making sets, that are shown at most.
const MOST_WAYS: usize = 8;

/// Risk–coverage curves by each score of sureness, and the areas under them.
fn selective(scores: &Value, of: &str) -> Markup {
    let scores = &list(scores)[..list(scores).len().min(MOST_WAYS)];
    let point = |p: &Value| Some((p["coverage"].as_f64()?, p["risk"].as_f64()?));
    let line = |(color, score): (usize, &Value)| Line {
        name: cut(&score["score"], MOST_NAME).replace('_', " "),
        points: list(&score["risk_coverage"]).iter().take(MOST_POINTS).filter_map(point).collect(),
        color,
        reference: false,
    };
    let lines: Vec<Line> = scores.iter().enumerate().map(line).filter(|l| !l.points.is_empty()).collect();
    let by_score = |figure: &str| -> Vec<Bar> {
        scores.iter().map(|s| bar(cut(&s["score"], MOST_NAME).replace('_', " "), &s["figures"], figure)).collect()
    };
    html! {
        @if !lines.is_empty() {
            (chart(&format!("risk of {of} by what says how sure"), "coverage", &lines))
            (bars(&format!("AURC of {of}, lower is better; chance: random order"), &by_score("aurc"), 1.0))
            (bars(&format!("excess AURC of {of}: what a better order would save"), &by_score("excess_aurc"), 1.0))
            (bars(&format!("share right of the surest 80 % of {of}"), &by_score("accuracy_of_80"), 1.0))
            (bars(&format!("share of {of} that can be answered with 90 % right"), &by_score("coverage_at_90"), 1.0))
        }
    }
}

/// How often conformal sets hold what is so, and how large they are.
fn sets(report: &Value) -> Markup {
    let methods = &list(&report["methods"])[..list(&report["methods"]).len().min(MOST_WAYS)];
    let of = |figure: &str| -> Vec<Bar> {
        methods.iter().map(|m| bar(cut(&m["method"], MOST_NAME).replace('_', " "), &m["figures"], figure)).collect()
    };
    let sizes = of("size");
    let most = sizes.iter().map(|b| b.interval.map_or(b.value, |i| i.1)).fold(0.0, f64::max);
    html! {
        @if !methods.is_empty() {
            (bars("conformal sets: share that hold what is so; chance: what was asked for", &of("coverage"), 1.0))
            (bars("conformal sets: mean size", &sizes, most.max(1e-9)))
        }
    }
}

fn zero_shot(report: &Value) -> Markup {
    let text = |value: &Value| cut(value, MOST_NAME);
    let classes: Vec<Bar> = list(&report["findings"])
        .iter()
        .take(MOST_BARS)
        .map(|f| bar(text(&f["name"]), &f["figures"], "auroc"))
        .collect();
    let groups: Vec<Bar> = list(&report["subgroups"])
        .iter()
        .take(MOST_BARS)
        .map(|g| {
            let name = format!("{} {} ({})", text(&g["column"]), text(&g["value"]), count(&g["images"]));
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
        @for example in examples.iter().take(MOST_EXAMPLES) { (self::example(example)) }
    }
}

fn example(example: &Value) -> Markup {
    // Nothing but base 64 may follow `data:`.
    let is_base64 = |data: &&str| data.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    let image = example["image"].as_str().filter(|data| (1..=MOST_IMAGE).contains(&data.len())).filter(is_base64);
    let [line, rank, gallery] = ["line", "rank", "gallery"].map(|name| count(&example[name]));
    html! {
        article {
            @if let Some(data) = image {
                img alt={ "line " (line) } src={ "data:image/jpeg;base64," (data) };
            }
            div {
                p { (cut(&example["report"], MOST_REPORT)) }
                p.note { "line " (line) ": its own report stands at place " (rank) " of " (gallery) }
                ol {
                    @for found in list(&example["found"]).iter().take(MOST_FOUND) {
                        li.right[found["right"] == true] {
                            @if found["right"] == true { "✓ " }
                            b { (number(found["score"].as_f64().unwrap_or(f64::NAN))) } " "
                            (cut(&found["report"], MOST_REPORT))
                        }
                    }
                }
            }
        }
    }
}

/// Whether examples of the run are shown: images and reports of patients.
pub(super) fn shows_patients(run: &Run) -> bool {
    ["gallery", "hardest"].iter().any(|name| !list(&run.pictures_best[*name]).is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::run_report::page;

    /// Every value of every file is a script, a number that no drawing holds, or a list where none belongs.
    #[test]
    fn nothing_of_a_hostile_folder_is_more_than_text() {
        let dir = tempfile::tempdir().unwrap();
        let script = "<script>alert(1)</script>";
        for bad in [
            json!(script),
            json!("\"><img src=x onerror=alert(2)>"),
            json!(1e308),
            json!(-1e308),
            json!({script: [script]}),
            json!([script, 1e308, -1e308]),
            json!([[1e308, -1e308], [0, script]]),
        ] {
            let write = |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
            let found = json!([{"report": bad, "score": bad, "right": bad}, bad]);
            let example =
                json!({"line": bad, "rank": bad, "gallery": bad, "report": bad, "image": bad, "found": found});
            let pictures = json!({"similarities": bad, "gallery": [example, bad], "hardest": [example]});
            write("pictures-best.json", &pictures);
            write("pictures-untuned.json", &pictures);
            let bins = json!([{"confidence": bad, "accuracy": bad, "coverage": 1, "risk": bad}, bad]);
            let calibration = json!({"reliability": bins, "risk_coverage": bins, "as_is": {"ece": bad}});
            let figures = json!([{"name": "auroc", "value": bad, "interval": [bad, bad], "chance": bad}]);
            let findings = json!([{"name": bad, "figures": figures}, bad]);
            let subgroups = json!([{"column": bad, "value": bad, "images": bad, "figures": figures}]);
            let selective = json!([{"score": bad, "figures": figures, "risk_coverage": bins}, bad]);
            let conformal = json!({"alpha": bad, "methods": [{"method": bad, "figures": figures}, bad]});
            let zero_shot = json!({
                "calibration": calibration,
                "findings": findings,
                "subgroups": subgroups,
                "selective": selective,
                "conformal": conformal,
            });
            write("zero-shot.json", &zero_shot);
            let val = json!({"loss": bad, "mean_recall": bad, "calibration": calibration, "selective": selective});
            let lines = [
                json!({"kind": "step", "step": bad, "loss": bad, "lr": bad}),
                json!({"kind": "eval", "step": bad, "val": val}),
                json!({"kind": "step", "step": 1, "loss": 1e308}),
                json!({"kind": "step", "step": 2, "loss": -1e308}),
                bad.clone(),
            ];
            let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(dir.path().join("metrics.jsonl"), lines).unwrap();
            write("timing.jsonl", &json!({"step": 1, "waiting": bad}));
            write("run.json", &json!({"total_steps": bad, "device": bad}));
            write("config.toml", &bad);
            let page = page(&[dir.path()]).unwrap().html;
            for raw in ["<script", "<img src=x", "NaN", "inf\"", "inf,"] {
                assert!(!page.contains(raw), "{bad}: {raw}");
            }
            assert!(page.len() < 1 << 20, "{bad}: {} bytes", page.len());
        }
        let member = dir.path().join("<script>");
        std::fs::create_dir(&member).unwrap();
        std::fs::write(member.join("metrics.jsonl"), "{\"kind\":\"step\",\"step\":1,\"loss\":1}\n").unwrap();
        let sweep = json!({
            "members": [{"name": "<script>", "problem": script}],
            "table": [{"setting": script, "figures": {script: {"mean": 1e308, "half_width": 1e308}}}],
        });
        std::fs::write(dir.path().join("sweep.json"), sweep.to_string()).unwrap();
        assert!(!page(&[dir.path()]).unwrap().html.contains("<script"));
    }
}
