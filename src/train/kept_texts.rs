//! Where the text tower is frozen, what it makes of each training report, and of each sentence where the objective
//! looks at these, is worked out once, before the first step.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::kept_features::{self, KeptReports, KeptTexts};
use super::stop::{self, Cause, Stopped};
use super::trainer::Trainer;
use crate::config::Config;
use crate::data::{Dataset, FeatureCache, Numbers};
use crate::model::freeze::FreezeDepth;
use crate::model::{Builder, ClipModel, Param, Part};
use crate::track::{Event, Note};

/// Texts that are encoded together.
const AT_ONCE: usize = 64;

/// Why they are kept, or why not. `stays`: the text tower gives the same for a text at each step.
fn choose(config: &Config, stays: bool) -> Result<&'static str, &'static str> {
    if config.freeze.text_until.is_some() {
        Err("freeze.text_until thaws the text tower")
    } else if config.train.dropout > 0.0 {
        Err("train.dropout is not 0, and frozen blocks drop other numbers at each step")
    } else if !stays {
        Err("a part of the text tower is trained")
    } else if !config.data.cache_features {
        Err("data.cache_features is false")
    } else {
        Ok("the frozen text tower gives the same at each epoch")
    }
}

impl Trainer<'_> {
    /// Fills the caches of what the text tower makes of reports and of their sentences, where it is frozen. Returns why
    /// training shall not begin, if it shall not.
    pub(super) fn keep_text_features(&mut self) -> Result<Option<Stopped>> {
        if self.config.freeze.text == FreezeDepth::None {
            return Ok(None);
        }
        let kept = choose(self.config, self.frozen.text_stays());
        if self.supervision.loss(&self.config.loss, 0.0).uses_reports() {
            let drawn = self.config.report.draws().then_some("another part of a report is read at each step");
            let reason = kept.and_then(|reason| drawn.map_or(Ok(reason), Err));
            let (ids, of_rows) = if reason.is_ok() { self.distinct_reports()? } else { Default::default() };
            match reason.and_then(|reason| self.seen_twice(of_rows.len(), &ids, reason)) {
                Err(reason) => self.tell_of_each_step("reports", reason)?,
                Ok(reason) => match self.keep_texts("reports", &ids, reason)? {
                    Ok(texts) => self.reports = Some(KeptReports { texts, of_rows }),
                    Err(stopped) => return Ok(Some(stopped)),
                },
            }
        }
        let Some(sentences) = self.supervision.sentences() else { return Ok(None) };
        match kept.and_then(|reason| self.seen_twice(sentences.in_all(), sentences.ids(), reason)) {
            Err(reason) => self.tell_of_each_step("sentences", reason)?,
            Ok(reason) => {
                let ids = sentences.ids().to_vec();
                match self.keep_texts("sentences", &ids, reason)? {
                    Ok(texts) => self.sentences = Some(texts),
                    Err(stopped) => return Ok(Some(stopped)),
                }
            }
        }
        Ok(None)
    }

    /// `reason`, where texts come again, of which an epoch sees `count`.
    fn seen_twice(
        &self,
        count: usize,
        distinct: &[Vec<u32>],
        reason: &'static str,
    ) -> Result<&'static str, &'static str> {
        if count as f64 * self.epochs() > distinct.len() as f64 { Ok(reason) } else { Err("hardly one is seen twice") }
    }

    fn tell_of_each_step(&mut self, what: &str, reason: &str) -> Result<()> {
        self.emit(&Event::Note(Note::choice(format!("features of {what} are worked out at each step: {reason}"))))
    }

    /// What the text tower makes of texts, given as token ids: read, or worked out where it is missing. `what` they are
    /// is told, with the reason why they are kept. In place of it, why training shall not begin.
    fn keep_texts(
        &mut self,
        what: &'static str,
        texts: &[Vec<u32>],
        reason: &str,
    ) -> Result<Result<KeptTexts, Stopped>> {
        let precision = self.config.data.feature_precision;
        let key = self.key(texts)?;
        let path = self.feature_file(&format!("{what}-{}.{}", &key[..16], precision.word()))?;
        let numbers = Numbers { width: self.folder.config.text.width(), precision };
        let open = || FeatureCache::open(&path, &key, texts.len(), numbers).context("data.feature_cache");
        let (writer, missing) = kept_features::to_fill(&*self.world, open)?;
        self.emit(&Event::Note(Note::choice(format!(
            "features of {what} are kept in {} ({} MiB, {} of {} distinct ones to work out): {reason}",
            path.display(),
            (texts.len() * numbers.bytes()) >> 20,
            missing.len(),
            texts.len()
        ))))?;
        if let Some(stopped) = self.encode_texts(what, (writer.as_ref(), texts), &missing)? {
            return Ok(Err(stopped));
        }
        let cache = match writer {
            Some(cache) => cache,
            None => open()?,
        };
        Ok(Ok(KeptTexts(cache)))
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
        // Other processors round in other places.
        let layers = format!("{:?} {:?}", self.folder.config.text, self.device.location());
        let layers = kept_features::worked_out(layers, self.products, self.config.data.feature_precision);
        let of_tower = |p: &&Param| p.spec.part == Part::Text;
        let mut key = kept_features::key(&layers, self.state.params.iter().filter(of_tower))?;
        for ids in texts {
            key.field(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        }
        Ok(key.hex())
    }

    /// Each rank encodes a part of each round; all that write get all. Parts are the same ones whatever is missing, and
    /// however many ranks there are: how texts are put together changes the last bits of what they give.
    fn encode_texts(
        &mut self,
        what: &'static str,
        (cache, texts): (Option<&FeatureCache>, &[Vec<u32>]),
        missing: &[u32],
    ) -> Result<Option<Stopped>> {
        let weights = Builder::eval(&self.state.params).products(self.products);
        let model = ClipModel::new(&self.folder.config, &weights)?;
        let width = self.folder.config.text.width();
        let mut parts: Vec<usize> = missing.iter().map(|&text| text as usize / AT_ONCE).collect();
        parts.dedup();
        let of_part = |part: usize| part * AT_ONCE..texts.len().min((part + 1) * AT_ONCE);
        for (round, parts) in parts.chunks(self.world.size()).enumerate() {
            if self.world.any(stop::asked())? {
                let text = format!("stopped while features of {what} were worked out; go on with --resume latest");
                return Ok(Some(Stopped { cause: Cause::Signal, text }));
            }
            let features = match parts.get(self.world.rank()) {
                None => Tensor::zeros((0, width), DType::F32, &self.device)?,
                Some(&part) => {
                    let (ids, tokens) = self.train.tokenizer.pad(&texts[of_part(part)]);
                    let ids = Tensor::from_vec(ids, (of_part(part).len(), tokens), &self.device)?;
                    model.text_states(&ids)?.tensor().to_dtype(DType::F32)?
                }
            };
            let features: Vec<f32> = self.world.gather_rows(&features)?.flatten_all()?.to_vec1()?;
            let rows = parts.iter().flat_map(|&part| of_part(part));
            if let Some(cache) = cache {
                cache.write(rows.zip(features.chunks_exact(width)))?;
            }
            let done = missing.len().min((round + 1) * self.world.size() * AT_ONCE);
            self.emit(&Event::Preparing { what, done, total: missing.len() })?;
        }
        // Whoever does not write waits until all is written.
        self.world.gather_bytes(&[])?;
        Ok(None)
    }
}
