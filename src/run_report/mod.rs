//! Run folders → one HTML page that opens from disk: no script, no network, light and dark, prints well. Reads nothing
//! but the folders, so that a run that died can be looked at, and a sweep is a list of folders.

mod charts;
mod read;

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

use self::charts::{Bar, Line, bars, chart, heat_map, number};
use self::read::{Run, figure, points};
use crate::html::escape;

/// The page of `folders`: runs, or sweeps with their members.
///
/// # Errors
/// A folder holds neither.
pub fn page(folders: &[&Path]) -> Result<String> {
    let folders = folders.iter().map(|path| read::folder(path)).collect::<Result<Vec<_>>>()?;
    let runs: Vec<&Run> = folders.iter().flat_map(|f| &f.runs).collect();
    ensure!(!runs.is_empty(), "no run has begun yet");
    let title = match runs.as_slice() {
        [one] => format!("Run {}", one.name),
        many => format!("{} runs", many.len()),
    };
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\"><title>{0}</title><style>{STYLE}</style></head>\
         <body><h1>{0}</h1><p class=\"note\">A research tool's figures on the data named below. Not a medical device. \
         Images and reports, where it shows any, are patients' data.</p>",
        escape(&title)
    );
    folders.iter().filter_map(|f| f.sweep.as_ref()).for_each(|sweep| html.push_str(&of_sweep(sweep)));
    html.push_str(&summary(&runs));
    html.push_str(&curves(&runs));
    for run in &runs {
        // A sweep's members are compared above; their pages are their own.
        if runs.len() <= 6 {
            html.push_str(&of_run(run));
        }
    }
    html.push_str("</body></html>\n");
    Ok(html)
}

/// Figures of the best validation beside those before the first step.
fn summary(runs: &[&Run]) -> String {
    let mut html = "<section><h2>Validation</h2><table><tr><th>run</th><th>steps</th><th>recall@1 image→text</th>\
                    <th>untuned</th><th>chance</th><th>mean recall</th><th>gallery</th><th>matching ECE</th>\
                    <th>after scaling</th><th>loss</th><th>chance</th></tr>"
        .to_string();
    let percent = |v: Option<f64>| v.map_or("–".into(), |v| format!("{:.1} %", 100.0 * v));
    let plain = |v: Option<f64>| v.map_or("–".into(), number);
    for run in runs {
        let (Some(best), untuned) = (run.best(), run.untuned()) else {
            html.push_str(&format!(
                "<tr><td>{}</td><td>{}</td><td>no validation yet</td></tr>",
                escape(&run.name),
                run.steps()
            ));
            continue;
        };
        let recall = figure(best, "image_to_text/figures/recall@1");
        let bound = |i: usize| figure(best, &format!("image_to_text/interval/{i}/recall@1"));
        let interval =
            bound(0).zip(bound(1)).map_or(String::new(), |(l, h)| format!(" [{:.1}–{:.1}]", 100.0 * l, 100.0 * h));
        let cells = [
            escape(&run.name),
            format!("{} of {}", run.steps(), run.total_steps()),
            format!("{}{interval}", percent(recall)),
            percent(untuned.and_then(|u| figure(u, "image_to_text/figures/recall@1"))),
            percent(figure(best, "image_to_text/chance/recall@1")),
            percent(figure(best, "mean_recall")),
            plain(figure(best, "image_to_text/gallery")),
            plain(figure(best, "calibration/as_is/ece")),
            plain(figure(best, "calibration/scaled/ece")),
            plain(figure(best, "loss")),
            plain(figure(best, "loss_chance")),
        ];
        html.push_str(&format!("<tr>{}</tr>", cells.map(|c| format!("<td>{c}</td>")).concat()));
    }
    html.push_str(
        "</table><p class=\"note\">Best validation of each run, chosen on these same pairs, so its figures lean \
                   high. Intervals: 95 %, bootstrap by patient.</p></section>",
    );
    html
}

