//! The thread that talks to the server, so that training never waits for it.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::points::{Figures, Sent, Unread};
use super::rest::{About, Failure, MOST_FIGURES, Point, RESUMED_WITH, Server, now};
use crate::fs::replace_file;

/// Between two deliveries; the longest where the server does not answer.
const BEAT: Duration = Duration::from_secs(2);
const LONGEST_BEAT: Duration = Duration::from_secs(60);
/// Figures that wait for a server; what comes on top is read from the run folder once these are sent.
const MOST_WAITING: usize = 200_000;

/// mlflow.json of a run folder: which run of which server this is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    pub server: String,
    pub run_id: Option<String>,
    #[serde(flatten)]
    pub sent: Sent,
}

pub(super) enum Parcel {
    Figures(Figures),
    /// Some found no room in the queue; the run folder holds them by now.
    Missed,
    /// The run ended, with this status.
    End(&'static str),
}

pub(super) struct Courier {
    pub server: Server,
    pub about: About,
    pub note: Note,
    /// mlflow.json
    pub path: PathBuf,
    pub waiting: VecDeque<(Point, Sent)>,
    /// Up to where figures wait or were sent.
    pub kept: Sent,
    /// Whether the run folder holds more than that, which is read once nothing waits.
    pub is_behind: bool,
    /// The run folder's figures.
    pub unread: Unread,
    /// Takes the first trouble there is.
    pub trouble: Option<Sender<String>>,
    /// Told of each thing that the server takes.
    pub takes: SyncSender<()>,
    /// Whether the server has this run, as this process knows.
    pub is_open: bool,
    /// Whether the server wants nothing of this run.
    pub is_refused: bool,
}

impl Courier {
    /// Until the run's end.
    pub fn work(mut self, parcels: &Receiver<Parcel>) {
        let (mut beat, mut next) = (BEAT, Instant::now());
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match parcels.recv_timeout(left) {
                Ok(Parcel::Figures(figures)) => {
                    self.keep(figures);
                }
                Ok(Parcel::Missed) => self.is_behind = true,
                Ok(Parcel::End(status)) => return self.close(status),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next {
                beat = if self.try_to_deliver() { BEAT } else { (2 * beat).min(LONGEST_BEAT) };
                next = Instant::now() + beat;
            }
        }
    }

    /// Whether there was room for them, if they are wanted.
    fn keep(&mut self, figures: Figures) -> bool {
        let is_in_folder = figures.upto != Sent::default();
        if self.is_refused || self.kept.holds(figures.upto) {
            return true;
        }
        if is_in_folder && (self.is_behind || self.waiting.len() >= MOST_WAITING) {
            // One after the other: what follows is read with it.
            self.is_behind = true;
            return false;
        }
        self.kept = self.kept.and(figures.upto);
        let last = figures.points.len().saturating_sub(1);
        let upto = |i: usize| if i == last { figures.upto } else { Sent::default() };
        self.waiting.extend(figures.points.into_iter().enumerate().map(|(i, point)| (point, upto(i))));
        true
    }

    /// Takes what the run folder holds beyond what waits or was sent, as much as there is room for.
    pub fn catch_up(&mut self) {
        self.is_behind = false;
        let mut unread = std::mem::replace(&mut self.unread, Unread::of(Path::new("")));
        unread.read(self.kept, |figures| self.keep(figures));
        self.unread = unread;
    }

    fn close(&mut self, status: &str) {
        if self.try_to_deliver() && !self.is_refused {
            self.end(status);
        }
    }

    fn end(&mut self, status: &str) {
        if let Some(run) = self.note.run_id.clone()
            && let Err(failure) = self.server.update(&run, status, Some(now()))
        {
            self.tell(failure);
        }
    }

    /// Whether the server took what waited.
    fn try_to_deliver(&mut self) -> bool {
        match self.deliver() {
            Ok(()) => true,
            Err(failure) => {
                self.is_refused |= matches!(failure, Failure::Ever(_));
                self.tell(failure);
                if self.is_refused {
                    self.waiting.clear();
                    // Nothing more comes of it there.
                    self.end("FAILED");
                }
                self.is_refused
            }
        }
    }

