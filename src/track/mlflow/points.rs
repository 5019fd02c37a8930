//! Figures as MLflow takes them, and up to where a run folder's were sent.

use std::fs;
use std::path::Path;

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

/// What metrics.jsonl and timing.jsonl of a run's folder hold beyond `before`.
pub(super) fn not_sent(folder: &Path, before: Sent) -> impl Iterator<Item = Figures> {
    let lines = |file: &str| -> Vec<Value> {
        let bytes = fs::read(folder.join(file)).unwrap_or_default();
        bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    };
    let figures = |line: Value| {
        let step = line["step"].as_u64()?;
        match line["kind"].as_str() {
            Some("step") => Some(of_step(step, &line)),
            Some("eval") => Some(of_eval(step, &line["val"])),
            Some(_) => None,
            None => Some(of_timing(step, line["samples_per_s"].as_f64()?)),
        }
    };
    let all = lines("metrics.jsonl").into_iter().chain(lines("timing.jsonl"));
    all.filter_map(figures).filter(move |figures| !before.holds(figures.upto))
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
}