/// Takes the points of a curve off a run.
type Pick<'a> = &'a dyn Fn(&Run) -> Vec<(f64, f64)>;

/// Every logged figure over steps, one chart a figure, one line a run.
fn curves(runs: &[&Run]) -> String {
    let over_steps = |title: &str, pick: Pick, levels: &[(&str, Pick)]| {
        let mut lines: Vec<Line> = runs
            .iter()
            .enumerate()
            .map(|(i, run)| Line { name: run.name.clone(), points: pick(run), color: i, reference: false })
            .collect();
        for (name, level) in levels {
            // Runs that agree in a level share its line.
            let mut seen: Vec<Vec<(f64, f64)>> = Vec::new();
            for (i, run) in runs.iter().enumerate() {
                let points = level(run);
                let known =
                    |s: &Vec<(f64, f64)>| s.last().map(|p| p.1.to_bits()) == points.last().map(|p| p.1.to_bits());
                if !points.is_empty() && !seen.iter().any(known) {
                    let name = if runs.len() > 1 { format!("{name}, {}", run.name) } else { name.to_string() };
                    lines.push(Line { name, points: points.clone(), color: i, reference: true });
                    seen.push(points);
                }
            }
        }
        lines.retain(|l| !l.points.is_empty());
        chart(title, "step", &lines)
    };
    let step = |name: &'static str| move |run: &Run| points(&run.steps, name);
    let eval = |name: &'static str| move |run: &Run| points(&run.evals, &format!("val/{name}"));
    let floor = |run: &Run| {
        let both = points(&run.steps, "loss").into_iter().zip(points(&run.steps, "loss_excess"));
        both.map(|((x, loss), (_, excess))| (x, loss - excess)).collect()
    };
    let mut html = "<section><h2>Training</h2><div class=\"charts\">".to_string();
    html.push_str(&over_steps("loss", &step("loss"), &[("chance", &step("chance")), ("floor", &floor)]));
    html.push_str(&over_steps("loss without smoothing", &step("loss_hard"), &[("chance", &step("chance"))]));
    html.push_str(&over_steps("loss above its floor", &step("loss_excess"), &[]));
    for (title, name) in [
        ("share of pairs found in the batch", "batch_accuracy"),
        ("logit_scale (logarithm)", "logit_scale"),
        ("norm of the gradient", "grad_norm"),
        ("learning rate", "lr"),
    ] {
        html.push_str(&over_steps(title, &step(name), &[]));
    }
    html.push_str(&over_steps("samples a second", &|run: &Run| points(&run.timing, "samples_per_s"), &[]));
    html.push_str(&over_steps("seconds spent waiting for data", &|run: &Run| points(&run.timing, "waiting"), &[]));
    html.push_str("</div></section><section><h2>Validations</h2><div class=\"charts\">");
    html.push_str(&over_steps("loss, validation", &eval("loss"), &[("chance", &eval("loss_chance"))]));
    html.push_str(&over_steps("mean recall", &eval("mean_recall"), &[]));
    html.push_str(&over_steps(
        "recall@1, image to text",
        &eval("image_to_text/figures/recall@1"),
        &[("chance", &eval("image_to_text/chance/recall@1"))],
    ));
    html.push_str(&over_steps(
        "recall@1, text to image",
        &eval("text_to_image/figures/recall@1"),
        &[("chance", &eval("text_to_image/chance/recall@1"))],
    ));
    for (title, name) in [
        ("ECE of matching", "calibration/as_is/ece"),
        ("ECE of matching, scaled", "calibration/scaled/ece"),
        ("Brier score of matching", "calibration/as_is/brier"),
        ("NLL of matching", "calibration/as_is/nll"),
        ("fitted temperature", "calibration/temperature"),
    ] {
        html.push_str(&over_steps(title, &eval(name), &[]));
    }
    html.push_str("</div></section>");
    html
}

