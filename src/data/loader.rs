//! Work done ahead on background threads, handed over in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Result, bail};

/// Calls `make(first)`, `make(first + 1)`, … on background threads and yields the results in order, at most `ahead` of
/// them unread. Ends where `make` gives `None`. Dropping it ends the threads after the items that they are making.
pub struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// Next index to be made.
    claimed: u64,
    /// Next index to be yielded.
    wanted: u64,
    /// Made and not yielded; `None` marks the end.
    ready: BTreeMap<u64, Option<T>>,
    /// No index at or past this exists, or the reader is gone.
    end: u64,
    running: usize,
    /// A worker panicked.
    failed: bool,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts `workers` threads, or as many as the system allows.
    ///
    /// # Errors
    /// It allows none.
    pub fn start(
        first: u64,
        workers: usize,
        ahead: usize,
        make: impl Fn(u64) -> Option<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let workers = workers.max(1);
        let state = State {
            claimed: first,
            wanted: first,
            ready: BTreeMap::new(),
            end: u64::MAX,
            running: workers,
            failed: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let make = Arc::new(make);
        let mut handles = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (stream, make) = (Arc::clone(&shared), Arc::clone(&make));
            let work = move || {
                // Also when `make` panics, so that the reader does not wait for ever.
                let _leaving = Leaving(Arc::clone(&stream));
                while let Some(index) = stream.claim(ahead as u64) {
                    let item = make(index);
                    let mut state = stream.lock();
                    if item.is_none() {
                        state.end = state.end.min(index);
                    }
                    state.ready.insert(index, item);
                    stream.changed.notify_all();
                }
            };
            match std::thread::Builder::new().spawn(work) {
                Ok(handle) => handles.push(handle),
                Err(_) if handles.is_empty() => {
                    bail!("no thread to read data with: the system allows this user no more (ulimit -u)")
                }
                // Where the system allows no more threads, those that there are do the work.
                Err(_) => shared.lock().running -= 1,
            }
        }
        Ok(Self { shared, workers: handles })
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        // The state is never left half-changed, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next index to make, once there is room; `None` when there is nothing more to do.
    fn claim(&self, ahead: u64) -> Option<u64> {
        let mut state = self.lock();
        while state.claimed < state.end && state.claimed >= state.wanted + ahead.max(1) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let index = state.claimed;
        state.claimed += 1;
        (index < state.end).then_some(index)
    }
}

struct Leaving<T>(Arc<Shared<T>>);

impl<T> Drop for Leaving<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        if std::thread::panicking() {
            // The item that this worker claimed will never come: end the stream instead of waiting for it.
            state.end = 0;
            state.failed = true;
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            let wanted = state.wanted;
            if let Some(item) = state.ready.remove(&wanted) {
                // At the end, `wanted` stays where it is and the mark goes back, so that later calls end too.
                match item {
                    Some(_) => state.wanted += 1,
                    None => drop(state.ready.insert(wanted, None)),
                }
                self.shared.changed.notify_all();
                return item;
            }
            if state.running == 0 || state.failed {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.lock().end = 0;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has ended too.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[test]
    fn in_order_whatever_the_threads_do() {
        let make = |i: u64| {
            (i < 60).then(|| {
                std::thread::sleep(Duration::from_micros(i * 7919 % 900));
                i
            })
        };
        let items: Vec<u64> = Prefetch::start(5, 4, 3, make).unwrap().collect();
        assert_eq!(items, (5..60).collect::<Vec<_>>());
    }

    #[test]
    fn never_further_ahead_than_asked() {
        let made = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&made);
        let mut items = Prefetch::start(0, 3, 4, move |i| {
            counter.fetch_add(1, Ordering::SeqCst);
            Some(i)
        })
        .unwrap();
        assert_eq!(items.next(), Some(0));
        std::thread::sleep(Duration::from_millis(50));
        assert!(made.load(Ordering::SeqCst) <= 5);
    }

    #[test]
    fn a_panicking_worker_ends_the_stream() {
        for workers in [1, 2, 4] {
            let make = |i: u64| if i == 5 { panic!("on purpose") } else { Some(i) };
            let items: Vec<u64> = Prefetch::start(0, workers, 3, make).unwrap().collect();
            assert!(items.len() <= 5 && items.iter().copied().eq(0..items.len() as u64), "{items:?}");
        }
    }
}
