//! Tokenizers that nobody would publish: each is used, or refused with one line, and no text makes much of little.
#![allow(clippy::unwrap_used)]

use std::fs;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reportclip::data::{ReportTokenizer, TokenizerKind};
use reportclip::error::one_line;
use serde_json::{Value, json};

use crate::common::golden;

const FAMILIES: [(&str, &str); 5] = [
    ("tokenizer/full", "clip"),
    ("tokenizer_families/bert_fast", "bert"),
    ("tokenizer_families/siglip", "siglip"),
    ("tokenizer_families/siglip2", "siglip2"),
    ("tokenizer_families/xlmr", "xlm-roberta"),
];

fn file(family: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(family).join("tokenizer.json")).unwrap()).unwrap()
}

fn build(files: &[(&str, &[u8])], model_type: &str) -> anyhow::Result<ReportTokenizer> {
    let kind = TokenizerKind { model_type: model_type.into(), context_length: 24, full_length: false };
    ReportTokenizer::from_files(files.iter().map(|(n, b)| ((*n).to_string(), b.to_vec())).collect(), kind)
}

/// The line with which a file is refused, at once or for a text.
fn refusal(family: (&str, &str), change: impl FnOnce(&mut Value)) -> String {
    let mut json = file(family.0);
    change(&mut json);
    let used = build(&[("tokenizer.json", json.to_string().as_bytes())], family.1)
        .and_then(|tokenizer| tokenizer.encode("No acute cardiopulmonary abnormality."));
    let line = one_line(&used.expect_err("must be refused"));
    assert!(line.lines().count() == 1 && line.chars().count() < 500, "{line}");
    line
}

#[test]
fn what_the_library_would_not_survive_is_refused() {
    let [clip, bert, siglip, _, xlmr] = FAMILIES;
    let replace = |content: &str| json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
    let nested = (0..20).fold(json!({"type": "NFC"}), |inner, _| json!({"type": "Sequence", "normalizers": [inner]}));
    let lying = "////f////////w=="; // A trie of 2 GiB.
    let changes = [
        ("charsmap", clip, "/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "cut short"),
        ("no charsmap", clip, "/normalizer", json!({"type": "Precompiled"}), "its map is not base64"),
        ("trie", xlmr, "/normalizer/precompiled_charsmap", json!(lying), "its trie has"),
        ("prefix", clip, "/model/continuing_subword_prefix", json!("#".repeat(99)), "continuing_subword_prefix has 99"),
        ("short prefix", clip, "/model/continuing_subword_prefix", json!("#######"), "tokenizer.json"),
        ("template", bert, "/post_processor/special_tokens", json!({}), "special_tokens does not have"),
        ("long template", bert, "/post_processor/single", json!(vec![json!({}); 1000]), "has 1000 pieces"),
        ("doublings", clip, "/normalizer/normalizers", json!(vec![replace("aa"); 30]), "2147483648 times longer"),
        ("one long", clip, "/normalizer/normalizers", json!([replace(&"b".repeat(5000))]), "content has 5000 bytes"),
        ("nested", clip, "/normalizer", nested, "levels"),
        ("unknown part", clip, "/pre_tokenizer", json!({"type": "Exec"}), "type \"Exec\" is not known"),
        ("unknown model", clip, "/model/type", json!("Magic"), "type \"Magic\" is not known"),
        ("long words", bert, "/model/max_input_chars_per_word", json!(1u64 << 40), "work grows"),
        ("far ids", bert, "/model/vocab/[PAD]", json!(u32::MAX), "id 4294967295"),
        ("long token", siglip, "/model/vocab/5", json!(["a".repeat(2000), -1.0]), "a token has 2000 bytes"),
        ("no length", clip, "/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "length is 0"),
    ];
    for (what, family, at, value, expected) in changes {
        let line = refusal(family, |json| *json.pointer_mut(at).unwrap_or_else(|| panic!("{what}: {at}")) = value);
        assert!(line.contains(expected), "{what}: {line}");
    }
    for bytes in [&b"[]"[..], b"5", b"{", b"{}"] {
        assert!(build(&[("tokenizer.json", bytes)], "siglip2").is_err());
    }
    let lines = b"a\n".repeat(2 << 20);
    assert!(one_line(&build(&[("vocab.txt", &lines)], "bert").unwrap_err()).contains("2097152 lines"));
    assert!(build(&[("vocab.json", b"[]"), ("merges.txt", b"a b")], "clip").is_err());
    assert!(build(&[("vocab.txt", b"[CLS]\n[SEP]\n"), ("tokenizer_config.json", b"[1]")], "bert").is_err());
}

#[test]
fn texts_are_bounded_by_what_they_become() {
    let mut json = file("tokenizer/full");
    let growing = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(1024)});
    json["normalizer"] = growing;
    let tokenizer = build(&[("tokenizer.json", json.to_string().as_bytes())], "clip").unwrap();
    tokenizer.encode("an image").unwrap();
    let error = tokenizer.encode(&"a".repeat(100_000)).unwrap_err().to_string();
    assert!(error.contains("a text of 100000 bytes; this tokenizer may be given"), "{error}");
    for (family, model_type) in FAMILIES {
        let bytes = fs::read(golden(family).join("tokenizer.json")).unwrap();
        let tokenizer = build(&[("tokenizer.json", &bytes)], model_type).unwrap();
        tokenizer.encode(&"Heart size is normal. ".repeat(500)).unwrap();
        assert!(tokenizer.encode(&"a".repeat(2 << 20)).unwrap_err().to_string().contains("may be given"));
    }
}

/// Whatever value stands anywhere in a file, nothing panics through and nothing takes long.
#[test]
fn mutated_tokenizers_are_used_or_are_one_line() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let values = [
        json!(null),
        json!(-1),
        json!(0),
        json!(1e18),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}"),
        json!("(a*)*$"),
        json!("é".repeat(300)),
        json!([]),
        json!({}),
        json!(true),
        json!([[]]),
        json!({"String": ""}),
        json!("[UNK]"),
        json!({"Regex": "(?=)"}),
        json!([{"type": "NFKD"}]),
    ];
    for (family, model_type) in FAMILIES {
        let whole = file(family);
        for _ in 0..250 {
            let mut json = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let mut at = &mut json;
                // Any depth but the whole file.
                for _ in 0..rng.random_range(1..6) {
                    let length = at.as_object().map_or(0, serde_json::Map::len).max(at.as_array().map_or(0, Vec::len));
                    if length == 0 {
                        break;
                    }
                    let chosen = rng.random_range(0..length);
                    at = match at {
                        Value::Object(object) => object.values_mut().nth(chosen).unwrap(),
                        Value::Array(list) => &mut list[chosen],
                        _ => unreachable!(),
                    };
                }
                *at = values[rng.random_range(0..values.len())].clone();
            }
            let used = build(&[("tokenizer.json", json.to_string().as_bytes())], model_type).and_then(|tokenizer| {
                tokenizer.pieces(&[3, 4]);
                tokenizer.chunks("Ein Satz. 右肺上葉に結節。 Another one.\u{0}")?;
                tokenizer.encode("a")
            });
            if let Err(error) = used {
                let line = one_line(&error);
                assert!(line.lines().count() == 1 && line.chars().count() < 500, "{family}: {line}");
            }
        }
    }
}
