//! Successive halving: which combinations go on after a while, by the validations so far.

use std::cmp::Ordering;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Rounds of halving: 1 / eta², 1 / eta and all of the steps.
pub(super) const ROUNDS: u32 = 3;

/// How good a run's best validation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The figure that the config compares validations by; higher is better. NaN where there is none.
    pub figure: f64,
    /// The loss, which tells runs apart whose figure is the same.
    pub loss: f64,
}

impl Score {
    /// Of the best validation after the first step, as the run folder tells.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn of_run(run: &Path) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let evals = records.filter(|v| v["kind"] == "eval" && v["step"] != 0);
        let score = |v: Value| {
            let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
            let sign = if v["metric"]["higher_is_better"] == true { 1.0 } else { -1.0 };
            Self { figure: sign * number(&v["metric"]["value"]), loss: number(&v["val"]["loss"]) }
        };
        evals.map(score).filter(|score| !score.figure.is_nan()).min_by(better_first).with_context(|| {
            format!(
                "{}: no validation with the figure by which train.best_metric says that members are compared",
                run.display()
            )
        })
    }

    /// Of several seeds; without any, the worst.
    pub(super) fn mean(scores: &[Self]) -> Self {
        let mean = |pick: fn(&Self) -> f64| scores.iter().map(pick).sum::<f64>() / scores.len() as f64;
        Self { figure: mean(|s| s.figure), loss: mean(|s| s.loss) }
    }
}

/// The better one first: by its figure, then by its loss. What is not a number comes last.
fn better_first(a: &Score, b: &Score) -> Ordering {
    let last = |a: f64, b: f64| a.is_nan().cmp(&b.is_nan());
    let by_figure = last(a.figure, b.figure).then(b.figure.total_cmp(&a.figure));
    by_figure.then(last(a.loss, b.loss)).then(a.loss.total_cmp(&b.loss))
}

/// The `1 / eta` best of `scores` (at least one), by index.
pub fn survivors(scores: &[Score], eta: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| better_first(&scores[a], &scores[b]));
    order.truncate(scores.len().div_ceil(eta).max(1));
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(figures: &[f64]) -> Vec<Score> {
        figures.iter().map(|&figure| Score { figure, loss: 1.0 }).collect()
    }

    #[test]
    fn the_best_third_survives_and_what_is_no_number_is_the_worst() {
        assert_eq!(survivors(&scores(&[0.1, f64::NAN, 0.5, 0.3, -f64::NAN]), 3), [2, 3]);
        assert_eq!(survivors(&scores(&[f64::NAN, -f64::NAN, -7.0]), 3), [2]);
        assert_eq!(survivors(&scores(&[f64::NAN, f64::NAN]), 4), [0]);
        assert!(Score::mean(&[]).figure.is_nan(), "a combination of which nothing is known");
    }

    #[test]
    fn equal_figures_are_told_apart_by_the_loss() {
        let losses = [f64::NAN, 2.0, 1.5, 1.9].map(|loss| Score { figure: 0.25, loss });
        assert_eq!(survivors(&losses, 4), [2]);
        assert_eq!(survivors(&losses, 2), [2, 3]);
    }

    #[test]
    fn a_run_is_as_good_as_its_best_validation() {
        let dir = tempfile::tempdir().unwrap();
        let write = |higher_is_better: bool, evals: &[(u64, &str)]| {
            let line = |(step, value): &(u64, &str)| {
                format!(
                    "{{\"kind\":\"eval\",\"step\":{step},\"metric\":{{\"value\":{value},\"higher_is_better\":\
                     {higher_is_better}}},\"val\":{{\"loss\":2.0}}}}\n"
                )
            };
            std::fs::write(dir.path().join("metrics.jsonl"), evals.iter().map(line).collect::<String>()).unwrap();
        };
        // Before the first step all are alike.
        let values = [(0, "0.9"), (1, "0.2"), (2, "null"), (3, "0.4")];
        let figure = || Score::of_run(dir.path()).map(|s| s.figure);
        write(true, &values);
        assert_eq!(figure().unwrap(), 0.4);
        write(false, &values);
        assert_eq!(figure().unwrap(), -0.2);
        write(true, &values[..1]);
        let error = figure().unwrap_err().to_string();
        assert!(error.contains("no validation with the figure"), "{error}");
    }
}
