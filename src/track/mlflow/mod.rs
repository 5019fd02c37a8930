//! A run's figures, its config and what else there is to say of it, sent to an MLflow server while it trains.
//!
//! What is sent stands in the run folder too: figures, keys of the config that lead to no file, version, device,
//! counts, fingerprint. Nothing that the server does, or does not, holds training up or ends it: everything happens on
//! a thread of its own, over a queue of bounded length, and is told of once.

mod courier;
mod rest;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::event::{Ending, Event, Sink};
use super::figures::figures;
use crate::http::{Credentials, check_base};
use courier::{Courier, Figures, Note, Parcel, Sent};
pub use rest::About;
use rest::{Point, Server, now};

/// Which run of which server a run folder's is.
const FILE: &str = "mlflow.json";
/// Parcels that wait for the thread, while it waits for the server: 4,096 steps or so.
const QUEUE: usize = 4096;
/// How long the end of a run waits for the server to take something more of what is left, and for all of it.
const LAST: Duration = Duration::from_secs(5);
const LAST_OF_ALL: Duration = Duration::from_secs(60);

/// Sends events.
pub struct MlflowSink {
    parcels: SyncSender<Parcel>,
    /// A sign of each thing that the server takes; ends when the thread does.
    taken: Receiver<()>,
    trouble: Receiver<String>,
    /// For what this side has to tell.
    tell: Sender<String>,
    /// One line is enough.
    is_told: bool,
    /// What a run that goes on has sent before.
    before: Sent,
}

/// What is wrong with the value of `track.mlflow`, or with the credentials that the environment has for it.
///
/// # Errors
/// In words.
pub fn check(address: &str) -> Result<(), String> {
    check_base(address).map_err(|why| format!("{why}, such as http://localhost:5000"))?;
    Credentials::of_environment(rest::CREDENTIALS).map(drop)
}

impl MlflowSink {
    /// Begins to send the run of `folder` to the server at `address`, which [`check`] took: what metrics.jsonl holds
    /// and was not sent before, then every event. The server is first asked on the thread.
    ///
    /// # Errors
    /// Credentials of the environment that cannot be used, or no thread.
    pub fn open(address: &str, folder: &Path, about: About) -> Result<Self> {
        let server = Server::new(address).map_err(anyhow::Error::msg)?;
        let path = folder.join(FILE);
        let note = Note::read(&path, address);
        let before = note.sent;
        let (parcels, queue) = sync_channel(QUEUE);
        // One sign says as much as many.
        let (takes, taken) = sync_channel(1);
        let (tell, trouble) = channel();
        let warning = "track.mlflow: the address is http://, so name and password cross the network in the clear";
        server.is_open().then(|| tracing::warn!("{warning}"));
        let mut courier = Courier {
            server,
            about,
            note,
            path,
            waiting: VecDeque::new(),
            trouble: Some(tell.clone()),
            takes,
            is_open: false,
            is_refused: false,
        };
        not_sent(folder, before).for_each(|figures| courier.keep(figures));
        thread::Builder::new().name("mlflow".into()).spawn(move || courier.work(&queue))?;
        Ok(Self { parcels, taken, trouble, tell, is_told: false, before })
    }

    /// What went wrong, the first time that something does.
    pub fn trouble(&mut self) -> Option<String> {
        let told = self.trouble.try_recv().ok().filter(|_| !self.is_told)?;
        self.is_told = true;
        Some(told)
    }

    fn tell(&self, text: &str) {
        // Both ends are here.
        let _ = self.tell.send(format!("track.mlflow: {text}; metrics.jsonl has all figures"));
    }

    fn send(&mut self, figures: Figures) {
        let is_new = figures.upto.step.is_none_or(|step| self.before.step < Some(step))
            && figures.upto.eval.is_none_or(|eval| self.before.eval < Some(eval));
        // A full queue costs these figures, not time.
        if is_new && self.parcels.try_send(Parcel::Figures(figures)).is_err() {
            self.tell("figures come faster than the server takes them, and some are left out");
        }
    }

    fn end(&mut self, status: &'static str) {
        let begun = Instant::now();
        let is_sent = self.parcels.try_send(Parcel::End(status)).is_ok();
        // A slow server is waited for as long as it takes something; the thread lets go of its side when it is done.
        let is_done = is_sent
            && loop {
                match self.taken.recv_timeout(LAST) {
                    Ok(()) if begun.elapsed() < LAST_OF_ALL => {}
                    Err(RecvTimeoutError::Disconnected) => break true,
                    Ok(()) | Err(RecvTimeoutError::Timeout) => break false,
                }
            };
        if !is_done {
            self.tell("the server did not take the last figures in time");
        }
    }
}

impl Sink for MlflowSink {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Step(record) => self.send(of_step(record.step, &serde_json::to_value(record)?)),
            Event::Eval { step, figures, .. } => self.send(of_eval(*step, figures)),
            Event::Test { step, figures } => self.send(at(*step, "test", figures, Sent::default())),
            Event::Timing { step, samples_per_s, .. } => {
                let speed = serde_json::json!({"samples_per_s": samples_per_s});
                self.send(at(*step, "train", &speed, Sent::default()));
            }
            Event::End(ending) => self.end(match ending {
                Ending::Done => "FINISHED",
                Ending::Stopped => "KILLED",
                Ending::Failed => "FAILED",
            }),
            Event::Start { .. } | Event::Skipped { .. } | Event::Note(_) | Event::Preparing { .. } => {}
        }
        Ok(())
    }
}

fn of_step(step: u64, record: &Value) -> Figures {
    at(step, "train", record, Sent { step: Some(step), eval: None })
}

fn of_eval(step: u64, figures: &Value) -> Figures {
    at(step, "val", figures, Sent { step: None, eval: Some(step) })
}

/// Names as MLflow takes them; what is no number there is left out.
fn at(step: u64, prefix: &str, value: &Value, upto: Sent) -> Figures {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-. /".contains(c);
    // recall@1 is no name there.
    let name = |name: &str| name.replace('@', "_at_");
    let key = |text: &str| name(text).chars().map(|c| if plain(c) { c } else { '_' }).take(250).collect();
    let timestamp = now();
    let points = figures(prefix, value).into_iter().filter(|(_, value)| value.is_finite());
    let points = points.map(|(name, value)| Point { key: key(&name), value, timestamp, step }).collect();
    Figures { points, upto }
}

/// What metrics.jsonl holds and a run's earlier parts did not send.
fn not_sent(folder: &Path, before: Sent) -> impl Iterator<Item = Figures> {
    let metrics = fs::read(folder.join("metrics.jsonl")).unwrap_or_default();
    let lines: Vec<Value> = metrics.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    lines.into_iter().filter_map(move |line| {
        let step = line["step"].as_u64()?;
        match line["kind"].as_str()? {
            "step" if before.step < Some(step) => Some(of_step(step, &line)),
            "eval" if before.eval < Some(step) => Some(of_eval(step, &line["val"])),
            _ => None,
        }
    })
}
