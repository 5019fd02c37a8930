//! Fields of other programs' config files, read within bounds.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::error;
use crate::ops::Activation;

fn shown(value: &Value) -> String {
    error::shown(&value.to_string())
}

/// One object of a config file.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    /// Where it stands, for messages; empty at the top.
    pub name: &'a str,
    pub json: &'a Value,
}

impl<'a> Section<'a> {
    /// The object under `key`, empty where there is none.
    pub fn of(json: &'a Value, key: &'a str) -> Self {
        Self { name: key, json: json.get(key).unwrap_or(&Value::Null) }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_string() } else { format!("{}.{key}", self.name) }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// A count between 1 and 2^20: past that a config is broken or hostile.
    pub fn size(&self, key: &str, default: usize) -> Result<usize> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => self.checked_size(key, value),
        }
    }

    fn checked_size(&self, key: &str, value: &Value) -> Result<usize> {
        let n =
            value.as_u64().with_context(|| format!("{} is {}, not a whole number", self.path(key), shown(value)))?;
        ensure!((1..=1 << 20).contains(&n), "{} is {n}, allowed is 1 to {}", self.path(key), 1 << 20);
        Ok(n as usize)
    }

    /// A count that may be absent.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.value(key).map(|value| self.checked_size(key, value)).transpose()
    }

    /// A token id: a count that may be 0.
    pub fn id(&self, key: &str, default: u32) -> Result<u32> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => {
                let id = value.as_u64().filter(|id| *id < 1 << 24);
                Ok(id.with_context(|| format!("{} is {}, not a token id", self.path(key), shown(value)))? as u32)
            }
        }
    }

    /// A side given as one number, or as a pair of equal ones.
    pub fn side(&self, key: &str, default: usize) -> Result<usize> {
        match self.value(key) {
            Some(Value::Array(pair)) if pair.len() == 2 && pair[0] == pair[1] => self.checked_size(key, &pair[0]),
            Some(value @ Value::Array(_)) => bail!("{} is {}; images are square here", self.path(key), shown(value)),
            _ => self.size(key, default),
        }
    }

    pub fn sizes(&self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        match self.value(key) {
            None => Ok(default.to_vec()),
            Some(Value::Array(list)) if (1..=16).contains(&list.len()) => {
                list.iter().map(|value| self.checked_size(key, value)).collect()
            }
            Some(value) => bail!("{} is {}, not a list of up to 16 whole numbers", self.path(key), shown(value)),
        }
    }

    /// Blocks of each stage, together no more than a model has.
    pub fn depths(&self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        let depths = self.sizes(key, default)?;
        let all: usize = depths.iter().sum();
        ensure!(all <= 1024, "{} has {all} blocks in all; allowed are up to 1024", self.path(key));
        Ok(depths)
    }

    /// A width divided by another.
    pub fn ratio(&self, key: &str, default: f64) -> Result<f64> {
        let ratio = self.number(key, default)?;
        ensure!(ratio > 0.0 && ratio <= 1024.0, "{} is {ratio}; allowed is more than 0, up to 1024", self.path(key));
        Ok(ratio)
    }

    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => {
                value.as_f64().with_context(|| format!("{} is {}, not a number", self.path(key), shown(value)))
            }
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().with_context(|| format!("{} is {}, not true or false", self.path(key), shown(value)))
            }
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => {
                Ok(Some(value.as_str().with_context(|| format!("{} is {}, not text", self.path(key), shown(value)))?))
            }
        }
    }

    pub fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        match self.text(key)?.unwrap_or(default) {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "relu6" => Ok(Activation::Relu6),
            "silu" | "swish" => Ok(Activation::Silu),
            other => bail!(
                "{} is {}; known are quick_gelu, gelu, gelu_pytorch_tanh, relu, relu6 and silu",
                self.path(key),
                shown(&other.into())
            ),
        }
    }

    /// Refuses a model that says `key` is anything but `allowed`.
    pub fn refuse_unless(&self, key: &str, allowed: &Value) -> Result<()> {
        match self.value(key) {
            Some(value) if value != allowed => {
                bail!("{} is {}; this version takes {allowed}", self.path(key), shown(value))
            }
            _ => Ok(()),
        }
    }
}
