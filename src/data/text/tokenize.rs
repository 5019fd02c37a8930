//! Reports to token ids, as the tokenizer of the model's own program does it.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::pipeline::{self, END, START};
use super::{sections, tokenizer_file};
use crate::error::caught;
use crate::fs::read_up_to;
use crate::json;

/// Files that make a tokenizer; all that are there are copied to an exported model. SentencePiece's are not read here:
/// transformers' slow tokenizers want them.
pub const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
];

/// Longest text in bytes: the longest reports have some thousand.
pub(super) const MAX_TEXT: usize = 1 << 20;
/// Longest that a text may become on its way, at some fifty bytes of memory a byte.
const MAX_GROWN: u64 = 16 << 20;

/// What a tokenizer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerKind {
    /// transformers' word for the text tower: says what the tokenizer does where its own files do not.
    pub model_type: String,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Whether every text is padded to the longest, because the model looks at padding too.
    pub full_length: bool,
}

impl TokenizerKind {
    /// A CLIP's.
    pub fn clip(context_length: usize) -> Self {
        Self { model_type: "clip".into(), context_length, full_length: false }
    }
}

/// A tokenizer with a context length.
#[derive(Clone, Debug)]
pub struct ReportTokenizer {
    inner: Tokenizer,
    /// How many times longer a text can become before it is cut into tokens.
    growth: u64,
    kind: TokenizerKind,
    class: String,
    pad_id: u32,
    /// A text that is too long keeps whole sentences.
    whole_sentences: bool,
    files: Vec<(String, Vec<u8>)>,
}

