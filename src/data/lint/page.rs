//! The findings as one HTML page that opens from disk: no script, no network.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::finding::{Finding, Histogram, Level, LintReport};
use super::images::thumbnail;
use crate::data::Row;

/// Images shown beside a finding about images.
const THUMBNAILS: usize = 8;

/// The page. `rows` are those that were looked at; their reports are not shown.
pub fn page(report: &LintReport, rows: &[Row]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width";
            title { "Data check" }
            style { (PreEscaped(STYLE)) }
            h1 { "Data check" }
            p {
                (report.manifest) ": " (report.rows) " usable rows, "
                (report.images_in_words()) ", " (report.reports) " reports, " (report.patients) " patients."
            }
            @if report.findings.is_empty() { p { "Nothing was found." } }
            @for finding in &report.findings { (section(finding, rows)) }
            @for histogram in &report.histograms { (bars(histogram)) }
        }
        "\n"
    };
    page.into_string()
}

fn section(finding: &Finding, rows: &[Row]) -> Markup {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    };
    let shown = if finding.kind.is_about_images() { THUMBNAILS } else { 0 };
    let shown = finding.examples.iter().take(shown).map(|&row| &rows[row]);
    html! {
        section class=(level) {
            h2 { (finding.count) " " small { (level) ", " (finding.kind.word().replace('_', " ")) } }
            p { (finding.message) }
            p.rows { (finding.rows.join(", ")) }
            @for (row, jpeg) in shown.filter_map(|row| Some((row, thumbnail(row)?))) {
                img alt={ "line " (row.line) } src={ "data:image/jpeg;base64," (BASE64_STANDARD.encode(jpeg)) };
            }
        }
    }
}

fn bars(histogram: &Histogram) -> Markup {
    let most = histogram.bars.iter().map(|b| b.1).max().unwrap_or(0).max(1);
    let width = |count: usize| format!("width:{:.1}%", 100.0 * count as f64 / most as f64);
    html! {
        h2 { (histogram.name) }
        table {
            @for (name, count) in &histogram.bars {
                tr { th { (name) } td { span.bar style=(width(*count)) {} } td { (count) } }
            }
        }
    }
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
section{border-left:.4rem solid #888;padding:.2rem 1rem;margin:1rem 0}.error{border-color:#c62828}\
.warning{border-color:#ef8f00}h2{font-size:1.1rem}small{font-weight:400;opacity:.7}.rows{font-size:.85rem;opacity:.8}\
img{height:96px;margin:.2rem}table{width:100%;border-collapse:collapse}th{width:12rem;text-align:left;font-weight:400}\
td:last-child{width:5rem;text-align:right}.bar{display:block;height:.9rem;background:#3f6fb5}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#ddd}}@media print{section{break-inside:avoid}}";
