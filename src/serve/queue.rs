//! The way to the model: a bounded queue, of which every place that is taken is given back, whatever becomes of the
//! request.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::model::{Item, Model};
use super::refusal::Refusal;

/// A row of embeddings, L2-normalised; where it failed the log says why.
pub(super) type Embedding = Option<Vec<f32>>;

/// An item that waits, with the place that it takes.
pub(super) struct Waiting {
    pub item: Item,
    pub reply: oneshot::Sender<Embedding>,
    _place: OwnedSemaphorePermit,
    _kept: Option<Kept>,
}

/// A place that is needed for more than its item.
pub(super) type Kept = Arc<OwnedSemaphorePermit>;

/// What waits for the model.
pub(super) enum Job {
    Encode(Waiting),
    /// Anything else that needs it, in its turn.
    Run(Box<dyn FnOnce(&Model) + Send>),
}

/// Where requests hand in what they need of the model.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: Sender<Job>,
    places: Arc<Semaphore>,
    length: usize,
    /// How long several wait for their places.
    patience: Duration,
}

/// A queue of at most `length` waiting items, and where they come out. Several that are asked for together wait for
/// room as long as `patience`.
pub(super) fn queue(length: usize, patience: Duration) -> (Queue, Receiver<Job>) {
    let (sender, receiver) = channel();
    (Queue { sender, places: Arc::new(Semaphore::new(length)), length, patience }, receiver)
}

impl Queue {
    /// Items that wait.
    pub fn waiting(&self) -> usize {
        self.length - self.places.available_permits()
    }

    /// Refuses more inputs than may ever wait.
    ///
    /// # Errors
    /// They are more.
    pub fn check(&self, inputs: usize) -> Result<(), Refusal> {
        if inputs > self.length {
            return Err(Refusal::bad(format!("{inputs} inputs; at most {} may wait at once", self.length)));
        }
        Ok(())
    }

    /// Embeddings of `items`, in their order, each in a place of `places`; the last one has what is left of these, and
    /// `kept`, which whoever asks keeps for what comes next.
    ///
    /// # Errors
    /// The model failed.
    pub async fn encode(
        &self,
        items: Vec<Item>,
        mut places: OwnedSemaphorePermit,
        kept: Option<Kept>,
    ) -> Result<Vec<Vec<f32>>, Refusal> {
        let mut replies = Vec::with_capacity(items.len());
        let last = items.len().saturating_sub(1);
        for (i, item) in items.into_iter().enumerate() {
            // How many images a volume has was not known when places were taken.
            let taken = if i == last { places.num_permits() } else { item.places().min(places.num_permits()) };
            let place = places.split(taken).ok_or_else(Refusal::failed)?;
            let (reply, answer) = oneshot::channel();
            let kept = kept.clone().filter(|_| i == last);
            self.send(Job::Encode(Waiting { item, reply, _place: place, _kept: kept }))?;
            replies.push(answer);
        }
        let mut rows = Vec::with_capacity(replies.len());
        for reply in replies {
            rows.push(reply.await.ok().flatten().ok_or_else(Refusal::failed)?);
        }
        Ok(rows)
    }

    /// What `work`, which holds `place` until it is done, makes of the model.
    ///
    /// # Errors
    /// It panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        place: impl Send + 'static,
        work: impl FnOnce(&Model) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Run(Box::new(move |model| {
            // Nobody waits any more.
            if !reply.is_closed() {
                drop(reply.send(work(model)));
            }
            drop(place);
        })))?;
        answer.await.map_err(|_| Refusal::failed())
    }

    /// Room for `count` items, taken before they are decoded. One is refused where there is none; several wait for
    /// theirs a while, in turn, for single ones would take every place before them.
    ///
    /// # Errors
    /// There is no room for all of them.
    pub async fn places(&self, count: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        self.check(count)?;
        let full = || Refusal::full("the queue is full");
        if count == 1 {
            return Arc::clone(&self.places).try_acquire_owned().map_err(|_| full());
        }
        let places = Arc::clone(&self.places).acquire_many_owned(count as u32);
        tokio::time::timeout(self.patience, places).await.map_err(|_| full())?.map_err(|_| full())
    }

    fn send(&self, job: Job) -> Result<(), Refusal> {
        self.sender.send(job).map_err(|_| Refusal::full("the server is stopping"))
    }
}
