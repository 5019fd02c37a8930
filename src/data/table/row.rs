//! Rows of image–report pairs, and where their images are.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::fields::{EXTRA_SEPARATOR, FIELDS, Field, Fields, IMAGE_SEPARATOR, PLACE_SEPARATOR};
use super::format::PackedImages;
use crate::data::image::{self, Picture};
use crate::error::caught;

/// A file that rows come from, and where their images are.
#[derive(Debug)]
pub struct Origin {
    /// The manifest.
    pub path: PathBuf,
    /// Its number among all files that were opened together, from 0.
    pub number: usize,
    pub(super) images: Images,
}

#[derive(Clone, Debug)]
pub(super) enum Images {
    /// Files; relative ones start here.
    Files(PathBuf),
    /// Inside the file that the rows come from.
    Packed(Arc<dyn PackedImages>),
}

/// Where one text of a row stands in its block; empty for none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub start: u32,
    pub len: u32,
}

/// One image–report pair.
#[derive(Clone, Debug)]
pub struct Row {
    /// Line of the manifest; where it has none, number of the row; from 1.
    pub line: u64,
    pub(super) origin: Arc<Origin>,
    /// Texts of this row and its neighbours.
    pub(super) block: Arc<str>,
    pub(super) spans: [Span; FIELDS],
}

impl Row {
    fn text(&self, field: Field) -> Option<&str> {
        let Span { start, len } = self.spans[field as usize];
        (len > 0).then(|| &self.block[start as usize..(start + len) as usize])
    }

    /// The clinical text, as `report.section` picked it.
    pub fn report(&self) -> &str {
        self.text(Field::Report).unwrap_or_default()
    }

    /// The image as the manifest names it; of several, all with a separator between that no path has.
    pub fn image_name(&self) -> &str {
        self.text(Field::Image).unwrap_or_default()
    }

    /// The name of each image.
    pub fn image_names(&self) -> impl Iterator<Item = &str> {
        self.image_name().split(IMAGE_SEPARATOR).filter_map(|text| text.split(PLACE_SEPARATOR).next())
    }

    /// The name of each image without its folder.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.image_names().map(|name| name.rsplit(['/', '\\']).next().unwrap_or(name))
    }

    /// Patient, where the manifest says.
    pub fn patient_id(&self) -> Option<&str> {
        self.text(Field::Patient)
    }

    /// Study, where the manifest says.
    pub fn study_id(&self) -> Option<&str> {
        self.text(Field::Study)
    }

    /// Split, where the manifest says.
    pub fn split(&self) -> Option<&str> {
        self.text(Field::Split)
    }

    /// Label, where the manifest says.
    pub fn label(&self) -> Option<&str> {
        self.text(Field::Label)
    }

    /// The label as a list, cut at `;` and `|`.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.label().unwrap_or_default().split([';', '|']).map(str::trim).filter(|label| !label.is_empty())
    }

    /// Value of the column number `i` of [`super::Columns::extra`], where the manifest has one.
    pub fn extra(&self, i: usize) -> Option<&str> {
        self.text(Field::Extra)?.split(EXTRA_SEPARATOR).nth(i).filter(|value| !value.is_empty())
    }

    /// The file that the row comes from.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// `rows` with their files counted on after those of `before`, for where rows that were opened apart lie in one
    /// list. Rows of one file share their origin still.
    pub fn counted_after<'a>(before: &[Self], rows: impl Iterator<Item = &'a Self>) -> Vec<Self> {
        let files = before.iter().map(|row| row.origin.number + 1).max().unwrap_or(0);
        let mut origins: BTreeMap<usize, Arc<Origin>> = BTreeMap::new();
        let counted = rows.map(|row| {
            let Origin { path, number, images } = &*row.origin;
            let counted = || Origin { path: path.clone(), number: files + number, images: images.clone() };
            let origin = origins.entry(*number).or_insert_with(|| Arc::new(counted()));
            Self { origin: Arc::clone(origin), ..row.clone() }
        });
        counted.collect()
    }

    /// `file:line`, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.origin.path.display(), self.line)
    }

    /// Where the image is, or all images where the row names several.
    pub fn image(&self) -> ImageSource {
        let names = self.image_name();
        if !names.contains(IMAGE_SEPARATOR) {
            return self.one_image(names);
        }
        let images = names.split(IMAGE_SEPARATOR).map(|name| self.one_image(name)).collect();
        ImageSource::Bag(Bag { images, row: Some((Arc::clone(&self.origin), self.line)) })
    }

    fn one_image(&self, name: &str) -> ImageSource {
        let origin = || Arc::clone(&self.origin);
        match &self.origin.images {
            Images::Files(root) => {
                ImageSource::File(ImageFile { path: root.join(name), row: Some((origin(), self.line)) })
            }
            Images::Packed(_) => {
                let mut place = name.split(PLACE_SEPARATOR).skip(1);
                let line = place.next().and_then(|line| line.parse().ok()).unwrap_or(self.line);
                let part = place.next().and_then(|part| part.parse().ok()).unwrap_or(0);
                ImageSource::Packed(Packed { origin: origin(), line, part })
            }
        }
    }

    /// Its texts, as a format hands them over.
    pub(super) fn fields(&self) -> Fields {
        self.spans.map(|Span { start, len }| {
            (len > 0).then(|| self.block[start as usize..(start + len) as usize].to_string())
        })
    }
}

/// Where an image is: equal for two rows exactly when they share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A file of its own.
    File(ImageFile),
    /// Inside a file with many.
    Packed(Packed),
    /// Several that belong to one report.
    Bag(Bag),
}

