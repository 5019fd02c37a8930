//! What a sweep tries and what it finds, without running anything: expansion of grids, random draws, ranking, means with
//! intervals. A sweep's members are run folders; `cli/sweep.rs` runs them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::seed::{Purpose, stream};

/// A key with the values to try.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Config key.
    pub key: String,
    /// What it is set to.
    pub values: Values,
}

/// Values of an axis.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Each of these.
    List(Vec<String>),
    /// For random search: anything between, drawn on a logarithmic scale where both are positive.
    Range(f64, f64),
}

impl Axis {
    /// Reads `key=v1,v2,…` or `key=low..high`.
    ///
    /// # Errors
    /// Neither.
    pub fn parse(text: &str) -> Result<Self> {
        let (key, values) = text.split_once('=').with_context(|| format!("{text:?}: expected key=v1,v2,…"))?;
        let range = values.split_once("..").and_then(|(a, b)| Some((a.parse::<f64>().ok()?, b.parse::<f64>().ok()?)));
        let values = match range {
            Some((low, high)) => {
                ensure!(low < high && high.is_finite(), "{text:?}: the range must go from a lower to a higher number");
                Values::Range(low, high)
            }
            None => Values::List(values.split(',').map(|v| v.trim().to_string()).collect()),
        };
        if let Values::List(list) = &values {
            ensure!(list.iter().all(|v| !v.is_empty()), "{text:?}: a value is empty");
        }
        Ok(Self { key: key.trim().to_string(), values })
    }
}

/// Values of one combination, in the order of the axes.
pub type Setting = Vec<(String, String)>;

/// Every combination of the axes' values, the last axis changing fastest.
///
/// # Errors
/// A range, which only random search can take.
pub fn grid(axes: &[Axis]) -> Result<Vec<Setting>> {
    axes.iter().try_fold(vec![Setting::new()], |settings, axis| match &axis.values {
        Values::Range(..) => anyhow::bail!("{}: a range needs --random N; a grid takes a list of values", axis.key),
        Values::List(values) => Ok(settings
            .iter()
            .flat_map(|setting| values.iter().map(|v| [setting.as_slice(), &[(axis.key.clone(), v.clone())]].concat()))
            .collect()),
    })
}

/// `count` combinations drawn at random; the first ones stay the same when more are asked for.
pub fn random(axes: &[Axis], count: usize, seed: u64) -> Vec<Setting> {
    let draw = |i: usize| {
        let mut rng = stream(seed, Purpose::Search, i as u64);
        let value = |axis: &Axis, rng: &mut rand_chacha::ChaCha8Rng| match &axis.values {
            Values::List(values) => values[rng.random_range(0..values.len())].clone(),
            Values::Range(low, high) => {
                let u: f64 = rng.random();
                let drawn = if *low > 0.0 { low * (high / low).powf(u) } else { low + (high - low) * u };
                // Short enough for a folder's name.
                format!("{drawn:.3e}")
            }
        };
        axes.iter().map(|axis| (axis.key.clone(), value(axis, &mut rng))).collect()
    };
    (0..count).map(draw).collect()
}

/// A folder's name for a member: `loss.label_smoothing=0.1+seed=2`.
pub fn name(setting: &Setting, seed: u64) -> String {
    let safe = |text: &str| -> String {
        text.chars().map(|c| if c.is_alphanumeric() || "._-%=".contains(c) { c } else { '_' }).collect()
    };
    let parts = setting.iter().map(|(key, value)| safe(&format!("{key}={value}")));
    parts.chain([format!("seed={seed}")]).collect::<Vec<_>>().join("+")
}

/// Figures of a member, by name.
pub type Figures = BTreeMap<String, f64>;

/// One member, as sweep.json has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its run folder, inside the sweep's.
    pub name: String,
    /// What it tries.
    pub setting: Setting,
    /// Its seed.
    pub seed: u64,
    /// Its figures, once it is done.
    pub figures: Option<Figures>,
    /// Why it has none: its error, or that it was pruned.
    pub problem: Option<String>,
}

/// A mean over seeds with its 95 % interval by Student's t; no interval for a single seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval.
    pub half_width: Option<f64>,
    /// Seeds.
    pub seeds: usize,
}

impl Mean {
    /// Of one figure's values; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let half_width = (n > 1).then(|| t_975(n - 1) * (squares / (n - 1) as f64 / n as f64).sqrt());
        (n > 0).then_some(Self { mean, half_width, seeds: n })
    }
}

/// The 97.5 % point of Student's t with this many degrees of freedom.
fn t_975(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    TABLE.get(freedom.saturating_sub(1)).copied().unwrap_or(1.96)
}

/// A row of the table: a setting with the mean of each figure over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettingFigures {
    /// What was tried; the baseline's says so.
    pub setting: String,
    /// By name of figure.
    pub figures: BTreeMap<String, Mean>,
}

