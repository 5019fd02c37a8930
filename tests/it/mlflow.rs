//! Runs that an MLflow server on 127.0.0.1 is told of. `scripts/golden/check_mlflow.py` does the same with MLflow's
//! own.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::commands_of;
use crate::loopback::{Answer, Loopback, Request, nobody};
use crate::runs::{Place, text};

const TOKEN: &str = "mltokensecret";

/// A run as the server has it.
#[derive(Clone, Debug, Default)]
struct Run {
    name: String,
    statuses: Vec<String>,
    params: HashMap<String, String>,
    tags: HashMap<String, String>,
    /// Of each figure and step, in the order in which they came.
    figures: HashMap<(String, u64), Vec<f64>>,
}

#[derive(Default)]
struct State {
    experiments: Vec<String>,
    runs: Vec<Run>,
}

struct Mlflow {
    server: Loopback,
    state: Arc<Mutex<State>>,
}

impl Mlflow {
    fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let server = Loopback::start(move |request| answer(request, &mut shared.lock().unwrap()));
        Self { server, state }
    }

    fn runs(&self) -> Vec<Run> {
        self.state.lock().unwrap().runs.clone()
    }
}

fn answer(request: &Request, state: &mut State) -> Answer {
    let missing = || Answer::json(404, &json!({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}));
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let query = query.split_once('=').map_or("", |(_, value)| value);
    let of = |id: &str| id.strip_prefix("run-").and_then(|n| n.parse::<usize>().ok());
    let string = |value: &Value| value.as_str().unwrap().to_string();
    match (request.method.as_str(), path.strip_prefix("/api/2.0/mlflow/").unwrap()) {
        ("GET", "experiments/get-by-name") => match state.experiments.iter().position(|name| name == query) {
            Some(id) => Answer::json(200, &json!({"experiment": {"experiment_id": id.to_string(), "name": query}})),
            None => missing(),
        },
        ("POST", "experiments/create") => {
            state.experiments.push(string(&body["name"]));
            Answer::json(200, &json!({"experiment_id": (state.experiments.len() - 1).to_string()}))
        }
        ("POST", "runs/create") => {
            assert_eq!(body["experiment_id"], "0");
            state.runs.push(Run { name: string(&body["run_name"]), ..Run::default() });
            let id = format!("run-{}", state.runs.len() - 1);
            Answer::json(200, &json!({"run": {"info": {"run_id": id, "lifecycle_stage": "active"}}}))
        }
        ("GET", "runs/get") => match of(query).filter(|&run| run < state.runs.len()) {
            Some(run) => {
                let params = state.runs[run].params.iter();
                let params: Vec<Value> = params.map(|(key, value)| json!({"key": key, "value": value})).collect();
                let info = json!({"run_id": query, "lifecycle_stage": "active"});
                Answer::json(200, &json!({"run": {"info": info, "data": {"params": params}}}))
            }
            None => missing(),
        },
        ("POST", "runs/update") => {
            state.runs[of(body["run_id"].as_str().unwrap()).unwrap()].statuses.push(string(&body["status"]));
            Answer::json(200, &json!({}))
        }
        ("POST", "runs/log-batch") => {
            let run = &mut state.runs[of(body["run_id"].as_str().unwrap()).unwrap()];
            let list = |key: &str| body[key].as_array().cloned().unwrap_or_default();
            assert!(list("metrics").len() <= 1000 && list("params").len() <= 100);
            for figure in list("metrics") {
                let key = (string(&figure["key"]), figure["step"].as_u64().unwrap());
                run.figures.entry(key).or_default().push(figure["value"].as_f64().unwrap());
            }
            for param in list("params") {
                let value = string(&param["value"]);
                if run.params.get(param["key"].as_str().unwrap()).is_some_and(|before| *before != value) {
                    // As the real one does.
                    return Answer::json(400, &json!({"error_code": "INVALID_PARAMETER_VALUE", "message": value}));
                }
                run.params.insert(string(&param["key"]), value);
            }
            run.tags.extend(list("tags").iter().map(|tag| (string(&tag["key"]), string(&tag["value"]))));
            Answer::json(200, &json!({}))
        }
        other => panic!("{other:?}"),
    }
}

