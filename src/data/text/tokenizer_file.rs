//! What a `tokenizer.json` may say. The tokenizers crate trusts its files: what it would not survive, or what makes
//! much of little, is refused before it sees them.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::error::shown;

/// Most parts of a pipeline, at any depth; published ones have ten.
const MAX_PARTS: usize = 64;
const MAX_DEPTH: usize = 8;
/// Longest pattern and replacement, in bytes; GPT's pattern has 200.
const MAX_PATTERN: usize = 4096;
/// Longest token in bytes; runs of blanks have a hundred.
const MAX_TOKEN: usize = 1024;
/// A Unigram's tree has a node a byte, of some hundred bytes each; XLM-R's vocabulary has 2 MB.
const MAX_UNIGRAM: usize = 6 << 20;
/// How many times longer a text may become at all.
const MAX_GROWTH: u64 = 1 << 14;
/// Largest id of a token.
const MAX_ID: u64 = 1 << 24;

/// The word for the parts of a list, and the types that are known.
struct Kind {
    key: &'static str,
    list: &'static str,
    types: &'static [&'static str],
}

const KINDS: [Kind; 4] = [
    Kind {
        key: "normalizer",
        list: "normalizers",
        types: &[
            "BertNormalizer",
            "Bert",
            "Strip",
            "StripAccents",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Sequence",
            "Lowercase",
            "Nmt",
            "Precompiled",
            "Replace",
            "Prepend",
            "ByteLevel",
        ],
    },
    Kind {
        key: "pre_tokenizer",
        list: "pretokenizers",
        types: &[
            "BertPreTokenizer",
            "ByteLevel",
            "Delimiter",
            "CharDelimiterSplit",
            "Metaspace",
            "Whitespace",
            "Sequence",
            "Split",
            "Punctuation",
            "WhitespaceSplit",
            "Digits",
            "UnicodeScripts",
            "FixedLength",
        ],
    },
    Kind {
        key: "post_processor",
        list: "processors",
        types: &["RobertaProcessing", "BertProcessing", "ByteLevel", "TemplateProcessing", "Sequence"],
    },
    Kind {
        key: "decoder",
        list: "decoders",
        types: &[
            "BPEDecoder",
            "ByteLevel",
            "WordPiece",
            "Metaspace",
            "CTC",
            "Sequence",
            "Replace",
            "Fuse",
            "Strip",
            "ByteFallback",
        ],
    },
];

/// Checks a file; says how many times longer its pipeline can make a text.
///
/// # Errors
/// The part that is none, with what is allowed.
pub(super) fn check(file: &Value) -> Result<u64> {
    let mut growth = 1u64;
    for kind in &KINDS {
        let mut parts = 0;
        let grown = check_part(kind, &file[kind.key], 0, &mut parts).with_context(|| kind.key)?;
        if kind.key != "decoder" {
            growth = growth.saturating_mul(grown);
        }
    }
    ensure!(growth <= MAX_GROWTH, "its steps can make a text {growth} times longer; allowed is {MAX_GROWTH}");
    check_model(&file["model"]).context("model")?;
    let added = file["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    for token in added {
        let content = token["content"].as_str().unwrap_or_default();
        ensure!(
            !content.is_empty() && content.len() <= MAX_TOKEN,
            "added_tokens: a token has {} bytes; allowed are 1 to {MAX_TOKEN}",
            content.len()
        );
        check_id(&token["id"]).context("added_tokens")?;
    }
    Ok(growth)
}

/// How many times longer this part, or the list of parts, can make a text.
fn check_part(kind: &Kind, part: &Value, depth: usize, parts: &mut usize) -> Result<u64> {
    if part.is_null() {
        return Ok(1);
    }
    *parts += 1;
    ensure!(
        *parts <= MAX_PARTS && depth <= MAX_DEPTH,
        "has more than {MAX_PARTS} parts, or {MAX_DEPTH} levels of them"
    );
    let name = part["type"].as_str().unwrap_or_default();
    let known = kind.types.contains(&name);
    ensure!(known, "type {:?} is not known", shown(name));
    if name == "Sequence" {
        let inner = part[kind.list].as_array().with_context(|| format!("a Sequence without {}", kind.list))?;
        return inner
            .iter()
            .try_fold(1u64, |all, part| Ok(all.saturating_mul(check_part(kind, part, depth + 1, parts)?)));
    }
    growth(name, part).with_context(|| name.to_string())
}

