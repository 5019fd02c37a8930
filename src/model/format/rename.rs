//! Tables of rename rules: other programs' names and shapes of tensors to ours, and back.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Shape, Tensor};

/// How a tensor lies in the other layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As ours.
    Same,
    /// With this many dimensions of 1 before ours.
    Leading(usize),
    /// Its two dimensions swapped.
    Transposed,
    /// A patch's pixels as rows: (width, patch · patch · channels) for our (width, channels, patch, patch).
    PatchRows,
    /// Part `.0` of `.1` that lie one after the other. Written in tables as `{q|k|v}` in our name.
    Part(usize, usize),
}

/// What is done to a tensor of the other layout, in a word; empty where it is taken as it is.
pub fn change_in_words(how: How) -> &'static str {
    match how {
        How::Same => "",
        How::Leading(_) => "reshaped",
        How::Transposed => "transposed",
        How::PatchRows => "patch rows to a kernel",
        How::Part(..) => "part of it",
    }
}

/// The other name, our name, how the tensor lies. A `*` stands for one part between dots, the same in both names.
pub type Rule = (&'static str, &'static str, How);

/// Rules of one weight file, with prefixes filled in.
#[derive(Clone, Debug, Default)]
pub struct Renames(Vec<(String, String, How)>);

impl Renames {
    /// Adds a table, each name behind its prefix.
    pub fn add(&mut self, table: &[Rule], foreign_prefix: &str, our_prefix: &str) {
        for (foreign, ours, how) in table {
            self.push(format!("{foreign_prefix}{foreign}"), format!("{our_prefix}{ours}"), *how);
        }
    }

    /// Adds one rule.
    pub fn push(&mut self, foreign: String, ours: String, how: How) {
        let Some((before, (parts, after))) =
            ours.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        else {
            self.0.push((foreign, ours, how));
            return;
        };
        let parts: Vec<&str> = parts.split('|').collect();
        for (i, name) in parts.iter().enumerate() {
            self.0.push((foreign.clone(), format!("{before}{name}{after}"), How::Part(i, parts.len())));
        }
    }

    /// Adds all of `others`, with `prefix` before their foreign names.
    pub fn append(&mut self, others: Renames, prefix: &str) {
        self.0.extend(others.0.into_iter().map(|(foreign, ours, how)| (format!("{prefix}{foreign}"), ours, how)));
    }

    /// Adds all of `others`, with `prefix` before our names.
    pub fn append_ours(&mut self, others: Renames, prefix: &str) {
        self.0.extend(others.0.into_iter().map(|(foreign, ours, how)| (foreign, format!("{prefix}{ours}"), how)));
    }

    /// Whether some rule has this other name.
    pub fn knows(&self, foreign: &str) -> bool {
        self.0.iter().any(|(pattern, ..)| captured(pattern, foreign).is_some())
    }

    /// The other name of our tensor, and how it lies there.
    pub fn foreign(&self, ours: &str) -> Option<(String, How)> {
        self.0.iter().find_map(|(foreign, pattern, how)| Some((fill(foreign, &captured(pattern, ours)?), *how)))
    }

    /// Our tensors under their other names, in their other shapes; only those that a rule names.
    pub fn export(&self, weights: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        let mut parts: BTreeMap<String, Vec<(How, Tensor)>> = BTreeMap::new();
        for (name, tensor) in weights {
            if let Some((foreign, how)) = self.foreign(name) {
                parts.entry(foreign).or_default().push((how, tensor.clone()));
            }
        }
        parts.into_iter().map(|(name, parts)| Ok((name.clone(), joined(parts).with_context(|| name)?))).collect()
    }
}

