//! What `data.train` and its like may name: a file, a pattern, a folder, a data set of the hub → files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::formats::FORMATS;
use crate::hub::{DatasetFiles, HubError};

/// How names of the hub's data sets begin, as in Python's `hf://datasets/org/name@revision`.
pub const HUB: &str = "hf://datasets/";

/// Files with rows, in the order of their names:
/// - a file itself;
/// - `shard-{000..012}.tar` and `shard-*.tar`, all that there are;
/// - a folder: the manifest in it, such as manifest.csv, else its files of a format that comes in parts;
/// - `hf://datasets/org/name[@revision]`: the same of a data set of the hub, fetched.
///
/// # Errors
/// There is no such thing, or nothing in it.
pub fn expand(source: &Path) -> Result<Vec<PathBuf>> {
    let text = source.to_string_lossy();
    if let Some(name) = text.strip_prefix(HUB) {
        return on_hub(&DatasetFiles::open(name)?);
    }
    if source.is_dir() {
        return in_folder(source);
    }
    let ranges = text.contains('{');
    if source.exists() || !(ranges || text.contains(['*', '?'])) {
        return Ok(vec![source.to_path_buf()]);
    }
    let mut files = Vec::new();
    for pattern in braces(&text)? {
        let before = files.len();
        let matches = glob::glob(&pattern).with_context(|| format!("{text}: is no pattern of file names"))?;
        for path in matches {
            files.push(path.with_context(|| text.to_string())?);
        }
        ensure!(files.len() > before, "{pattern}: there is no such file");
    }
    Ok(files)
}

/// All files of the first format that comes in parts.
fn on_hub(data_set: &DatasetFiles) -> Result<Vec<PathBuf>> {
    let mut missing = None;
    for ending in FORMATS.iter().filter_map(|f| f.in_folder().parts) {
        match data_set.files(ending) {
            Ok(files) => return Ok(files),
            Err(e @ HubError::EntryNotFound(_)) => missing = missing.or(Some(e)),
            Err(e) => return Err(e.into()),
        }
    }
    Err(missing.map_or_else(|| anyhow!("no format comes in parts"), Into::into))
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let known = || FORMATS.iter().map(|f| f.in_folder());
    for name in known().flat_map(|f| f.manifests) {
        if folder.join(name).is_file() {
            return Ok(vec![folder.join(name)]);
        }
    }
    for ending in known().filter_map(|f| f.parts) {
        let mut files = Vec::new();
        // Data sets of the hub keep their files in data/.
        for place in [folder.to_path_buf(), folder.join("data")] {
            for entry in std::fs::read_dir(&place).into_iter().flatten() {
                let path = entry.with_context(|| place.display().to_string())?.path();
                if path.extension().is_some_and(|e| e == ending) && path.is_file() {
                    files.push(path);
                }
            }
        }
        files.sort();
        if !files.is_empty() {
            return Ok(files);
        }
    }
    let manifests = known().flat_map(|f| f.manifests).map(|name| name.to_string());
    let parts = known().filter_map(|f| f.parts).map(|ending| format!("*.{ending}"));
    let names: Vec<String> = manifests.chain(parts).collect();
    bail!("{}: holds no rows; looked for {}", folder.display(), names.join(", "))
}

/// Names that one pattern may stand for, and bytes of all of them.
const MOST_NAMES: usize = 1 << 20;
const MOST_BYTES: usize = 256 << 20;

/// `a-{00..02}.tar` → a-00.tar, a-01.tar, a-02.tar; `{train,val}` → both. Bounded before each product is made.
fn braces(text: &str) -> Result<Vec<String>> {
    let (mut names, mut rest) = (vec![String::new()], text);
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').with_context(|| format!("{text}: a brace is not closed"))?;
        let words = words(text, inside)?;
        let count = names.len().saturating_mul(words.len());
        ensure!(
            count <= MOST_NAMES && count.saturating_mul(text.len()) <= MOST_BYTES,
            "{text}: stands for more than {MOST_NAMES} files, or for names of more than {} MiB",
            MOST_BYTES >> 20
        );
        names = names.iter().flat_map(|name| words.iter().map(move |w| format!("{name}{before}{w}"))).collect();
        rest = after;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    Ok(names)
}

/// What one pair of braces stands for.
fn words(text: &str, inside: &str) -> Result<Vec<String>> {
    /// Digits of the largest number.
    const WIDEST: usize = 20;
    let Some((first, last)) = inside.split_once("..") else {
        return Ok(inside.split(',').map(str::to_string).collect());
    };
    let number = |s: &str| s.parse::<u64>().with_context(|| format!("{text}: {s:?} is no number"));
    let (from, to) = (number(first)?, number(last)?);
    let width = first.len();
    ensure!(
        from <= to && to - from < MOST_NAMES as u64 && width <= WIDEST,
        "{text}: the range {inside} is empty or too long"
    );
    Ok((from..=to).map(|n| format!("{n:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_words_and_patterns() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a-08.tar", "a-09.tar", "a-10.tar", "b-09.tar", "x.parquet"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            let files = expand(&dir.path().join(pattern)).unwrap();
            files.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names("a-{08..10}.tar"), ["a-08.tar", "a-09.tar", "a-10.tar"]);
        assert_eq!(names("{a,b}-09.tar"), ["a-09.tar", "b-09.tar"]);
        assert_eq!(names("a-*.tar"), ["a-08.tar", "a-09.tar", "a-10.tar"]);
        assert_eq!(names(""), ["x.parquet"]);
        let wide = format!("{{{}1..2}}.csv", "0".repeat(70_000));
        assert!(braces(&wide).unwrap_err().to_string().ends_with("is empty or too long"));
        assert_eq!(braces(&"{a}".repeat(20_000)).unwrap(), ["a".repeat(20_000)]);
        for (pattern, message) in [
            ("a-{08..11}.tar", "a-11.tar: there is no such file"),
            ("a-{08.tar", "a-{08.tar: a brace is not closed"),
            ("c-*.tar", "c-*.tar: there is no such file"),
            (
                "x{0..9999}{0..9999}{0..9999}.csv",
                "stands for more than 1048576 files, or for names of more than 256 MiB",
            ),
            ("{1..99999999999}.csv", "the range 1..99999999999 is empty or too long"),
        ] {
            let error = expand(&dir.path().join(pattern)).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
    }
}
