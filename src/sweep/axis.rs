//! What a sweep tries: keys with their values, and the combinations of them.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use serde::Serialize;

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
        let (name, values) = text.split_once('=').with_context(|| format!("{text:?}: expected key=v1,v2,…"))?;
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
        Ok(Self { key: key(text, name)?, values })
    }
}

/// The key that `text` names.
fn key(text: &str, name: &str) -> Result<String> {
    let name = name.trim();
    ensure!(!name.is_empty(), "{text:?}: names no key");
    let own = OWN.iter().find(|(own, _)| *own == name);
    ensure!(own.is_none(), "{text:?}: {}", own.map_or("", |(_, why)| why));
    Ok(name.to_string())
}

/// Keys that a sweep sets for each member, and why they are no part of a combination.
const OWN: [(&str, &str); 3] = [
    ("seed", "seeds are counted, not listed: --seeds N takes N for each combination, from --set seed=FIRST on"),
    ("output", "the folder of a member lies in the sweep's, which --out names"),
    ("train.stop_after", "members are trained to their end, but for those that --halving leaves behind"),
];

/// The first key that is there twice: of its two values one would be told, and the other taken.
pub(super) fn twice<'a>(keys: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut found = HashSet::new();
    keys.into_iter().find(|key| !found.insert(*key))
}

/// A key with the value that one member has of it; in JSON a list of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "(String, String)")]
pub struct Choice {
    /// Config key.
    pub key: String,
    /// As `--set` takes it.
    pub value: String,
}

impl From<Choice> for (String, String) {
    fn from(choice: Choice) -> Self {
        (choice.key, choice.value)
    }
}

/// One combination, in the order of the axes.
pub type Setting = Vec<Choice>;

/// Reads a combination that no grid makes, `key=value; key=value; …`.
///
/// # Errors
/// A part without a key or a value, a key twice, the seed.
pub fn setting(text: &str) -> Result<Setting> {
    let choice = |part: &str| {
        let (name, value) = part
            .split_once('=')
            .with_context(|| format!("{text:?}: expected key=value, and a semicolon before each further one"))?;
        let (key, value) = (key(text, name)?, value.trim().to_string());
        ensure!(!value.is_empty(), "{text:?}: {key} has no value");
        Ok(Choice { key, value })
    };
    let setting = text.split(';').map(choice).collect::<Result<Setting>>()?;
    let twice = twice(setting.iter().map(|choice| choice.key.as_str()));
    ensure!(twice.is_none(), "{text:?}: names {} twice", twice.unwrap_or_default());
    Ok(setting)
}

/// Every combination of the axes' values, the last axis changing fastest.
///
/// # Errors
/// A range, which only random search can take.
pub fn grid(axes: &[Axis]) -> Result<Vec<Setting>> {
    let mut settings = vec![Setting::new()];
    for axis in axes {
        let Values::List(values) = &axis.values else {
            bail!("{}: a range needs --random N; a grid takes a list of values", axis.key);
        };
        let with = |setting: &Setting, value: &String| {
            let choice = Choice { key: axis.key.clone(), value: value.clone() };
            setting.iter().cloned().chain([choice]).collect::<Setting>()
        };
        settings = settings.iter().flat_map(|setting| values.iter().map(move |value| with(setting, value))).collect();
    }
    Ok(settings)
}

/// How many combinations there are of the values that are listed.
pub fn combinations(axes: &[Axis]) -> usize {
    let listed = |axis: &Axis| if let Values::List(values) = &axis.values { values.len() } else { 1 };
    axes.iter().map(listed).fold(1, usize::saturating_mul)
}

/// Those that are not among the ones before them; of equal ones the first stays. Values are equal as text or as
/// numbers, in whatever order the keys are written.
pub(super) fn distinct(settings: Vec<Setting>) -> Vec<Setting> {
    let mut found: Vec<Setting> = Vec::new();
    for setting in settings {
        if !found.iter().any(|other| is_same(other, &setting)) {
            found.push(setting);
        }
    }
    found
}

fn is_same(a: &Setting, b: &Setting) -> bool {
    let number = |choice: &Choice| choice.value.parse::<f64>().ok();
    let equal = |a: &Choice, b: &Choice| {
        a.key == b.key && (a.value == b.value || number(a).is_some_and(|value| Some(value) == number(b)))
    };
    a.len() == b.len() && a.iter().all(|choice| b.iter().any(|other| equal(choice, other)))
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
        axes.iter().map(|axis| Choice { key: axis.key.clone(), value: value(axis, &mut rng) }).collect()
    };
    (0..count).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn grids_and_draws() {
        let axes = [Axis::parse("loss.label_smoothing=0,0.1").unwrap(), Axis::parse("optim.lr=1e-3,1e-4").unwrap()];
        let values = |setting: &Setting| setting.iter().map(|c| c.value.clone()).collect::<Vec<_>>().join(" ");
        let all: Vec<String> = grid(&axes).unwrap().iter().map(values).collect();
        assert_eq!(all, ["0 1e-3", "0 1e-4", "0.1 1e-3", "0.1 1e-4"]);
        let annealed =
            setting(r#"loss.kind=clip; loss.label_smoothing={ from = 0.2, to = 0, over = "100%" }"#).unwrap();
        assert_eq!(values(&annealed), r#"clip { from = 0.2, to = 0, over = "100%" }"#);
        let range = [Axis::parse("optim.lr=1e-5..1e-2").unwrap()];
        assert!(grid(&range).is_err());
        let drawn = random(&range, 200, 1);
        assert_eq!(random(&range, 5, 1), drawn[..5]);
        let values: Vec<f64> = drawn.iter().map(|s| s[0].value.parse().unwrap()).collect();
        assert!(values.iter().all(|v| (1e-5..=1e-2).contains(v)));
        let low = values.iter().filter(|v| **v < 10f64.powf(-3.5)).count();
        assert!((80..120).contains(&low), "half of the draws lie below the geometric middle: {low}");
        let parse = |text: &str| setting(text).unwrap();
        let all = ["a=0; b=x", "b=x; a=0.0", "a=0; b=y", "a=0", "a=1e-1; b=x", "a=0.1; b=x"].map(parse).to_vec();
        let left: Vec<Setting> = [0, 2, 3, 4].iter().map(|&i| all[i].clone()).collect();
        assert_eq!(distinct(all), left);
        for (text, told) in [
            ("", r#""": expected key=value, and a semicolon before each further one"#),
            ("loss.kind", r#""loss.kind": expected key=value, and"#),
            ("=1", r#""=1": names no key"#),
            ("loss.kind=; a=1", r#""loss.kind=; a=1": loss.kind has no value"#),
            ("a=1; b=2; a=3", r#""a=1; b=2; a=3": names a twice"#),
            ("seed=3", r#""seed=3": seeds are counted, not listed: --seeds N"#),
        ] {
            let error = setting(text).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
        assert!(Axis::parse("seed=1,2").unwrap_err().to_string().contains("seeds are counted"));
        assert!(Axis::parse("seed").is_err() && Axis::parse("a=1,,2").is_err() && Axis::parse("a=2..1").is_err());
    }
}
