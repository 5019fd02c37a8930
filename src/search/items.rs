//! What an index is made of: the rows of a manifest, or files and lines, a range of them at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::identity::{Origins, RowIdentity};
use super::source::{ColumnNames, IndexSource, lines_of};
use crate::config::Precision;
use crate::data::dicomweb::PacsImages;
use crate::data::image::frame_of;
use crate::data::{Columns, ImageFiles, ImageSource, ReportPolicy, Row, content_of};
use crate::digest::{ContentHash, Depth, hex};
use crate::session::{RowSource, policy_of};

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
    /// Images of a PACS.
    Pacs(PacsImages),
}

/// All of it in order. A manifest's rows are held, nothing that is made of them.
pub(super) struct Items {
    rows: Vec<Row>,
    files: Vec<PathBuf>,
    lines: Vec<String>,
    /// Of a PACS, with the UID of each.
    instances: Vec<(ImageSource, String)>,
    policy: ReportPolicy,
    keep_names: bool,
}

impl Items {
    /// Reads the manifest or the lines once, and makes sure that `out` is none of what is read. Names of images are
    /// told only if `keep_names`.
    ///
    /// # Errors
    /// A manifest or a model that cannot be read; nothing to embed.
    pub fn read(contents: &IndexContents, model: &str, out: &Path, keep_names: bool) -> Result<Self> {
        let rows = match contents {
            IndexContents::Manifest(source) => {
                let manifest = source.open(&ReportPolicy::default())?;
                manifest.spare(out).context("--out")?;
                source.rows_of(manifest)?
            }
            IndexContents::Files { .. } | IndexContents::Pacs(_) => Vec::new(),
        };
        let (files, lines) = match contents {
            IndexContents::Files { images, texts } => {
                (images.iter().map(absolute).collect(), texts.as_ref().map_or(Ok(Vec::new()), |path| lines_of(path))?)
            }
            IndexContents::Manifest(_) | IndexContents::Pacs(_) => (Vec::new(), Vec::new()),
        };
        let instances = match contents {
            IndexContents::Pacs(images) => {
                images.sources().into_iter().zip(images.uids().map(str::to_string)).collect()
            }
            IndexContents::Manifest(_) | IndexContents::Files { .. } => Vec::new(),
        };
        let items = Self { rows, files, lines, instances, policy: policy_of(model)?, keep_names };
        ensure!(items.image_count() + items.text_count() > 0, "nothing to embed: there are no rows");
        Ok(items)
    }

    pub fn image_count(&self) -> usize {
        self.rows.len() + self.files.len() + self.instances.len()
    }

    pub fn text_count(&self) -> usize {
        self.rows.len() + self.lines.len()
    }

    /// The images of a range, as much of it as there is.
    pub fn images(&self, range: Range<usize>) -> Vec<ImageSource> {
        let files = part(&self.files, range.clone()).iter().cloned().map(ImageSource::from);
        let instances = part(&self.instances, range.clone()).iter().map(|(image, _)| image.clone());
        part(&self.rows, range).iter().map(Row::image).chain(files).chain(instances).collect()
    }

    /// The texts of a range, as the model reads them.
    ///
    /// # Errors
    /// A report without the section that the model reads.
    pub fn texts(&self, range: Range<usize>) -> Result<Vec<String>> {
        let report = |row: &Row| {
            let text = self.policy.fixed(row.report().to_string());
            text.map_err(|e| anyhow::anyhow!("{}: {e}", row.place()))
        };
        let lines = part(&self.lines, range.clone()).iter().cloned().map(Ok);
        part(&self.rows, range).iter().map(report).chain(lines).collect()
    }

    /// What a range was made from.
    pub fn origins(&self, range: Range<usize>) -> Origins {
        let mut origins = Origins::default();
        let files = part(&self.files, range.clone());
        origins.image_contents = files.par_iter().map(|path| file_content(path)).collect();
        origins.image_paths = files.iter().map(|path| RowIdentity::of_path(path)).collect();
        if self.keep_names {
            origins.images = files.to_vec();
        }
        let uids = || part(&self.instances, range.clone()).iter().map(|(_, uid)| uid);
        if self.keep_names {
            origins.images.extend(uids().map(PathBuf::from));
        }
        let of_instances = uids().map(|uid| RowIdentity::of_instance(uid, self.keep_names));
        let rows: Vec<&Row> = part(&self.rows, range.clone()).iter().collect();
        let of_row = |(row, content): (&&Row, [u8; 32])| RowIdentity {
            image: self.keep_names.then(|| row.image_names().collect::<Vec<_>>().join(";")),
            pixels: Some(short(&content)),
            ..RowIdentity::of_row(row)
        };
        let of_rows = rows.iter().zip(row_contents(&rows)).map(of_row);
        let of_lines = part(&self.lines, range.clone()).iter().map(|line| RowIdentity::of_line(line));
        origins.rows = Some(of_rows.chain(of_lines).chain(of_instances).collect());
        origins
    }

    /// A digest of all rows, files and lines; not of what images hold.
    pub fn digest(&self) -> String {
        let mut hash = ContentHash::default();
        self.rows.iter().for_each(|row| hash.field(RowIdentity::of_row(row).sha256));
        self.files.iter().for_each(|file| hash.field(file.to_string_lossy().as_bytes()));
        self.lines.iter().for_each(|line| hash.field(line));
        self.instances.iter().for_each(|(_, uid)| hash.field(uid));
        hash.hex()
    }

