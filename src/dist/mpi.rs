//! Ranks over MPI.
//!
//! One thread owns MPI and makes all calls, none of them blocking: between looks at whether a collective is done it
//! exchanges signs of life, so a rank that was killed or stopped is noticed whatever the others wait for, and sums
//! proceed while the training thread works out the next gradients. It sleeps between looks, since a thread that spins
//! would take a core from the towers; measured, sums are as fast as with a blocking call.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ::mpi::collective::SystemOperation;
use ::mpi::datatype::PartitionMut;
use ::mpi::request;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};
use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{Device, Tensor};

use super::collective::{Collective, Sum};
use super::pulse::{About, Pulse};

/// All ranks of the launcher.
pub struct Mpi {
    about: About,
    jobs: Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is asked for, and where the answer goes.
enum Job {
    GatherBytes(Vec<u8>, Sender<Vec<Vec<u8>>>),
    GatherNumbers(Vec<f32>, Sender<Vec<f32>>),
    Broadcast(Vec<f32>, Sender<Vec<f32>>),
    Sum(Vec<f32>, Sender<Vec<f32>>),
    LostAfter(Duration),
    Part(Sender<()>),
}

impl Mpi {
    /// Joins the launcher's other processes.
    ///
    /// # Errors
    /// MPI does not start.
    pub(super) fn start() -> Result<Self> {
        let (jobs, todo) = channel();
        let (tell, told) = channel();
        let thread = std::thread::Builder::new().name("mpi".into()).spawn(move || own_mpi(&todo, &tell))?;
        let about = told.recv().map_err(|_| anyhow!("MPI does not start"))?;
        Ok(Self { about, jobs, thread: Mutex::new(Some(thread)) })
    }

    fn ask<T>(&self, job: impl FnOnce(Sender<T>) -> Job) -> Result<Receiver<T>> {
        let (answer, answered) = channel();
        self.jobs.send(job(answer)).map_err(|_| gone())?;
        Ok(answered)
    }

    fn check(&self, count: usize) -> Result<()> {
        let most = i32::MAX as usize / self.about.size;
        ensure!(count <= most, "a rank gives {count} numbers to all others, and MPI can take {most}");
        Ok(())
    }
}

fn numbers_of(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn gone() -> anyhow::Error {
    anyhow!("MPI has ended")
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.about.rank
    }

    fn size(&self) -> usize {
        self.about.size
    }

    fn local(&self) -> (usize, usize) {
        self.about.local
    }

    fn name(&self, rank: usize) -> String {
        self.about.name(rank)
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.check(bytes.len())?;
        self.ask(|answer| Job::GatherBytes(bytes.to_vec(), answer))?.recv().map_err(|_| gone())
    }

    fn gather_rows(&self, rows: &Tensor) -> Result<Tensor> {
        let (own, width) = rows.dims2()?;
        self.check(own * width)?;
        let numbers = if own == 0 { Vec::new() } else { numbers_of(rows)? };
        let all = self.ask(|answer| Job::GatherNumbers(numbers, answer))?.recv().map_err(|_| gone())?;
        ensure!(width > 0 && all.len().is_multiple_of(width), "ranks gave rows of different widths");
        let count = all.len() / width;
        Ok(Tensor::from_vec(all, (count, width), rows.device())?)
    }

    fn broadcast(&self, tensor: &Tensor) -> Result<Tensor> {
        let numbers = numbers_of(tensor)?;
        let all = self.ask(|answer| Job::Broadcast(numbers, answer))?.recv().map_err(|_| gone())?;
        Ok(Tensor::from_vec(all, tensor.shape().clone(), tensor.device())?)
    }

    fn begin_sum(&self, numbers: Tensor) -> Result<Box<dyn Sum>> {
        let device = numbers.device().clone();
        let numbers = numbers_of(&numbers)?;
        Ok(Box::new(Summing { answer: self.ask(|answer| Job::Sum(numbers, answer))?, done: None, device }))
    }

    fn lost_after(&self, silence: Duration) {
        // Where the thread is gone there is nobody to be lost.
        let _ = self.jobs.send(Job::LostAfter(silence));
    }

    fn part(&self) -> Result<()> {
        self.ask(Job::Part)?.recv().map_err(|_| gone())?;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.map_or(Ok(()), |thread| thread.join().map_err(|_| gone()))
    }
}

struct Summing {
    answer: Receiver<Vec<f32>>,
    done: Option<Vec<f32>>,
    device: Device,
}

impl Sum for Summing {
    fn is_ready(&mut self) -> bool {
        if self.done.is_none() {
            self.done = self.answer.try_recv().ok();
        }
        self.done.is_some()
    }

