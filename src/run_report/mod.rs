//! Run folders → one HTML page that opens from disk: no script, no network, light and dark, prints well. Reads nothing
//! but the folders, so that a run that died can be looked at, and a sweep is a list of folders.

mod charts;
mod curves;
mod fields;
mod read;
mod run;
mod sweep;

use std::path::Path;

use anyhow::{Result, ensure};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::charts::number;
use self::read::{Run, figure};
use crate::fs::{replace_file, replace_private};

/// Beyond these, runs are compared and not shown one by one: a sweep's members have pages of their own.
const MOST_SHOWN: usize = 6;

const STYLE: &str = include_str!("style.css");

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The whole file.
    pub html: String,
    /// Whether images or reports are in it.
    shows_patients: bool,
}

impl Page {
    /// Writes it; where it shows patients' data, for its owner's eyes.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let replace = if self.shows_patients { replace_private } else { replace_file };
        replace(path, self.html.as_bytes())
    }
}

/// The page of `folders`: runs, or sweeps with their members.
///
/// # Errors
/// A folder holds neither.
pub fn page(folders: &[&Path]) -> Result<Page> {
    let folders = folders.iter().map(|path| read::folder(path)).collect::<Result<Vec<_>>>()?;
    let runs: Vec<&Run> = folders.iter().flat_map(|f| &f.runs).collect();
    ensure!(!runs.is_empty(), "no run has begun yet");
    let title = match runs.as_slice() {
        [one] => format!("Run {}", one.name),
        many => format!("{} runs", many.len()),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p.note {
                    "A research tool's figures on the data named below. Not a medical device. Images and reports, \
                     where it shows any, are patients' data."
                }
                @for sweep in folders.iter().filter_map(|f| f.sweep.as_ref()) { (sweep::section(sweep)) }
                (summary(&runs))
                (curves::sections(&runs))
                @if runs.len() <= MOST_SHOWN {
                    @for run in &runs { (run::section(run)) }
                }
            }
        }
        "\n"
    };
    let shows_patients = runs.len() <= MOST_SHOWN && runs.iter().any(|run| run::shows_patients(run));
    Ok(Page { html: page.into_string(), shows_patients })
}

/// Figures of the best validation beside those before the first step.
fn summary(runs: &[&Run]) -> Markup {
    const HEADINGS: [&str; 12] = [
        "run",
        "steps",
        "recall@1 image→text",
        "untuned",
        "chance",
        "mean recall",
        "gallery",
        "matching ECE",
        "after scaling",
        "if calibrated",
        "loss",
        "chance",
    ];
    html! {
        section {
            h2 { "Validation" }
            table {
                tr { @for heading in HEADINGS { th { (heading) } } }
                @for run in runs { (summary_row(run)) }
            }
            p.note {
                "Best validation of each run, chosen on these same pairs, so its figures lean high. Intervals: 95 %, \
                 bootstrap by patient. Loss by chance: ln of the batch. ECE if calibrated: what probabilities that \
                 mean just what they say would show on as many pairs."
            }
        }
    }
}

fn summary_row(run: &Run) -> Markup {
    let Some(best) = run.best() else {
        return html! { tr { td { (run.name) } td { (run.steps()) } td { "no validation yet" } } };
    };
    let percent = |v: Option<f64>| v.map_or("–".into(), |v| format!("{:.1} %", 100.0 * v));
    let plain = |path: &str| figure(best, path).map_or("–".into(), number);
    let recall = |figures| percent(figure(figures, "image_to_text/figures/recall@1"));
    let bound = |i: usize| figure(best, &format!("image_to_text/interval/{i}/recall@1"));
    let interval =
        bound(0).zip(bound(1)).map_or(String::new(), |(l, h)| format!(" [{:.1}–{:.1}]", 100.0 * l, 100.0 * h));
    let cells = [
        run.name.clone(),
        format!("{} of {}", run.steps(), run.total_steps()),
        recall(best) + &interval,
        run.untuned().map_or("–".into(), recall),
        percent(figure(best, "image_to_text/chance/recall@1")),
        percent(figure(best, "mean_recall")),
        plain("image_to_text/gallery"),
        plain("calibration/as_is/ece"),
        plain("calibration/scaled/ece"),
        plain("calibration/ece_floor"),
        plain("loss"),
        plain("loss_chance"),
    ];
    html! { tr { @for cell in cells { td { (cell) } } } }
}