fn of_run(run: &Run) -> String {
    let mut html = format!("<section><h2>{}</h2><div class=\"charts\">", escape(&run.name));
    let matrix = |pictures: &Value| -> Vec<Vec<f64>> {
        let row = |row: &Value| row.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        pictures["similarities"].as_array().into_iter().flatten().map(row).collect()
    };
    html.push_str(&heat_map("sim_i2t before training", &matrix(&run.pictures_untuned)));
    html.push_str(&heat_map("sim_i2t of the best model", &matrix(&run.pictures_best)));
    if let Some(best) = run.best() {
        html.push_str(&calibration(&best["calibration"], "matching"));
    }
    if let Some(zero_shot) = &run.zero_shot {
        html.push_str(&calibration(&zero_shot["calibration"], "zero-shot"));
        html.push_str(&of_zero_shot(zero_shot));
    }
    html.push_str("</div>");
    if run.pictures_best["gallery"].as_array().is_some_and(Vec::is_empty) {
        html.push_str(
            "<p class=\"note\">No images and reports were kept; eval.gallery = 6 keeps some for this page.</p>",
        );
    }
    html.push_str(&examples("Examples", &run.pictures_best["gallery"]));
    html.push_str(&examples("Hardest", &run.pictures_best["hardest"]));
    html.push_str(&format!(
        "<details><summary>Config and environment</summary><pre>{}</pre><pre>{}</pre></details></section>",
        escape(&run.config),
        escape(&serde_json::to_string_pretty(&run.record).unwrap_or_default())
    ));
    html
}

/// Reliability and risk–coverage.
fn calibration(report: &Value, of: &str) -> String {
    let curve = |bins: &Value, x: &str, y: &str| -> Vec<(f64, f64)> {
        let point = |bin: &Value| Some((bin[x].as_f64()?, bin[y].as_f64()?));
        bins.as_array().into_iter().flatten().filter_map(point).collect()
    };
    let line = |name: &str, points, color, reference| Line { name: name.into(), points, color, reference };
    let reliability = [
        line("as it is", curve(&report["reliability"], "confidence", "accuracy"), 0, false),
        line("after temperature scaling", curve(&report["reliability_scaled"], "confidence", "accuracy"), 1, false),
        line("perfect", vec![(0.0, 0.0), (1.0, 1.0)], 2, true),
    ];
    let risk = curve(&report["risk_coverage"], "coverage", "risk");
    let level = risk.last().map_or(f64::NAN, |p| p.1);
    let risk_lines =
        [line("risk", risk.clone(), 0, false), line("random order", vec![(0.0, level), (1.0, level)], 2, true)];
    if risk.is_empty() {
        return String::new();
    }
    chart(&format!("reliability of {of}: share right by confidence"), "confidence", &reliability)
        + &chart(&format!("risk of {of} when only the surest are answered"), "coverage", &risk_lines)
}

fn bar_of(name: &str, figure: &Value) -> Bar {
    Bar {
        name: name.to_string(),
        value: figure["value"].as_f64().unwrap_or(f64::NAN),
        interval: figure["interval"][0].as_f64().zip(figure["interval"][1].as_f64()),
        chance: figure["chance"].as_f64(),
    }
}

fn of_zero_shot(report: &Value) -> String {
    let named = |figures: &Value, name: &str| {
        figures.as_array().into_iter().flatten().find(|f| f["name"] == name).cloned().unwrap_or_default()
    };
    let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let classes: Vec<Bar> = list("findings")
        .iter()
        .map(|f| bar_of(f["name"].as_str().unwrap_or_default(), &named(&f["figures"], "auroc")))
        .collect();
    let groups: Vec<Bar> = list("subgroups")
        .iter()
        .map(|g| {
            let text = |key: &str| g[key].as_str().unwrap_or_default().to_string();
            let name = format!("{} {} ({})", text("column"), text("value"), g["images"]);
            bar_of(&name, &named(&g["figures"], "auroc_macro"))
        })
        .collect();
    bars("zero-shot AUROC by class", &classes, 1.0) + &bars("zero-shot AUROC by subgroup (images)", &groups, 1.0)
}