fn joined(mut parts: Vec<(How, Tensor)>) -> Result<Tensor> {
    if let [(How::Part(..), _), ..] = parts.as_slice() {
        parts.sort_by_key(|(how, _)| match how {
            How::Part(i, _) => *i,
            _ => usize::MAX,
        });
        let whole = parts.iter().all(|(how, _)| matches!(how, How::Part(_, of) if *of == parts.len()));
        ensure!(whole, "some of its parts are missing");
        return Ok(Tensor::cat(&parts.iter().map(|(_, t)| t.clone()).collect::<Vec<_>>(), 0)?);
    }
    ensure!(parts.len() == 1, "two tensors have this name");
    let (how, tensor) = parts.remove(0);
    Ok(match how {
        How::Same | How::Part(..) => tensor,
        How::Leading(n) => {
            let shape: Vec<usize> = vec![1; n].into_iter().chain(tensor.dims().iter().copied()).collect();
            tensor.reshape(shape)?
        }
        How::Transposed => tensor.t()?.contiguous()?,
        How::PatchRows => {
            let width = tensor.dim(0)?;
            tensor.permute((0, 2, 3, 1))?.contiguous()?.reshape((width, ()))?
        }
    })
}

/// The shape that a tensor of our `shape` has in the other layout; of all parts together.
pub fn foreign_shape(shape: &Shape, how: How) -> Vec<usize> {
    let ours = shape.dims();
    match how {
        How::Same => ours.to_vec(),
        How::Leading(n) => vec![1; n].into_iter().chain(ours.iter().copied()).collect(),
        How::Transposed => ours.iter().rev().copied().collect(),
        How::PatchRows => vec![ours[0], ours[1..].iter().product()],
        How::Part(_, of) => std::iter::once(ours[0] * of).chain(ours[1..].iter().copied()).collect(),
    }
}

/// The other layout's tensor, whose shape was checked, in our form.
pub fn to_ours(tensor: &Tensor, how: How, shape: &Shape) -> candle_core::Result<Tensor> {
    match how {
        How::Same => Ok(tensor.clone()),
        How::Leading(_) => tensor.reshape(shape.clone()),
        How::Transposed => tensor.t()?.contiguous(),
        How::PatchRows => {
            let (width, channels, height, across) = shape.dims4()?;
            tensor.reshape((width, height, across, channels))?.permute((0, 3, 1, 2))?.contiguous()
        }
        How::Part(i, _) => {
            let rows = shape.dims()[0];
            // A copy: what is left over of the whole would stay in memory with it.
            tensor.narrow(0, i * rows, rows)?.copy()
        }
    }
}

/// What the wildcards of `pattern` stand for in `name`; `None` where it is no match.
fn captured<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let (mut parts, mut found) = (name.split('.'), Vec::new());
    for wanted in pattern.split('.') {
        let part = parts.next()?;
        match wanted {
            "*" => found.push(part),
            wanted if wanted == part => {}
            _ => return None,
        }
    }
    parts.next().is_none().then_some(found)
}

fn fill(pattern: &str, found: &[&str]) -> String {
    let mut found = found.iter();
    let part = |part| if part == "*" { found.next().copied().unwrap_or("*") } else { part };
    pattern.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// Whether `name` fits `pattern`, whose last part may be `**` for any number of parts.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix("**") {
        Some("") => true,
        Some(start) => {
            let parts = start.matches('.').count();
            let head: Vec<&str> = name.splitn(parts + 1, '.').collect();
            head.len() == parts + 1 && captured(start.trim_end_matches('.'), &head[..parts].join(".")).is_some()
        }
        None => captured(pattern, name).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let mut renames = Renames::default();
        renames.add(
            &[("blocks.*.qkv.*", "layers.*.{q|k|v}_proj.*", How::Same), ("norm.*", "post.*", How::Same)],
            "visual.",
            "vision.",
        );
        let (name, how) = renames.foreign("vision.layers.11.k_proj.bias").unwrap();
        assert_eq!((name.as_str(), how), ("visual.blocks.11.qkv.bias", How::Part(1, 3)));
        assert_eq!(renames.foreign("vision.post.weight").unwrap().0, "visual.norm.weight");
        assert!(renames.foreign("vision.post.weight.more").is_none());
        assert!(renames.foreign("text.post.weight").is_none());
    }

    #[test]
    fn patterns_of_what_is_unused() {
        assert!(matches("cls.**", "cls.predictions.bias"));
        assert!(!matches("cls.**", "clsx.predictions.bias"));
        assert!(matches("encoder.layer.*.attention.**", "encoder.layer.3.attention.index"));
        assert!(matches("embeddings.position_ids", "embeddings.position_ids"));
        assert!(!matches("embeddings.position_ids", "x.embeddings.position_ids"));
    }
}
