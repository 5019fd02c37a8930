//! An index that is open: its vectors where they are, and what its rows were made from.

use std::path::Path;

use anyhow::{Context, Result};

use super::folder::Folder;
use super::gallery::{Gallery, Side};
use super::identity::Origins;
use super::scan::{Scored, scan};
use super::source::IndexSource;
use super::tensors::{self, Header};

/// An index that is open, a file or a folder. Vectors stay in their files until they are looked at, unless
/// [`Self::hold`] reads them.
///
/// ```no_run
/// use reportclip::search::{Index, Names, Query, search};
/// use reportclip::session::Session;
///
/// # fn main() -> anyhow::Result<()> {
/// let index = Index::open("all.safetensors".as_ref())?;
/// let session = Session::open(&index.source.model, "auto")?;
/// let names = Names::read(&index);
/// let found = search((&index, &names), &session, &[Query::of_text("left pleural effusion")], 5)?;
/// println!("{:?}", found[0].hits);
/// # Ok(()) }
/// ```
pub struct Index {
    /// What it is of; of a folder, without what each row was made from.
    pub source: IndexSource,
    images: Option<Gallery>,
    texts: Option<Gallery>,
    folder: Option<Folder>,
}

impl Index {
    /// Opens what `reportclip embed` wrote.
    ///
    /// # Errors
    /// It cannot be read, something else wrote it, or it is not whole yet.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = if path.is_dir() { Self::of_folder(path) } else { Self::of_file(path) };
        opened.with_context(|| format!("index {}", path.display()))
    }

    fn of_file(path: &Path) -> Result<Self> {
        let not_ours = "not written by `reportclip embed`";
        std::fs::File::open(path)?;
        let header = Header::read(path).context(not_ours)?;
        let source = serde_json::from_str(header.about().context(not_ours)?).context(not_ours)?;
        let gallery = |name| Gallery::of(header.rows(path, name).context(not_ours)?);
        let (images, texts) = (gallery(tensors::IMAGES)?, gallery(tensors::TEXTS)?);
        anyhow::ensure!(images.is_some() || texts.is_some(), "{not_ours}");
        Ok(Self { source, images, texts, folder: None })
    }

    fn of_folder(path: &Path) -> Result<Self> {
        let folder = Folder::open(path)?;
        let (images, texts) = (folder.gallery(Side::Images)?, folder.gallery(Side::Texts)?);
        anyhow::ensure!(images.is_some() || texts.is_some(), "holds no embeddings");
        Ok(Self { source: folder.source().clone(), images, texts, folder: Some(folder) })
    }

    /// The embeddings of one side, where it has any.
    pub fn gallery(&self, side: Side) -> Option<&Gallery> {
        match side {
            Side::Images => self.images.as_ref(),
            Side::Texts => self.texts.as_ref(),
        }
    }

    /// Reads the vectors into memory, for many searches, if they have no more than `most` bytes.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hold(&mut self, most: usize) -> Result<()> {
        let mut galleries: Vec<&mut Gallery> = self.images.iter_mut().chain(&mut self.texts).collect();
        if galleries.iter().map(|gallery| gallery.bytes()).sum::<usize>() <= most {
            galleries.iter_mut().try_for_each(|gallery| gallery.hold())?;
        }
        Ok(())
    }

    /// For each of `queries`, vectors of embed_dim numbers in a row, the `k` rows of a side with the highest cosines, the
    /// best one first: every row is looked at.
    ///
    /// # Errors
    /// There is no such side, queries of another width, vectors that cannot be read.
    pub fn find(&self, side: Side, queries: &[f32], k: usize) -> Result<Vec<Vec<Scored>>> {
        scan(self.gallery(side).with_context(|| format!("has no {}", side.word()))?, queries, k)
    }

    /// What a row was made from: a part of the index's list, and where in it.
    ///
    /// # Errors
    /// The shard does not say.
    pub(super) fn origins(&self, row: usize) -> Result<(&Origins, usize)> {
        match &self.folder {
            None => Ok((&self.source.origins, row)),
            Some(folder) => folder.origins(row),
        }
    }

    /// What all rows were made from, in order.
    ///
    /// # Errors
    /// A shard does not say.
    pub(super) fn all_origins(&self) -> Result<Vec<&Origins>> {
        match &self.folder {
            None => Ok(vec![&self.source.origins]),
            Some(folder) => folder.all_origins(),
        }
    }
}