fn examples(title: &str, list: &Value) -> String {
    let Some(list) = list.as_array().filter(|l| !l.is_empty()) else { return String::new() };
    let text = |v: &Value| escape(v.as_str().unwrap_or_default());
    let mut html = format!("<h3>{title}</h3>");
    for example in list {
        let image = match example["image"].as_str() {
            Some(data)
                if !data.is_empty() && data.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) =>
            {
                format!("<img alt=\"line {}\" src=\"data:image/jpeg;base64,{data}\">", example["line"])
            }
            _ => String::new(),
        };
        let found: String = example["found"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|f| {
                let right = f["right"] == true;
                let (class, mark) = if right { (" class=\"right\"", "✓ ") } else { ("", "") };
                format!(
                    "<li{class}>{mark}<b>{}</b> {}</li>",
                    number(f["score"].as_f64().unwrap_or(f64::NAN)),
                    text(&f["report"])
                )
            })
            .collect();
        html.push_str(&format!(
            "<article>{image}<div><p>{}</p><p class=\"note\">line {}: its own report stands at place {} of {}</p>\
             <ol>{found}</ol></div></article>",
            text(&example["report"]),
            example["line"],
            example["rank"],
            example["gallery"]
        ));
    }
    html
}

/// The table of a sweep, and each figure by setting with its interval.
fn of_sweep(sweep: &Value) -> String {
    let rows = sweep["table"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for row in &rows {
        for name in row["figures"].as_object().into_iter().flat_map(|f| f.keys()) {
            if !names.contains(name) && !name.ends_with("_scaled") {
                names.push(name.clone());
            }
        }
    }
    let mut html = "<section><h2>Sweep</h2><table><tr><th>setting</th>".to_string();
    names.iter().for_each(|n| html.push_str(&format!("<th>{}</th>", escape(&n.replace('_', " ")))));
    html.push_str("</tr>");
    let setting = |row: &Value| escape(row["setting"].as_str().unwrap_or_default());
    for row in &rows {
        html.push_str(&format!("<tr><td>{}</td>", setting(row)));
        for name in &names {
            let cell = &row["figures"][name];
            let half = cell["half_width"].as_f64().map_or(String::new(), |h| format!(" ± {}", number(h)));
            html.push_str(&format!("<td>{}{half}</td>", cell["mean"].as_f64().map_or("–".into(), number)));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table><p class=\"note\">Mean over seeds ± half of its 95 % interval (Student's t).</p><div class=\"charts\">");
    for name in &names {
        let bar = |row: &Value| {
            let cell = &row["figures"][name];
            let mean = cell["mean"].as_f64()?;
            let interval = cell["half_width"].as_f64().map(|h| (mean - h, mean + h));
            let setting = row["setting"].as_str().unwrap_or_default().replace("loss.label_smoothing = ", "ε = ");
            Some(Bar { name: setting, value: mean, interval, chance: None })
        };
        let list: Vec<Bar> = rows.iter().filter_map(bar).collect();
        let most = list.iter().map(|b| b.interval.map_or(b.value, |i| i.1)).fold(0.0, f64::max);
        html.push_str(&bars(&name.replace('_', " "), &list, most.max(1e-9)));
    }
    let failed: Vec<String> = sweep["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| Some(format!("{}: {}", m["name"].as_str()?, m["problem"].as_str()?)))
        .collect();
    html.push_str("</div>");
    if !failed.is_empty() {
        html.push_str(&format!("<p class=\"note\">Without figures: {}</p>", escape(&failed.join("; "))));
    }
    html + "</section>"
}

const STYLE: &str = include_str!("style.css");
