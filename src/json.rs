//! JSON from outside, bounded before it is parsed: a byte of text may become a value of seventy.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

use crate::error::{did_you_mean, shown};
use crate::fs::read_up_to;

/// Longest file: tokenizers of 250,000 tokens have 35 MB.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most values; that tokenizer has two million.
const MAX_VALUES: usize = 4 << 20;

/// Parses a text; nesting is bounded by the parser.
///
/// # Errors
/// It is no JSON, or has more than four million values.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    parse_up_to(bytes, MAX_VALUES)
}

/// [`parse`] for what has up to `most` values where it is what it should be.
///
/// # Errors
/// As there.
pub fn parse_up_to(bytes: &[u8], most: usize) -> Result<Value> {
    check_bounds(bytes, most)?;
    serde_json::from_slice(bytes).context("not JSON")
}

/// [`parse`] of what asks for something: an object that has a name twice is refused, for one of both would be passed
/// over.
///
/// # Errors
/// As there; a name that stands twice.
pub fn parse_distinct(bytes: &[u8]) -> Result<Value> {
    check_bounds(bytes, MAX_VALUES)?;
    serde_json::from_slice::<Distinct>(bytes).map(|value| value.0).map_err(|e| match e.classify() {
        Category::Data => anyhow!("a name stands twice, again in line {}, column {}", e.line(), e.column()),
        _ => no_json(bytes, &e),
    })
}

/// Where bytes end to be JSON, and why; what stands there is not repeated.
fn no_json(bytes: &[u8], error: &serde_json::Error) -> anyhow::Error {
    if bytes.trim_ascii().is_empty() {
        return anyhow!("not JSON: it is empty");
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return anyhow!("not JSON: it begins with a byte order mark; write it without");
    }
    if let Err(e) = std::str::from_utf8(bytes) {
        let before = &bytes[..e.valid_up_to()];
        let lines = before.iter().filter(|&&b| b == b'\n').count();
        let column = before.iter().rev().take_while(|&&b| b != b'\n').count();
        return anyhow!("not JSON from line {}, column {} on: is not UTF-8", lines + 1, column + 1);
    }
    let (line, column) = (error.line(), error.column());
    let rest = bytes.split(|&b| b == b'\n').nth(line.saturating_sub(1)).unwrap_or_default();
    let rest = rest.get(column.saturating_sub(1)..).unwrap_or_default();
    let parser = error.to_string();
    // Of faults of form the parser says these words alone.
    let why = match parser.rsplit_once(" at line ").map_or(&parser[..], |(why, _)| why) {
        _ if rest.starts_with(b"NaN") || rest.starts_with(b"Infinity") => "NaN and Infinity are no numbers of JSON",
        why if why.starts_with("EOF") => "it ends there",
        "recursion limit exceeded" => "lists and objects stand in one another too deep",
        "trailing characters" => "something stands behind its end",
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "half of a surrogate pair, or a cut one"
        }
        why => why,
    };
    anyhow!("not JSON from line {line}, column {column} on: {why}")
}

/// What `fields` hold by name, none of which is another than `known`.
///
/// # Errors
/// Another one, or no object.
pub fn fields<'a>(value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>> {
    let Some(fields) = value.as_object() else {
        bail!("is {}; allowed is an object of {}", shown(&value.to_string()), known.join(", "));
    };
    if let Some(other) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        let hint = did_you_mean(other, known.iter().copied()).map_or(String::new(), |k| format!("; did you mean {k}?"));
        bail!("{} is no key; allowed are {}{hint}", shown(other), known.join(", "));
    }
    Ok(fields)
}

/// The field of `key` as `read` takes it.
///
/// # Errors
/// It takes it not; the message says what is `allowed`.
pub fn field<T>(key: &str, value: &Value, allowed: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
    read(value).with_context(|| format!("{key} is {}; allowed is {allowed}", shown(&value.to_string())))
}

/// One of `words`, by what finds it.
///
/// # Errors
/// It is another value.
pub fn word<T>(key: &str, value: &Value, words: &[&str], find: fn(&str) -> Option<T>) -> Result<T> {
    let allowed = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    field(key, value, &allowed, |value| value.as_str().and_then(find))
}

