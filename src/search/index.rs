//! An index that is open: its vectors where they are, and what its rows were made from.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use super::approximate::{GraphRecall, Graphs};
use super::folder::Folder;
use super::gallery::{Gallery, Side};
use super::identity::Origins;
use super::late::LateGallery;
use super::max_sim::max_sim;
use super::scan::{Scored, scan};
use super::source::{About, IndexSource};
use super::tensors::{self, Header};
use crate::fs::open_plain;

/// Above so many rows, `search` says that graphs would be faster.
pub const APPROXIMATE_ABOVE: usize = 1_000_000;

/// So many bytes are read whole when an index is opened for one search, to tell whether they hold what was written:
/// 64 MiB.
const CHECKED_FOR_ONE: u64 = 64 << 20;
/// For many searches: 1 GiB.
const CHECKED_FOR_MANY: u64 = 1 << 30;

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
/// let best = &found[0].hits[0]; // its rank, score, line, image, report
/// # Ok(()) }
/// ```
pub struct Index {
    /// What it is of; of a folder, without what each row was made from.
    pub source: IndexSource,
    images: Option<Gallery>,
    texts: Option<Gallery>,
    folder: Option<Folder>,
    /// Patches of images, and tokens of texts, where they are used.
    late: [OnceLock<LateGallery>; 2],
    /// Of images, and of texts, where they are used.
    graphs: [Option<Graphs>; 2],
}

impl Index {
    /// Opens what `reportclip embed` wrote. Up to 64 MiB are read whole for that, to tell whether they hold what was
    /// written; of more, lengths and parts are looked at.
    ///
    /// # Errors
    /// It cannot be read, something else wrote it, it is not whole yet, or does not hold what was written.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_checking(path, CHECKED_FOR_ONE)
    }

    /// [`Self::open`] for many searches: up to 1 GiB are read whole.
    ///
    /// # Errors
    /// As there.
    pub fn open_for_long(path: &Path) -> Result<Self> {
        Self::open_checking(path, CHECKED_FOR_MANY)
    }

    fn open_checking(path: &Path, whole: u64) -> Result<Self> {
        let opened = if path.is_dir() { Self::of_folder(path, whole) } else { Self::of_file(path, whole) };
        opened.with_context(|| format!("index {}", path.display()))
    }

    fn of_file(path: &Path, whole: u64) -> Result<Self> {
        let not_ours = "not written by `reportclip embed`";
        open_plain(path)?;
        let header = Header::read(path).context(not_ours)?;
        let about: About<IndexSource> = serde_json::from_str(header.about().context(not_ours)?).context(not_ours)?;
        let gallery = |name| Gallery::of(header.rows(path, name).context(not_ours)?);
        let (images, texts) = (gallery(tensors::IMAGES)?, gallery(tensors::TEXTS)?);
        anyhow::ensure!(images.is_some() || texts.is_some(), "{not_ours}");
        match about.vectors {
            Some(told) => told.check(&images.iter().chain(&texts).collect::<Vec<_>>(), whole)?,
            None => {
                tracing::debug!("the index does not say what its vectors are; `reportclip embed` makes one that does")
            }
        }
        Ok(Self { source: about.source, images, texts, folder: None, late: Default::default(), graphs: [None, None] })
    }

    fn of_folder(path: &Path, whole: u64) -> Result<Self> {
        let folder = Folder::open(path)?;
        let (images, texts) = (folder.gallery(Side::Images)?, folder.gallery(Side::Texts)?);
        anyhow::ensure!(images.is_some() || texts.is_some(), "holds no embeddings");
        // After the files were looked at: what changes from now on is told by what is known of them since then.
        folder.check(whole)?;
        let (source, folder) = (folder.source().clone(), Some(folder));
        Ok(Self { source, images, texts, folder, late: Default::default(), graphs: [None, None] })
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

    /// For each of `queries`, vectors of embed_dim numbers in a row, the `k` rows of a side with the highest cosines,
    /// the best one first: every row is looked at, unless [`Self::approximate`] was called.
    ///
    /// # Errors
    /// There is no such side, queries of another width, vectors that cannot be read.
    pub fn find(&self, side: Side, queries: &[f32], k: usize) -> Result<Vec<Vec<Scored>>> {
        let gallery = self.gallery(side).with_context(|| format!("has no {}", side.word()))?;
        match &self.graphs[side as usize] {
            Some(graphs) => graphs.find(gallery, queries, k),
            None => scan(gallery, queries, k),
        }
    }

    /// Makes sure that it holds patches and tokens, for [`Self::find_late`], and opens those of `sides`: plain searches
    /// leave them alone.
    ///
    /// # Errors
    /// It does not, or their files do not hold together.
    pub fn check_late(&self, sides: &[Side]) -> Result<()> {
        anyhow::ensure!(
            self.folder.as_ref().is_some_and(Folder::is_late),
            "holds no patches and tokens, which --late looks at; `reportclip embed --late --out FOLDER/` makes an \
             index that does"
        );
        sides.iter().try_for_each(|side| self.late_gallery(*side).map(drop))
    }

    /// For each of `queries`, several vectors of embed_dim numbers in a row, the `k` rows of a side with the largest
    /// MaxSim: over the query's vectors, the sum of the largest cosine with one of the row's patches or tokens. Every
    /// row is looked at.
    ///
    /// # Errors
    /// There are no patches or tokens of this side, queries of another width, vectors that cannot be read.
    pub fn find_late(&self, side: Side, queries: &[&[f32]], k: usize) -> Result<Vec<Vec<Scored>>> {
        max_sim(self.late_gallery(side)?, queries, k)
    }

    /// The patches or tokens of one side, opened when they are first asked for.
    fn late_gallery(&self, side: Side) -> Result<&LateGallery> {
        let late = &self.late[side as usize];
        if let Some(gallery) = late.get() {
            return Ok(gallery);
        }
        let opened = self.folder.as_ref().map(|folder| folder.late(side)).transpose()?.flatten();
        let opened = opened.with_context(|| format!("has no {}", side.parts_word()))?;
        let width = self.gallery(side).map(Gallery::width);
        anyhow::ensure!(
            width == Some(opened.width),
            "{}: have width {}, the embeddings beside them {}",
            side.parts_word(),
            opened.width,
            width.unwrap_or_default()
        );
        Ok(late.get_or_init(|| opened))
    }

    /// Whether it is a folder, beside whose shards graphs may lie.
    pub fn is_of_shards(&self) -> bool {
        self.folder.is_some()
    }

    /// From now on, finds rows of one side by graphs of neighbours, which are made beside the shards where they are not
    /// there, and tells how many of the best rows these find.
    ///
    /// # Errors
    /// It is a file; vectors cannot be read, graphs cannot be written.
    pub fn approximate(&mut self, side: Side) -> Result<GraphRecall> {
        let in_a_file = "is a file; graphs lie beside shards: make a folder with `reportclip embed --out FOLDER/`";
        let folder = self.folder.as_ref().context(in_a_file)?;
        let gallery = self.gallery(side).with_context(|| format!("has no {}", side.word()))?;
        let others = self.gallery(if side == Side::Images { Side::Texts } else { Side::Images });
        let graphs = folder.graphs(side, gallery, others)?;
        let recall = graphs.recall();
        self.graphs[side as usize] = Some(graphs);
        Ok(recall)
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
