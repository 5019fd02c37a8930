//! Telling of texts that a model does not read to their ends.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use rayon::prelude::*;

use crate::data::ReportTokenizer;

/// How many of `texts` have more tokens than the model reads.
///
/// # Errors
/// As [`ReportTokenizer::encode`].
pub fn count_cut(tokenizer: &ReportTokenizer, texts: &[&str]) -> Result<usize> {
    let most = tokenizer.context_length();
    texts.par_iter().map(|text| anyhow::Ok(usize::from(tokenizer.count(text)? > most))).sum()
}

/// Warns where some of `texts`, called `what`, are cut: all texts of a command at once, before they are encoded.
///
/// # Errors
/// As [`count_cut`].
pub fn tell_cut(tokenizer: &ReportTokenizer, what: &str, texts: &[&str]) -> Result<()> {
    warn_cut(tokenizer, what, (count_cut(tokenizer, texts)?, texts.len()));
    Ok(())
}

/// Warns that `cut` of `all` texts, called `what`, lose their ends; of none it says nothing, and the same line once in a
/// process: prompts are encoded for each split.
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