fn train(place: &Place, out: &str, url: &str, more: &[&str]) -> Output {
    let address = format!("track.mlflow={url}");
    let args = [&["train", "tiny.toml", "--out", out, "--set", &address], more].concat();
    place.command(&args).env("MLFLOW_TRACKING_TOKEN", TOKEN).output().unwrap()
}

fn train_ok(place: &Place, out: &str, url: &str, more: &[&str]) -> Output {
    let output = train(place, out, url, more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Every number of metrics.jsonl, by its name and step.
fn kept(place: &Place, run: &str) -> HashMap<(String, u64), f64> {
    fn numbers(prefix: &str, value: &Value, found: &mut Vec<(String, f64)>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(key, value)| numbers(&format!("{prefix}/{key}"), value, found));
            }
            Value::Number(number) => found.push((prefix.to_string(), number.as_f64().unwrap())),
            _ => {}
        }
    }
    let mut kept = HashMap::new();
    for line in fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (prefix, value) = if line["kind"] == "step" { ("train", &line) } else { ("val", &line["val"]) };
        let mut found = Vec::new();
        numbers(prefix, value, &mut found);
        found.retain(|(name, _)| name != "train/step");
        kept.extend(
            found.into_iter().map(|(name, value)| ((name.replace('@', "_at_"), line["step"].as_u64().unwrap()), value)),
        );
    }
    kept
}

/// What the server has of a run is what the run folder has, each once.
fn assert_same_figures(run: &Run, kept: &HashMap<(String, u64), f64>) {
    assert!(kept.len() > 100, "{}", kept.len());
    for (key, value) in kept {
        assert_eq!(run.figures.get(key), Some(&vec![*value]), "{key:?}");
    }
}

#[test]
fn a_server_has_what_the_run_folder_has_and_nothing_of_a_patient() {
    let (place, mlflow) = (Place::new(), Mlflow::start());
    let output = train_ok(&place, "runs/first", &mlflow.server.url(), &[]);
    let runs = mlflow.runs();
    let [run] = &runs[..] else { panic!("{} runs", runs.len()) };
    assert_eq!(mlflow.state.lock().unwrap().experiments, ["reportclip"]);
    assert_eq!((run.name.as_str(), &run.statuses[..]), ("first", &["FINISHED".to_string()][..]));
    assert_same_figures(run, &kept(&place, "runs/first"));
    assert_eq!(run.figures.keys().filter(|(key, _)| key == "train/samples_per_s").count(), 10);
    assert!(run.figures.keys().any(|(key, step)| key.starts_with("test/") && *step == 10));
    for (key, value) in [("optim.lr", "0.001"), ("seed", "3"), ("optim.schedule", "cosine"), ("model.init", "random")] {
        assert_eq!(run.params.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(run.tags["reportclip.version"], env!("CARGO_PKG_VERSION"));
    // Only the address, the token and what was looked at above.
    let folder = place.path("");
    for request in mlflow.server.seen() {
        assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
        let sent = [request.path.as_bytes(), &request.body].concat();
        let sent = String::from_utf8(sent).unwrap();
        for never in [folder.to_str().unwrap(), TOKEN, "P0001", "FINDINGS", "findings:", ".csv", ".png", "127.0.0.1"] {
            assert!(!sent.contains(never), "{never} in {sent}");
        }
    }
    assert!(!text(&output.stderr).contains(TOKEN) && !text(&output.stderr).contains("track.mlflow"));
    for file in ["config.toml", "run.json", "mlflow.json", "timing.jsonl"] {
        assert!(!fs::read_to_string(place.path("runs/first").join(file)).unwrap().contains(TOKEN), "{file}");
    }
}

#[test]
fn a_run_that_goes_on_goes_on_there_and_sends_nothing_twice() {
    let (place, mlflow) = (Place::new(), Mlflow::start());
    let url = mlflow.server.url();
    train_ok(&place, "run", &url, &["--set", "train.stop_after=5"]);
    assert_eq!(mlflow.runs()[0].statuses, ["KILLED"]);
    // A key that may change on resuming, and cannot be changed there.
    let output = train_ok(&place, "run", &url, &["--resume", "latest", "--set", "train.checkpoint_every=3"]);
    let stderr = text(&output.stderr);
    let told: Vec<&str> = stderr.lines().filter(|line| line.contains("track.mlflow")).collect();
    assert!(told.len() == 1 && told[0].contains("cannot be changed there"), "{stderr}");
    assert!(told[0].contains("train.checkpoint_every"), "{stderr}");
    let runs = mlflow.runs();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].statuses, ["KILLED", "RUNNING", "FINISHED"]);
    assert_same_figures(&runs[0], &kept(&place, "run"));
    assert_eq!(runs[0].params["train.checkpoint_every"], "2");
    assert!(runs[0].tags["reportclip.resumed_with"].contains("train.checkpoint_every=3"), "{:?}", runs[0].tags);
}

