//! The calls of MLflow's REST API (2.0) that a run needs.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};

use crate::http::{Client, Credentials, Patience, Reply, encode, shown};

/// What MLflow's own client reads its credentials from: `MLFLOW_TRACKING_TOKEN`, or `…_USERNAME` and `…_PASSWORD`.
pub(super) const CREDENTIALS: &str = "MLFLOW_TRACKING";
/// Figures and parameters that one request may have.
pub(super) const MOST_FIGURES: usize = 1000;
const MOST_PARAMS: usize = 100;
/// Characters of a parameter's or a tag's value; older servers take no more.
const MOST_CHARS: usize = 500;
/// Bytes of an answer: with a run come all its parameters and last figures.
const MOST_BYTES: u64 = 8 << 20;

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(3),
    answer: Duration::from_secs(8),
    read: Duration::from_secs(8),
    whole: Some(Duration::from_secs(10)),
};

/// What is sent of a run beside its figures.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// What the run is called.
    pub name: String,
    /// The experiment that it belongs to.
    pub experiment: String,
    /// What it was made with: names and values of config keys.
    pub params: Vec<(String, String)>,
    /// What else there is to say.
    pub tags: Vec<(String, String)>,
}

/// The tag for what a resumed run changed: parameters cannot be.
pub(super) const RESUMED_WITH: &str = "reportclip.resumed_with";

impl About {
    /// Of a run that goes on and was made with `before`: only parameters that are new, with a tag for those that are
    /// not what they were, or that says that there are none; and the names of these.
    pub(super) fn resumed(&self, before: &HashMap<String, String>) -> (Self, Vec<String>) {
        let (mut about, mut changed) = (Self { params: Vec::new(), ..self.clone() }, Vec::new());
        for (name, value) in &self.params {
            match before.get(name) {
                None => about.params.push((name.clone(), value.clone())),
                Some(first) if *first == cut(value) => {}
                Some(_) => changed.push((name.clone(), value)),
            }
        }
        // Always, for what an earlier resumption changed may hold no longer.
        let all: Vec<String> = changed.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let all = if all.is_empty() { "the first values".to_string() } else { all.join(", ") };
        about.tags.push((RESUMED_WITH.to_string(), all));
        (about, changed.into_iter().map(|(name, _)| name).collect())
    }
}

/// As much of a value as every server takes.
fn cut(value: &str) -> String {
    value.chars().take(MOST_CHARS).collect()
}

/// A figure at a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Point {
    pub key: String,
    pub value: f64,
    /// Milliseconds since 1970.
    pub timestamp: u64,
    pub step: u64,
}

/// Why a call did nothing.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// The server is not there, or has too much to do: it may be otherwise in a while.
    Now(String),
    /// It does not want this.
    Ever(String),
}

pub(super) struct Server {
    client: Client,
    /// The address as it may be shown.
    pub shown: String,
}

impl Server {
    /// # Errors
    /// Credentials in the environment that cannot be used.
    pub fn new(address: &str) -> Result<Self, String> {
        let credentials = Credentials::of_environment(CREDENTIALS)?;
        Ok(Self { client: Client::new(address, credentials, PATIENCE), shown: shown(address) })
    }

    /// Whether credentials cross a network in the clear.
    pub fn is_open(&self) -> bool {
        self.client.is_open()
    }

    /// The number of an experiment, which is made where it is not there.
    pub fn experiment(&self, name: &str) -> Result<String, Failure> {
        let path = format!("experiments/get-by-name?experiment_name={}", encode(name, false));
        let found = match self.get(&path)? {
            Some(found) => found,
            None => match self.post("experiments/create", &json!({"name": name})) {
                Ok(made) => return text(&made, &["experiment_id"]),
                // Somebody else was faster.
                Err(failure) => self.get(&path)?.ok_or(failure)?,
            },
        };
        if found["experiment"]["lifecycle_stage"] == "deleted" {
            return Err(Failure::Ever("the experiment was deleted there; MLFLOW_EXPERIMENT_NAME names another".into()));
        }
        text(&found, &["experiment", "experiment_id"])
    }

    /// Begins a run; gives its number.
    pub fn create_run(&self, experiment: &str, name: &str, start: u64) -> Result<String, Failure> {
        let body = json!({"experiment_id": experiment, "run_name": name, "start_time": start});
        text(&self.post("runs/create", &body)?, &["run", "info", "run_id"])
    }

    /// What a run was made with, as the server has it; `None` where it is not there, or was deleted.
    pub fn params_of(&self, run: &str) -> Result<Option<HashMap<String, String>>, Failure> {
        let found = self.get(&format!("runs/get?run_id={}", encode(run, false)))?;
        let found = found.filter(|found| found["run"]["info"]["lifecycle_stage"] != "deleted");
        let pair = |param: &Value| Some((param["key"].as_str()?.to_string(), param["value"].as_str()?.to_string()));
        let pairs =
            |found: Value| found["run"]["data"]["params"].as_array().into_iter().flatten().filter_map(pair).collect();
        Ok(found.map(pairs))
    }

