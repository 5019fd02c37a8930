//! Small files that a model's folder keeps beside the model: what was chosen on some patients to be used on others.
//! They are none of the files that a model is opened from, so that indexes of embeddings stay good.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::of_bytes;
use crate::fs::{may_write, read_up_to, replace_file};
use crate::model::checkpoint::{Listing, check_listed};

/// Longest such file that is read.
const MOST_BYTES: u64 = 1 << 20;

/// Said of what was kept for other predictions.
pub(super) const OF_OTHERS: &str = "was chosen with other prompts, or another head, and is not used";

/// What can be kept so.
pub trait Kept: Serialize + DeserializeOwned {
    /// The file's name.
    const FILE: &'static str;
    /// The option that makes it.
    const MADE_BY: &'static str;

    /// Refuses numbers that nothing can go by, such as NaN.
    ///
    /// # Errors
    /// The number, and what is allowed.
    fn check(&self) -> Result<()>;

    /// What the model in `folder` keeps.
    ///
    /// # Errors
    /// It keeps none, or it cannot be read, is not what the folder's list of checksums says, or holds what cannot be.
    fn read(folder: &Path) -> Result<Self> {
        let missing =
            || format!("{}: is not there; `zero-shot {}` makes it", folder.join(Self::FILE).display(), Self::MADE_BY);
        Self::find(folder)?.with_context(missing)
    }

    /// The same; `None` where it keeps none.
    ///
    /// # Errors
    /// As [`Self::read`], where there is something of that name.
    fn find(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        let place = || path.display().to_string();
        match path.symlink_metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            found => found.with_context(place)?,
        };
        // What is there and no file is not taken for nothing: answers would be other ones without a word. A link may
        // lead to a file, as in the hub's cache.
        ensure!(path.is_file(), "{}: is no file, and no link to one; remove it, or put the file there", place());
        check_listed(&path)?;
        let text = String::from_utf8(read_up_to(&path, MOST_BYTES)?).with_context(place)?;
        let kept: Self = toml::from_str(&text).map_err(|e| anyhow!("{}: {}", place(), e.message()))?;
        kept.check().with_context(|| format!("{}: `zero-shot {}` makes it anew", place(), Self::MADE_BY))?;
        Ok(Some(kept))
    }

    /// Whether the model in `folder` can keep one: asked before the work is done.
    ///
    /// # Errors
    /// The folder's files are not those of its list, or what is there is no plain file.
    fn may_keep(folder: &Path) -> Result<()> {
        Listing::without(folder, &[Self::FILE])?;
        may_write(&folder.join(Self::FILE), true)
    }

    /// Keeps it with the model in `folder`; a list of checksums that is there is written anew.
    ///
    /// # Errors
    /// The folder's files are not those of its list, or it cannot be written.
    fn keep(&self, folder: &Path) -> Result<()> {
        let list = Listing::without(folder, &[Self::FILE])?;
        let text = toml::to_string(self)?;
        // Nothing is worked out between the two: a kill in between is not likely, and the next time mends it.
        replace_file(&folder.join(Self::FILE), text.as_bytes())?;
        let Some(mut list) = list else { return Ok(()) };
        list.put(Self::FILE, of_bytes(text.as_bytes()));
        list.write(folder)
    }
}

/// Refuses what is no share.
pub(super) fn check_share(name: &str, value: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&value), "{name} is {value}; allowed is 0 to 1");
    Ok(())
}
