//! The pipelines around vocabularies that come without one: normalizer, pre-tokenizer, marks of begin and end. Each is
//! what transformers 5 builds for the class of the same name, in the form of a `tokenizer.json`.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::json;

/// Most lines of a vocabulary or of merges; large ones have half a million.
const MAX_LINES: usize = 1 << 20;

/// CLIP's marks of begin and end.
pub(super) const START: &str = "<|startoftext|>";
/// See [`START`].
pub(super) const END: &str = "<|endoftext|>";

/// Which class of transformers a tokenizer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pipeline {
    Clip,
    Bert,
    Roberta,
    /// XLM-R, SigLIP and whatever else says all in `tokenizer.json`.
    AsWritten,
    /// Gemma's with lower-casing before it.
    Siglip2,
}

impl Pipeline {
    /// By `tokenizer_class` of tokenizer_config.json, or where that says nothing by the model.
    pub fn choose(config: &Value, model_type: &str) -> Self {
        let class = config["tokenizer_class"].as_str().map_or("", |class| class.trim_end_matches("Fast"));
        match (class, model_type) {
            // SigLIP 2 was trained on lower-cased text, which its published tokenizer leaves to the processor.
            ("GemmaTokenizer" | "Siglip2Tokenizer" | "", "siglip2") | ("GemmaTokenizer", "siglip") => Self::Siglip2,
            ("CLIPTokenizer", _) => Self::Clip,
            ("BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer", _) => Self::Bert,
            ("RobertaTokenizer", _) => Self::Roberta,
            ("", "clip") => Self::Clip,
            ("", "bert" | "cxr-bert" | "distilbert" | "chinese_clip" | "chinese_clip_text_model") => Self::Bert,
            ("", "roberta") => Self::Roberta,
            _ => Self::AsWritten,
        }
    }

    /// The padding token where no file names one.
    pub fn pad(self) -> &'static str {
        match self {
            Self::Clip => END,
            Self::Bert => "[PAD]",
            Self::Roberta | Self::AsWritten | Self::Siglip2 => "<pad>",
        }
    }

    /// transformers' name of the class.
    pub fn class(self) -> &'static str {
        match self {
            Self::Clip => "CLIPTokenizer",
            Self::Bert => "BertTokenizer",
            Self::Roberta => "RobertaTokenizer",
            Self::AsWritten => "PreTrainedTokenizerFast",
            Self::Siglip2 => "GemmaTokenizer",
        }
    }

    /// A `tokenizer.json` with what the class does whatever the file says.
    pub fn adapt(self, mut tokenizer: Value, config: &Value) -> Value {
        match self {
            Self::Bert if tokenizer["model"]["type"] == "WordPiece" => {
                tokenizer["normalizer"] = bert_normalizer(config)
            }
            Self::Siglip2 => {
                let inner = tokenizer["normalizer"].take();
                let steps: Vec<Value> =
                    [json!({"type": "Lowercase"}), inner].into_iter().filter(|n| !n.is_null()).collect();
                tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
            }
            _ => {}
        }
        tokenizer
    }

    /// Byte-pair encoding from `vocab.json` and `merges.txt`.
    pub fn merges(self, vocab: &[u8], merges: &[u8], config: &Value) -> Result<Value> {
        let vocab = json::parse_object(vocab).context("vocab.json")?.as_object().cloned().unwrap_or_default();
        let id = |token: &str| {
            let id = vocab.get(token).and_then(Value::as_u64);
            id.map(|id| id as u32).with_context(|| format!("vocab.json: has no {token}"))
        };
        let merges = std::str::from_utf8(merges).context("merges.txt: not UTF-8")?;
        check_lines(merges).context("merges.txt")?;
        let merges: Vec<&str> = merges.lines().filter(|l| !l.is_empty() && !l.starts_with("#version")).collect();
        let mut json = match self {
            Self::Roberta => {
                let special: Vec<Value> = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
                    .into_iter()
                    .filter_map(|token| Some(added(id(token).ok()?, token)))
                    .collect();
                roberta(id("<s>")?, id("</s>")?, special, config["add_prefix_space"] == true)
            }
            Self::Clip | Self::AsWritten => clip_pipeline(id(START)?, id(END)?),
            Self::Bert | Self::Siglip2 => {
                bail!("vocab.json and merges.txt are of another kind of tokenizer than {}", self.class())
            }
        };
        json["model"]["merges"] = json!(merges);
        json["model"]["vocab"] = Value::Object(vocab);
        Ok(json)
    }
}

/// Each line becomes a value of JSON.
fn check_lines(text: &str) -> Result<()> {
    let lines = text.bytes().filter(|b| *b == b'\n').count();
    ensure!(lines <= MAX_LINES, "has {lines} lines; allowed are {MAX_LINES}");
    Ok(())
}

/// A special token.
fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

fn bert_normalizer(config: &Value) -> Value {
    let flag = |key: &str| config[key].as_bool().unwrap_or(true);
    json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": flag("tokenize_chinese_chars"),
        "strip_accents": config["strip_accents"], "lowercase": flag("do_lower_case"),
    })
}

/// A BERT tokenizer from `vocab.txt`, one token a line.
pub(super) fn word_piece(vocab: &[u8], config: &Value) -> Result<Value> {
    let text = std::str::from_utf8(vocab).context("vocab.txt: not UTF-8")?;
    check_lines(text).context("vocab.txt")?;
    let mut ids = Map::new();
    for (id, token) in text.lines().enumerate() {
        ids.insert(token.trim_end_matches('\r').to_string(), json!(id));
    }
    let id = |token: &str| {
        let id = ids.get(token).and_then(Value::as_u64);
        id.map(|id| id as u32).with_context(|| format!("vocab.txt: has no {token}"))
    };
    let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let special: Vec<Value> = special.iter().filter_map(|token| Some(added(id(token).ok()?, token))).collect();
    let mark = |token: &str, type_id: u32| json!({"SpecialToken": {"id": token, "type_id": type_id}});
    let text = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
        "normalizer": bert_normalizer(config),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [mark("[CLS]", 0), text("A", 0), mark("[SEP]", 0)],
            "pair": [mark("[CLS]", 0), text("A", 0), mark("[SEP]", 0), text("B", 1), mark("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": ids},
    }))
}

fn roberta(start_id: u32, end_id: u32, special: Vec<Value>, add_prefix_space: bool) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
        "pre_tokenizer":
            {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", end_id], "cls": ["<s>", start_id],
                           "trim_offsets": true, "add_prefix_space": add_prefix_space},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false},
    })
}

/// What transformers 5 builds around a CLIP vocabulary: normalizer, pre-tokenizer, marks of begin and end.
pub(super) fn clip_pipeline(start_id: u32, end_id: u32) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(start_id, START), added(end_id, END)],
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
