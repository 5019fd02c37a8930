//! Trains a CLIP-style byte-pair encoding on reports, for models that start from nothing. The result is a pure function
//! of the reports (the trainer of the tokenizers crate gives another vocabulary each run).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer,
};

use super::pipeline::{END, START, clip_pipeline};
use super::tokenize::MAX_TEXT;
use crate::error::caught;

/// The files of a tokenizer whose vocabulary has at most `vocab_size` entries: 256 bytes, 256 bytes that end a word,
/// merges in order of count, begin and end. Works for any language.
///
/// # Errors
/// A `vocab_size` below 514.
pub fn train<'a>(reports: impl Iterator<Item = &'a str>, vocab_size: usize) -> Result<Vec<(String, Vec<u8>)>> {
    ensure!(vocab_size >= 514, "vocab_size is {vocab_size}; 256 bytes, 256 word ends and 2 marks make 514");
    let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    let ends: Vec<String> = alphabet.iter().map(|c| format!("{c}</w>")).collect();
    let mut tokens: Vec<String> = alphabet.into_iter().chain(ends).collect();
    let words = count_words(reports)?;
    let merges = merge(&words, &mut tokens, vocab_size - 2);
    let start_id = tokens.len() as u32;
    tokens.extend([START.to_string(), END.to_string()]);
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let mut tokenizer = clip_pipeline(start_id, start_id + 1);
    tokenizer["model"]["vocab"] = Value::Object(vocab);
    tokenizer["model"]["merges"] = json!(merges.iter().map(|(a, b)| [a, b]).collect::<Vec<_>>());
    let config = json!({
        "tokenizer_class": "CLIPTokenizer", "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END,
        "do_lower_case": true, "errors": "replace",
    });
    Ok(vec![
        ("tokenizer.json".into(), serde_json::to_vec_pretty(&tokenizer)?),
        ("tokenizer_config.json".into(), serde_json::to_vec_pretty(&config)?),
    ])
}

/// Words as CLIP's pipeline cuts them, in byte-level letters, with how often each occurs.
fn count_words<'a>(reports: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, u64>> {
    let mut pipeline = clip_pipeline(0, 1);
    pipeline["model"]["vocab"] = json!({START: 0, END: 1});
    pipeline["model"]["merges"] = json!([]);
    let pipeline = pipeline.to_string().parse::<Tokenizer>().map_err(|e| anyhow!("CLIP's pipeline: {e}"))?;
    let mut words = BTreeMap::new();
    for report in reports {
        let cut = || {
            let mut text = NormalizedString::from(report);
            if let Some(normalizer) = pipeline.get_normalizer() {
                normalizer.normalize(&mut text).map_err(|e| anyhow!("normalizing: {e}"))?;
            }
            let mut text = PreTokenizedString::from(text);
            if let Some(pre_tokenizer) = pipeline.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut text).map_err(|e| anyhow!("cutting into words: {e}"))?;
            }
            Ok(text)
        };
        ensure!(report.len() <= MAX_TEXT, "a report of {} bytes; allowed are {MAX_TEXT}", report.len());
        let text = caught(cut)?;
        for (word, _, _) in text.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            *words.entry(word.to_string()).or_insert(0) += 1;
        }
    }
    Ok(words)
}

/// Joins the commonest pair until `tokens` has `size` entries or no pair occurs twice; ties go to the pair that sorts
/// first. Returns the pairs in order.
fn merge(words: &BTreeMap<String, u64>, tokens: &mut Vec<String>, size: usize) -> Vec<(String, String)> {
    let ids: HashMap<String, usize> = tokens.iter().cloned().zip(0..).collect();
    let counts: Vec<u64> = words.values().copied().collect();
    let mut words: Vec<Vec<usize>> = words
        .keys()
        .map(|word| {
            let mut letters: Vec<String> = word.chars().map(String::from).collect();
            if let Some(last) = letters.last_mut() {
                last.push_str("</w>");
            }
            letters.iter().filter_map(|l| ids.get(l).copied()).collect()
        })
        .collect();
    let mut pairs = Pairs::default();
    for (i, word) in words.iter().enumerate() {
        pairs.add(word, i, counts[i] as i64);
    }
    let mut merges = Vec::new();
    while tokens.len() < size {
        let Some((left, right)) = pairs.commonest(tokens) else { break };
        let joined = tokens.len();
        merges.push((tokens[left].clone(), tokens[right].clone()));
        tokens.push(format!("{}{}", tokens[left], tokens[right]));
        for i in pairs.words_with((left, right)) {
            pairs.add(&words[i], i, -(counts[i] as i64));
            words[i] = join(&words[i], left, right, joined);
            pairs.add(&words[i], i, counts[i] as i64);
        }
    }
    merges
}

fn join(word: &[usize], left: usize, right: usize, joined: usize) -> Vec<usize> {
    let mut out = Vec::with_capacity(word.len());
    let mut i = 0;
    while i < word.len() {
        let both = word[i] == left && word.get(i + 1) == Some(&right);
        out.push(if both { joined } else { word[i] });
        i += 1 + usize::from(both);
    }
    out
}

/// How often each neighbouring pair occurs, and in which words.
#[derive(Default)]
struct Pairs {
    count: HashMap<(usize, usize), i64>,
    words: HashMap<(usize, usize), BTreeSet<usize>>,
}

impl Pairs {
    fn add(&mut self, word: &[usize], index: usize, times: i64) {
        for pair in word.windows(2).map(|w| (w[0], w[1])) {
            *self.count.entry(pair).or_default() += times;
            self.words.entry(pair).or_default().insert(index);
        }
    }

    fn words_with(&mut self, pair: (usize, usize)) -> BTreeSet<usize> {
        self.words.remove(&pair).unwrap_or_default()
    }

    fn commonest(&self, tokens: &[String]) -> Option<(usize, usize)> {
        let name = |&(a, b): &(usize, usize)| std::cmp::Reverse((&tokens[a], &tokens[b]));
        let best = self.count.iter().filter(|(_, n)| **n >= 2);
        best.max_by(|(p, n), (q, m)| n.cmp(m).then_with(|| name(p).cmp(&name(q)))).map(|(pair, _)| *pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ReportTokenizer, TokenizerKind};

    #[test]
    fn learns_the_common_words_and_repeats_itself() {
        let reports = ["No pleural effusion.", "Small pleural effusion.", "左侧胸腔积液。", "左侧胸腔少量积液。"];
        let files = train(reports.iter().copied(), 600).unwrap();
        assert_eq!(files, train(reports.iter().copied(), 600).unwrap());
        let tokenizer = ReportTokenizer::from_files(files, TokenizerKind::clip(16)).unwrap();
        // start, "pleural", "effusion", end: both words became single tokens.
        let ids = tokenizer.encode("PLEURAL  effusion").unwrap();
        assert_eq!(ids.len(), 4, "{ids:?}");
        assert_eq!(ids[3], tokenizer.end_id().unwrap());
        assert_eq!(ids[3] as usize + 1, tokenizer.vocab_size());
        // Any other text still has an encoding.
        assert!(tokenizer.encode("żółć 🫁").unwrap().len() > 4);
    }
}
