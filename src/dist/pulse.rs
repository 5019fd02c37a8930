//! Signs of life between ranks, and the end of all when one is lost.
//!
//! Every rank writes to the first one now and then, and the first to every other; so a lost rank is noticed by the
//! first, a lost first rank by all.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use ::mpi::request::{Request, Scope};
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator, Destination, Source};

/// Between two looks at a collective, once it has not been done at the first ones.
const NAP: Duration = Duration::from_micros(50);

/// Until [`super::Collective::lost_after`] says otherwise.
const SILENCE: Duration = Duration::from_secs(60);

/// The exit code with which all ranks shall end; negative while they shall not.
static ABORT: AtomicI32 = AtomicI32::new(-1);

/// Ends all ranks with `code`, whatever they wait for.
pub(super) fn abort(code: u8) -> ! {
    ABORT.store(i32::from(code), Ordering::SeqCst);
    std::thread::sleep(Duration::from_secs(5));
    // The thread that owns MPI is gone or stuck in it: the launcher ends the others when one ends so.
    #[allow(clippy::exit)]
    std::process::exit(i32::from(code));
}

/// Who this rank and the others are.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) local: (usize, usize),
    /// Host of each rank.
    pub(super) hosts: Vec<String>,
}

impl About {
    pub(super) fn name(&self, rank: usize) -> String {
        format!("rank {rank} on host {}", self.hosts.get(rank).map_or("?", String::as_str))
    }
}

/// What is known of the others' lives. Lives on the thread that owns MPI.
pub(super) struct Pulse {
    /// Apart from the collectives', so that nothing is mixed up.
    world: SimpleCommunicator,
    pub(super) about: About,
    silence: Duration,
    last_sent: Instant,
    last_turn: Instant,
    /// When each rank was heard of last, and how many collectives it had begun then.
    heard: Vec<(Instant, u64)>,
    /// Collectives that this rank has begun.
    begun: u64,
    /// Since when it has waited for the current one, and whether that was told.
    waiting: Option<(Instant, bool)>,
}

impl Pulse {
    pub(super) fn new(world: SimpleCommunicator, about: About) -> Self {
        let now = Instant::now();
        let heard = vec![(now, 0); about.size];
        Self { world, about, silence: SILENCE, last_sent: now, last_turn: now, heard, begun: 0, waiting: None }
    }

    pub(super) fn lost_after(&mut self, silence: Duration) {
        self.silence = silence;
        self.heard.iter_mut().for_each(|(at, _)| *at = Instant::now());
    }

    /// Waits for `request` with signs of life.
    pub(super) fn wait<'a, D: ?Sized, S: Scope<'a>>(&mut self, mut request: Request<'a, D, S>) {
        self.begun += 1;
        self.waiting = Some((Instant::now(), false));
        let mut looks = 0;
        while let Err(unfinished) = request.test() {
            request = unfinished;
            self.turn();
            looks += 1;
            // Small exchanges are done within a few looks.
            if looks > 20 { std::thread::sleep(NAP) } else { std::thread::yield_now() }
        }
        self.waiting = None;
    }

    /// Sends and takes in what is due; ends all ranks where one is lost or an end was asked for.
    pub(super) fn turn(&mut self) {
        let code = ABORT.load(Ordering::SeqCst);
        if code >= 0 {
            self.world.abort(code);
        }
        let now = Instant::now();
        if now - self.last_turn > self.silence / 2 {
            // It was this rank that was stopped: it cannot tell of the others.
            self.heard.iter_mut().for_each(|(at, _)| *at = now);
        }
        self.last_turn = now;
        // A tenth of the silence, so that few are on their way to a rank that takes none in any more: MPI would wait
        // with the rest, and nobody would count the time.
        if now - self.last_sent < (self.silence / 10).min(Duration::from_secs(5)) {
            return;
        }
        self.last_sent = now;
        while let Some(status) = self.world.any_process().immediate_probe() {
            let from = status.source_rank();
            let (begun, _) = self.world.process_at_rank(from).receive::<u64>();
            self.heard[from as usize] = (now, begun);
        }
        for rank in self.watched() {
            self.world.process_at_rank(rank as i32).send(&self.begun);
        }
        if let Some(lost) = self.watched().find(|&rank| now - self.heard[rank].0 > self.silence) {
            self.end_without(lost);
        }
        self.tell_of_late_ranks(now);
    }

    fn watched(&self) -> std::ops::Range<usize> {
        if self.about.rank == 0 { 1..self.about.size } else { 0..1 }
    }

    fn end_without(&self, lost: usize) -> ! {
        // All but the first rank find out at once that the first is lost: one says so and ends the others.
        if self.about.rank > 1 {
            std::thread::sleep(Duration::from_secs(10));
        }
        tracing::error!(
            "{} has given no sign of life for {} s: it was killed or stopped, or its host or network is down; the \
             others end; the last checkpoint is whole, go on with --resume latest",
            self.about.name(lost),
            self.silence.as_secs_f32()
        );
        self.world.abort(1)
    }

    /// A rank that lives and does not come to where the others wait: a slow disk, a debugger.
    fn tell_of_late_ranks(&mut self, now: Instant) {
        let Some((since, false)) = self.waiting else { return };
        if self.about.rank != 0 || now - since < self.silence {
            return;
        }
        self.waiting = Some((since, true));
        let late = (1..self.about.size).filter(|&rank| self.heard[rank].1 < self.begun);
        let late: Vec<String> = late.map(|rank| self.about.name(rank)).collect();
        if !late.is_empty() {
            tracing::warn!("waiting for {} s for {}", self.silence.as_secs_f32(), late.join(", "));
        }
    }
}