    /// Bytes that [`Self::origins`] of all takes as JSON, roughly.
    pub fn size_of_origins(&self) -> usize {
        /// What a row takes beside its image's name: a hash, keys and quotes.
        const BESIDE: usize = 160;
        let name = |row: &Row| if self.keep_names { row.image_name().len() } else { 0 };
        // A UID has up to 64 characters, and stands there twice.
        let of_instance = if self.keep_names { BESIDE + 128 } else { BESIDE };
        let of_rows: usize = self.rows.iter().map(|row| name(row) + BESIDE).sum();
        let path = |path: &PathBuf| if self.keep_names { path.as_os_str().len() } else { 0 };
        let of_files: usize = self.files.iter().map(|file| path(file) + BESIDE).sum();
        of_rows + of_files + self.lines.len() * BESIDE + self.instances.len() * of_instance
    }

    /// Line of the manifest of each row of a range; none for files and lines.
    pub fn manifest_lines(&self, range: Range<usize>) -> Vec<u64> {
        part(&self.rows, range).iter().map(|row| row.line).collect()
    }
}

/// As much of a range as there is.
fn part<T>(all: &[T], range: Range<usize>) -> &[T] {
    &all[range.start.min(all.len())..range.end.min(all.len())]
}

fn absolute(path: &PathBuf) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.clone())
}

/// Where `contents` and `model` are, with paths as they are from everywhere.
pub(super) fn source(contents: &IndexContents, model: &str) -> IndexSource {
    let model = match Path::new(model) {
        folder if folder.is_dir() => absolute(&folder.to_path_buf()).to_string_lossy().into_owned(),
        _ => model.to_string(),
    };
    let nothing = IndexSource {
        model,
        manifest: None,
        image_root: None,
        split: None,
        columns: ColumnNames::from(&Columns::default()),
        origins: Origins::default(),
        model_content: None,
        precision: Precision::F32,
        texts: None,
    };
    match contents {
        IndexContents::Manifest(rows) => IndexSource {
            manifest: Some(absolute(&rows.manifest)),
            image_root: rows.image_root.as_ref().map(absolute),
            split: rows.split.clone(),
            columns: ColumnNames::from(&rows.columns),
            ..nothing
        },
        IndexContents::Pacs(_) => nothing,
        IndexContents::Files { texts, .. } => IndexSource { texts: texts.as_ref().map(absolute), ..nothing },
    }
}

/// Whether the file of an image is a plain one: others may keep who opens them waiting for ever.
pub fn is_plain(path: &Path) -> bool {
    frame_of(path).0.is_file()
}

/// What the images of rows hold, whole however many there are: `search` looks at one of them alone. That one is read
/// on the thread that asks, for the threads of rayon are the model's too, and disks may keep one waiting.
pub(super) fn row_contents(rows: &[&Row]) -> Vec<[u8; 32]> {
    if let [row] = rows {
        return vec![content_of(&row.image(), Depth::Whole).unwrap_or_default()];
    }
    ImageFiles::of(rows).contents(Depth::Whole, &|| false).unwrap_or_default()
}

/// What stands in an index for the content of an image.
pub(super) fn short(content: &[u8; 32]) -> String {
    hex(&content[..16])
}

/// What stands in an index for an image file that no manifest names; empty where it cannot be read.
pub(super) fn file_content(path: &Path) -> String {
    content_of(&path.to_path_buf().into(), Depth::Whole).map_or(String::new(), |content| short(&content))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A series is a folder: unchanged it is what it was, and changed it is something else.
    #[test]
    fn a_row_of_a_folder_is_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let series = dir.path().join("series");
        std::fs::create_dir(&series).unwrap();
        let manifest = dir.path().join("m.csv");
        std::fs::write(dir.path().join("a.png"), "a").unwrap();
        std::fs::write(&manifest, "image,report\na.png,x\nseries,y\n").unwrap();
        let write = |bytes: &str| {
            // Two frames of 1 × 1 pixels.
            let rest = [
                &b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"[..],
                b"\x28\0\x08\0IS\x02\x002 \x28\0\x10\0US\x02\0\x01\0\x28\0\x11\0US\x02\0\x01\0",
                bytes.as_bytes(),
            ];
            std::fs::write(series.join("1.dcm"), [vec![0; 128], rest.concat()].concat()).unwrap();
        };
        write("");
        let rows = crate::data::Manifest::open(&manifest, &Columns::default(), None).unwrap().rows;
        let both: Vec<&Row> = rows.iter().collect();
        let (embedded, named) = (row_contents(&both), file_content(&series));
        assert!(matches!(rows[1].image(), ImageSource::File(_)) && embedded[1] != [0; 32] && !named.is_empty());
        assert_eq!((row_contents(&both[1..]), file_content(&series)), (embedded[1..].to_vec(), named.clone()));
        write("\x30\0\x10\0LO\x02\0xx");
        assert!(row_contents(&both[1..]) != embedded[1..] && file_content(&series) != named);
    }

    #[test]
    fn only_files_that_end_are_read_where_an_index_names_them() {
        let contents = IndexContents::Files { images: Vec::new(), texts: Some("/dev/zero".into()) };
        let told = source(&contents, "no-such/model").lines().unwrap_err();
        assert_eq!(crate::error::one_line(&told), "/dev/zero: is no regular file");
    }
}
