//! The files of one shard, in one of the formats that vector stores and others read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::content::ANEW;
use super::gallery::{Side, Vectors};
use super::identity::{Origins, RowIdentity};
use super::late::Codes;
use super::npy;
use super::parquet::{self, VectorColumn};
use super::tensors::{self, Header, Plain};
use crate::fs::Access;
use crate::words::words;

words! {
    /// How a folder keeps its shards.
    ShardFormat {
        /// `shard-00000.safetensors`: tensors `image_embeds` and `text_embeds`.
        Safetensors = "safetensors",
        /// As clip-retrieval has them: `img_emb/img_emb_00000.npy`, `text_emb/…`, `metadata/metadata_00000.parquet`.
        Npy = "npy",
        /// `part-00000.parquet`: lists of float32 beside the row's ids.
        Parquet = "parquet",
    }
}

/// Folder of what the rows were made from.
pub(super) const ROWS: &str = "rows";
/// All folders that shards may lie in.
const FOLDERS: [&str; 4] = [ROWS, "img_emb", "text_emb", "metadata"];

/// A shard to be written.
pub(super) struct Shard<'a> {
    /// Number of its first row in the index.
    pub first: usize,
    /// (rows, embed_dim).
    pub images: Option<Tensor>,
    pub texts: Option<Tensor>,
    /// Patches and tokens, of a late index.
    pub late: Vec<(Side, Codes)>,
    pub origins: &'a Origins,
    /// Line of the manifest of each row, if it is of one.
    pub lines: Vec<u64>,
}

/// Where one side of a shard lies.
pub(super) fn path(folder: &Path, (format, number): (ShardFormat, usize), side: Side) -> PathBuf {
    match (format, side) {
        (ShardFormat::Safetensors, _) => folder.join(format!("shard-{number:05}.safetensors")),
        (ShardFormat::Npy, Side::Images) => folder.join(format!("img_emb/img_emb_{number:05}.npy")),
        (ShardFormat::Npy, Side::Texts) => folder.join(format!("text_emb/text_emb_{number:05}.npy")),
        (ShardFormat::Parquet, _) => folder.join(format!("part-{number:05}.parquet")),
    }
}

/// What `npy` says of a shard's rows.
fn metadata(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("metadata/metadata_{number:05}.parquet"))
}

/// The files of a shard with so many rows of images and of texts.
pub(super) fn files(folder: &Path, at: (ShardFormat, usize), (images, texts): (usize, usize)) -> Vec<PathBuf> {
    let sides = [(Side::Images, images), (Side::Texts, texts)].into_iter().filter(|(_, count)| *count > 0);
    let mut files: Vec<PathBuf> = sides.map(|(side, _)| path(folder, at, side)).collect();
    files.dedup();
    if at.0 == ShardFormat::Npy {
        files.push(metadata(folder, at.1));
    }
    files
}

/// Whether all files of a shard are there, with so many rows of images and of texts.
pub(super) fn is_whole(folder: &Path, at: (ShardFormat, usize), (images, texts): (usize, usize)) -> bool {
    let is_there = |(side, count)| count == 0 || open(folder, at, side, count).is_ok();
    let says = || parquet::rows(&metadata(folder, at.1)).is_ok_and(|rows| rows == images.max(texts));
    [(Side::Images, images), (Side::Texts, texts)].into_iter().all(is_there) && (at.0 != ShardFormat::Npy || says())
}

/// Makes the folders of a format.
///
/// # Errors
/// One cannot be made.
pub(super) fn make_folders(folder: &Path, format: ShardFormat, access: Access) -> Result<()> {
    let names = if format == ShardFormat::Npy { &FOLDERS[..] } else { &FOLDERS[..1] };
    names.iter().try_for_each(|name| {
        let path = folder.join(name);
        let is_in_the_way = path.exists() && !path.is_dir();
        ensure!(!is_in_the_way, "{}: is no folder; remove it, or name another folder", path.display());
        access.make_folder(&path).with_context(|| path.display().to_string())
    })
}

/// Removes the files of all shards from this number on, of any format, and folders that are empty then.
///
/// # Errors
/// One cannot be removed.
pub(super) fn remove_from(folder: &Path, first: usize) -> Result<()> {
    let remove = |folder: &Path| -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if number_of(&path).is_some_and(|number| number >= first) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    };
    let inside = FOLDERS.map(|name| folder.join(name));
    for folder in inside.iter().map(PathBuf::as_path).filter(|folder| folder.is_dir()).chain([folder]) {
        remove(folder).with_context(|| folder.display().to_string())?;
    }
    // One that is not empty stays.
    inside.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    Ok(())
}

