//! Before the first step, files of kept features are filled: with what frozen layers make of images and texts.

use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::kept_features;
use super::stop::{self, Cause, Stopped};
use super::trainer::Trainer;
use crate::data::{FeatureCache, Numbers};
use crate::model::{Builder, ClipModel};
use crate::track::{Event, Note, RunFolder};

/// Features that are to be kept in a file.
pub(super) struct ToKeep {
    /// What they are.
    pub what: &'static str,
    /// What the file's name begins with.
    pub prefix: &'static str,
    /// Over all that they depend on.
    pub key: String,
    /// How many of them there are, and of what.
    pub count: usize,
    pub of: &'static str,
    /// Numbers of each.
    pub width: usize,
    /// Why they are kept.
    pub reason: &'static str,
}

/// Numbers of features, and these, (features, width), where there are any.
pub(super) type Encoded = (Vec<u32>, Option<Tensor>);

impl Trainer<'_> {
    /// The file of these features, whole. `rounds` is given the numbers of those that are missing on any host, in
    /// order, and gives of each round how many it is of, with what `encode` works out this rank's share from; all that
    /// write get all. In place of the file, why training shall not begin.
    pub(super) fn kept_file<T, R: IntoIterator<Item = (usize, T)>>(
        &mut self,
        features: &ToKeep,
        rounds: impl FnOnce(&Self, Vec<u32>) -> Result<R>,
        encode: impl Fn(&Self, &ClipModel, T) -> Result<Encoded>,
    ) -> Result<Result<FeatureCache, Stopped>> {
        let ToKeep { what, prefix, ref key, count, of, width, reason } = *features;
        let numbers = Numbers { width, precision: self.config.data.feature_precision };
        let name = format!("{prefix}{}.{}", &key[..16], numbers.precision.word());
        let run = self.writer.run().map_or(self.config.output.as_path(), RunFolder::path);
        let path: PathBuf = self.world.from_first(|| Ok(kept_features::folder(self.config, run).join(name)))?;
        // One rank a host writes it; the others open it when it is whole.
        let open = || FeatureCache::open(&path, key, count, numbers).context("data.feature_cache");
        let writer = if self.world.local().0 == 0 { Some(open()?) } else { None };
        let missing: Vec<u32> = writer.iter().flat_map(FeatureCache::missing).map(|number| number as u32).collect();
        let (mut missing, _) = self.world.gather_numbers(&missing)?;
        missing.sort_unstable();
        missing.dedup();
        let (total, mut done) = (missing.len(), 0);
        let (place, size) = (path.display(), (count * numbers.bytes()) >> 20);
        self.emit(&Event::Note(Note::choice(format!(
            "{what} are kept in {place} ({size} MiB, {total} of {count} {of} to work out): {reason}"
        ))))?;
        let weights = Builder::eval(&self.state.params).products(self.products);
        let model = ClipModel::new(&self.folder.config, &weights)?;
        for (of_round, own) in rounds(self, missing)? {
            if self.world.any(stop::asked())? {
                let text = format!("stopped while {what} were worked out; go on with --resume latest");
                return Ok(Err(Stopped { cause: Cause::Signal, text }));
            }
            let (own, features) = encode(self, &model, own)?;
            let (all, _) = self.world.gather_numbers(&own)?;
            let features = self.world.gather_parts(features.as_slice(), width, &self.device)?;
            let features: Vec<f32> = features.flatten_all()?.to_vec1()?;
            if let Some(cache) = writer.as_ref().filter(|_| !all.is_empty()) {
                cache.write(all.iter().map(|&number| number as usize).zip(features.chunks_exact(width)))?;
            }
            done = total.min(done + of_round);
            self.emit(&Event::Preparing { what, done, total })?;
        }
        // Whoever does not write waits until all is written.
        self.world.gather_bytes(&[])?;
        writer.map_or_else(open, Ok).map(Ok)
    }

    /// Says why such features are not kept.
    pub(super) fn tell_of_each_step(&mut self, what: &str, reason: &str) -> Result<()> {
        self.emit(&Event::Note(Note::choice(format!("{what} are worked out at each step: {reason}"))))
    }
}