impl ReportTokenizer {
    /// Builds from the content of tokenizer files: `tokenizer.json`, `vocab.txt`, or `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    /// None of these is there, or what is there is broken.
    pub fn from_files(files: Vec<(String, Vec<u8>)>, kind: TokenizerKind) -> Result<Self> {
        let context_length = kind.context_length;
        ensure!(context_length >= 3, "context_length is {context_length}; a text needs at least 3 tokens");
        let find = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.as_slice());
        let json = |name: &str| -> Result<Value> {
            find(name).map_or(Ok(Value::Null), |bytes| json::parse_object(bytes).with_context(|| name.to_string()))
        };
        let config = json("tokenizer_config.json")?;
        let pipeline = pipeline::Pipeline::choose(&config, &kind.model_type);
        let (built, name) = match (find("tokenizer.json"), find("vocab.txt"), find("vocab.json"), find("merges.txt")) {
            (Some(bytes), ..) => {
                (pipeline.adapt(json::parse_object(bytes).context("tokenizer.json")?, &config), "tokenizer.json")
            }
            (None, Some(vocab), ..) => (pipeline::word_piece(vocab, &config)?, "vocab.txt"),
            (None, None, Some(vocab), Some(merges)) => {
                (pipeline.merges(vocab, merges, &config)?, "vocab.json with merges.txt")
            }
            _ => anyhow::bail!(
                "no tokenizer: there is none of tokenizer.json, vocab.txt, and vocab.json with merges.txt; name a \
                 folder that has one as model.tokenizer"
            ),
        };
        let growth = tokenizer_file::check(&built).with_context(|| name.to_string())?;
        let build = || {
            let mut inner = built.to_string().parse::<Tokenizer>().map_err(|e| anyhow!("not a tokenizer: {e}"))?;
            // Length is ours to decide, whatever the file was saved with.
            inner.with_padding(None);
            inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?;
            Ok(inner)
        };
        let inner = caught(build).with_context(|| name.to_string())?;
        let map = json("special_tokens_map.json")?;
        let said = |json: &Value| -> Option<String> {
            let pad = &json["pad_token"];
            pad.as_str().or_else(|| pad["content"].as_str()).map(str::to_string)
        };
        let pad = said(&config).or_else(|| said(&map)).unwrap_or_else(|| pipeline.pad().to_string());
        let pad_id = inner.token_to_id(&pad).or_else(|| inner.token_to_id(pipeline.pad())).unwrap_or(0);
        Ok(Self { whole_sentences: false, inner, growth, kind, class: pipeline.class().to_string(), pad_id, files })
    }

    /// Reads the tokenizer files of a folder.
    ///
    /// # Errors
    /// As [`Self::from_files`].
    pub fn from_folder(folder: &Path, kind: TokenizerKind) -> Result<Self> {
        let mut files = Vec::new();
        for name in TOKENIZER_FILES {
            let path = folder.join(name);
            if path.is_file() {
                files.push((name.to_string(), read_up_to(&path, json::MAX_BYTES)?));
            }
        }
        Self::from_files(files, kind).with_context(|| folder.display().to_string())
    }

    /// The same, but a text that is too long keeps as many whole sentences as fit.
    pub fn with_whole_sentences(self, whole_sentences: bool) -> Self {
        Self { whole_sentences, ..self }
    }

    /// Token ids of `text` with the marks of begin and end, at most `context_length`; a longer text loses its tail and
    /// keeps the end mark.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_telling(text)?.0)
    }

    /// [`Self::encode`], with whether the text has more tokens than fit, as [`Self::count`] has it.
    ///
    /// # Errors
    /// As there.
    pub fn encode_telling(&self, text: &str) -> Result<(Vec<u32>, bool)> {
        let mut ids = self.all_ids(text)?;
        let is_cut = ids.len() > self.kind.context_length;
        if is_cut
            && self.whole_sentences
            && let Some(first) = self.chunks(text)?.first()
        {
            ids = self.all_ids(first)?;
        }
        if ids.len() > self.kind.context_length {
            let end = ids[ids.len() - 1];
            ids.truncate(self.kind.context_length);
            ids[self.kind.context_length - 1] = end;
            // Those of many texts are held at once.
            ids.shrink_to_fit();
        }
        Ok((ids, is_cut))
    }

    /// Refuses a text by its bytes, before any work.
    ///
    /// # Errors
    /// It is too long.
    pub fn check_length(&self, text: &str) -> Result<()> {
        let longest = MAX_GROWN / self.growth.max(MAX_GROWN / MAX_TEXT as u64);
        ensure!(
            text.len() as u64 <= longest,
            "tokenizing: a text of {} bytes; this tokenizer may be given {longest}",
            text.len()
        );
        Ok(())
    }

    /// Ids with both marks, however many.
    fn all_ids(&self, text: &str) -> Result<Vec<u32>> {
        self.check_length(text)?;
        let encode = || self.inner.encode(text, true).map_err(|e| anyhow!("{e}"));
        Ok(caught(encode).context("tokenizing")?.get_ids().to_vec())
    }

    /// Ids of several texts, padded on the right to the longest of them, or to what the model takes where it
    /// looks at padding: (texts · tokens) and tokens.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_batch<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<(Vec<u32>, usize)> {
        let rows: Vec<Vec<u32>> = texts.into_iter().map(|t| self.encode(t)).collect::<Result<_>>()?;
        Ok(self.pad(&rows))
    }

    /// What [`Self::encode_batch`] makes of the ids of several texts, each at most `context_length`.
    pub fn pad(&self, rows: &[impl AsRef<[u32]>]) -> (Vec<u32>, usize) {
        let rows = || rows.iter().map(AsRef::as_ref);
        let longest = rows().map(<[u32]>::len).max().unwrap_or(0);
        let tokens = if self.kind.full_length { self.kind.context_length } else { longest };
        let mut ids = Vec::with_capacity(rows().len() * tokens);
        for row in rows() {
            ids.extend_from_slice(row);
            ids.resize(ids.len() + tokens - row.len(), self.pad_id);
        }
        (ids, tokens)
    }

    /// Parts of whole sentences that fit, together all of `text`; a sentence that is too long for one is a part by
    /// itself and will lose its end.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn chunks(&self, text: &str) -> Result<Vec<String>> {
        let fits = |part: &str| -> Result<bool> { Ok(self.all_ids(part)?.len() <= self.kind.context_length) };
        if fits(text)? {
            return Ok(vec![text.to_string()]);
        }
        let mut chunks: Vec<String> = Vec::new();
        for sentence in sections::sentences(text) {
            let joined = chunks.last().map(|last| format!("{last} {sentence}"));
            match (chunks.last_mut(), joined) {
                (Some(last), Some(joined)) if fits(&joined)? => *last = joined,
                _ => chunks.push(sentence.to_string()),
            }
        }
        Ok(chunks)
    }

    /// How many marks a text has at its begin, and at its end.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn marks(&self) -> Result<(usize, usize)> {
        let marks = self.all_ids("")?;
        let mut begin = marks.len();
        // Texts that begin as one without a word does; a vocabulary may pass over some of them.
        for text in ["a", "0", "的"] {
            let ids = self.all_ids(text)?;
            begin = begin.min(marks.iter().zip(&ids).take_while(|(mark, id)| mark == id).count());
        }
        Ok((begin, marks.len() - begin))
    }

    /// Tokens of `text` with both marks, also where that is more than fit.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.all_ids(text)?.len())
    }

    /// How many of `texts` have more tokens than fit.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn count_truncated<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<usize> {
        let mut count = 0;
        for text in texts {
            count += usize::from(self.count(text)? > self.kind.context_length);
        }
        Ok(count)
    }

    /// Highest id + 1: what the model's vocabulary must hold.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The text of some tokens in a row, as far as it is one by itself.
    fn decode(&self, ids: &[u32]) -> String {
        let text = caught(|| self.inner.decode(ids, false).map_err(|e| anyhow!("{e}"))).unwrap_or_default();
        let tokens = || ids.iter().filter_map(|&id| self.inner.id_to_token(id)).collect();
        let text = if text.is_empty() { tokens() } else { text };
        // How CLIP's vocabulary marks the end of a word, where the tokenizer has no decoder.
        text.replace("</w>", "")
    }

    /// The texts of `ids`, with how many tokens each takes: one, or as many pieces as a character was cut into.
    pub fn pieces(&self, ids: &[u32]) -> Vec<(String, usize)> {
        /// Bytes of a character in UTF-8, and thus pieces.
        const MOST: usize = 4;
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < ids.len() {
            let rest = &ids[at..];
            // Bytes that are no character decode to the replacement character.
            let mut texts = (1..=MOST.min(rest.len())).map(|n| (self.decode(&rest[..n]), n));
            let whole = texts.find(|(text, _)| !text.contains(char::REPLACEMENT_CHARACTER));
            let piece = whole.unwrap_or_else(|| (self.decode(&rest[..1]), 1));
            at += piece.1;
            pieces.push(piece);
        }
        pieces
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
        self.kind.context_length
    }

    /// The same as the content of a tokenizer.json.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|e| anyhow!("{e}")).context("tokenizer.json")
    }

    /// transformers' class that does the same.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Name and content of the files that it was made from.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }
}