/// The number of the shard that a file is of.
fn number_of(path: &Path) -> Option<usize> {
    let (stem, ending) = (path.file_stem()?.to_str()?, path.extension()?.to_str()?);
    let files = [
        ("shard-", "safetensors"),
        ("img_emb_", "npy"),
        ("text_emb_", "npy"),
        ("metadata_", "parquet"),
        ("part-", "parquet"),
        ("rows-", "json"),
    ];
    let digits = files.iter().find_map(|(start, of)| stem.strip_prefix(start).filter(|_| ending == *of))?;
    digits.parse().ok().filter(|_| digits.len() >= 5)
}

/// Writes the files of a shard, each whole.
///
/// # Errors
/// One cannot be written.
pub(super) fn write(
    folder: &Path,
    (format, number): (ShardFormat, usize),
    mut shard: Shard,
    access: Access,
) -> Result<()> {
    let late = std::mem::take(&mut shard.late);
    let shard = &shard;
    let both = [(Side::Images, &shard.images), (Side::Texts, &shard.texts)];
    let both = both.into_iter().filter_map(|(side, tensor)| Some((side, tensor.as_ref()?)));
    let rows = |vectors| parquet::Rows {
        first: shard.first,
        identities: identities(shard),
        lines: shard.lines.clone(),
        vectors,
    };
    match format {
        ShardFormat::Safetensors => {
            let rows = both.map(|(side, tensor)| Ok((side.word(), Plain::of(tensor)?)));
            let mut tensors = rows.collect::<Result<Vec<_>>>()?;
            tensors.extend(late.into_iter().flat_map(|(side, codes)| codes.tensors(side)));
            let tensors = tensors.iter().map(|(name, tensor)| (*name, tensor));
            tensors::write(&path(folder, (format, number), Side::Images), tensors, None, access)
        }
        ShardFormat::Npy => {
            for (side, tensor) in both {
                npy::write(&path(folder, (format, number), side), tensor, access)?;
            }
            parquet::write(&metadata(folder, number), &rows(Vec::new()), access)
        }
        ShardFormat::Parquet => {
            let vectors = both.map(|(side, tensor)| (column(side), tensor)).collect();
            parquet::write(&path(folder, (format, number), Side::Images), &rows(vectors), access)
        }
    }
}

/// The name of a column of vectors.
fn column(side: Side) -> &'static str {
    match side {
        Side::Images => "image_embedding",
        Side::Texts => "text_embedding",
    }
}

/// What the rows of a shard were made from, one by one: of files that belong together by chance, the images.
fn identities(shard: &Shard) -> Vec<RowIdentity> {
    let origins = shard.origins;
    let image = |(i, content): (usize, &String)| RowIdentity {
        image: origins.images.get(i).map(|path| path.display().to_string()),
        pixels: Some(content.clone()),
        sha256: String::new(),
    };
    let mut rows: Vec<RowIdentity> = origins.image_contents.iter().enumerate().map(image).collect();
    for (i, of_text) in origins.rows.iter().flatten().enumerate() {
        match rows.get_mut(i) {
            Some(row) => row.sha256.clone_from(&of_text.sha256),
            None => rows.push(of_text.clone()),
        }
    }
    rows
}

/// Opens one side of a shard: rows, width and where the vectors are.
///
/// # Errors
/// It is not there, or has another number of rows than `count`.
pub(super) fn open(
    folder: &Path,
    at: (ShardFormat, usize),
    side: Side,
    count: usize,
) -> Result<(usize, usize, Vectors)> {
    let path = path(folder, at, side);
    let read = || match at.0 {
        ShardFormat::Safetensors => {
            Header::read(&path)?.rows(&path, side.word())?.with_context(|| format!("has no {}", side.word()))
        }
        ShardFormat::Npy => npy::rows(&path),
        ShardFormat::Parquet => {
            let (vectors, width) = VectorColumn::open(&path, column(side), count)?;
            Ok((count, width, Vectors::Parquet(vectors)))
        }
    };
    let opened = read().with_context(|| format!("{}: {ANEW}", path.display()))?;
    ensure!(opened.0 == count, "{}: has {} rows, where the list says {count}; {ANEW}", path.display(), opened.0);
    Ok(opened)
}
