//! What a row of an index is, whatever becomes of the manifest that it came from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::Row;
use crate::digest::hex;
use crate::fs::Access;

/// Which row of a manifest, or which line of a text file, a row of an index was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowIdentity {
    /// The image as the manifest names it, where names are kept; none for a line of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// SHA-256 of the image's file; older indexes do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<String>,
    /// SHA-256 of the row's fields, in hexadecimal digits.
    pub sha256: String,
}

/// What the rows of an index, or of a shard of one, were made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origins {
    /// The image files, if they are of such and names are kept.
    #[serde(default)]
    pub images: Vec<PathBuf>,
    /// Digest of what each image file held, whether names are kept or not; older indexes say it only with the names.
    #[serde(default)]
    pub image_contents: Vec<String>,
    /// SHA-256 of each one's absolute path: frames of one file have the same content.
    #[serde(default)]
    pub image_paths: Vec<String>,
    /// Rows of a manifest, or lines of a text file; indexes of older versions do not say.
    #[serde(default)]
    pub rows: Option<Vec<RowIdentity>>,
}

/// Who may read an index: names of images may be names of patients.
pub(super) fn access(keeps_names: bool) -> Access {
    if keeps_names { Access::Owner } else { Access::Usual }
}

impl RowIdentity {
    /// Of a row that was read with its whole report: over image, report, patient, study and label. What its image
    /// holds is told by [`ImageFiles`](crate::data::ImageFiles).
    pub fn of_row(row: &Row) -> Self {
        let fields = [Some(row.image_name()), Some(row.report()), row.patient_id(), row.study_id(), row.label()];
        Self { image: None, pixels: None, sha256: sha256(&fields) }
    }

    /// Of an instance of a PACS, by its SOP Instance UID, which leads to a patient: told only where names are kept.
    pub fn of_instance(uid: &str, keep_names: bool) -> Self {
        Self {
            image: keep_names.then(|| uid.to_string()),
            pixels: None,
            sha256: sha256(&[Some("DICOMweb"), Some(uid)]),
        }
    }

    /// What stands in an index for the place of an image file.
    pub fn of_path(path: &Path) -> String {
        sha256(&[Some("file"), Some(&path.to_string_lossy())])
    }

    /// Of a line of a text file.
    pub fn of_line(line: &str) -> Self {
        Self { image: None, pixels: None, sha256: sha256(&[Some(line)]) }
    }
}

/// Each field with its length, so that no two lists of fields run into one.
fn sha256(fields: &[Option<&str>]) -> String {
    let mut hash = Sha256::new();
    for field in fields {
        let length = field.map_or(u64::MAX, |text| text.len() as u64);
        hash.update(length.to_le_bytes());
        hash.update(field.unwrap_or_default());
    }
    hex(&hash.finalize())
}