/// The images of one report, at least two.
#[derive(Clone, Debug)]
pub struct Bag {
    images: Arc<[ImageSource]>,
    /// The row that names them, the first of a study; `None` where no manifest does.
    row: Option<(Arc<Origin>, u64)>,
}

impl PartialEq for Bag {
    fn eq(&self, other: &Self) -> bool {
        self.images == other.images
    }
}

impl Eq for Bag {}

impl std::hash::Hash for Bag {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.images.hash(state);
    }
}

/// An image file, and the row that names it, where one does: messages name the row, for the file may be called after a
/// patient.
#[derive(Clone, Debug)]
pub struct ImageFile {
    pub(super) path: PathBuf,
    pub(super) row: Option<(Arc<Origin>, u64)>,
}

impl PartialEq for ImageFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for ImageFile {}

impl std::hash::Hash for ImageFile {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

/// An image inside a file with many.
#[derive(Clone, Debug)]
pub struct Packed {
    origin: Arc<Origin>,
    line: u64,
    /// Its number among the images of its row.
    part: u32,
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        (self.line, self.part) == (other.line, other.part) && self.origin.path == other.origin.path
    }
}

impl Eq for Packed {}

impl std::hash::Hash for Packed {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.line, self.part).hash(state);
        self.origin.path.hash(state);
    }
}

impl From<PathBuf> for ImageSource {
    fn from(path: PathBuf) -> Self {
        Self::File(ImageFile { path, row: None })
    }
}

impl ImageSource {
    /// Images of `pack` by their numbers; messages call them by `name` and number.
    pub(in crate::data) fn packed(name: PathBuf, pack: Arc<dyn PackedImages>, lines: RangeInclusive<u64>) -> Vec<Self> {
        let origin = Arc::new(Origin { path: name, number: 0, images: Images::Packed(pack) });
        lines.map(|line| Self::Packed(Packed { origin: Arc::clone(&origin), line, part: 0 })).collect()
    }

    /// These files as one bag, where there are several.
    pub fn of_files(files: &[PathBuf]) -> Self {
        match files {
            [file] => file.clone().into(),
            files => Self::Bag(Bag { images: files.iter().cloned().map(Self::from).collect(), row: None }),
        }
    }

    /// Whether a row names it: messages name that one, for the file may be called after a patient.
    pub fn is_of_row(&self) -> bool {
        let named = matches!(self, Self::File(ImageFile { row: Some(_), .. }) | Self::Bag(Bag { row: Some(_), .. }));
        named || matches!(self, Self::Packed(_))
    }

    /// Its images: one, unless it is a bag.
    pub fn images(&self) -> &[ImageSource] {
        match self {
            Self::Bag(bag) => &bag.images,
            one => std::slice::from_ref(one),
        }
    }

    /// The one that stands for all where only one can be shown: the first.
    fn first(&self) -> &Self {
        self.images().first().unwrap_or(self)
    }

    /// The image file's bytes; of a bag, the first's.
    ///
    /// # Errors
    /// They cannot be read; the message names the row or the file.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(file) => image::file_bytes(&file.path),
            Self::Packed(Packed { origin, line, part }) => match &origin.images {
                Images::Packed(images) => caught(|| images.image(*line, *part)),
                Images::Files(root) => image::file_bytes(root),
            },
            Self::Bag(_) => return self.first().bytes(),
        }
        .with_context(|| self.to_string())
    }

    /// The decoded image; of a bag, the first. Where a frame of a DICOM file is named, the others are not read.
    ///
    /// # Errors
    /// It cannot be read or decoded; the message names the row or the file.
    pub fn read(&self) -> Result<Picture> {
        match self {
            Self::File(file) => image::read_unnamed(&file.path).with_context(|| self.to_string()),
            Self::Packed(_) => self.read_from(&self.bytes()?),
            Self::Bag(_) => self.first().read(),
        }
    }

    /// The same from the bytes of its file, which are at hand.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_from(&self, bytes: &[u8]) -> Result<Picture> {
        let frame = match self {
            Self::File(file) => image::frame_of(&file.path).1,
            Self::Packed(_) => 0,
            Self::Bag(_) => return self.first().read_from(bytes),
        };
        image::decode(bytes, frame).with_context(|| self.to_string())
    }

    /// What it is called, for results that are meant to name it.
    pub fn name(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Packed(_) => self.to_string(),
            Self::Bag(bag) => bag.images.iter().map(Self::name).collect::<Vec<_>>().join(";"),
        }
    }

    /// The file that holds it, alone or with others; of a bag, the first's.
    pub fn file(&self) -> &Path {
        match self {
            Self::File(file) => &file.path,
            Self::Packed(packed) => &packed.origin.path,
            Self::Bag(_) => self.first().file(),
        }
    }

    /// Bytes of the image where that is known without reading it; of a series those of all its files.
    pub fn file_len(&self) -> Option<u64> {
        match self {
            Self::File(file) => image::file_len(&file.path),
            Self::Packed(Packed { origin, line, part }) => match &origin.images {
                Images::Packed(images) => images.image_len(*line, *part),
                Images::Files(_) => None,
            },
            Self::Bag(bag) => bag.images.iter().map(Self::file_len).sum(),
        }
    }
}

/// For messages: the row that names it, or else the file.
impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(ImageFile { path, row: None }) => write!(f, "{}", path.display()),
            Self::Bag(Bag { images, row: None }) => write!(f, "{} images", images.len()),
            Self::File(ImageFile { row: Some((origin, line)), .. })
            | Self::Packed(Packed { origin, line, .. })
            | Self::Bag(Bag { row: Some((origin, line)), .. }) => {
                write!(f, "{}:{line}", origin.path.display())
            }
        }
    }
}
