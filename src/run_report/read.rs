//! What run folders hold, read as far as it is there.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

/// Points of a curve at most: more would not be seen.
const POINTS: usize = 400;
/// Members of a sweep whose curves are drawn.
const MEMBERS: usize = 24;

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
    let sweep = json(&path.join("sweep.json"));
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
    let metrics = lines(&path.join("metrics.jsonl"));
    let of = |kind: &str| metrics.iter().filter(|v| v["kind"] == kind).cloned().collect();
    Run {
        name: path.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned()),
        steps: of("step"),
        evals: of("eval"),
        timing: lines(&path.join("timing.jsonl")).into_iter().filter(|v| v["step"].is_u64()).collect(),
        config: fs::read_to_string(path.join("config.toml")).unwrap_or_default(),
        record: json(&path.join("run.json")),
        pictures_untuned: json(&path.join("pictures-untuned.json")),
        pictures_best: json(&path.join("pictures-best.json")),
        zero_shot: Some(json(&path.join("zero-shot.json"))).filter(Value::is_object),
    }
}

/// Null where it cannot be read.
fn json(path: &Path) -> Value {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The lines that are whole: a run may be writing, or have been killed.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read(path).unwrap_or_default();
    text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
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
    use super::*;

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
