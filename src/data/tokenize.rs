//! Reports to token ids, as transformers' CLIPTokenizer does it.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// CLIP's marks of begin and end.
pub const START: &str = "<|startoftext|>";
/// See [`START`].
pub const END: &str = "<|endoftext|>";

/// Files that make a tokenizer; all that are there are copied to an exported model.
pub const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"];

/// A tokenizer with a context length.
#[derive(Clone, Debug)]
pub struct ReportTokenizer {
    inner: Tokenizer,
    context_length: usize,
    pad_id: u32,
    files: Vec<(String, Vec<u8>)>,
}

impl ReportTokenizer {
    /// Builds from the content of tokenizer files: `tokenizer.json`, or `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    /// Neither is there, or what is there is broken.
    pub fn from_files(files: Vec<(String, Vec<u8>)>, context_length: usize) -> Result<Self> {
        ensure!(context_length >= 3, "context_length is {context_length}; a text needs at least 3 tokens");
        let find = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.as_slice());
        let (mut inner, name) = match (find("tokenizer.json"), find("vocab.json"), find("merges.txt")) {
            (Some(json), ..) => {
                (std::str::from_utf8(json).context("tokenizer.json: not UTF-8")?.parse(), "tokenizer.json")
            }
            (None, Some(vocab), Some(merges)) => {
                let json = clip_tokenizer_json(vocab, merges)?;
                (json.to_string().parse::<Tokenizer>(), "vocab.json with merges.txt")
            }
            _ => anyhow::bail!("no tokenizer: there is neither tokenizer.json nor vocab.json with merges.txt"),
        };
        if let Ok(tokenizer) = &mut inner {
            // Length is ours to decide, whatever the file was saved with.
            tokenizer.with_padding(None);
            tokenizer.with_truncation(None).map_err(|e| anyhow!("{name}: {e}"))?;
        }
        let inner = inner.map_err(|e| anyhow!("{name}: not a tokenizer: {e}"))?;
        let config: Value = match find("tokenizer_config.json") {
            Some(bytes) => serde_json::from_slice(bytes).context("tokenizer_config.json: not JSON")?,
            None => Value::Null,
        };
        let pad = &config["pad_token"];
        let pad = pad.as_str().or_else(|| pad["content"].as_str()).unwrap_or(END);
        let pad_id = inner.token_to_id(pad).or_else(|| inner.token_to_id(END)).unwrap_or(0);
        Ok(Self { inner, context_length, pad_id, files })
    }

    /// Reads the tokenizer files of a folder.
    ///
    /// # Errors
    /// As [`Self::from_files`].
    pub fn from_folder(folder: &Path, context_length: usize) -> Result<Self> {
        let mut files = Vec::new();
        for name in TOKENIZER_FILES {
            let path = folder.join(name);
            if path.is_file() {
                files.push((name.to_string(), std::fs::read(&path).with_context(|| path.display().to_string())?));
            }
        }
        Self::from_files(files, context_length).with_context(|| folder.display().to_string())
    }

    /// Token ids of `text` with the marks of begin and end, at most `context_length`; a longer text loses its tail and
    /// keeps the end mark.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.all_ids(text)?;
        if ids.len() > self.context_length {
            let end = ids[ids.len() - 1];
            ids.truncate(self.context_length);
            ids[self.context_length - 1] = end;
        }
        Ok(ids)
    }

    /// Ids with both marks, however many.
    fn all_ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, true).map_err(|e| anyhow!("tokenizing: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of several texts, padded on the right to the longest of them: (texts · tokens) and tokens.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_batch<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<(Vec<u32>, usize)> {
        let rows: Vec<Vec<u32>> = texts.into_iter().map(|t| self.encode(t)).collect::<Result<_>>()?;
        let tokens = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * tokens);
        for row in rows {
            ids.extend_from_slice(&row);
            ids.resize(ids.len() + tokens - row.len(), self.pad_id);
        }
        Ok((ids, tokens))
    }

    /// How many of `texts` have more tokens than fit.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn count_truncated<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<usize> {
        let mut count = 0;
        for text in texts {
            count += usize::from(self.all_ids(text)?.len() > self.context_length);
        }
        Ok(count)
    }

    /// Highest id + 1: what the model's vocabulary must hold.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Id of the end mark, where there is one.
    pub fn end_id(&self) -> Option<u32> {
        self.inner.token_to_id(END)
    }

    /// Id of the begin mark, where there is one.
    pub fn start_id(&self) -> Option<u32> {
        self.inner.token_to_id(START)
    }

    /// Id of the padding token.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Longest text in tokens.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Name and content of the files that it was made from.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }
}

/// What transformers 5 builds around a CLIP vocabulary: normalizer, pre-tokenizer, marks of begin and end.
pub(super) fn clip_pipeline(start_id: u32, end_id: u32) -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(start_id, START), special(end_id, END)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "behavior": "Removed", "invert": true, "pattern": {"Regex":
                "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"}},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, end_id], "cls": [START, start_id],
                           "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false},
    })
}

fn clip_tokenizer_json(vocab: &[u8], merges: &[u8]) -> Result<Value> {
    let vocab: serde_json::Map<String, Value> = serde_json::from_slice(vocab).context("vocab.json: not JSON")?;
    let id = |token: &str| {
        let id = vocab.get(token).and_then(Value::as_u64);
        id.map(|id| id as u32).with_context(|| format!("vocab.json: has no {token}"))
    };
    let merges = std::str::from_utf8(merges).context("merges.txt: not UTF-8")?;
    let merges: Vec<&str> = merges.lines().filter(|l| !l.is_empty() && !l.starts_with("#version")).collect();
    let mut json = clip_pipeline(id(START)?, id(END)?);
    json["model"]["merges"] = json!(merges);
    json["model"]["vocab"] = Value::Object(vocab);
    Ok(json)
}
