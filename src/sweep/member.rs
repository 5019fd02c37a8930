//! One run of a sweep, and what became of it.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::axis::{Setting, distinct};
use crate::eval::ByPatient;

/// Figures of a member, by name.
pub type Figures = BTreeMap<String, f64>;

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its run folder, inside the sweep's.
    pub name: String,
    /// What it tries.
    pub setting: Setting,
    /// Its seed.
    pub seed: u64,
    /// What became of it.
    pub state: State,
    /// Its figures by patient, and its answers, once there are some.
    pub by_patient: ByPatient,
}

/// What became of a member.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It has no figures yet.
    Unfinished,
    /// It is trained, and these are its best model's figures.
    Evaluated(Figures),
    /// Others were better when it stood at `step` of `total`.
    Pruned {
        /// Steps done.
        step: u64,
        /// Steps that it would have had.
        total: u64,
    },
    /// Why it has no figures, in a line.
    Failed(String),
}

impl Member {
    /// A member that nothing was done for.
    pub fn new(setting: Setting, seed: u64) -> Self {
        Self {
            name: folder_name(&setting, seed),
            setting,
            seed,
            state: State::Unfinished,
            by_patient: ByPatient::default(),
        }
    }

    /// Its figures, once there are some.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.state {
            State::Evaluated(figures) => Some(figures),
            _ => None,
        }
    }

    /// Whether there is more to do for it.
    pub fn is_unfinished(&self) -> bool {
        self.state == State::Unfinished
    }

    /// Its line of sweep.json.
    pub fn record(&self) -> MemberRecord<'_> {
        MemberRecord {
            name: &self.name,
            setting: &self.setting,
            seed: self.seed,
            figures: self.figures(),
            problem: match &self.state {
                State::Unfinished | State::Evaluated(_) => None,
                State::Pruned { step, total } => Some(format!("pruned at step {step} of {total}")),
                State::Failed(why) => Some(why.clone()),
            },
        }
    }
}

/// A member as sweep.json and `--json` have it.
#[derive(Debug, Serialize)]
pub struct MemberRecord<'a> {
    name: &'a str,
    setting: &'a Setting,
    seed: u64,
    figures: Option<&'a Figures>,
    /// Why it has no figures: its error, or that it was pruned.
    problem: Option<String>,
}

/// Each setting that there is with so many seeds from `seed` on. One that is named twice is tried once: it would
/// count as more seeds, and in one folder.
///
/// # Errors
/// Two that are unlike have one name.
pub(super) fn members_of(settings: Vec<Setting>, seeds: u32, seed: u64) -> Result<Vec<Member>> {
    let named = settings.len();
    let settings = distinct(settings);
    if settings.len() < named {
        tracing::warn!("{named} combinations are named, of which {} differ; each is tried once", settings.len());
    }
    let seeds = (0..u64::from(seeds)).map(|i| seed + i);
    let of_setting =
        |setting: &Setting| seeds.clone().map(|seed| Member::new(setting.clone(), seed)).collect::<Vec<_>>();
    let members: Vec<Member> = settings.iter().flat_map(of_setting).collect();
    let mut names = HashSet::new();
    let twice = members.iter().find(|member| !names.insert(member.name.as_str()));
    ensure!(
        twice.is_none(),
        "two combinations would be one folder, {}; write one of their values otherwise, a path for example with ./",
        twice.map_or("", |member| &member.name)
    );
    Ok(members)
}

/// A folder's name for a member: `loss.label_smoothing=0.1+seed=2`.
fn folder_name(setting: &Setting, seed: u64) -> String {
    let safe = |text: &str| -> String {
        text.chars().map(|c| if c.is_alphanumeric() || "._-%=".contains(c) { c } else { '_' }).collect()
    };
    let parts = setting.iter().map(|choice| safe(&format!("{}={}", choice.key, choice.value)));
    parts.chain([format!("seed={seed}")]).collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::axis::Choice;

    #[test]
    fn a_member_has_a_folder_and_a_record() {
        let choice = |key: &str, value: &str| Choice { key: key.into(), value: value.into() };
        let setting = vec![choice("loss.label_smoothing", "0"), choice("data.train", "a/b.csv")];
        let mut member = Member::new(setting, 2);
        assert_eq!(member.name, "loss.label_smoothing=0+data.train=a_b.csv+seed=2");
        member.state = State::Pruned { step: 1, total: 9 };
        let record = serde_json::to_value(member.record()).unwrap();
        assert_eq!(record["setting"][0], serde_json::json!(["loss.label_smoothing", "0"]));
        assert_eq!(record["problem"], "pruned at step 1 of 9");
        assert!(record["figures"].is_null() && !member.is_unfinished());
    }

    #[test]
    fn what_is_named_twice_has_no_more_seeds_and_unlike_members_never_share_a_folder() {
        let of = |values: &[&str]| -> Vec<Setting> {
            let choice = |value: &&str| Choice { key: "data.train".into(), value: value.to_string() };
            values.iter().map(|value| vec![choice(value)]).collect()
        };
        let members = members_of(of(&["a/b", "0", "a/b", "0.0"]), 2, 5).unwrap();
        let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
        let expected = ["a_b+seed=5", "a_b+seed=6", "0+seed=5", "0+seed=6"].map(|name| format!("data.train={name}"));
        assert_eq!(names, expected);
        let error = members_of(of(&["a/b", "a_b"]), 1, 5).unwrap_err().to_string();
        assert!(error.starts_with("two combinations would be one folder, data.train=a_b+seed=5; "), "{error}");
    }
}
