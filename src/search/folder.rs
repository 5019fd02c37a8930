//! A folder of shards: its list, and what each shard was made from.
//!
//! ```text
//! index.json               what it is of, and how many rows; says whether all shards are there
//! rows/rows-00000.json     what the rows of a shard were made from; written last, so that a shard that has it is whole
//! shard-00000.safetensors  the embeddings, in one of the formats of `shard.rs`
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::approximate::{Graphs, Place};
use super::content::{ANEW, ShardContent};
use super::gallery::{Gallery, Side};
use super::identity::{Origins, access};
use super::late::LateGallery;
use super::shard::{self, ShardFormat};
use super::source::IndexSource;
use super::stamp::CHANGED;
use crate::digest::{Depth, of_bytes};
use crate::fs::{Access, read_up_to};
use crate::json::MAX_BYTES;

/// The list's file.
const LIST: &str = "index.json";

/// Most rows of a shard: what they were made from is read at once.
pub const MOST_SHARD_ROWS: usize = 131_072;

/// Whether there is such a folder, whole or not.
pub fn is_folder(path: &Path) -> bool {
    path.join(LIST).is_file()
}

/// What the folder's list says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct List {
    /// Of model and options: shards of another one are no part of it.
    pub fingerprint: String,
    /// Whether all shards are there.
    pub complete: bool,
    pub format: ShardFormat,
    /// Rows of each shard but the last.
    pub shard_rows: usize,
    /// Rows of images, and of texts.
    pub images: usize,
    pub texts: usize,
    /// Of each shard, a digest of what its rows were made from, once all are there.
    #[serde(default)]
    pub records: Vec<String>,
    /// What each shard holds, once all are there; older indexes do not say.
    #[serde(default)]
    pub contents: Vec<ShardContent>,
    /// Whether names of images are kept.
    #[serde(default)]
    pub keeps_names: bool,
    /// Whether the shards hold patches and tokens beside the rows' vectors.
    #[serde(default)]
    pub late: bool,
    /// What it is of, but for the rows.
    pub source: IndexSource,
    /// Whether the file says what was written into it; of older indexes, which have no digest of it, that is taken on
    /// trust.
    #[serde(skip)]
    pub is_as_written: bool,
}

/// Of the list's other fields, in the list.
const DIGEST: &str = "digest";

fn of_fields(fields: &serde_json::Map<String, Value>) -> Result<String> {
    Ok(of_bytes(&serde_json::to_vec(fields)?))
}

impl List {
    pub fn shards(&self) -> usize {
        self.images.max(self.texts).div_ceil(self.shard_rows)
    }

    /// Rows of a shard.
    pub fn range(&self, number: usize) -> std::ops::Range<usize> {
        number * self.shard_rows..(number + 1) * self.shard_rows
    }

    /// How many rows a shard has of each side.
    pub fn counts(&self, number: usize) -> (usize, usize) {
        let range = self.range(number);
        let of = |all: usize| all.min(range.end).saturating_sub(range.start);
        (of(self.images), of(self.texts))
    }

    /// The list of a folder; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or something else wrote it.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LIST);
        if !path.exists() {
            return Ok(None);
        }
        let parsed = parse(&path).and_then(|mut value: serde_json::Map<String, Value>| {
            let told = value.shift_remove(DIGEST);
            let is_as_written = told.is_none_or(|told| of_fields(&value).is_ok_and(|now| told == now));
            let list: Self =
                serde_json::from_value(Value::Object(value)).with_context(|| path.display().to_string())?;
            Ok(Self { is_as_written, ..list })
        });
        let list = parsed.context(
            "not written by `reportclip embed`, or its index.json is broken; name another folder, or remove this index \
             and make it anew",
        )?;
        let fits = (1..=MOST_SHARD_ROWS).contains(&list.shard_rows);
        ensure!(fits, "{}: shard_rows = {}; allowed are 1 to {MOST_SHARD_ROWS}", path.display(), list.shard_rows);
        Ok(Some(list))
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut fields: serde_json::Map<String, Value> = serde_json::from_value(serde_json::to_value(self)?)?;
        fields.insert(DIGEST.into(), of_fields(&fields)?.into());
        let bytes = serde_json::to_vec_pretty(&fields)?;
        self.access().replace_with(&folder.join(LIST), |path| Ok(fs::write(path, bytes)?))
    }

    /// Removes the list of a folder.
    pub fn remove(folder: &Path) -> std::io::Result<()> {
        fs::remove_file(folder.join(LIST))
    }

    /// Who may read what is in the folder.
    pub fn access(&self) -> Access {
        access(self.keeps_names)
    }

    /// The files of a shard.
    pub fn files(&self, folder: &Path, number: usize) -> Vec<PathBuf> {
        shard::files(folder, (self.format, number), self.counts(number))
    }
}

