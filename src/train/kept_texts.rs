//! Where the text tower is frozen, what it makes of each training report, and of each sentence where the objective
//! looks at these, is worked out once, before the first step.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::fill::{Encoded, ToKeep};
use super::kept_features;
use super::stop::Stopped;
use super::trainer::Trainer;
use crate::config::Config;
use crate::data::{Dataset, KeptReports, KeptTexts};
use crate::model::freeze::FreezeDepth;
use crate::model::{ClipModel, Param, Part};

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
            let what = "features of reports";
            if let Some(reason) = self.why_kept(what, (ids.len(), of_rows.len()), reason)? {
                match self.keep_texts(("reports-", what, reason), &ids)? {
                    Ok(texts) => {
                        Arc::make_mut(&mut self.train).reports = Some(Arc::new(KeptReports { texts, of_rows }));
                    }
                    Err(stopped) => return Ok(Some(stopped)),
                }
            }
        }
        let Some(sentences) = self.supervision.sentences() else { return Ok(None) };
        let (what, count) = ("features of sentences", (sentences.ids().len(), sentences.in_all()));
        let Some(reason) = self.why_kept(what, count, kept)? else { return Ok(None) };
        let ids = self.supervision.sentences().map(|sentences| sentences.ids().to_vec()).unwrap_or_default();
        match self.keep_texts(("sentences-", what, reason), &ids)? {
            Ok(texts) => self.sentences = Some(texts),
            Err(stopped) => return Ok(Some(stopped)),
        }
        Ok(None)
    }

    /// Why what the text tower makes of `count` texts, of which an epoch sees `seen`, is kept; where it is not, also as
    /// they hardly come again, that is told.
    fn why_kept(
        &mut self,
        what: &str,
        (count, seen): (usize, usize),
        kept: Result<&'static str, &'static str>,
    ) -> Result<Option<&'static str>> {
        let come_again = seen as f64 * self.epochs() > count as f64;
        match kept.and_then(|reason| if come_again { Ok(reason) } else { Err("hardly one is seen twice") }) {
            Ok(reason) => Ok(Some(reason)),
            Err(reason) => self.tell_of_each_step(what, reason).map(|()| None),
        }
    }

    /// What the text tower makes of texts, given as token ids: read, or worked out where it is missing. Told are what
    /// they are, and why they are kept. In place of it, why training shall not begin.
    fn keep_texts(
        &mut self,
        (prefix, what, reason): (&'static str, &'static str, &'static str),
        texts: &[Vec<u32>],
    ) -> Result<Result<KeptTexts, Stopped>> {
        let (key, width) = (self.key(texts)?, self.folder.config.text.width());
        let features = ToKeep { what, prefix, key, count: texts.len(), of: "distinct ones", width, reason };
        // Parts are the same ones whatever is missing, and however many ranks there are: how texts are put together
        // changes the last bits of what they give.
        let of_part = |&part: &usize| part * AT_ONCE..texts.len().min((part + 1) * AT_ONCE);
        let rounds = |this: &Self, missing: Vec<u32>| -> Result<Vec<(usize, Range<usize>)>> {
            let mut parts: Vec<usize> = missing.iter().map(|&text| text as usize / AT_ONCE).collect();
            parts.dedup();
            let (rank, size) = (this.world.rank(), this.world.size());
            let own = |round: &[usize]| (size * AT_ONCE, round.get(rank).map_or(0..0, of_part));
            Ok(parts.chunks(size).map(own).collect())
        };
        let encode = |this: &Self, model: &ClipModel, own: Range<usize>| this.encode_texts(model, texts, own);
        Ok(self.kept_file(&features, rounds, encode)?.map(KeptTexts))
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

    /// What the tower makes of some texts, which are encoded together.
    fn encode_texts(&self, model: &ClipModel, texts: &[Vec<u32>], own: Range<usize>) -> Result<Encoded> {
        if own.is_empty() {
            return Ok((Vec::new(), None));
        }
        let (ids, tokens) = self.train.tokenizer.pad(&texts[own.clone()]);
        let ids = Tensor::from_vec(ids, (own.len(), tokens), &self.device)?;
        let states = model.text_states(&ids)?.tensor().to_dtype(DType::F32)?;
        Ok((own.map(|text| text as u32).collect(), Some(states)))
    }
}