    fn wait(self: Box<Self>) -> Result<Tensor> {
        let sum = match self.done {
            Some(sum) => sum,
            None => self.answer.recv().map_err(|_| gone())?,
        };
        let count = sum.len();
        Ok(Tensor::from_vec(sum, count, &self.device)?)
    }
}

/// The thread's life: from MPI's start to its end.
fn own_mpi(todo: &Receiver<Job>, tell: &Sender<About>) {
    let Some((universe, _)) = ::mpi::initialize_with_threading(::mpi::Threading::Funneled) else { return };
    let world = universe.world();
    let Ok(about) = meet(&world) else { return };
    let pulse = Pulse::new(world.duplicate(), about.clone());
    let mut owner = Owner { world, pulse };
    let _ = tell.send(about);
    loop {
        // Between jobs nothing is urgent but signs of life.
        match todo.recv_timeout(Duration::from_millis(50)) {
            Ok(Job::Part(answer)) => {
                // Ranks part together, so that nobody misses the signs of life of one that is done.
                owner.pulse.wait(owner.world.immediate_barrier());
                drop(owner);
                drop(universe);
                let _ = answer.send(());
                return;
            }
            Ok(job) => owner.work(job),
            Err(RecvTimeoutError::Timeout) => owner.pulse.turn(),
            // The program has ended without parting: the launcher ends the others.
            Err(RecvTimeoutError::Disconnected) => owner.world.abort(1),
        }
    }
}

/// Who is where.
fn meet(world: &SimpleCommunicator) -> Result<About> {
    const LONGEST: usize = 256;
    let own = ::mpi::environment::processor_name().context("MPI gives no host name")?;
    let mut name = [0u8; LONGEST];
    let length = own.len().min(LONGEST);
    name[..length].copy_from_slice(&own.as_bytes()[..length]);
    let mut all = vec![0u8; LONGEST * world.size() as usize];
    world.all_gather_into(&name[..], &mut all[..]);
    let text = |name: &[u8]| String::from_utf8_lossy(name).trim_end_matches('\0').to_string();
    let host = world.split_shared(world.rank());
    Ok(About {
        rank: world.rank() as usize,
        size: world.size() as usize,
        local: (host.rank() as usize, host.size() as usize),
        hosts: all.chunks(LONGEST).map(text).collect(),
    })
}

struct Owner {
    world: SimpleCommunicator,
    pulse: Pulse,
}

/// Numbers that one call of MPI takes: its counts are 32 bits.
const MOST: usize = 1 << 28;

impl Owner {
    /// Where an answer cannot be sent, nobody waits for it any more.
    fn work(&mut self, job: Job) {
        match job {
            Job::GatherBytes(own, answer) => {
                let (all, counts) = self.gather(&own);
                let mut rest = all.as_slice();
                let next = |count: &i32| {
                    let (own, others) = rest.split_at(*count as usize);
                    rest = others;
                    own.to_vec()
                };
                drop(answer.send(counts.iter().map(next).collect()));
            }
            Job::GatherNumbers(own, answer) => drop(answer.send(self.gather(&own).0)),
            Job::Broadcast(mut numbers, answer) => {
                for part in numbers.chunks_mut(MOST) {
                    let first = self.world.process_at_rank(0);
                    request::scope(|scope| self.pulse.wait(first.immediate_broadcast_into(scope, part)));
                }
                drop(answer.send(numbers));
            }
            Job::Sum(own, answer) => {
                let mut sum = vec![0f32; own.len()];
                for (own, sum) in own.chunks(MOST).zip(sum.chunks_mut(MOST)) {
                    let add = SystemOperation::sum();
                    request::scope(|scope| {
                        self.pulse.wait(self.world.immediate_all_reduce_into(scope, own, sum, add));
                    });
                }
                drop(answer.send(sum));
            }
            Job::LostAfter(silence) => self.pulse.lost_after(silence),
            Job::Part(_) => {}
        }
    }

    /// What each rank gives, one after the other, and how much each gave.
    fn gather<T: Equivalence + Copy + Default>(&mut self, own: &[T]) -> (Vec<T>, Vec<i32>) {
        let mut counts = vec![0i32; self.pulse.about.size];
        let count = own.len() as i32;
        request::scope(|scope| {
            self.pulse.wait(self.world.immediate_all_gather_into(scope, &count, &mut counts[..]));
        });
        let mut total = 0;
        let start_of = |count: &i32| {
            total += count;
            total - count
        };
        let starts: Vec<i32> = counts.iter().map(start_of).collect();
        let mut all = vec![T::default(); total as usize];
        if total > 0 {
            let mut parts = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
            request::scope(|scope| {
                self.pulse.wait(self.world.immediate_all_gather_varcount_into(scope, own, &mut parts));
            });
        }
        (all, counts)
    }
}
