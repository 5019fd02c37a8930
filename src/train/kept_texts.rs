//! Where the text tower is frozen, what it makes of each training report, and of each sentence where the objective looks
//! at these, is worked out once, before the first step.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::kept_features;
use super::stop::{self, Cause, Stopped};
use super::trainer::Trainer;
use crate::config::Config;
use crate::data::{Dataset, FeatureCache, FeaturePrecision, Numbers};
use crate::model::freeze::FreezeDepth;
use crate::model::{Builder, ClipModel, Param, Part};
use crate::track::{Event, Note, RunFolder};

/// What the frozen text tower makes of texts, on the disk.
#[derive(Debug)]
pub struct KeptTexts {
    cache: FeatureCache,
    width: usize,
}

impl KeptTexts {
    /// Those of some texts by their numbers, (texts, width).
    ///
    /// # Errors
    /// The file cannot be read, or has lost some.
    pub(super) fn of(&self, texts: impl ExactSizeIterator<Item = u32>, device: &Device) -> Result<Tensor> {
        let count = texts.len();
        let mut numbers = Vec::with_capacity(count * self.width);
        for text in texts {
            let is_there = self.cache.read(text as usize, &mut numbers)?;
            ensure!(is_there, "data.feature_cache: the features of text {text} are no longer there");
        }
        Ok(Tensor::from_vec(numbers, (count, self.width), device)?)
    }
}

/// Of the training reports: each distinct one once.
#[derive(Debug)]
pub struct KeptReports {
    texts: KeptTexts,
    of_rows: Vec<u32>,
}

impl KeptReports {
    /// Those of some training rows, (rows, width).
    ///
    /// # Errors
    /// As [`KeptTexts::of`].
    pub(super) fn of(&self, rows: &[usize], device: &Device) -> Result<Tensor> {
        self.texts.of(rows.iter().map(|&row| self.of_rows[row]), device)
    }
}

/// Whether they are kept, and why. `stays`: the text tower gives the same for a text at each step.
fn choose(config: &Config, stays: bool, epochs: f64) -> (bool, &'static str) {
    if config.freeze.text_until.is_some() {
        (false, "freeze.text_until thaws the text tower")
    } else if config.train.dropout > 0.0 {
        (false, "train.dropout is not 0, and frozen blocks drop other numbers at each step")
    } else if !stays {
        (false, "a part of the text tower is trained")
    } else if !config.data.cache_features {
        (false, "data.cache_features is false")
    } else if epochs <= 1.0 {
        (false, "no report is seen twice")
    } else {
        (true, "the frozen text tower gives the same at each epoch")
    }
}