    /// `status`: "RUNNING", "FINISHED", "KILLED" or "FAILED".
    pub fn update(&self, run: &str, status: &str, end: Option<u64>) -> Result<(), Failure> {
        let mut body = json!({"run_id": run, "status": status});
        if let Some(end) = end {
            body["end_time"] = end.into();
        }
        self.post("runs/update", &body).map(drop)
    }

    /// Up to [`MOST_FIGURES`].
    pub fn log_figures(&self, run: &str, points: &[&Point]) -> Result<(), Failure> {
        self.post("runs/log-batch", &json!({"run_id": run, "metrics": points})).map(drop)
    }

    /// What a run was made with.
    pub fn describe(&self, run: &str, About { params, tags, .. }: &About) -> Result<(), Failure> {
        let pairs = |pairs: &[(String, String)]| -> Vec<Value> {
            pairs.iter().map(|(key, value)| json!({"key": key, "value": cut(value)})).collect()
        };
        self.post("runs/log-batch", &json!({"run_id": run, "tags": pairs(tags)}))?;
        for params in params.chunks(MOST_PARAMS) {
            self.post("runs/log-batch", &json!({"run_id": run, "params": pairs(params)}))?;
        }
        Ok(())
    }

    /// `None` where there is no such thing.
    fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        let reply = self.client.get(&whole(path), "application/json").map_err(Failure::Now)?;
        if reply.status == 404 {
            // What answers 404 to everything is no MLflow.
            return match read(reply) {
                Err(Failure::Ever(why)) if why.contains("RESOURCE_DOES_NOT_EXIST") => Ok(None),
                other => other.map(Some),
            };
        }
        read(reply).map(Some)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        read(self.client.post(&whole(path), body).map_err(Failure::Now)?)
    }
}

fn whole(path: &str) -> String {
    format!("/api/2.0/mlflow/{path}")
}

/// The object of an answer; of a refusal only its code is told, for its text repeats what was sent.
fn read(reply: Reply) -> Result<Value, Failure> {
    let status = reply.status;
    if matches!(status, 408 | 429 | 500..) {
        return Err(Failure::Now(format!("it answers with status {status}")));
    }
    let body = reply.bytes(MOST_BYTES).map_err(Failure::Now)?;
    let value: Option<Value> = serde_json::from_slice(&body).ok();
    match (status, value) {
        (200, Some(value)) => Ok(value),
        (401 | 403, _) => Err(Failure::Ever(format!(
            "it answers with status {status}; {CREDENTIALS}_TOKEN, or …_USERNAME and …_PASSWORD, say who asks"
        ))),
        (200, None) => Err(Failure::Ever("it answers, but not as MLflow does".into())),
        (_, value) => {
            let code = value.as_ref().and_then(|value| value["error_code"].as_str()).unwrap_or_default();
            let plain = code.len() <= 60 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            let code = if plain && !code.is_empty() { format!(" ({code})") } else { String::new() };
            Err(Failure::Ever(format!("it answers with status {status}{code}")))
        }
    }
}

/// A number of the server's own, which goes into addresses.
fn text(value: &Value, path: &[&str]) -> Result<String, Failure> {
    let found = path.iter().fold(value, |value, key| &value[*key]).as_str();
    let plain = |id: &&str| !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic());
    let odd = || Failure::Ever(format!("its answer has no {}", path.join(".")));
    found.filter(plain).map(str::to_string).ok_or_else(odd)
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_sends_what_is_new_and_tags_what_changed() {
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let long = "x".repeat(2 * MOST_CHARS);
        let about = About {
            params: pairs(&[("same", "1"), ("new", "2"), ("changed", "3"), ("long", &long)]),
            tags: pairs(&[("device", "cpu")]),
            ..About::default()
        };
        let before = [("same", "1"), ("changed", "2"), ("long", &long[..MOST_CHARS])];
        let (told, changed) = about.resumed(&before.map(|(k, v): (&str, &str)| (k.to_string(), v.to_string())).into());
        assert_eq!(told.params, pairs(&[("new", "2")]));
        assert_eq!(told.tags, pairs(&[("device", "cpu"), (RESUMED_WITH, "changed=3")]));
        assert_eq!(changed, ["changed"]);
        let first = before.map(|(k, v): (&str, &str)| if k == "changed" { (k, "3") } else { (k, v) });
        let (told, changed) = about.resumed(&first.map(|(k, v)| (k.to_string(), v.to_string())).into());
        assert_eq!(told.tags[1], (RESUMED_WITH.to_string(), "the first values".to_string()));
        assert!(changed.is_empty());
    }
}
