//! The findings as one HTML page that opens from disk: no script, no network.

use super::finding::{Level, LintReport};
use super::images::thumbnail;
use crate::data::Row;
use crate::html::{base64, escape};

/// Images shown beside a finding about images.
const THUMBNAILS: usize = 8;

/// The page. `rows` are those that were looked at; their reports are not shown.
pub fn page(report: &LintReport, rows: &[Row]) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Data check</title><style>{STYLE}</style><h1>Data check</h1>\
         <p>{}: {} usable rows, {} images ({} looked into), {} reports, {} patients.</p>",
        escape(&report.manifest),
        report.rows,
        report.images,
        report.images_looked_at,
        report.reports,
        report.patients
    );
    if report.findings.is_empty() {
        html.push_str("<p>Nothing was found.</p>");
    }
    for finding in &report.findings {
        let level = match finding.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        html.push_str(&format!(
            "<section class=\"{level}\"><h2>{} <small>{level}, {}</small></h2><p>{}</p><p class=\"rows\">{}</p>",
            finding.count,
            finding.kind.word().replace('_', " "),
            escape(&finding.message),
            finding.rows.iter().map(|r| escape(r)).collect::<Vec<_>>().join(", ")
        ));
        if finding.kind.is_about_images() {
            for &row in finding.examples.iter().take(THUMBNAILS) {
                if let Some(jpeg) = thumbnail(&rows[row]) {
                    let data = base64(&jpeg);
                    html.push_str(&format!(
                        "<img alt=\"line {}\" src=\"data:image/jpeg;base64,{data}\">",
                        rows[row].line
                    ));
                }
            }
        }
        html.push_str("</section>");
    }
    for histogram in &report.histograms {
        let most = histogram.bars.iter().map(|b| b.1).max().unwrap_or(0).max(1);
        html.push_str(&format!("<h2>{}</h2><table>", escape(histogram.name)));
        for (name, count) in &histogram.bars {
            let width = 100.0 * *count as f64 / most as f64;
            html.push_str(&format!(
                "<tr><th>{}</th><td><span class=\"bar\" style=\"width:{width:.1}%\"></span></td><td>{count}</td></tr>",
                escape(name)
            ));
        }
        html.push_str("</table>");
    }
    html.push_str("</html>\n");
    html
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
section{border-left:.4rem solid #888;padding:.2rem 1rem;margin:1rem 0}.error{border-color:#c62828}\
.warning{border-color:#ef8f00}h2{font-size:1.1rem}small{font-weight:400;opacity:.7}.rows{font-size:.85rem;opacity:.8}\
img{height:96px;margin:.2rem}table{width:100%;border-collapse:collapse}th{width:12rem;text-align:left;font-weight:400}\
td:last-child{width:5rem;text-align:right}.bar{display:block;height:.9rem;background:#3f6fb5}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#ddd}}@media print{section{break-inside:avoid}}";