impl Trainer<'_> {
    /// Fills the caches of what the text tower makes of reports and of their sentences, where it is frozen. Returns why
    /// training shall not begin, if it shall not.
    pub(super) fn keep_text_features(&mut self) -> Result<Option<Stopped>> {
        let uses_reports = self.supervision.loss(&self.config.loss, 0.0).uses_reports();
        if self.config.freeze.text == FreezeDepth::None || !uses_reports {
            return Ok(None);
        }
        let (kept, reason) = choose(self.config, self.frozen.text_stays(), self.epochs());
        let of_reports = kept && !self.config.report.draws();
        if !of_reports {
            let reason = if kept { "another part of a report is read at each step" } else { reason };
            self.emit(&Event::Note(Note::choice(format!("report features are worked out at each step: {reason}"))))?;
        }
        if of_reports {
            let (ids, of_rows) = self.distinct_reports()?;
            match self.keep_texts("reports", &ids, reason)? {
                Ok(texts) => self.reports = Some(KeptReports { texts, of_rows }),
                Err(stopped) => return Ok(Some(stopped)),
            }
        }
        let ids = self.supervision.sentences().filter(|_| kept).map(|sentences| sentences.ids().to_vec());
        let Some(ids) = ids else { return Ok(None) };
        match self.keep_texts("sentences", &ids, reason)? {
            Ok(texts) => self.sentences = Some(texts),
            Err(stopped) => return Ok(Some(stopped)),
        }
        Ok(None)
    }

    /// What the text tower makes of texts, given as token ids: read, or worked out where it is missing. `what` they are
    /// is told, with the reason why they are kept. In place of it, why training shall not begin.
    fn keep_texts(&mut self, what: &str, texts: &[Vec<u32>], reason: &str) -> Result<Result<KeptTexts, Stopped>> {
        let width = self.folder.config.text.width();
        let precision = self.config.data.feature_precision;
        let key = self.key(texts)?;
        let name = format!("{what}-{}.{}", &key[..16], precision.word());
        let run = self.writer.run().map_or(self.config.output.as_path(), RunFolder::path);
        let path = self.world.from_first(|| Ok(kept_features::folder(self.config, run).join(name)))?;
        let numbers = Numbers { width, precision };
        let open = || FeatureCache::open(&path, &key, texts.len(), numbers).context("data.feature_cache");
        // One rank a host writes; the others open the file when it is whole.
        let writer = if self.world.local().0 == 0 { Some(open()?) } else { None };
        let missing: Vec<u32> = writer.iter().flat_map(FeatureCache::missing).map(|slot| slot as u32).collect();
        let (mut missing, _) = self.world.gather_numbers(&missing)?;
        missing.sort_unstable();
        missing.dedup();
        self.emit(&Event::Note(Note::choice(format!(
            "features of {what} are kept in {} ({} MiB, {} of {} distinct ones to work out): {reason}",
            path.display(),
            (texts.len() * numbers.bytes()) >> 20,
            missing.len(),
            texts.len()
        ))))?;
        if let Some(stopped) = self.encode_texts(writer.as_ref(), texts, &missing)? {
            return Ok(Err(stopped));
        }
        let cache = match writer {
            Some(cache) => cache,
            None => open()?,
        };
        Ok(Ok(KeptTexts { cache, width }))
    }

    /// The token ids of each distinct text, short ones first, and which of them each training row has.
    fn distinct_reports(&self) -> Result<(Vec<Vec<u32>>, Vec<u32>)> {
        let Dataset { rows, tokenizer, .. } = &*self.train;
        let of_rows: Vec<Vec<u32>> =
            rows.par_iter().map(|row| tokenizer.encode(row.report())).collect::<Result<_>>()?;
        let mut places: BTreeMap<(usize, &[u32]), u32> = of_rows.iter().map(|ids| ((ids.len(), &ids[..]), 0)).collect();
        places.values_mut().zip(0..).for_each(|(place, number)| *place = number);
        let texts = places.keys().map(|(_, ids)| ids.to_vec()).collect();
        let of_rows = of_rows.iter().map(|ids| places[&(ids.len(), &ids[..])]).collect();
        Ok((texts, of_rows))
    }

    /// Over all that the features depend on.
    fn key(&self, texts: &[Vec<u32>]) -> Result<String> {
        let mut layers = format!("{:?}", self.folder.config.text);
        if self.products == DType::BF16 {
            layers.push_str(" in bf16");
        }
        if self.config.data.feature_precision == FeaturePrecision::Bf16 {
            layers.push_str(" kept in bf16");
        }
        let of_tower = |p: &&Param| p.spec.part == Part::Text;
        let mut key = kept_features::key(&layers, self.state.params.iter().filter(of_tower))?;
        for ids in texts {
            key.field(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        }
        Ok(key.hex())
    }

    /// Each rank works out its share of each round; all that write get all.
    fn encode_texts(
        &mut self,
        cache: Option<&FeatureCache>,
        texts: &[Vec<u32>],
        missing: &[u32],
    ) -> Result<Option<Stopped>> {
        let weights = Builder::eval(&self.state.params).products(self.products);
        let model = ClipModel::new(&self.folder.config, &weights)?;
        let width = self.folder.config.text.width();
        let round = self.config.eval.batch_size * self.world.size();
        let mut done = 0;
        for slots in missing.chunks(round) {
            if self.world.any(stop::asked())? {
                let text = "stopped while text features were worked out; go on with --resume latest".into();
                return Ok(Some(Stopped { cause: Cause::Signal, text }));
            }
            let own: Vec<&[u32]> =
                slots[self.world.share(slots.len())].iter().map(|&slot| &texts[slot as usize][..]).collect();
            let features = match own.len() {
                0 => Tensor::zeros((0, width), DType::F32, &self.device)?,
                count => {
                    let (ids, tokens) = self.train.tokenizer.pad(&own);
                    let ids = Tensor::from_vec(ids, (count, tokens), &self.device)?;
                    model.text_states(&ids)?.tensor().to_dtype(DType::F32)?
                }
            };
            let features: Vec<f32> = self.world.gather_rows(&features)?.flatten_all()?.to_vec1()?;
            if let Some(cache) = cache {
                cache.write(slots.iter().map(|&slot| slot as usize).zip(features.chunks_exact(width)))?;
            }
            done += slots.len();
            self.emit(&Event::Preparing { what: "text features", done, total: missing.len() })?;
        }
        // Whoever does not write waits until all is written.
        self.world.gather_bytes(&[])?;
        Ok(None)
    }
}
