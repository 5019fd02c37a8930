//! The order of training rows: a pure function of the seed and the position, so that resuming needs no state.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, RngExt};

use super::duplicates::without_duplicates;
use super::facts::{RowFacts, facts};
use super::neighbours::{Neighbours, composed};
use crate::data::Row;
use crate::seed::{Purpose, stream};

/// How an epoch is drawn.
#[derive(Clone, Debug, Default)]
pub struct Sampling {
    /// How often the rows of each source are drawn, source by source; all once where it is empty.
    pub weights: Vec<f64>,
    /// Of each study one row, drawn anew each epoch.
    pub one_view: bool,
    /// Every label equally often.
    pub class_balanced: bool,
    /// No two equal reports in a step, as far as there are enough others.
    pub no_duplicate_reports: bool,
    /// Steps over which reports are sorted by length; 0 = none.
    pub length_buckets: usize,
    /// Rows over which a shard-wise order is shuffled; 0 = all rows over all.
    pub shuffle_buffer: usize,
}

/// How many rows a step has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Rows of a batch.
    pub batch_size: usize,
    /// Batches of a step.
    pub batches: usize,
}

/// Which rows each batch holds. Every epoch is drawn anew; rows that do not fill a last step wait for the next epoch.
#[derive(Debug)]
pub struct Sampler {
    seed: u64,
    units: Vec<RowFacts>,
    sampling: Sampling,
    step: StepShape,
    rows_per_epoch: usize,
    /// The epochs asked for last.
    orders: Mutex<BTreeMap<u64, Arc<Vec<u32>>>>,
    met: Mutex<Met>,
}

/// Rows that are to meet, until others are told.
#[derive(Debug, Default)]
struct Met {
    neighbours: Arc<Neighbours>,
    /// Steps for which they are; 0 = nobody told any.
    every: u64,
    /// The steps from this one on that were asked for last, with their rows.
    window: Option<(u64, Arc<Vec<u32>>)>,
}

impl Sampler {
    /// Draws from `rows`, of which the first `sources[0]` come from the first source and so on. Look at
    /// [`Self::rows_per_epoch`] first: an epoch must fill one step.
    pub fn new(seed: u64, rows: &[Row], sources: &[usize], sampling: Sampling, step: StepShape) -> Self {
        let units = facts(rows, sources);
        let (orders, met) = Default::default();
        let mut sampler = Self { seed, units, sampling, step, rows_per_epoch: 0, orders, met };
        sampler.rows_per_epoch = sampler.drawn(0).len();
        sampler
    }

    /// Rows that an epoch draws.
    pub fn rows_per_epoch(&self) -> usize {
        self.rows_per_epoch
    }