/// How many times longer one part can make a text, in bytes of UTF-8.
fn growth(name: &str, part: &Value) -> Result<u64> {
    Ok(match name {
        "NFC" | "NFD" | "Lowercase" | "BertNormalizer" | "Bert" | "Metaspace" => 3,
        // Unicode's own table of worst cases.
        "NFKC" | "NFKD" => 11,
        "ByteLevel" => 2,
        "Precompiled" => check_charsmap(&part["precompiled_charsmap"])?,
        "Replace" => {
            let content = short(&part["content"], "content")?;
            match (&part["pattern"]["String"], &part["pattern"]["Regex"]) {
                (Value::String(old), _) if !old.is_empty() && old.len() <= MAX_PATTERN => {
                    (content.len() as u64).div_ceil(old.len() as u64).max(1)
                }
                // An empty match stands before each character.
                (_, pattern @ Value::String(_)) => {
                    short(pattern, "pattern")?;
                    content.len() as u64 + 1
                }
                _ => bail!("a pattern of 1 to {MAX_PATTERN} bytes is wanted"),
            }
        }
        "Prepend" => 1 + short(&part["prepend"], "prepend")?.len() as u64,
        "Split" => {
            let pattern = &part["pattern"];
            short(if pattern["String"].is_string() { &pattern["String"] } else { &pattern["Regex"] }, "pattern")?;
            1
        }
        "FixedLength" => {
            ensure!(part["length"].as_u64() != Some(0), "length is 0");
            1
        }
        "TemplateProcessing" => {
            check_template(part)?;
            1
        }
        _ => 1,
    })
}

fn short<'a>(text: &'a Value, key: &str) -> Result<&'a str> {
    let text = text.as_str().with_context(|| format!("has no {key}"))?;
    ensure!(text.len() <= MAX_PATTERN, "{key} has {} bytes; allowed are {MAX_PATTERN}", text.len());
    Ok(text)
}

/// SentencePiece's map: the length of a trie, the trie, and texts that each end in a zero. How long the longest is.
fn check_charsmap(map: &Value) -> Result<u64> {
    let map = map.as_str().and_then(|map| STANDARD.decode(map).ok()).context("its map is not base64")?;
    let (head, rest) = map.split_first_chunk::<4>().context("its map is cut short")?;
    let trie = u32::from_le_bytes(*head) as usize;
    let fits = trie.is_multiple_of(4) && trie >= 1024 && trie <= rest.len();
    ensure!(fits, "its map says that its trie has {trie} bytes, and has {} itself", map.len());
    let texts = std::str::from_utf8(&rest[trie..]).context("its map is not UTF-8")?;
    let longest = texts.split('\0').map(str::len).max().unwrap_or(0);
    ensure!(longest <= MAX_TOKEN, "its map makes {longest} bytes of a character; allowed are {MAX_TOKEN}");
    Ok(longest.max(1) as u64)
}

/// Every mark that a template sets must be told, and texts stand in it once or twice.
fn check_template(part: &Value) -> Result<()> {
    for key in ["single", "pair"] {
        let pieces = part[key].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(pieces.len() <= 16, "{key} has {} pieces; allowed are 16", pieces.len());
        for id in pieces.iter().filter_map(|piece| piece["SpecialToken"]["id"].as_str()) {
            let shown = shown(id);
            let told = part["special_tokens"][id]["ids"].as_array();
            let ids = told.with_context(|| format!("{key} sets {shown:?}, which special_tokens does not have"))?;
            ensure!(ids.len() <= 64, "{shown:?} has {} ids; allowed are 64", ids.len());
        }
    }
    Ok(())
}

fn check_id(id: &Value) -> Result<()> {
    let known = id.as_u64().is_some_and(|id| id < MAX_ID);
    ensure!(known, "id {} of a token; allowed are 0 to {}", shown(&id.to_string()), MAX_ID - 1);
    Ok(())
}

fn check_model(model: &Value) -> Result<()> {
    let name = model["type"].as_str();
    // Files of 2020 have none.
    let known = name.is_none_or(|name| ["BPE", "WordPiece", "WordLevel", "Unigram"].contains(&name));
    ensure!(known, "type {:?} is not known", shown(name.unwrap_or_default()));
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let length = model[key].as_str().map_or(0, str::len);
        ensure!(length <= 32, "{key} has {length} bytes; allowed are 32");
    }
    let word = &model["max_input_chars_per_word"];
    let short = word.is_null() || word.as_u64().is_some_and(|n| n <= 1000);
    let word = shown(&word.to_string());
    ensure!(short, "max_input_chars_per_word is {word}; allowed is 1000: its work grows with the square");
    let check_token = |token: &str| {
        ensure!(token.len() <= MAX_TOKEN, "a token has {} bytes; allowed are {MAX_TOKEN}", token.len());
        Ok(token.len())
    };
    match &model["vocab"] {
        Value::Object(vocab) => {
            for (token, id) in vocab {
                check_token(token)?;
                check_id(id)?;
            }
        }
        Value::Array(vocab) => {
            let mut bytes = 0;
            for entry in vocab {
                bytes += check_token(entry[0].as_str().context("a token without a text")?)?;
            }
            ensure!(bytes <= MAX_UNIGRAM, "its tokens have {bytes} bytes together; allowed are {MAX_UNIGRAM}");
        }
        _ => bail!("has no vocab"),
    }
    Ok(())
}
