//! What a model says of each image: as a file, and counted for people.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::usage;
use crate::eval::Said;
use crate::fs::{may_write_beside, replace_file};
use crate::model::checkpoint::spare_models;

/// Makes sure that predictions can be written to `path`, before they are made.
///
/// # Errors
/// It ends otherwise, is there already, is one of the `inputs`, or lies in a model's folder.
pub(super) fn check(path: &Path, force: bool, inputs: &[&Path]) -> Result<()> {
    usage::ensure(is_csv(path) || ending(path) == "jsonl", || {
        format!("--predictions {}: allowed are files that end in .csv and .jsonl", path.display())
    })?;
    // First: the other tries the folder by a file.
    spare_models(path).context("--predictions")?;
    may_write_beside(path, force, inputs.iter().copied())
}

fn ending(path: &Path) -> String {
    path.extension().map_or(String::new(), |ending| ending.to_string_lossy().to_lowercase())
}

fn is_csv(path: &Path) -> bool {
    ending(path) == "csv"
}

/// Writes a row each, as CSV or as JSON lines.
///
/// # Errors
/// It cannot be written; an old file is untouched then.
pub(super) fn write(path: &Path, said: &[Said]) -> Result<()> {
    let bytes = if is_csv(path) { csv(said)? } else { json_lines(said)? };
    replace_file(path, &bytes)
}

fn json_lines(said: &[Said]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for row in said {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Findings and sets have a column where there are any; members of a set stand between semicolons.
fn csv(said: &[Said]) -> Result<Vec<u8>> {
    let (findings, sets) = (said.iter().any(|s| s.finding.is_some()), said.iter().any(|s| s.set.is_some()));
    let row = |line: &str, finding: &str, answer: &str, probability: &str, set: &str| {
        let cells = [(line, true), (finding, findings), (answer, true), (probability, true), (set, sets)];
        cells.into_iter().filter(|(_, there)| *there).map(|(cell, _)| cell.to_string()).collect::<Vec<_>>()
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(row("line", "finding", "answer", "probability", "set"))?;
    for s in said {
        let (finding, set) = (s.finding.as_deref().unwrap_or_default(), s.set.as_deref().unwrap_or_default().join(";"));
        writer.write_record(row(&s.line.to_string(), finding, &s.answer, &s.probability.to_string(), &set))?;
    }
    Ok(writer.into_inner()?)
}

/// How often each answer is given, of each finding by itself, and how large sets are.
pub(super) fn counted(said: &[Said]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for s in said {
        *counts.entry((s.finding.as_deref().unwrap_or_default(), s.answer.as_str())).or_default() += 1;
    }
    let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
    said.iter().filter_map(|s| Some((s.line, s.set.as_ref()?.len()))).for_each(|(line, size)| {
        sizes.insert(line, size);
    });
    let images: std::collections::BTreeSet<u64> = said.iter().map(|s| s.line).collect();
    let mut lines = vec![format!("{} images, none with a label that counts: no figures", images.len())];
    for ((finding, answer), count) in counts {
        let name = if finding.is_empty() { answer.to_string() } else { format!("{finding}: {answer}") };
        lines.push(format!("{name:<40} {count:>6}"));
    }
    if !sizes.is_empty() {
        let empty = sizes.values().filter(|size| **size == 0).count();
        let mean = sizes.values().sum::<usize>() as f64 / sizes.len() as f64;
        lines.push(format!("sets hold {mean:.2} on average; {empty} are empty"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: u64, finding: Option<&str>, answer: &str, set: Option<&[&str]>) -> Said {
        let set = set.map(|set| set.iter().map(|name| name.to_string()).collect());
        Said { line, finding: finding.map(str::to_string), answer: answer.into(), probability: 0.25, set }
    }

    #[test]
    fn columns_are_those_that_there_are() {
        let classes = [said(2, None, "a, b", Some(&["a, b", "c"])), said(3, None, "unsure", Some(&[]))];
        let text = String::from_utf8(csv(&classes).unwrap()).unwrap();
        assert_eq!(text, "line,answer,probability,set\n2,\"a, b\",0.25,\"a, b;c\"\n3,unsure,0.25,\n");
        let counted = counted(&classes);
        assert!(counted.contains("2 images, none") && counted.ends_with("sets hold 1.00 on average; 1 are empty"));
        let findings = [said(2, Some("f"), "yes", None)];
        let text = String::from_utf8(csv(&findings).unwrap()).unwrap();
        assert_eq!(text, "line,finding,answer,probability\n2,f,yes,0.25\n");
        let lines = String::from_utf8(json_lines(&classes).unwrap()).unwrap();
        assert_eq!(lines.lines().last().unwrap(), r#"{"line":3,"answer":"unsure","probability":0.25,"set":[]}"#);
    }
}
