//! A row as it is written.

use anyhow::{Context, Result};
use serde_json::json;

use super::entry::Entry;
use super::record::FORMAT;
use crate::data::image::{self, reduced, without_metadata};
use crate::digest::{ContentHash, Depth, of_bytes, of_file, sha256};

/// A row as it is written.
pub(super) struct Prepared<'a> {
    /// Of its entry, from 1.
    pub number: usize,
    pub entry: &'a Entry,
    /// Stands for the image in names.
    pub key: String,
    pub patient: String,
    pub study: String,
    pub image: String,
}

/// An image as it is written.
pub(super) struct Encoded {
    pub bytes: Vec<u8>,
    pub ending: &'static str,
    /// SHA-256 of the file that it was made from.
    pub source: [u8; 32],
}

impl<'a> Prepared<'a> {
    pub fn new(number: usize, entry: &'a Entry, salt: &str) -> Result<Self> {
        let hashed = |kind: &str, text: &str| of_bytes(format!("{salt}\0{kind}\0{text}").as_bytes())[..16].to_string();
        let told = |kind: &str, text: &Option<String>| text.as_ref().map_or(String::new(), |t| hashed(kind, t));
        let place = std::path::absolute(&entry.image).with_context(|| entry.image.display().to_string())?;
        Ok(Self {
            number,
            entry,
            key: hashed("image", &place.to_string_lossy()),
            patient: told("patient", &entry.patient),
            study: told("study", &entry.study),
            image: place.to_string_lossy().into_owned(),
        })
    }

    /// SHA-256 of the image's file; zeros where it cannot be read.
    pub fn source(&self) -> [u8; 32] {
        of_file(&self.entry.image, Depth::Whole).unwrap_or_default()
    }

    /// What the image's file with digest `source` becomes, as 16 digits of its name: another picture, another size or
    /// another way of writing it has another name.
    pub fn made_from(&self, source: [u8; 32], size: Option<u32>) -> String {
        let mut hash = ContentHash::default();
        hash.field(format!("{FORMAT} {size:?}"));
        hash.field(source);
        hash.hex()[..16].to_string()
    }

    /// The image's bytes as they are written: nothing but pixels, for a DICOM file names its patient, and texts and
    /// Exif of a PNG or JPEG may. `None` where it cannot be decoded.
    ///
    /// # Errors
    /// The system cannot read the file, which may be otherwise the next time.
    pub fn encoded(&self, size: Option<u32>) -> Result<Option<Encoded>> {
        let bytes = match image::file_bytes(&self.entry.image) {
            Ok(bytes) => bytes,
            Err(e) if e.is::<std::io::Error>() => {
                let what = "cannot be read; nothing was removed, and the same command goes on";
                return Err(e.context(format!("image {} of the data set, in its order: {what}", self.number)));
            }
            // Too long.
            Err(_) => return Ok(None),
        };
        let source = sha256(&bytes);
        if size.is_none()
            && let Some((bytes, ending)) = without_metadata(&bytes)
        {
            return Ok(Some(Encoded { bytes, ending, source }));
        }
        let reduced = image::decode(&bytes, 0).and_then(|picture| reduced(&picture, size));
        Ok(reduced.ok().map(|bytes| Encoded { bytes, ending: "jpg", source }))
    }

    /// Adds all that goes into a shard for this row, beside its size.
    pub fn add_to(&self, hash: &mut ContentHash, source: [u8; 32]) {
        hash.field(&self.key);
        hash.field(self.json().to_string());
        hash.field(source);
    }

    fn fields(&self) -> [&str; 7] {
        fn text(t: &Option<String>) -> &str {
            t.as_deref().unwrap_or_default()
        }
        let e = self.entry;
        [&self.image, &e.report, &self.patient, &self.study, text(&e.view), text(&e.label), text(&e.split)]
    }

    /// Of a sample in a shard; the image is a member of its own.
    pub fn json(&self) -> serde_json::Value {
        let more = self.entry.more.iter().map(|(name, text)| (name, text.as_str()));
        let filled = COLUMNS.iter().zip(self.fields()).skip(1).chain(more).filter(|(_, text)| !text.is_empty());
        filled.map(|(name, text)| (name.to_string(), json!(text))).collect::<serde_json::Map<_, _>>().into()
    }
}

const COLUMNS: [&str; 7] = ["image", "report", "patient_id", "study_id", "view", "label", "split"];

pub(super) fn manifest(rows: &[Prepared]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let more = rows.first().into_iter().flat_map(|row| &row.entry.more).map(|(name, _)| *name);
    writer.write_record(COLUMNS.into_iter().chain(more))?;
    for row in rows {
        writer.write_record(row.fields().into_iter().chain(row.entry.more.iter().map(|(_, text)| text.as_str())))?;
    }
    writer.into_inner().map_err(|e| anyhow::anyhow!("{e}"))
}
