//! What the user wrote: values by dotted key with where they stand, checked against the table of keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::key::Key;
use super::keys::KEYS;
use super::kind::Kind;
use crate::data::{VolumePolicy, Window};
use crate::error::did_you_mean;
use crate::span::Span;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Line of the config file.
    Line(usize),
    /// A `--set` on the command line.
    Set,
}

/// What is wrong with what was written.
#[derive(Clone, Debug)]
pub(super) struct Mistake {
    /// The key that is wrong, or that was probably meant.
    pub key: Option<&'static str>,
    /// What to tell the user.
    pub line: String,
}

/// Values as written, with every mistake found on the way.
#[derive(Debug, Default)]
pub struct Written {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<&'static str, (Value, Origin)>,
    pub(super) mistakes: Vec<Mistake>,
    /// Of a run that goes on: it may be older than some of the checks.
    pub(super) goes_on: bool,
}

impl Written {
    /// Parses `text`, the content of `path`, then `overrides` of the form `key=value`.
    pub fn parse(path: &Path, text: &str, overrides: &[String]) -> Self {
        let mut written = Self { path: path.to_path_buf(), ..Self::default() };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        for e in &errors {
            let line = e.span().map_or(1, |s| line_of(text, s.start));
            written.note(None, format!("{}:{line}: {}", path.display(), e.message().replace('\n', ", ")));
        }
        written.walk("", table.get_ref(), text);
        for text in overrides {
            written.set(text);
        }
        written.leave_phantoms_to_the_file();
        written
    }

    fn walk(&mut self, prefix: &str, table: &DeTable, text: &str) {
        for (key, value) in table {
            let name =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let origin = Origin::Line(line_of(text, key.span().start));
            match value.get_ref() {
                DeValue::Table(inner) if is_section(&name) || (!is_key(&name) && !inner.is_empty()) => {
                    self.walk(&name, inner, text);
                }
                leaf => self.insert(&name, plain(leaf), origin),
            }
        }
    }

    fn set(&mut self, text: &str) {
        let Some((name, value)) = text.split_once('=') else {
            let line = format!("--set {text:?}: expected key=value, for example --set train.batch_size=16");
            return self.note(None, line);
        };
        let (name, value) = (name.trim(), value.trim());
        // Numbers and booleans as TOML reads them; anything else is text, so that no quotes are needed in a shell. For
        // a key that takes text only, a number is text too.
        let is_text = KEYS
            .iter()
            .any(|k| k.name == name && matches!(k.kind, Kind::Text | Kind::Path | Kind::OneOf(_) | Kind::Sources));
        if is_text && !value.starts_with(['"', '[']) {
            return self.insert(name, Some(Value::String(value.to_string())), Origin::Set);
        }
        let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
        match parsed {
            Some(Value::Table(section)) if is_section(name) && !section.is_empty() => {
                for (key, value) in section {
                    self.insert(&format!("{name}.{key}"), Some(value), Origin::Set);
                }
            }
            parsed => {
                self.insert(name, Some(parsed.unwrap_or_else(|| Value::String(value.to_string()))), Origin::Set);
            }
        }
    }

    /// Whoever names data of his own on the command line means these: the phantoms of the file are for the file's data.
    fn leave_phantoms_to_the_file(&mut self) {
        let is_set = |key: &str| self.values.get(key).map(|(_, origin)| *origin == Origin::Set);
        if is_set("data.train") == Some(true) && is_set("data.phantom") == Some(false) {
            self.values.remove("data.phantom");
        }
    }

    fn insert(&mut self, name: &str, value: Option<Value>, origin: Origin) {
        let place = self.place(name, &origin);
        let Some(key) = KEYS.iter().find(|k| k.name == name) else {
            let meant = meant_by(name);
            let hint = match meant.as_slice() {
                [] => "`reportclip config list` shows all keys".to_string(),
                known => format!("did you mean `{}`?", known.join("` or `")),
            };
            let what = if is_section(name) { "is a section, not a key" } else { "unknown key" };
            return self.note(meant.first().copied(), format!("{place}: {what}; {hint}"));
        };
        match value.as_ref().ok_or_else(|| "a date or an unreadable number".to_string()).and_then(|v| check(key, v)) {
            Ok(value) => {
                self.values.insert(key.name, (value, origin));
            }
            Err(seen) => self.note(Some(key.name), format!("{place}: is {seen}; allowed is {}", key.kind.allowed())),
        }
    }

    fn note(&mut self, key: Option<&'static str>, line: String) {
        self.mistakes.push(Mistake { key, line });
    }

