//! The rows that are asked for: which manifest, which split, what of each report.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use crate::data::{Columns, Manifest, ReportPolicy, Row};

/// Rows of a manifest.
#[derive(Clone, Debug)]
pub struct RowSource {
    /// As `data.train` names it: a file, shards, a folder, a data set of the hub.
    pub manifest: PathBuf,
    /// Only the rows of this split; all rows without it.
    pub split: Option<String>,
    /// Only the rows that say nothing in this column, which is one of the extra ones; all rows without it.
    pub only_blank: Option<String>,
    /// Folder that image paths start at, where that is not the manifest's.
    pub image_root: Option<PathBuf>,
    /// Names of the columns, with those that are wanted beside the usual ones.
    pub columns: Columns,
}

impl RowSource {
    /// All rows, of each report what `policy` reads.
    ///
    /// # Errors
    /// A manifest that cannot be read, a row that cannot be used.
    pub fn all(&self, policy: &ReportPolicy) -> Result<Manifest> {
        checked(self.open(policy)?)
    }

    /// All rows with those that cannot be used, of each report what `policy` reads.
    ///
    /// # Errors
    /// A manifest that cannot be read.
    pub fn open(&self, policy: &ReportPolicy) -> Result<Manifest> {
        let columns = Columns { policy: policy.clone(), ..self.columns.clone() };
        Manifest::open(&self.manifest, &columns, self.image_root.as_deref())
    }

    /// The rows of the split asked for, all rows without one.
    ///
    /// # Errors
    /// As [`Self::all`]; there is no such split.
    pub fn rows(&self, policy: &ReportPolicy) -> Result<Vec<Row>> {
        self.rows_of(self.open(policy)?)
    }

    /// The same of `manifest`, which is this one's and open already.
    ///
    /// # Errors
    /// A row that cannot be used; there is no such split.
    pub fn rows_of(&self, manifest: Manifest) -> Result<Vec<Row>> {
        let manifest = checked(manifest)?;
        let mut rows = match &self.split {
            Some(split) => self.of_split(&manifest, split)?,
            None => manifest.rows,
        };
        if let Some(column) = &self.only_blank {
            let at = self.columns.extra.iter().position(|name| name == column);
            rows.retain(|row| at.and_then(|at| row.extra(at)).is_none());
            ensure!(!rows.is_empty(), "{}: no row is blank in {column}", self.name());
        }
        Ok(rows)
    }

    /// The rows of `manifest`, which is this one's, that are in `split`.
    ///
    /// # Errors
    /// There is no such split.
    pub fn of_split(&self, manifest: &Manifest, split: &str) -> Result<Vec<Row>> {
        let known = manifest.splits().join(", ");
        ensure!(!known.is_empty(), "{}: has no splits; leave --split out", self.name());
        let rows: Vec<Row> = manifest.rows.iter().filter(|r| r.split() == Some(split)).cloned().collect();
        ensure!(!rows.is_empty(), "{}: no row has split {split:?}; there are {known}", self.name());
        Ok(rows)
    }

    /// The manifest, for messages.
    pub fn name(&self) -> String {
        self.manifest.display().to_string()
    }
}

/// A manifest all of whose rows can be used.
fn checked(manifest: Manifest) -> Result<Manifest> {
    if let Some(problem) = manifest.problems.first() {
        let more = match manifest.problems.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more rows)"),
        };
        bail!("{problem}{more}");
    }
    Ok(manifest)
}
