//! What run folders hold, read as far as it is there.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::fields::{EVAL, PICTURES, STEP, TIMING, ZERO_SHOT, only, weight};
use crate::json::parse_up_to;

/// Points of a curve at most: more would not be seen.
const POINTS: usize = 400;
/// Members of a sweep whose curves are drawn.
const MEMBERS: usize = 24;
/// A run's folder may come from anybody. Longest line of a file of figures, longest file of one value, and longest
/// text; what is longer is passed over.
const MAX_LINE: u64 = 4 << 20;
const MAX_JSON: u64 = 64 << 20;
const MAX_TEXT: u64 = 1 << 20;
/// Most values of a line, and of a file of one value: a byte of text may become a value of seventy.
const LINE_VALUES: usize = 1 << 16;
const FILE_VALUES: usize = 1 << 19;
/// Records of a kind that are kept: beyond twice as many, every second one goes.
const RECORDS: usize = 8192;
/// Most that they may weigh together, else every second one goes too: 50 MB.
const MOST_WEIGHT: usize = 1 << 19;

/// A folder that was named: a run, or a sweep with its members.
pub(super) struct Folder {
    pub runs: Vec<Run>,
    /// sweep.json
    pub sweep: Option<Value>,
}

/// A run.
pub(super) struct Run {
    pub name: String,
    pub steps: Vec<Value>,
    pub evals: Vec<Value>,
    pub timing: Vec<Value>,
    pub config: String,
    /// run.json
    pub record: Value,
    pub pictures_untuned: Value,
    pub pictures_best: Value,
    /// zero-shot.json, where somebody put what `zero-shot --json` prints.
    pub zero_shot: Option<Value>,
}

impl Run {
    /// Figures of the best validation after the start, or the last one.
    pub fn best(&self) -> Option<&Value> {
        let tuned = || self.evals.iter().filter(|e| e["step"] != 0);
        tuned().rfind(|e| e["best"] == true).or(tuned().next_back()).or(self.evals.last()).map(|e| &e["val"])
    }

    /// Figures before the first step.
    pub fn untuned(&self) -> Option<&Value> {
        self.evals.iter().find(|e| e["step"] == 0).map(|e| &e["val"])
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps.last().and_then(|s| s["step"].as_u64()).unwrap_or(0)
    }

    /// Steps planned.
    pub fn total_steps(&self) -> u64 {
        self.record["total_steps"].as_u64().unwrap_or(0)
    }
}

/// Reads a folder.
///
/// # Errors
/// It holds neither a run nor a sweep.
pub(super) fn folder(path: &Path) -> Result<Folder> {
    let sweep = json(&path.join("sweep.json"), MAX_JSON);
    if sweep.is_object() {
        let names = sweep["members"].as_array().into_iter().flatten().filter_map(|m| m["name"].as_str());
        // A name that leads elsewhere is no member's.
        let inside = names.filter(|n| !n.contains(['/', '\\']) && *n != "..").map(|n| path.join(n));
        let runs = inside.filter(|p| p.join("metrics.jsonl").is_file()).take(MEMBERS).map(|p| run(&p)).collect();
        return Ok(Folder { runs, sweep: Some(sweep) });
    }
    ensure!(
        path.join("metrics.jsonl").is_file(),
        "{}: holds neither a run (metrics.jsonl) nor a sweep (sweep.json)",
        path.display()
    );
    Ok(Folder { runs: vec![run(path)], sweep: None })
}