/// What is kept of a shard beside its embeddings.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// As in the list.
    pub fingerprint: String,
    #[serde(flatten)]
    pub origins: Origins,
    /// Digest of the manifest's lines, where the format keeps them beside the embeddings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<String>,
    /// What the shard's files hold, once they are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ShardContent>,
}

impl Record {
    pub fn read(folder: &Path, number: usize) -> Result<Self> {
        parse(&record_path(folder, number))
    }

    /// The record of which `digest` was told; empty of older indexes, which did not tell.
    ///
    /// # Errors
    /// It is another one by now, or cannot be read.
    fn read_same(folder: &Path, number: usize, digest: Option<&String>) -> Result<Self> {
        let path = record_path(folder, number);
        let named = || path.display().to_string();
        let bytes = read_up_to(&path, MAX_BYTES)?;
        ensure!(digest.is_none_or(|digest| *digest == of_bytes(&bytes)), "{}: {CHANGED}", named());
        serde_json::from_slice(&bytes).with_context(named)
    }

    /// A digest of a shard's record, and what it says of the shard's files.
    ///
    /// # Errors
    /// It cannot be read, or does not say.
    pub fn told(folder: &Path, number: usize) -> Result<(String, ShardContent)> {
        let path = record_path(folder, number);
        let named = || path.display().to_string();
        let bytes = read_up_to(&path, MAX_BYTES)?;
        let record: Self = serde_json::from_slice(&bytes).with_context(named)?;
        Ok((
            of_bytes(&bytes),
            record.content.with_context(|| format!("{}: does not say what the shard holds", named()))?,
        ))
    }

    /// Makes sure that there is none.
    pub fn remove(folder: &Path, number: usize) -> Result<()> {
        let path = record_path(folder, number);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| path.display().to_string()),
            _ => Ok(()),
        }
    }

    /// As it is written.
    ///
    /// # Errors
    /// It is longer than what is read again.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)?;
        let length = bytes.len();
        ensure!(
            length as u64 <= MAX_BYTES,
            "what the rows of a shard were made from takes {length} bytes; allowed are {MAX_BYTES}: name fewer \
             --shard-rows"
        );
        Ok(bytes)
    }

    /// Writes [`Self::bytes`].
    pub fn write(bytes: &[u8], folder: &Path, number: usize, access: Access) -> Result<()> {
        access.replace_with(&record_path(folder, number), |path| Ok(fs::write(path, bytes)?))
    }
}

fn record_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(shard::ROWS).join(format!("rows-{number:05}.json"))
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let bytes = read_up_to(path, MAX_BYTES)?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

/// A folder that is open.
pub(super) struct Folder {
    path: PathBuf,
    list: List,
    /// Read when they are asked for.
    records: Vec<OnceLock<Origins>>,
}

impl Folder {
    /// # Errors
    /// It is no index, or not whole.
    pub fn open(path: &Path) -> Result<Self> {
        let list = List::read(path)?.context("not written by `reportclip embed`: it has no index.json")?;
        ensure!(
            list.is_as_written,
            "{LIST}: not as `reportclip embed` wrote it; {ANEW}, with --force where it asks for it"
        );
        ensure!(list.complete, "is not whole yet; the same `reportclip embed` goes on with it");
        /// A shard is a file at least.
        const MOST_SHARDS: usize = 1 << 20;
        ensure!(list.shards() <= MOST_SHARDS, "{} shards; allowed are {MOST_SHARDS}", list.shards());
        let records = (0..list.shards()).map(|_| OnceLock::new()).collect();
        Ok(Self { path: path.to_path_buf(), list, records })
    }