#[test]
fn a_run_that_was_deleted_there_is_sent_whole_to_a_new_one() {
    let (place, mlflow) = (Place::new(), Mlflow::start());
    let url = mlflow.server.url();
    train_ok(&place, "run", &url, &["--set", "train.stop_after=5"]);
    mlflow.state.lock().unwrap().runs.clear();
    train_ok(&place, "run", &url, &["--resume", "latest"]);
    let runs = mlflow.runs();
    assert_eq!(runs.len(), 1);
    assert_same_figures(&runs[0], &kept(&place, "run"));
    assert_eq!(runs[0].figures.keys().filter(|(key, _)| key == "train/samples_per_s").count(), 10);
    assert!(runs[0].figures.keys().any(|(key, _)| key.starts_with("test/")));
}

#[test]
fn what_finds_no_room_is_sent_when_there_is_some() {
    let place = Place::new();
    let (state, written) = (Arc::<Mutex<State>>::default(), Arc::new(Mutex::new(0)));
    let (shared, seen, metrics) = (Arc::clone(&state), Arc::clone(&written), place.path("run/metrics.jsonl"));
    // The first answers come when more has happened than the queue holds, where a step is two parcels; each before
    // nobody waits for it any more.
    let server = Loopback::start(move |request| {
        let begun = Instant::now();
        while *seen.lock().unwrap() < 150 && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
            *seen.lock().unwrap() = fs::read_to_string(&metrics).unwrap_or_default().lines().count();
        }
        answer(request, &mut shared.lock().unwrap())
    });
    let more = ["--set", "train.max_steps=400", "--set", "train.checkpoint_every=100"];
    let output = train_ok(&place, "run", &server.url(), &more);
    assert!(!text(&output.stderr).contains("track.mlflow"), "{}", text(&output.stderr));
    let written = *written.lock().unwrap();
    assert!(written >= 150, "the queue was never full: {written} lines");
    let runs = state.lock().unwrap().runs.clone();
    assert_same_figures(&runs[0], &kept(&place, "run"));
    assert_eq!(runs[0].figures.keys().filter(|(key, _)| key == "train/samples_per_s").count(), 400);
    assert_eq!(runs[0].statuses, ["FINISHED"]);
}

#[test]
fn a_run_whose_description_is_refused_is_ended_there() {
    let place = Place::new();
    let state = Arc::<Mutex<State>>::default();
    let shared = Arc::clone(&state);
    let server = Loopback::start(move |request| {
        if request.path.ends_with("/runs/log-batch") {
            return Answer::json(400, &json!({"error_code": "INVALID_PARAMETER_VALUE", "message": "x"}));
        }
        answer(request, &mut shared.lock().unwrap())
    });
    let output = train_ok(&place, "run", &server.url(), &["--set", "train.max_steps=4"]);
    assert_eq!(text(&output.stderr).lines().filter(|line| line.contains("track.mlflow")).count(), 1);
    assert_eq!(state.lock().unwrap().runs[0].statuses, ["FAILED"]);
}

#[test]
fn a_server_that_is_down_costs_a_line_and_is_told_later() {
    let place = Place::new();
    place.train_ok("alone", &["--set", "train.stop_after=5"]);
    let output = train_ok(&place, "run", &nobody(), &["--set", "train.stop_after=5"]);
    let told: Vec<_> =
        text(&output.stderr).lines().filter(|l| l.contains("track.mlflow")).map(str::to_string).collect();
    assert!(told.len() == 1 && told[0].starts_with("warning: track.mlflow: http://127.0.0.1:"), "{told:?}");
    assert!(told[0].contains("training goes on"), "{told:?}");
    place.assert_same_run("alone", "run");
    let mlflow = Mlflow::start();
    train_ok(&place, "run", &mlflow.server.url(), &["--resume", "latest"]);
    assert_same_figures(&mlflow.runs()[0], &kept(&place, "run"));
}

