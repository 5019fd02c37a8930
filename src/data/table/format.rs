//! What a manifest format is.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::columns::Columns;
use super::fields::Take;

/// A manifest format.
pub(super) trait Format: Sync {
    /// What people call it, for help and messages.
    fn names(&self) -> &'static [&'static str];

    /// Whether a file is of this format, by its ending (in lower case, without the dot) and by how it begins.
    fn claims(&self, ending: &str, head: &[u8]) -> bool;

    /// What of this format makes a folder a data set.
    fn in_folder(&self) -> InFolder;

    /// Opens a file and looks whether it has the columns.
    ///
    /// # Errors
    /// It cannot be read as this format, or has no column for images or reports.
    fn open(&self, path: &Path, columns: &Columns) -> Result<Box<dyn Table>>;

    /// Whether [`Self::set_columns`] can be used.
    fn sets_columns(&self) -> bool {
        false
    }

    /// The file's whole text with `new` columns; all else as it was.
    ///
    /// # Errors
    /// It cannot be read, or the format is no text.
    fn set_columns(&self, _path: &Path, _columns: &Columns, _new: &[NewColumn]) -> Result<String> {
        bail!("cannot be given columns")
    }
}

/// What of a format makes a folder a data set.
pub(super) struct InFolder {
    /// Names of files that hold all rows.
    pub manifests: &'static [&'static str],
    /// Ending of files that hold some rows each.
    pub parts: Option<&'static str>,
}

/// A column that a manifest gets.
pub struct NewColumn<'a> {
    /// Its name; a column of that name is written over.
    pub name: &'a str,
    /// Value by line of the manifest; where there is none, the line keeps what it has.
    pub value: &'a dyn Fn(u64) -> Option<&'a str>,
}

/// An open file.
pub(super) trait Table {
    /// Images inside the file; `None` where its rows name image files.
    fn images(&self) -> Option<Arc<dyn PackedImages>> {
        None
    }

    /// Hands all rows to `take`, in order.
    ///
    /// # Errors
    /// The file is broken. What is wrong with a row alone goes to `take`.
    fn read(self: Box<Self>, columns: &Columns, take: &mut Take) -> Result<()>;
}

/// Images inside a file, by the number of their row from 1. Threads read at once.
pub(in crate::data) trait PackedImages: std::fmt::Debug + Send + Sync {
    /// Bytes of an image, of a row with several by its number there.
    fn image(&self, line: u64, part: u32) -> Result<Vec<u8>>;

    /// How many they are, where that is known without reading them.
    fn image_len(&self, _line: u64, _part: u32) -> Option<u64> {
        None
    }
}