fn run(path: &Path) -> Run {
    let (mut steps, mut evals, mut timing) = (Records::default(), Records::default(), Records::default());
    each_line(&path.join("metrics.jsonl"), |line| match line["kind"].as_str() {
        Some("step") => steps.push(only(line, STEP)),
        Some("eval") => evals.push(only(line, EVAL)),
        _ => {}
    });
    each_line(&path.join("timing.jsonl"), |line| {
        if line["step"].is_u64() {
            timing.push(only(line, TIMING));
        }
    });
    Run {
        name: path.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned()),
        steps: steps.finish(),
        evals: evals.finish(),
        timing: timing.finish(),
        config: String::from_utf8_lossy(&bytes(&path.join("config.toml"), MAX_TEXT)).into_owned(),
        // Shown as it is.
        record: json(&path.join("run.json"), MAX_TEXT),
        pictures_untuned: only(json(&path.join("pictures-untuned.json"), MAX_JSON), PICTURES),
        pictures_best: only(json(&path.join("pictures-best.json"), MAX_JSON), PICTURES),
        zero_shot: Some(only(json(&path.join("zero-shot.json"), MAX_JSON), ZERO_SHOT)).filter(Value::is_object),
    }
}

/// Records of a kind, thinned evenly where there are very many. The first one, the last one and the last best one stay.
#[derive(Default)]
struct Records {
    kept: Vec<Value>,
    /// Of so many, as a power of two, one is kept.
    thinned: u32,
    seen: u64,
    /// Of those that are kept.
    weight: usize,
    last: Option<Value>,
    best: Option<Value>,
}

impl Records {
    fn push(&mut self, record: Value) {
        if record["best"] == true {
            self.best = Some(record.clone());
        }
        self.last = Some(record.clone());
        if self.seen.is_multiple_of(1 << self.thinned.min(63)) {
            self.weight += weight(&record);
            self.kept.push(record);
        }
        self.seen += 1;
        while self.kept.len() > 2 * RECORDS || (self.weight > MOST_WEIGHT && self.kept.len() > 1) {
            let mut number = 0;
            self.kept.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.weight = self.kept.iter().map(weight).sum();
            self.thinned += 1;
        }
    }

    fn finish(mut self) -> Vec<Value> {
        if self.thinned > 0 {
            self.kept.extend(self.best);
            self.kept.extend(self.last);
            self.kept.sort_by_key(|record| record["step"].as_u64());
            self.kept.dedup();
        }
        self.kept
    }
}

/// The first `most` bytes; nothing where it is longer or cannot be read.
fn bytes(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    if read.is_err() || bytes.len() as u64 > most {
        bytes.clear();
    }
    bytes
}

/// Null where it cannot be read, or is longer than `most` bytes.
fn json(path: &Path, most: u64) -> Value {
    parse_up_to(&bytes(path, most), FILE_VALUES).unwrap_or_default()
}

/// The lines that are whole: a run may be writing, or have been killed.
fn each_line(path: &Path, mut take: impl FnMut(Value)) {
    let Ok(file) = File::open(path) else { return };
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            return;
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == MAX_LINE && reader.skip_until(b'\n').is_err() {
            return;
        }
        if let Ok(value) = parse_up_to(&line, LINE_VALUES) {
            take(value);
        }
    }
}

/// A number inside figures, by a path such as `image_to_text/figures/recall@1`.
pub(super) fn figure(value: &Value, path: &str) -> Option<f64> {
    path.split('/')
        .try_fold(value, |v, part| match part.parse::<usize>() {
            Ok(i) => v.get(i),
            Err(_) => v.get(part),
        })?
        .as_f64()
}