/// A whole number from 1 to `most`.
///
/// # Errors
/// It is another value.
pub fn count(key: &str, value: &Value, most: usize) -> Result<usize> {
    let allowed = format!("a whole number from 1 to {most}");
    field(key, value, &allowed, |value| value.as_u64().map(|n| n as usize).filter(|n| (1..=most).contains(n)))
}

fn check_bounds(bytes: &[u8], most: usize) -> Result<()> {
    ensure!(bytes.len() as u64 <= MAX_BYTES, "has {} bytes; allowed are {MAX_BYTES}", bytes.len());
    let values = bytes.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
    ensure!(values <= most, "has {values} values; allowed are {most}");
    Ok(())
}

/// A value whose objects have each name once.
struct Distinct(Value);

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(Once).map(Self)
    }
}

/// Reads a [`Distinct`].
struct Once;

impl<'de> Visitor<'de> for Once {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Distinct(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Distinct(value))) = fields.next_entry::<String, _>()? {
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

/// The object of a text: configs are nothing else, and fields are put into them.
///
/// # Errors
/// As [`parse`], or it is another value.
pub fn parse_object(bytes: &[u8]) -> Result<Value> {
    let value = parse(bytes)?;
    ensure!(value.is_object(), "not a JSON object");
    Ok(value)
}

/// The object in a file.
///
/// # Errors
/// As [`parse_object`], with the file's path.
pub fn read(path: &Path) -> Result<Value> {
    parse_object(&read_up_to(path, MAX_BYTES)?).with_context(|| path.display().to_string())
}

/// [`read`] of what people edit: a name that stands twice is refused.
///
/// # Errors
/// As there.
pub fn read_distinct(path: &Path) -> Result<Value> {
    parse_distinct(&read_up_to(path, MAX_BYTES)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_and_deep_ones_are_refused() {
        let many = [&b"["[..], &b"0,".repeat(5 << 20), b"0]"].concat();
        assert!(parse(&many).unwrap_err().to_string().contains("values; allowed are"));
        assert!(parse(&b"[".repeat(100_000)).is_err());
        assert_eq!(parse(b"{\"a\": [1]}").unwrap()["a"][0], 1);
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth_and_all_else_is_read_alike() {
        let text = r#"{"a": [1, -2, 0.5, 1e300, true, null, "x\u00e9"], "b": {"a": {}}, "c": 18446744073709551615}"#;
        assert_eq!(parse_distinct(text.as_bytes()).unwrap(), parse(text.as_bytes()).unwrap());
        for twice in [r#"{"a": 1, "a": 1}"#, r#"{"b": [{"a": 1, "c": 2, "a": null}]}"#, r#"{"a": 1, "\u0061": 2}"#] {
            assert!(parse(twice.as_bytes()).is_ok() && parse_distinct(twice.as_bytes()).is_err(), "{twice}");
        }
        assert!(parse_distinct(&b"[".repeat(100_000)).is_err() && parse_distinct(b"{} x").is_err());
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place_and_why() {
        let told = |bytes: &[u8]| parse_distinct(bytes).unwrap_err().to_string();
        for (bytes, wanted) in [
            (&b" \n"[..], "not JSON: it is empty"),
            (b"\xef\xbb\xbf{}", "not JSON: it begins with a byte order mark; write it without"),
            (b"{\n\"a\": \"\xff\"}", "not JSON from line 2, column 7 on: is not UTF-8"),
            (b"{\"a\": 1} x", "not JSON from line 1, column 10 on: something stands behind its end"),
            (b"{\"a\":\n NaN}", "not JSON from line 2, column 2 on: NaN and Infinity are no numbers of JSON"),
            (b"{\"a\": -Infinity}", "on: NaN and Infinity are no numbers of JSON"),
            (b"{\"a\": \"\\ud800\"}", "on: half of a surrogate pair, or a cut one"),
            (b"{\"a\": \"\\udc00\"}", "on: half of a surrogate pair, or a cut one"),
            (b"{\"a\": ", "on: it ends there"),
            (b"{\"Zxqv\" 1}", "not JSON from line 1, column 9 on: expected `:`"),
            (b"{\"a\": 1, \"a\": 2}", "a name stands twice, again in line 1, column "),
            (&b"[".repeat(1_000), "on: lists and objects stand in one another too deep"),
        ] {
            assert!(told(bytes).contains(wanted), "{}", told(bytes));
        }
    }
}
