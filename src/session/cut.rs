//! Telling of texts that a model does not read to their ends.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use rayon::prelude::*;

use crate::data::ReportTokenizer;

/// Texts as a model reads them.
pub struct Tokenized {
    /// Of each text its token ids, with the marks of begin and end, at most as many as the model reads.
    pub ids: Vec<Vec<u32>>,
    /// How many have more tokens, and lose their ends.
    pub cut: usize,
}

impl Tokenized {
    /// Goes through each of `texts` once, on all cores: who also encodes them need not do it again.
    ///
    /// # Errors
    /// As [`ReportTokenizer::encode`].
    pub fn of(tokenizer: &ReportTokenizer, texts: &[impl AsRef<str> + Sync]) -> Result<Self> {
        let each = texts.par_iter().map(|text| tokenizer.encode_telling(text.as_ref()));
        let (ids, is_cut): (Vec<_>, Vec<_>) = each.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self { ids, cut: is_cut.into_iter().filter(|is_cut| *is_cut).count() })
    }

    /// [`warn_cut`] of these.
    pub fn warn_cut(&self, tokenizer: &ReportTokenizer, what: &str) {
        warn_cut(tokenizer, what, (self.cut, self.ids.len()));
    }
}

/// How many of `texts` have more tokens than the model reads.
fn count_cut(tokenizer: &ReportTokenizer, texts: &[&str]) -> Result<usize> {
    let most = tokenizer.context_length();
    texts.par_iter().map(|text| anyhow::Ok(usize::from(tokenizer.count(text)? > most))).sum()
}

/// Warns where some of `texts`, called `what`, are cut: all texts of a command at once, before they are encoded.
///
/// # Errors
/// As [`ReportTokenizer::encode`].
pub fn tell_cut(tokenizer: &ReportTokenizer, what: &str, texts: &[&str]) -> Result<()> {
    warn_cut(tokenizer, what, (count_cut(tokenizer, texts)?, texts.len()));
    Ok(())
}

/// Warns that `cut` of `all` texts, called `what`, lose their ends; of none it says nothing, and the same line once in
/// a process: prompts are encoded for each split.
pub fn warn_cut(tokenizer: &ReportTokenizer, what: &str, (cut, all): (usize, usize)) {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    if cut == 0 {
        return;
    }
    let most = tokenizer.context_length();
    let line = format!("{what}: {cut} of {all} are longer than the {most} tokens that the model reads, and are cut");
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if !told.contains(&line) {
        tracing::warn!("{line}");
        told.push(line);
    }
}
