//! One run of a sweep, and what became of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::axis::Setting;
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
}
