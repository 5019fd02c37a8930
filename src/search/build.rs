//! Making an index.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::identity::RowIdentity;
use super::index::{ColumnNames, Index, IndexSource};
use crate::config::Precision;
use crate::data::{ImageFiles, ImageSource, Row};
use crate::digest::{Depth, hex, sha256};
use crate::session::{RowSource, Session, model_content, policy_of};

/// What an index is to be made of.
#[derive(Clone, Debug)]
pub enum IndexContents {
    /// Images and reports of a manifest.
    Manifest(Box<RowSource>),
    /// Image files, texts of a file line by line, or both; they need not belong together.
    Files {
        /// Image files.
        images: Vec<PathBuf>,
        /// Text file, one text a line.
        texts: Option<PathBuf>,
    },
}

/// Room for what rows were made from in an index's header, of which safetensors allows 100 MB.
const MOST_IDENTITIES: usize = 80_000_000;
/// What a row takes of it beside its image's name: a hash, keys and quotes.
const BYTES_OF_IDENTITY: usize = 160;
/// Largest logits_per_image that is kept: 1 GiB. What is left out is one product of the two embeddings.
const MOST_LOGITS: usize = 1 << 28;

/// By what an index is made.
#[derive(Clone, Copy, Debug)]
pub struct IndexModel<'a> {
    /// Folder or hub id of the model.
    pub name: &'a str,
    /// "auto", "cpu", "cuda" or "cuda:N".
    pub device: &'a str,
    /// In which type products are asked for.
    pub precision: Precision,
    /// Items at once.
    pub batch_size: usize,
}

/// Encodes `contents` by `model`. Names of images, which may be names of patients, are written into the index only if
/// `keep_names`.
///
/// # Errors
/// Nothing to embed; a model, a manifest or an image that cannot be read.
pub fn build(contents: &IndexContents, model: IndexModel, keep_names: bool) -> Result<Index> {
    let name = model.name;
    let mut source = source(contents, name);
    let policy = policy_of(name)?;
    let (rows, lines) = (source.manifest_rows()?, source.lines()?);
    let images: Vec<ImageSource> =
        rows.iter().map(Row::image).chain(source.images.iter().cloned().map(ImageSource::from)).collect();
    let read = |row: &Row| policy.fixed(row.report().to_string()).map_err(|e| anyhow::anyhow!("{}: {e}", row.place()));
    let reports: Vec<String> = rows.iter().map(read).collect::<Result<_>>()?;
    let texts: Vec<&str> = reports.iter().chain(&lines).map(String::as_str).collect();
    ensure!(!images.is_empty() || !texts.is_empty(), "nothing to embed: there are no rows");
    source.rows = identities(&rows, &lines, keep_names);
    if keep_names {
        source.image_contents = source.images.iter().map(|path| file_content(path)).collect();
    } else {
        source.images.clear();
    }
    let session = Session::open(name, model.device)?.in_precision(model.precision);
    source.precision = session.precision();
    // The commit of a repository that was not in the cache is known only now.
    source.model_content = model_content(name)?;
    let encoder = session.encoder(model.batch_size)?;
    let image_embeds = if images.is_empty() { None } else { Some(encoder.images(&images)?) };
    let text_embeds = if texts.is_empty() { None } else { Some(encoder.texts(&texts)?) };
    let logits_per_image = match (&image_embeds, &text_embeds) {
        (Some(_), Some(_)) if images.len() * texts.len() > MOST_LOGITS => {
            tracing::warn!("logits_per_image is left out: {} × {} numbers are too many", images.len(), texts.len());
            None
        }
        (Some(images), Some(texts)) => Some(session.logits_per_image(images, texts)?),
        _ => None,
    };
    Ok(Index { source, image_embeds, text_embeds, logits_per_image })
}

/// Paths as they are from everywhere.
pub(super) fn source(contents: &IndexContents, model: &str) -> IndexSource {
    let absolute = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone());
    let model = match Path::new(model) {
        folder if folder.is_dir() => absolute(&folder.to_path_buf()).to_string_lossy().into_owned(),
        _ => model.to_string(),
    };
    let nothing = IndexSource {
        model,
        manifest: None,
        image_root: None,
        split: None,
        columns: ColumnNames::from(&crate::data::Columns::default()),
        images: Vec::new(),
        image_contents: Vec::new(),
        model_content: None,
        precision: Precision::F32,
        texts: None,
        rows: None,
    };
    match contents {
        IndexContents::Manifest(rows) => IndexSource {
            manifest: Some(absolute(&rows.manifest)),
            image_root: rows.image_root.as_ref().map(absolute),
            split: rows.split.clone(),
            columns: ColumnNames::from(&rows.columns),
            ..nothing
        },
        IndexContents::Files { images, texts } => IndexSource {
            images: images.iter().map(absolute).collect(),
            texts: texts.as_ref().map(absolute),
            ..nothing
        },
    }
}

/// Of the rows of a manifest, or of the lines of a text file.
fn identities(rows: &[Row], lines: &[String], keep_names: bool) -> Option<Vec<RowIdentity>> {
    let name = |row: &Row| keep_names.then(|| row.image_name().to_string());
    let size: usize = rows.iter().map(|row| name(row).map_or(0, |name| name.len()) + BYTES_OF_IDENTITY).sum();
    if size + lines.len() * BYTES_OF_IDENTITY > MOST_IDENTITIES {
        tracing::warn!("the index has too many rows to say what each was made from; `search` will show numbers only");
        return None;
    }
    let contents = row_contents(&rows.iter().collect::<Vec<_>>());
    let of_row = |(row, content): (&Row, [u8; 32])| RowIdentity {
        image: name(row),
        pixels: Some(short(&content)),
        ..RowIdentity::of_row(row)
    };
    let of_lines = lines.iter().map(|line| RowIdentity::of_line(line));
    Some(rows.iter().zip(contents).map(of_row).chain(of_lines).collect())
}

/// What the images of rows hold, whole however many there are: `search` looks at one of them alone.
pub(super) fn row_contents(rows: &[&Row]) -> Vec<[u8; 32]> {
    ImageFiles::of(rows).contents(Depth::Whole, &|| false).unwrap_or_default()
}

/// What stands in an index for the content of an image.
pub(super) fn short(content: &[u8; 32]) -> String {
    hex(&content[..16])
}

/// What stands in an index for an image file that no manifest names; empty where it cannot be read.
pub(super) fn file_content(path: &Path) -> String {
    ImageSource::from(path.to_path_buf()).bytes().map_or(String::new(), |bytes| short(&sha256(&bytes)))
}