    /// Makes sure that the shards hold what was written: every byte where they have up to `whole` in all,
    /// else lengths and parts; their lists of rows, too.
    ///
    /// # Errors
    /// One does not.
    pub fn check(&self, whole: u64) -> Result<()> {
        let contents = &self.list.contents;
        if contents.is_empty() {
            tracing::debug!("the index does not say what its shards hold; `reportclip embed` makes one that does");
            return Ok(());
        }
        ensure!(contents.len() == self.list.shards(), "{LIST}: tells of {} shards' content", contents.len());
        self.check_records(whole)?;
        let depth = Depth::within(contents.iter().map(|content| content.bytes).sum(), whole);
        let check =
            |(number, content): (usize, &ShardContent)| content.check(&self.list.files(&self.path, number), depth);
        contents.par_iter().enumerate().try_for_each(check)
    }

    /// Makes sure that the lists of rows are there, and where they have up to `whole` bytes in all, that they are those
    /// that were written; of others that is told when they are read.
    fn check_records(&self, whole: u64) -> Result<()> {
        let (told, shards) = (&self.list.records, self.list.shards());
        ensure!(told.len() == shards, "{LIST}: tells of {} lists of rows; there are {shards} shards", told.len());
        let mut bytes = 0;
        for number in 0..shards {
            let path = record_path(&self.path, number);
            let meta = fs::metadata(&path).with_context(|| format!("{}: {ANEW}", path.display()))?;
            ensure!(meta.is_file(), "{}: is no regular file", path.display());
            bytes += meta.len();
        }
        let check = |(number, told): (usize, &String)| -> Result<()> {
            let path = record_path(&self.path, number);
            let is_same = of_bytes(&read_up_to(&path, MAX_BYTES)?) == *told;
            ensure!(is_same, "{}: is not the list of rows that was written; {ANEW}", path.display());
            Ok(())
        };
        if bytes > whole { Ok(()) } else { told.par_iter().enumerate().try_for_each(check) }
    }

    pub fn source(&self) -> &IndexSource {
        &self.list.source
    }

    /// The embeddings of one side, shard after shard.
    ///
    /// # Errors
    /// A shard is missing, or has other rows than the list says.
    pub fn gallery(&self, side: Side) -> Result<Option<Gallery>> {
        let open = |(number, count)| shard::open(&self.path, (self.list.format, number), side, count);
        Gallery::of(self.shards_of(side).map(open).collect::<Result<Vec<_>>>()?)
    }

    /// Shards that have rows of one side, and how many.
    fn shards_of(&self, side: Side) -> impl Iterator<Item = (usize, usize)> {
        let count = move |(images, texts)| if side == Side::Images { images } else { texts };
        (0..self.list.shards()).map(move |number| (number, count(self.list.counts(number)))).filter(|(_, n)| *n > 0)
    }

    /// Whether patches and tokens lie beside the rows' vectors.
    pub fn is_late(&self) -> bool {
        self.list.late
    }

    /// The patches or tokens of one side; `None` where the index has none.
    ///
    /// # Errors
    /// As [`Self::gallery`].
    pub fn late(&self, side: Side) -> Result<Option<LateGallery>> {
        if !self.list.late {
            return Ok(None);
        }
        let at = |number| shard::path(&self.path, (self.list.format, number), side);
        LateGallery::open(self.shards_of(side).map(|(number, count)| (at(number), count)), side)
    }

    /// The graphs of one side, made where they are not there.
    ///
    /// # Errors
    /// As [`Graphs::open`].
    pub fn graphs(&self, side: Side, gallery: &Gallery, others: Option<&Gallery>) -> Result<Graphs> {
        let (shard_rows, shards) = (self.list.shard_rows, self.list.records.as_slice());
        Graphs::open(&Place { folder: &self.path, side, shard_rows, shards }, gallery, others)
    }

    /// What a row was made from: its shard's list, and where in it.
    ///
    /// # Errors
    /// The shard's list cannot be read, or is another one since this was opened.
    pub fn origins(&self, row: usize) -> Result<(&Origins, usize)> {
        let number = row / self.list.shard_rows;
        Ok((self.of_shard(number)?, row % self.list.shard_rows))
    }

    fn of_shard(&self, number: usize) -> Result<&Origins> {
        let kept = self.records.get(number).context("no such row")?;
        if let Some(origins) = kept.get() {
            return Ok(origins);
        }
        let record = Record::read_same(&self.path, number, self.list.records.get(number))?;
        Ok(kept.get_or_init(|| record.origins))
    }

    /// # Errors
    /// As [`Self::origins`].
    pub fn all_origins(&self) -> Result<Vec<&Origins>> {
        (0..self.list.shards()).map(|number| self.of_shard(number)).collect()
    }
}