    /// Whether the user has been told already that this key is wrong.
    pub(super) fn is_mistaken(&self, key: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.key == Some(key))
    }

    /// `file:line: key` or `--set key`.
    pub(super) fn place(&self, name: &str, origin: &Origin) -> String {
        match origin {
            Origin::Line(line) => format!("{}:{line}: {name}", self.path.display()),
            Origin::Set => format!("--set {name}"),
        }
    }

    /// Where the value of `name` stands, or just its name in the file when it is a default.
    pub(super) fn place_of(&self, name: &str) -> String {
        match self.values.get(name) {
            Some((_, origin)) => self.place(name, origin),
            None => format!("{}: {name}", self.path.display()),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}

fn is_key(name: &str) -> bool {
    KEYS.iter().any(|k| k.name == name)
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|k| k.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The key that is spelled nearly so, else those whose last part is: `batch_size` is looked for without its section.
fn meant_by(name: &str) -> Vec<&'static str> {
    let keys = || KEYS.iter().map(|k| k.name);
    if let Some(known) = did_you_mean(name, keys()) {
        return vec![known];
    }
    let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let wanted = name.rsplit('.').next().unwrap_or(name);
    let Some(close) = did_you_mean(wanted, keys().map(last)).filter(|_| !is_section(name)) else { return Vec::new() };
    // The longer the list, the less it says.
    Some(keys().filter(|key| last(key) == close).collect::<Vec<_>>()).filter(|all| all.len() <= 3).unwrap_or_default()
}

fn spelled(key: &toml::Spanned<std::borrow::Cow<str>>) -> String {
    key.get_ref().to_string()
}

/// The value as a `toml::Value`; `None` for what no key takes.
fn plain(value: &DeValue) -> Option<Value> {
    Some(match value {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Boolean(b) => Value::Boolean(*b),
        DeValue::Integer(i) => Value::Integer(i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok()?),
        DeValue::Float(f) => Value::Float(f.as_str().replace('_', "").parse().ok()?),
        DeValue::Array(items) => Value::Array(items.iter().map(|v| plain(v.get_ref())).collect::<Option<_>>()?),
        DeValue::Table(inner) => {
            let entry = |(key, value): (&_, &_)| Some((spelled(key), plain(toml::Spanned::get_ref(value))?));
            Value::Table(inner.iter().map(entry).collect::<Option<_>>()?)
        }
        DeValue::Datetime(_) => return None,
    })
}

/// A number, whole or not.
fn number(value: &Value) -> Option<f64> {
    value.as_float().or(value.as_integer().map(|n| n as f64))
}

/// The value in the type of its key, or what it is instead.
pub(super) fn check(key: &Key, value: &Value) -> Result<Value, String> {
    let seen = || match value {
        Value::String(s) => format!("the text {s:?}"),
        Value::Array(_) => format!("the list {value}"),
        Value::Table(_) => "a section".into(),
        other => other.to_string(),
    };
    let fits = match (key.kind, value) {
        (Kind::Bool, Value::Boolean(_)) => true,
        (Kind::Int(min, max), Value::Integer(n)) => (min..=max).contains(n),
        (Kind::Float(min, max), Value::Float(x)) => x.is_finite() && (min..=max).contains(x),
        (Kind::Float(min, max), Value::Integer(n)) => {
            let x = *n as f64;
            return if (min..=max).contains(&x) { Ok(Value::Float(x)) } else { Err(seen()) };
        }
        // One is a list of one.
        (Kind::ListOf(_) | Kind::Floats(..), one) if !one.is_array() => {
            return check(key, &Value::Array(vec![one.clone()])).map_err(|_| seen());
        }
        (Kind::Sources, Value::Array(items)) => {
            !items.is_empty() && items.iter().all(|v| v.as_str().is_some_and(|s| !s.is_empty()))
        }
        (Kind::ListOf(words), Value::Array(items)) => {
            items.iter().all(|v| v.as_str().is_some_and(|word| words.contains(&word)))
        }
        (Kind::Floats(min, max), Value::Array(items)) => items.iter().all(|v| {
            let x = number(v);
            x.is_some_and(|x| x > min && x <= max)
        }),
        (Kind::Smoothing, Value::Float(x)) => (0.0..=1.0).contains(x),
        (Kind::Smoothing, Value::Integer(n)) => {
            return if (0..=1).contains(n) { Ok(Value::Float(*n as f64)) } else { Err(seen()) };
        }
        (Kind::Smoothing, Value::Table(table)) => {
            let span = match table.get("over") {
                Some(Value::Integer(n)) => *n >= 0,
                Some(Value::String(s)) => Span::parse(s).is_some(),
                _ => false,
            };
            let ends =
                ["from", "to"].iter().all(|n| table.get(*n).and_then(number).is_some_and(|x| (0.0..=1.0).contains(&x)));
            return if ends && span && table.len() == 3 { Ok(value.clone()) } else { Err(format!("{value}")) };
        }
        (Kind::ClassWeights, Value::String(s)) => s == "none" || s == "balanced",
        (Kind::ClassWeights, Value::Array(items)) => {
            items.len() > 1 && items.iter().all(|v| number(v).is_some_and(|x| x > 0.0 && x.is_finite()))
        }
        (Kind::Spacing, Value::Array(items)) => VolumePolicy::allows_spacing(items.iter().map(number)),
        (Kind::Window, window) => Window::deserialize(window.clone()).is_ok(),
        (Kind::Sources, Value::String(s)) => !s.is_empty(),
        (Kind::Text, Value::String(_)) => true,
        (Kind::Path, Value::String(s)) => !s.is_empty(),
        (Kind::OneOf(words), Value::String(s)) => words.contains(&s.as_str()),
        (Kind::Span, Value::Integer(n)) => *n >= 0,
        (Kind::Span, Value::String(s)) => Span::parse(s).is_some(),
        (Kind::Freeze, Value::Integer(n)) => *n >= 0,
        (Kind::Freeze, Value::String(s)) => s == "none" || s == "all",
        _ => false,
    };
    if fits { Ok(value.clone()) } else { Err(seen()) }
}