/// Means by setting, in the order of their first member. Where label smoothing is swept and 0 is among its values, the
/// honest baseline stands last: no smoothing, but temperature scaling afterwards.
pub fn table(members: &[Member]) -> Vec<SettingFigures> {
    let mut settings: Vec<&Setting> = Vec::new();
    members.iter().for_each(|m| {
        if !settings.contains(&&m.setting) {
            settings.push(&m.setting);
        }
    });
    let words = |setting: &Setting| setting.iter().map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>().join(", ");
    let means = |setting: &Setting, scaled: bool| {
        let done: Vec<&Figures> =
            members.iter().filter(|m| m.setting == *setting).filter_map(|m| m.figures.as_ref()).collect();
        let names: std::collections::BTreeSet<&String> = done.iter().flat_map(|f| f.keys()).collect();
        let mean = |name: &String| {
            let source = match scaled {
                true => format!("{name}_scaled"),
                false => name.clone(),
            };
            let source = if done.iter().any(|f| f.contains_key(&source)) { &source } else { name };
            let values: Vec<f64> = done.iter().filter_map(|f| f.get(source)).copied().filter(|v| !v.is_nan()).collect();
            Some((name.clone(), Mean::of(&values)?))
        };
        names.into_iter().filter_map(mean).collect()
    };
    let mut rows: Vec<SettingFigures> =
        settings.iter().map(|s| SettingFigures { setting: words(s), figures: means(s, false) }).collect();
    let is_zero =
        |(key, value): &(String, String)| key == "loss.label_smoothing" && value.parse::<f64>().is_ok_and(|v| v == 0.0);
    let smoothing = settings.iter().flat_map(|s| s.iter()).any(|(k, _)| k == "loss.label_smoothing");
    for setting in settings.iter().filter(|s| smoothing && s.iter().any(is_zero)) {
        let name = format!("{}, then temperature scaling", words(setting));
        rows.push(SettingFigures { setting: name, figures: means(setting, true) });
    }
    rows
}

/// The `1 / eta` best of `scores` (at least one), by index; without a score a member is the worst. Higher is better.
pub fn survivors(scores: &[Option<f64>], eta: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| {
        let score = |i: usize| scores[i].unwrap_or(f64::NEG_INFINITY);
        score(b).total_cmp(&score(a)).then(a.cmp(&b))
    });
    let kept = order.len().div_ceil(eta).max(1);
    order.truncate(kept);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_and_draws() {
        let axes = [Axis::parse("loss.label_smoothing=0,0.1").unwrap(), Axis::parse("optim.lr=1e-3,1e-4").unwrap()];
        let names: Vec<String> = grid(&axes).unwrap().iter().map(|s| name(s, 2)).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names[1], "loss.label_smoothing=0+optim.lr=1e-4+seed=2");
        let range = [Axis::parse("optim.lr=1e-5..1e-2").unwrap()];
        assert!(grid(&range).is_err());
        let drawn = random(&range, 200, 1);
        assert_eq!(random(&range, 5, 1), drawn[..5]);
        let values: Vec<f64> = drawn.iter().map(|s| s[0].1.parse().unwrap()).collect();
        assert!(values.iter().all(|v| (1e-5..=1e-2).contains(v)));
        let low = values.iter().filter(|v| **v < 10f64.powf(-3.5)).count();
        assert!((80..120).contains(&low), "half of the draws lie below the geometric middle: {low}");
        assert!(Axis::parse("seed").is_err() && Axis::parse("a=1,,2").is_err() && Axis::parse("a=2..1").is_err());
    }

    #[test]
    fn means_have_student_intervals_and_the_baseline_is_scaled() {
        let m = Mean::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(m.mean, 2.0);
        // scipy.stats.t.interval(0.95, 2, 2, 1/sqrt(3)) is 2 ± 2.4841.
        assert!((m.half_width.unwrap() - 2.4841).abs() < 1e-3);
        assert_eq!(Mean::of(&[1.0]).unwrap().half_width, None);
        let member = |value: &str, seed, ece: Option<f64>| Member {
            name: String::new(),
            setting: vec![("loss.label_smoothing".into(), value.into())],
            seed,
            figures: ece.map(|e| Figures::from([("ece".into(), e), ("ece_scaled".into(), e / 2.0)])),
            problem: None,
        };
        let rows = table(&[member("0", 0, Some(0.2)), member("0.1", 0, Some(0.3)), member("0.1", 1, None)]);
        let ece: Vec<(&str, f64, usize)> =
            rows.iter().map(|r| (r.setting.as_str(), r.figures["ece"].mean, r.figures["ece"].seeds)).collect();
        assert_eq!(ece[0], ("loss.label_smoothing = 0", 0.2, 1));
        assert_eq!(ece[1], ("loss.label_smoothing = 0.1", 0.3, 1));
        assert_eq!(ece[2], ("loss.label_smoothing = 0, then temperature scaling", 0.1, 1));
    }

    #[test]
    fn the_best_third_survives() {
        let scores = [Some(0.1), None, Some(0.5), Some(0.3), Some(f64::NAN)];
        assert_eq!(survivors(&scores[..4], 3), [2, 3]);
        assert_eq!(survivors(&[None, None], 4), [0]);
    }
}
