//! The sentences of a prompt file as token ids, and what the text tower makes of them.

use std::ops::Range;

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::data::{Prompts, ReportTokenizer};
use crate::dist::Collective;
use crate::model::ClipModel;
use crate::ops::Value;
use crate::session::{Frozen, tell_cut};

/// The prompts' sentences as token ids.
#[derive(Debug)]
pub(super) struct PromptTokens {
    /// (sentences, tokens)
    input_ids: Vec<u32>,
    tokens: usize,
    /// How many sentences belong to each direction.
    counts: Vec<usize>,
}

/// Features of sentences, worked out by ranks together.
pub(super) struct SentenceFeatures {
    /// Of this rank's share; `None` where it has none.
    pub own: Option<Value>,
    /// Of all, (sentences, embed_dim).
    pub all: Tensor,
    /// Where the share stands.
    pub share: Range<usize>,
}

impl SentenceFeatures {
    /// This rank's features with their part of the gradient on all.
    pub fn own_part(&self, grad: Tensor) -> Result<Option<(Value, Tensor)>> {
        let part = grad.narrow(0, self.share.start, self.share.len())?.copy()?;
        Ok(self.own.clone().map(|own| (own, part)))
    }
}

impl PromptTokens {
    /// Of `prompts`; warns of sentences that are cut.
    pub fn new(prompts: &Prompts, tokenizer: &ReportTokenizer) -> Result<Self> {
        let (sentences, counts) = prompts.sentences();
        tell_cut(tokenizer, "prompts", &sentences)?;
        let (input_ids, tokens) = tokenizer.encode_batch(sentences.iter().copied())?;
        Ok(Self { input_ids, tokens, counts })
    }

    /// How many of the sentences belong to each direction of the shared space.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Features of the sentences, each rank its share, all get all. Encoded anew at each step, unless `frozen` keeps
    /// what the text tower gives: only a trained projection runs again then.
    pub fn features(
        &self,
        model: &ClipModel,
        frozen: Option<&Frozen>,
        world: &dyn Collective,
        device: &Device,
    ) -> Result<SentenceFeatures> {
        let share = world.share(self.input_ids.len() / self.tokens);
        let ids = &self.input_ids[share.start * self.tokens..share.end * self.tokens];
        let encode = || -> Result<Value> {
            let input_ids = Tensor::from_slice(ids, (share.len(), self.tokens), device)?;
            Ok(model.text_states(&input_ids)?)
        };
        let own = if share.is_empty() {
            None
        } else {
            let states = frozen.map_or_else(encode, |frozen| frozen.prompt_states(encode))?;
            Some(model.project_text(&states)?)
        };
        let parts: Vec<Tensor> = own.iter().map(|v| v.tensor().clone()).collect();
        Ok(SentenceFeatures { all: world.gather_parts(&parts, model.embed_dim(), device)?, own, share })
    }
}
