//! A run's figures, its config and what else there is to say of it, sent to an MLflow server while it trains.
//!
//! What is sent stands in the run folder too: figures, keys of the config that lead to no file, version, device,
//! counts, fingerprint. Nothing that the server does, or does not, holds training up or ends it: everything happens on
//! a thread of its own, over a queue of bounded length, and is told of once.

mod courier;
mod points;
mod rest;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::event::{Ending, Event, Sink};
use crate::http::{Credentials, check_base};
use courier::{Courier, Note, Parcel};
use points::{Figures, Sent, Unread, at, of_eval, of_step, of_timing};
pub use rest::About;
use rest::Server;

/// Which run of which server a run folder's is.
const FILE: &str = "mlflow.json";
/// Parcels that wait for the thread, while it waits for the server: some hundred steps, each with its speed. What
/// finds no room is read from the run folder later.
const QUEUE: usize = 256;
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
    /// Whether some found no room and the thread does not know it.
    is_behind: bool,
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
        let kept = note.sent;
        let (parcels, queue) = sync_channel(QUEUE);
        // One sign says as much as many.
        let (takes, taken) = sync_channel(1);
        let (tell, trouble) = channel();
        let warning = "track.mlflow: the address is http://, so token or password cross it in the clear";
        server.is_open().then(|| tracing::warn!("{warning}"));
        let mut courier = Courier {
            server,
            about,
            note,
            path,
            waiting: VecDeque::new(),
            kept,
            is_behind: false,
            unread: Unread::of(folder),
            trouble: Some(tell.clone()),
            takes,
            is_open: false,
            is_refused: false,
        };
        courier.catch_up();
        thread::Builder::new().name("mlflow".into()).spawn(move || courier.work(&queue))?;
        Ok(Self { parcels, taken, trouble, tell, is_told: false, is_behind: false })
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

    /// Never waits: what finds no room is read from the run folder later, which has each figure before this side.
    fn send(&mut self, figures: Figures) {
        self.is_behind = self.is_behind && self.parcels.try_send(Parcel::Missed).is_err();
        // One after the other: what follows a gap is read with it.
        self.is_behind = self.is_behind || self.parcels.try_send(Parcel::Figures(figures)).is_err();
    }

    /// Waits for room as long as the server takes something.
    fn send_in_time(&self, mut parcel: Parcel) -> bool {
        let begun = Instant::now();
        let mut taken = begun;
        while let Err(TrySendError::Full(back)) = match self.parcels.try_send(parcel) {
            Ok(()) => return true,
            full => full,
        } {
            if self.taken.try_recv().is_ok() {
                taken = Instant::now();
            }
            if taken.elapsed() > LAST || begun.elapsed() > LAST_OF_ALL {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
            parcel = back;
        }
        false
    }

    fn end(&mut self, status: &'static str) {
        let begun = Instant::now();
        let is_sent = (!self.is_behind || self.send_in_time(Parcel::Missed)) && self.send_in_time(Parcel::End(status));
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
            Event::Test { step, figures } => {
                // The one thing that neither file holds.
                if !self.send_in_time(Parcel::Figures(at(*step, "test", figures, Sent::default()))) {
                    self.tell("the server did not take the figures of the split test in time");
                }
            }
            Event::Timing { step, samples_per_s, .. } => self.send(of_timing(*step, *samples_per_s)),
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