    fn deliver(&mut self) -> Result<(), Failure> {
        if self.is_refused {
            return Ok(());
        }
        let run = self.open()?;
        self.sign();
        loop {
            if self.waiting.is_empty() && self.is_behind {
                self.catch_up();
            }
            if self.waiting.is_empty() {
                return Ok(());
            }
            let count = self.next_batch();
            let points: Vec<&Point> = self.waiting.iter().take(count).map(|(point, _)| point).collect();
            self.server.log_figures(&run, &points)?;
            self.sign();
            self.note.sent = self.waiting.drain(..count).fold(self.note.sent, |sent, (_, upto)| sent.and(upto));
            self.write_note();
        }
    }

    /// How many figures go next: up to the end of those that belong together, where that is within reach, so that a
    /// kill sends no part of them again.
    fn next_batch(&self) -> usize {
        if self.waiting.len() <= MOST_FIGURES {
            return self.waiting.len();
        }
        let last = self.waiting.range(..MOST_FIGURES).rposition(|(_, upto)| *upto != Sent::default());
        last.map_or(MOST_FIGURES, |last| last + 1)
    }

    /// Begins with the first figure again: a new run of the server has none.
    fn start_over(&mut self) {
        self.note.sent = Sent::default();
        self.kept = Sent::default();
        // All but the figures of the test stand in the run folder.
        self.waiting.retain(|(point, _)| point.key.starts_with("test/"));
        self.unread = Unread::of(self.path.parent().unwrap_or(Path::new("")));
        self.is_behind = true;
    }

    /// The server's number of this run: that of the run folder, or a new one.
    fn open(&mut self) -> Result<String, Failure> {
        if let Some(run) = self.note.run_id.clone() {
            if self.is_open {
                return Ok(run);
            }
            if let Some(before) = self.server.params_of(&run)? {
                self.server.update(&run, "RUNNING", None)?;
                let (about, changed) = self.about.resumed(&before);
                self.server.describe(&run, &about)?;
                self.is_open = true;
                if !changed.is_empty() {
                    tracing::warn!(
                        "track.mlflow: parameters cannot be changed there, and keep their first values: {}; the tag \
                         {RESUMED_WITH} has the new ones",
                        changed.join(", ")
                    );
                }
                return Ok(run);
            }
        }
        let experiment = self.server.experiment(&self.about.experiment)?;
        self.sign();
        let run = self.server.create_run(&experiment, &self.about.name, now())?;
        if self.note.run_id.replace(run.clone()).is_some() {
            self.start_over();
        }
        self.write_note();
        self.sign();
        self.server.describe(&run, &self.about)?;
        self.is_open = true;
        Ok(run)
    }

    /// The run's end waits for the next one.
    fn sign(&self) {
        // One that nobody took yet says the same.
        let _ = self.takes.try_send(());
    }

    /// Without it, a run that goes on would be another one there.
    fn write_note(&mut self) {
        let text = serde_json::to_vec_pretty(&self.note).unwrap_or_default();
        if let Err(why) = replace_file(&self.path, &text) {
            self.tell(Failure::Now(format!("mlflow.json: {why:#}")));
        }
    }

    fn tell(&mut self, failure: Failure) {
        let Some(trouble) = self.trouble.take() else { return };
        let shown = &self.server.shown;
        // Whoever trains may have ended.
        let _ = trouble.send(match failure {
            Failure::Now(why) => {
                format!("track.mlflow: {shown}: {why}; training goes on, and what is not sent stands in metrics.jsonl")
            }
            Failure::Ever(why) => {
                format!(
                    "track.mlflow: {shown}: {why}; nothing is sent, training goes on, metrics.jsonl has all figures"
                )
            }
        });
    }
}

impl Note {
    /// What a run folder says of its run at `server`; nothing where it was another server, or nothing was sent.
    pub fn read(path: &Path, server: &str) -> Self {
        let found: Option<Self> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let here = found.filter(|note| note.server == server && note.run_id.is_some());
        here.unwrap_or_else(|| Self { server: server.to_string(), ..Self::default() })
    }
}
