//! The calls of MLflow's REST API (2.0) that a run needs.

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

    /// Whether a run is there, and was not deleted.
    pub fn has_run(&self, run: &str) -> Result<bool, Failure> {
        let found = self.get(&format!("runs/get?run_id={}", encode(run, false)))?;
        Ok(found.is_some_and(|found| found["run"]["info"]["lifecycle_stage"] != "deleted"))
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
            let cut = |value: &String| value.chars().take(MOST_CHARS).collect::<String>();
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
