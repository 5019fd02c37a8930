//! Figures as MLflow takes them, and up to where a run folder's were sent.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rest::{Point, now};
use crate::track::figures::figures;

/// Up to where figures were sent: those of steps, of validations, and of speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub step: Option<u64>,
    pub eval: Option<u64>,
    pub timing: Option<u64>,
}

impl Sent {
    /// With all of `other` too.
    pub fn and(self, other: Self) -> Self {
        Self { step: self.step.max(other.step), eval: self.eval.max(other.eval), timing: self.timing.max(other.timing) }
    }

    /// Whether all of `other` is among these; of what the run folder does not hold nothing is.
    pub fn holds(self, other: Self) -> bool {
        other != Self::default() && self.and(other) == self
    }
}

/// Figures that belong together, and up to where they go.
pub(super) struct Figures {
    pub points: Vec<Point>,
    pub upto: Sent,
}

pub(super) fn of_step(step: u64, record: &Value) -> Figures {
    at(step, "train", record, Sent { step: Some(step), ..Sent::default() })
}

pub(super) fn of_eval(step: u64, figures: &Value) -> Figures {
    at(step, "val", figures, Sent { eval: Some(step), ..Sent::default() })
}

pub(super) fn of_timing(step: u64, samples_per_s: f64) -> Figures {
    let speed = serde_json::json!({"samples_per_s": samples_per_s});
    at(step, "train", &speed, Sent { timing: Some(step), ..Sent::default() })
}

/// Names as MLflow takes them; what is no number there is left out.
pub(super) fn at(step: u64, prefix: &str, value: &Value, upto: Sent) -> Figures {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-. /".contains(c);
    // recall@1 is no name there.
    let name = |name: &str| name.replace('@', "_at_");
    let key = |text: &str| name(text).chars().map(|c| if plain(c) { c } else { '_' }).take(250).collect();
    let timestamp = now();
    let points = figures(prefix, value).into_iter().filter(|(_, value)| value.is_finite());
    let points = points.map(|(name, value)| Point { key: key(&name), value, timestamp, step }).collect();
    Figures { points, upto }
}

/// metrics.jsonl and timing.jsonl of a run's folder, each with the byte up to where it was read.
pub(super) struct Unread([(PathBuf, u64); 2]);

impl Unread {
    /// All that a folder has.
    pub fn of(folder: &Path) -> Self {
        Self(["metrics.jsonl", "timing.jsonl"].map(|name| (folder.join(name), 0)))
    }

    /// Hands what is not among `before` to `take`, until that has no room; there it goes on the next time.
    pub fn read(&mut self, before: Sent, mut take: impl FnMut(Figures) -> bool) {
        for (path, read) in &mut self.0 {
            let Ok(mut file) = File::open(path) else { continue };
            if file.seek(SeekFrom::Start(*read)).is_err() {
                continue;
            }
            let (mut lines, mut line) = (BufReader::new(file), Vec::new());
            // The rest of a line that is being written comes later.
            while lines.read_until(b'\n', &mut line).is_ok() && line.ends_with(b"\n") {
                let figures = serde_json::from_slice(&line).ok().and_then(|line| of_line(&line, before));
                if figures.is_some_and(|figures| !take(figures)) {
                    return;
                }
                *read += line.len() as u64;
                line.clear();
            }
        }
    }
}

/// Of a line of either file, if it is not among `before`.
fn of_line(line: &Value, before: Sent) -> Option<Figures> {
    let step = line["step"].as_u64()?;
    let is_new = |upto: Sent| !before.holds(upto);
    match line["kind"].as_str() {
        Some("step") => is_new(Sent { step: Some(step), ..Sent::default() }).then(|| of_step(step, line)),
        Some("eval") => is_new(Sent { eval: Some(step), ..Sent::default() }).then(|| of_eval(step, &line["val"])),
        Some(_) => None,
        None => {
            let speed = line["samples_per_s"].as_f64()?;
            is_new(Sent { timing: Some(step), ..Sent::default() }).then(|| of_timing(step, speed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_holds_what_is_not_beyond_it() {
        let sent = Sent { step: Some(5), eval: None, timing: Some(4) };
        let step = |step| Sent { step: Some(step), ..Sent::default() };
        assert!(sent.holds(step(5)) && !sent.holds(step(6)));
        assert!(!sent.holds(Sent { eval: Some(0), ..Sent::default() }));
        assert!(sent.holds(Sent { timing: Some(4), ..Sent::default() }));
        assert!(!sent.holds(Sent::default()), "the run folder does not hold it");
    }

    #[test]
    fn a_run_folder_is_read_on_from_where_there_was_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let line = |step: u64| format!("{{\"kind\":\"step\",\"step\":{step},\"loss\":1.5}}\n");
        let all: String = (1..=5).map(line).collect();
        // The last line is being written.
        std::fs::write(dir.path().join("metrics.jsonl"), &all[..all.len() - 3]).unwrap();
        std::fs::write(dir.path().join("timing.jsonl"), "{\"note\":1}\n{\"step\":1,\"samples_per_s\":2.0}\n").unwrap();
        let mut unread = Unread::of(dir.path());
        let mut read = |most: usize| {
            let mut steps = Vec::new();
            unread.read(Sent { step: Some(1), ..Sent::default() }, |figures| {
                let has_room = steps.len() < most;
                steps.extend(has_room.then_some((figures.upto.step, figures.upto.timing)));
                has_room
            });
            steps
        };
        assert_eq!(read(2), [(Some(2), None), (Some(3), None)]);
        assert_eq!(read(9), [(Some(4), None), (None, Some(1))]);
        std::fs::write(dir.path().join("metrics.jsonl"), &all).unwrap();
        assert_eq!(read(9), [(Some(5), None)]);
    }
}