/// (step, figure) of each record that has it, thinned evenly; the last one always stays.
pub(super) fn points(records: &[Value], path: &str) -> Vec<(f64, f64)> {
    let point = |v: &Value| Some((v["step"].as_f64()?, figure(v, path)?));
    let all: Vec<(f64, f64)> = records.iter().filter_map(point).collect();
    let every = all.len().div_ceil(POINTS).max(1);
    all.iter().enumerate().filter(|(i, _)| i % every == 0 || i + 1 == all.len()).map(|(_, p)| *p).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// More records than are kept, a line without end, and lines that are none.
    #[test]
    fn a_run_of_any_length_takes_little_memory() {
        let dir = tempfile::tempdir().unwrap();
        let count = 5 * RECORDS as u64;
        let mut text = format!("{{\"kind\":\"step\",\"pad\":\"{}\"}}\n\n[1]\n", "x".repeat(MAX_LINE as usize));
        text += &(0..count).map(|i| format!("{{\"kind\":\"step\",\"step\":{i},\"loss\":1}}\n")).collect::<String>();
        let eval = |i: u64| format!("{{\"kind\":\"eval\",\"step\":{i},\"best\":{},\"val\":{i}}}\n", i == 77);
        text += &(0..count).map(eval).collect::<String>();
        fs::write(dir.path().join("metrics.jsonl"), text).unwrap();
        fs::write(dir.path().join("config.toml"), vec![b'#'; MAX_TEXT as usize + 1]).unwrap();
        let run = &folder(dir.path()).unwrap().runs[0];
        assert!(run.steps.len() <= 2 * RECORDS + 2 && run.evals.len() <= 2 * RECORDS + 2);
        assert_eq!((run.steps(), run.steps[0]["step"].as_u64()), (count - 1, Some(0)));
        assert_eq!(run.best().and_then(Value::as_u64), Some(77));
        assert_eq!(run.untuned().and_then(Value::as_u64), Some(0));
        assert!(run.config.is_empty() && run.steps.is_sorted_by_key(|s| s["step"].as_u64()));
    }

    /// Small files that become much: lists of numbers, and fields that nothing shows.
    #[test]
    fn a_folder_of_many_values_takes_little_memory() {
        let dir = tempfile::tempdir().unwrap();
        let zeros = |count: usize| format!("[{}0]", "0,".repeat(count));
        for name in ["pictures-best.json", "pictures-untuned.json", "zero-shot.json", "run.json"] {
            fs::write(dir.path().join(name), zeros(FILE_VALUES + 1)).unwrap();
        }
        let most = zeros(LINE_VALUES - 100);
        let lists = format!("[{}{}]", format!("{},", zeros(998)).repeat(60), zeros(998));
        let mut text = format!("{{\"kind\":\"step\",\"step\":0,\"lr\":{}}}\n", zeros(LINE_VALUES));
        for i in 0..100 {
            text += &format!("{{\"kind\":\"step\",\"step\":{i},\"loss\":1,\"other\":{most}}}\n");
            text += &format!("{{\"kind\":\"eval\",\"step\":{i},\"best\":{},\"val\":{lists}}}\n", i == 41);
        }
        fs::write(dir.path().join("metrics.jsonl"), text).unwrap();
        let run = &folder(dir.path()).unwrap().runs[0];
        assert!(run.pictures_best.is_null() && run.pictures_untuned.is_null() && run.record.is_null());
        assert!(run.zero_shot.is_none());
        assert_eq!(run.steps.len(), 100, "a line of too many values is passed over, a field that is not shown dropped");
        assert!(run.steps.iter().map(weight).sum::<usize>() <= 100 * 10);
        // The last one and the best one come on top.
        let heavy = weight(&run.evals[0]);
        assert!(heavy > 60_000 && run.evals.iter().map(weight).sum::<usize>() <= MOST_WEIGHT + 2 * heavy);
        let at = |step: u64| run.evals.iter().any(|e| e["step"] == step);
        assert!(at(0) && at(41) && at(99));
    }

    #[test]
    fn a_run_that_is_being_written_is_read_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let steps: String =
            (1..=1000).map(|i| format!("{{\"kind\":\"step\",\"step\":{i},\"loss\":{i}.5}}\n")).collect();
        fs::write(dir.path().join("metrics.jsonl"), format!("{steps}{{\"kind\":\"st")).unwrap();
        let run = &folder(dir.path()).unwrap().runs[0];
        assert_eq!(run.steps(), 1000);
        let thinned = points(&run.steps, "loss");
        assert!(thinned.len() <= POINTS + 1 && thinned.last() == Some(&(1000.0, 1000.5)));
        assert!(folder(&dir.path().join("none")).is_err());
    }
}