#[test]
fn a_server_that_answers_nothing_or_anything_ends_no_run() {
    let place = Place::new();
    let silent = Answer { silence: Some(Duration::from_secs(60)), ..Answer::default() };
    let refusal = |status, body: Value| Answer::json(status, &body);
    let answers = [
        ("silent", silent),
        ("html", Answer::new(200, "text/html", "<p>hello")),
        ("away", Answer { headers: vec![("Location", "http://192.0.2.1/".into())], ..Answer::new(302, "x", "") }),
        ("busy", refusal(503, json!({}))),
        ("who", refusal(401, json!({"message": TOKEN}))),
        ("no", refusal(400, json!({"error_code": "BAD_REQUEST", "message": format!("{TOKEN} {}", "x".repeat(9000))}))),
        ("odd", refusal(200, json!({"experiment": {"experiment_id": "../\n"}, "run": []}))),
        ("cut", Answer { cut: Some(3), ..refusal(200, json!({"experiment": {}})) }),
    ];
    for (name, answer) in answers {
        let server = Loopback::start(move |_| answer.clone());
        let begun = Instant::now();
        let output = train_ok(&place, name, &server.url(), &["--set", "train.max_steps=4"]);
        let stderr = text(&output.stderr);
        let told = stderr.lines().filter(|line| line.contains("track.mlflow")).count();
        assert!(told == 1 && !stderr.contains(TOKEN), "{name}: {stderr}");
        // A step takes milliseconds; the last figures are waited for 5 s.
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {:?}", begun.elapsed());
    }
    place.assert_same_run("silent", "no");
}

#[test]
fn addresses_and_credentials_that_are_none_are_told_before_the_work() {
    let place = Place::new();
    let refused = |url: &str, name: Option<&str>| {
        let args = ["train", "tiny.toml", "--out", "refused", "--set", &format!("track.mlflow={url}")];
        let mut command = place.command(&args);
        name.map(|name| command.env("MLFLOW_TRACKING_USERNAME", name));
        let output = command.output().unwrap();
        let told = text(&output.stderr);
        assert!(output.status.code() == Some(2) && told.lines().count() == 1, "{url}: {told}");
        assert!(told.contains("track.mlflow"), "{told}");
        told
    };
    assert!(refused("localhost:5000", None).contains("http://HOST"));
    let told = refused("http://me:hunter2@localhost:5000", None);
    assert!(told.contains("environment") && !told.contains("hunter2"), "{told}");
    assert!(refused("http://localhost:5000/?a=b", None).contains("query"));
    assert!(refused("http://localhost:5000", Some("me")).contains("MLFLOW_TRACKING_PASSWORD"));
    assert!(!place.path("refused").exists());
}

/// What docs/tracking.md shows, as it stands there but for the server's address.
#[test]
fn the_page_about_tracking_can_be_copied() {
    let (place, mlflow) = (Place::new(), Mlflow::start());
    let tiny = fs::read_to_string(place.path("tiny.toml")).unwrap();
    fs::write(place.path("my.toml"), &tiny).unwrap();
    let commands = commands_of("tracking.md");
    let train = commands.iter().find(|command| command[..2] == ["train", "my.toml"]).unwrap();
    let here = |argument: &String| argument.replace("http://localhost:5000", &mlflow.server.url());
    let args: Vec<String> = train.iter().map(here).chain(["--out".into(), "one".into()]).collect();
    let output = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tracking.md")).unwrap();
    let section = page.split("```\n").find(|block| block.starts_with("[track]")).unwrap();
    let section = section.replace("https://mlflow.example/team", &mlflow.server.url());
    fs::write(place.path("my.toml"), format!("{tiny}\n{section}")).unwrap();
    let output = place.run(&["train", "my.toml", "--out", "two"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let names: Vec<String> = mlflow.runs().into_iter().map(|run| run.name).collect();
    assert_eq!(names, ["one", "two"]);
}