    /// Steps until every row that fits was seen once.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.rows_per_epoch / self.rows_per_step()) as u64
    }

    /// Rows of step number `step`, counted from the start of training, as far as they stand at `places` in it.
    pub fn rows(&self, step: u64, places: Range<usize>) -> Vec<usize> {
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        let (mut start, mut order) = (within * self.rows_per_step(), self.order(epoch));
        if let Some((first, rows)) = self.window(step, epoch * self.steps_per_epoch(), &order) {
            (start, order) = ((step - first) as usize * self.rows_per_step(), rows);
        }
        order[start + places.start..start + places.end].iter().map(|&row| row as usize).collect()
    }

    /// From now on, rows meet their `neighbours` in a step, as far as they are drawn in the same `every` steps of an
    /// epoch: those that are told of a later stretch leave what came before as it was.
    pub fn meet(&self, neighbours: Arc<Neighbours>, every: u64) {
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = Met { neighbours, every, window: None };
    }

    /// The first step of the stretch that `step` lies in, and the rows of it; `None` where none are to meet. `begin` is
    /// the first step of the epoch, `order` its rows.
    fn window(&self, step: u64, begin: u64, order: &[u32]) -> Option<(u64, Arc<Vec<u32>>)> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.every == 0 {
            return None;
        }
        let first = (step / met.every * met.every).max(begin);
        if let Some((known, rows)) = met.window.as_ref().filter(|(known, _)| *known == first) {
            return Some((*known, Arc::clone(rows)));
        }
        let end = (step / met.every + 1).saturating_mul(met.every).min(begin + self.steps_per_epoch());
        let place = |step: u64| (step - begin) as usize * self.rows_per_step();
        let rows = Arc::new(composed(&order[place(first)..place(end)], self.rows_per_step(), &met.neighbours));
        met.window = Some((first, Arc::clone(&rows)));
        Some((first, rows))
    }

    /// Rows of a step.
    pub fn rows_per_step(&self) -> usize {
        self.step.batch_size * self.step.batches
    }

    /// The rows of an epoch in order. Workers ask for neighbouring epochs at most.
    fn order(&self, epoch: u64) -> Arc<Vec<u32>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(order) = orders.get(&epoch) {
            return Arc::clone(order);
        }
        let order = Arc::new(self.work_out(epoch));
        orders.retain(|&known, _| known + 2 > epoch);
        orders.insert(epoch, Arc::clone(&order));
        order
    }

    fn work_out(&self, epoch: u64) -> Vec<u32> {
        let mut rng = stream(self.seed, Purpose::Shuffle, epoch);
        let mut order = self.drawn(epoch);
        match self.sampling.shuffle_buffer {
            0 => shuffle(&mut order, &mut rng),
            buffer => order = self.shuffled_by_shard(&order, buffer, &mut rng),
        }
        if self.sampling.class_balanced {
            order = self.balanced(&order);
        }
        if self.sampling.length_buckets > 0 {
            self.sort_by_length(&mut order, &mut rng);
        }
        if self.sampling.no_duplicate_reports {
            order = without_duplicates(&order, self.rows_per_step(), |row| self.units[row as usize].hash);
        }
        order
    }

    /// Which rows an epoch holds, in their own order. How many does not depend on the epoch.
    fn drawn(&self, epoch: u64) -> Vec<u32> {
        let mut rng = stream(self.seed, Purpose::Draw, epoch);
        let mut rows: Vec<u32> = (0..self.units.len() as u32).collect();
        if self.sampling.one_view {
            // The n-th view of a study takes its place with chance 1/n, so each of them is equally likely.
            let mut chosen: BTreeMap<(u32, u32), (u32, u32)> = BTreeMap::new();
            for &row in &rows {
                let unit = self.units[row as usize];
                let (keep, seen) = chosen.entry((unit.source, unit.study)).or_insert((row, 0));
                *seen += 1;
                if rng.random_range(0..*seen) == 0 {
                    *keep = row;
                }
            }
            rows = chosen.into_values().map(|(row, _)| row).collect();
            rows.sort_unstable();
        }
        if self.sampling.weights.is_empty() {
            return rows;
        }
        let mut all = Vec::new();
        for (source, &weight) in self.sampling.weights.iter().enumerate() {
            let mut own: Vec<u32> =
                rows.iter().copied().filter(|&r| self.units[r as usize].source == source as u32).collect();
            let wanted = (weight * own.len() as f64).round() as usize;
            for _ in 0..wanted.checked_div(own.len()).unwrap_or(0) {
                all.extend_from_slice(&own);
            }
            let rest = wanted.checked_rem(own.len()).unwrap_or(0);
            shuffle(&mut own, &mut rng);
            own.truncate(rest);
            own.sort_unstable();
            all.extend(own);
        }
        all
    }

    /// Shards in random order, then shuffled over a window, as a shuffle buffer does it: the next row is drawn from
    /// the buffer, and the row after those in it takes its place.
    fn shuffled_by_shard(&self, rows: &[u32], buffer: usize, rng: &mut impl Rng) -> Vec<u32> {
        let mut shards: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for &row in rows {
            shards.entry(self.units[row as usize].file).or_default().push(row);
        }
        let mut names: Vec<u32> = shards.keys().copied().collect();
        shuffle(&mut names, rng);
        let mut waiting = names.iter().flat_map(|name| shards[name].iter().copied());
        let mut held: Vec<u32> = waiting.by_ref().take(buffer).collect();
        let mut order = Vec::with_capacity(rows.len());
        while !held.is_empty() {
            let at = rng.random_range(0..held.len());
            match waiting.next() {
                Some(next) => order.push(std::mem::replace(&mut held[at], next)),
                None => order.push(held.swap_remove(at)),
            }
        }
        order
    }

    /// As many rows, every label in turn; a rare label's rows come up again, and not all of a common one's do.
    fn balanced(&self, order: &[u32]) -> Vec<u32> {
        let mut classes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for &row in order {
            classes.entry(self.units[row as usize].class).or_default().push(row);
        }
        let classes: Vec<Vec<u32>> = classes.into_values().collect();
        (0..order.len())
            .map(|i| {
                let class = &classes[i % classes.len()];
                class[(i / classes.len()) % class.len()]
            })
            .collect()
    }

    /// Over windows of some steps, rows of like length into one batch; the batches then in random order.
    fn sort_by_length(&self, order: &mut [u32], rng: &mut impl Rng) {
        let window = self.sampling.length_buckets * self.step.batch_size * self.step.batches;
        let whole = order.len() / self.step.batch_size * self.step.batch_size;
        for part in order[..whole].chunks_mut(window.max(1)) {
            part.sort_by_key(|&row| self.units[row as usize].length);
            let mut batches: Vec<Vec<u32>> = part.chunks(self.step.batch_size).map(<[u32]>::to_vec).collect();
            shuffle(&mut batches, rng);
            part.copy_from_slice(&batches.concat());
        }
    }
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.random_range(0..=i));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    fn sampler(units: Vec<RowFacts>, sampling: Sampling, batch: (usize, usize), seed: u64) -> Sampler {
        let mut sampler = Sampler {
            seed,
            units,
            sampling,
            step: StepShape { batch_size: batch.0, batches: batch.1 },
            rows_per_epoch: 0,
            orders: Mutex::default(),
            met: Mutex::default(),
        };
        sampler.rows_per_epoch = sampler.drawn(0).len();
        sampler
    }

    fn plain(count: usize) -> Vec<RowFacts> {
        let unit = |i: u32| RowFacts { source: 0, file: i / 10, study: i, class: 0, hash: u64::from(i), length: i % 7 };
        (0..count as u32).map(unit).collect()
    }

    #[test]
    fn neighbours_meet_in_the_stretch_they_are_told_for() {
        // Each row's neighbour is the next one.
        let next = |rows: u32| Arc::new(Neighbours { rows: (1..=rows).map(|row| row % rows).collect(), each: 1 });
        let large = sampler(plain(240), Sampling::default(), (8, 1), 3);
        let meets = |rows: &[usize]| -> usize {
            let step = |rows: &[usize]| rows.iter().filter(|&&row| rows.contains(&((row + 1) % 240))).count();
            rows.chunks(8).map(step).sum()
        };
        let before = meets(&epoch(&large, 0));
        large.meet(next(240), large.steps_per_epoch());
        let after = meets(&epoch(&large, 0));
        assert!(before < 20 && after > 80, "{before} {after}");
        let s = sampler(plain(24), Sampling::default(), (4, 1), 3);
        let before = epoch(&s, 0);
        s.meet(next(24), 4);
        let after = epoch(&s, 0);
        // The first four steps have the rows that they had, as have the last two; an epoch's end ends a stretch.
        for part in [0..16, 16..24] {
            let set = |rows: &[usize]| rows[part.clone()].iter().copied().collect::<HashSet<_>>();
            assert_eq!(set(&before), set(&after));
        }
        let again = sampler(plain(24), Sampling::default(), (4, 1), 3);
        again.meet(next(24), 4);
        for step in [9, 3, 5, 8, 0] {
            assert_eq!(again.rows(step, 1..3), s.rows(step, 1..3), "step {step}, whatever was asked before");
        }
    }

    /// Chunk number `index`, counted from the start of training.
    fn chunk(s: &Sampler, index: u64) -> Vec<usize> {
        let (per_step, start) = (s.step.batches as u64, (index % s.step.batches as u64) as usize * s.step.batch_size);
        s.rows(index / per_step, start..start + s.step.batch_size)
    }

    fn epoch(sampler: &Sampler, epoch: u64) -> Vec<usize> {
        let steps = sampler.steps_per_epoch();
        (0..steps).flat_map(|s| sampler.rows(epoch * steps + s, 0..sampler.rows_per_step())).collect()
    }

    #[test]
    fn an_epoch_sees_each_row_once_and_epochs_differ() {
        let s = sampler(plain(23), Sampling::default(), (2, 3), 3);
        assert_eq!(s.steps_per_epoch(), 3);
        let mut first = epoch(&s, 0);
        assert_ne!(first, epoch(&s, 1));
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 18);
        assert_ne!(s.rows(0, 0..6), sampler(plain(23), Sampling::default(), (2, 3), 4).rows(0, 0..6));
    }

    #[test]
    fn any_batch_is_the_same_whatever_was_asked_before() {
        let sampling = Sampling {
            weights: vec![1.5],
            one_view: true,
            class_balanced: true,
            no_duplicate_reports: true,
            length_buckets: 3,
            shuffle_buffer: 5,
        };
        let mut units = plain(60);
        for (i, unit) in units.iter_mut().enumerate() {
            (unit.study, unit.class, unit.hash) = (i as u32 / 2, (i % 5 == 0) as u32, i as u64 / 3);
        }
        let one = sampler(units.clone(), sampling.clone(), (4, 2), 9);
        let all: Vec<Vec<usize>> = (0..40).map(|i| chunk(&one, i)).collect();
        for i in [37, 3, 20, 0] {
            assert_eq!(chunk(&sampler(units.clone(), sampling.clone(), (4, 2), 9), i), all[i as usize]);
        }
    }

    #[test]
    fn weights_say_how_often() {
        let mut units = plain(40);
        units[30..].iter_mut().for_each(|u| u.source = 1);
        let s = sampler(units, Sampling { weights: vec![0.5, 2.5], ..Sampling::default() }, (1, 1), 0);
        let rows = epoch(&s, 0);
        assert_eq!(rows.len(), 15 + 25);
        assert_eq!(rows.iter().filter(|&&r| r < 30).count(), 15);
        let often = |row: usize| rows.iter().filter(|&&r| r == row).count();
        assert!((30..40).all(|row| often(row) == 2 || often(row) == 3));
    }

    #[test]
    fn one_view_of_each_study_and_each_in_time() {
        let mut units = plain(30);
        units.iter_mut().enumerate().for_each(|(i, u)| u.study = i as u32 / 3);
        let s = sampler(units, Sampling { one_view: true, ..Sampling::default() }, (1, 1), 0);
        let mut seen = HashSet::new();
        for e in 0..30 {
            let rows = epoch(&s, e);
            let studies: HashSet<usize> = rows.iter().map(|r| r / 3).collect();
            assert_eq!((rows.len(), studies.len()), (10, 10));
            seen.extend(rows);
        }
        assert_eq!(seen.len(), 30);
    }

    #[test]
    fn labels_come_equally_often() {
        let mut units = plain(100);
        units.iter_mut().enumerate().for_each(|(i, u)| u.class = u32::from(i < 5) + u32::from(i < 20));
        let s = sampler(units.clone(), Sampling { class_balanced: true, ..Sampling::default() }, (9, 1), 0);
        for batch in 0..11 {
            let classes: Vec<u32> = chunk(&s, batch).iter().map(|&r| units[r].class).collect();
            assert!((0..3).all(|c| classes.iter().filter(|&&x| x == c).count() == 3), "{classes:?}");
        }
    }

    #[test]
    fn equal_reports_do_not_meet_in_a_step() {
        let mut units = plain(60);
        // Half of all rows share ten reports.
        units.iter_mut().take(30).enumerate().for_each(|(i, u)| u.hash = 1000 + i as u64 % 10);
        let s = sampler(units.clone(), Sampling { no_duplicate_reports: true, ..Sampling::default() }, (5, 2), 2);
        let rows = epoch(&s, 0);
        for step in rows.chunks(10) {
            let reports: HashSet<u64> = step.iter().map(|&r| units[r].hash).collect();
            assert_eq!(reports.len(), 10);
        }
        assert_eq!(rows.iter().collect::<HashSet<_>>().len(), 60);
    }

    /// What [`without_duplicates`] must give, word for word: all that wait are looked at in each step.
    fn without_duplicates_slowly(rows: &[u32], step: usize, report: impl Fn(u32) -> u64) -> Vec<u32> {
        let mut result = Vec::new();
        let mut waiting: VecDeque<u32> = rows.iter().copied().collect();
        while !waiting.is_empty() {
            let (mut held, mut later) = (HashSet::new(), VecDeque::new());
            for row in waiting {
                if held.len() < step && held.insert(report(row)) {
                    result.push(row);
                } else {
                    later.push_back(row);
                }
            }
            if held.len() < step {
                result.extend(later.drain(..));
            }
            waiting = later;
        }
        result
    }

    #[test]
    fn equal_reports_wait_at_the_cost_of_one_look_a_row() {
        let looks = std::cell::Cell::new(0usize);
        for (rows, step, reports) in [(400u32, 8, 3), (999, 10, 60), (64, 64, 64), (50, 7, 1), (1, 2, 1), (0, 4, 1)] {
            // A third of the rows share one report, the others a few.
            let report = |row: u32| {
                looks.set(looks.get() + 1);
                if row.is_multiple_of(3) { 0 } else { u64::from(row * 7 % reports) }
            };
            let order: Vec<u32> = (0..rows).map(|i| i * 61 % rows.max(1)).collect();
            let slow = without_duplicates_slowly(&order, step, report);
            looks.set(0);
            assert_eq!(without_duplicates(&order, step, report), slow);
            assert!(looks.get() <= order.len(), "{} looks at {rows} rows", looks.get());
        }
        // What waits is as many rows as there are; a look at each of them in each step would be 10⁹.
        looks.set(0);
        let report = |row: u32| {
            looks.set(looks.get() + 1);
            if row.is_multiple_of(2) { 0 } else { u64::from(row) }
        };
        let order: Vec<u32> = (0..100_000).collect();
        assert_eq!(without_duplicates(&order, 4, report).len(), order.len());
        assert_eq!(looks.get(), order.len());
    }

    #[test]
    fn buckets_gather_like_lengths() {
        let spread = |sampling: Sampling| {
            let units = plain(210);
            let s = sampler(units.clone(), sampling, (6, 1), 0);
            epoch(&s, 0)
                .chunks(6)
                .map(|b| {
                    let lengths: Vec<u32> = b.iter().map(|&r| units[r].length).collect();
                    lengths.iter().max().unwrap() - lengths.iter().min().unwrap()
                })
                .sum::<u32>()
        };
        let sorted = spread(Sampling { length_buckets: 35, ..Sampling::default() });
        assert!(sorted * 10 < spread(Sampling::default()), "{sorted}");
    }

    #[test]
    fn a_buffer_reads_shards_nearly_in_order() {
        let s = sampler(plain(100), Sampling { shuffle_buffer: 10, ..Sampling::default() }, (1, 1), 0);
        let rows = epoch(&s, 0);
        assert_eq!(rows.iter().collect::<HashSet<_>>().len(), 100);
        let files: Vec<usize> = rows.iter().map(|r| r / 10).collect();
        // Within 15 rows at most a few shards are open, of ten.
        assert!(files.chunks(10).all(|c| c.iter().collect::<HashSet<_>>().len() <= 6), "{files:?}");
        assert_ne!(rows, epoch(&s, 1));
    }
}
