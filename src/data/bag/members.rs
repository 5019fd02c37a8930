//! What a bag holds, image by image, and reading those that are picked.

use std::path::Path;

use anyhow::{Result, anyhow};
use tracing::warn;

use super::{BagPolicy, by_file, left_out, place};
use crate::data::config::{DataConfig, OnBadImage};
use crate::data::table::ImageSource;
use crate::data::volume::{Scan, evenly_spaced, is_of_voxels, is_volume, told_once};
use crate::data::{Picture, Prepared, Row};
use crate::error::one_line;

/// The images of a source, numbered from 0: its own, or those of its volumes slice by slice.
#[derive(Clone, Debug)]
pub struct Members {
    source: ImageSource,
    /// What each of the source's volumes is, or why it cannot be opened; `None` for an image.
    scans: Vec<Result<Option<Scan>, String>>,
}

/// An image that was read, with its number and place in the bag.
#[derive(Debug)]
pub struct Member {
    /// Its number among the bag's.
    pub number: usize,
    /// Its place among them, 0 to 1.
    pub place: f32,
    /// What the model takes.
    pub prepared: Prepared,
}

impl Members {
    /// Of `source`, whose volumes are cut as `policy` says.
    ///
    /// # Errors
    /// A volume that does not say how many slices it has; of a bag of several such a one counts as an image that cannot
    /// be read where `policy` leaves these out.
    pub fn of(source: ImageSource, policy: &BagPolicy) -> Result<Self> {
        let scan = |image: &ImageSource| match image {
            ImageSource::File(_) => Scan::of(image.file(), &policy.volume),
            ImageSource::Packed(_) | ImageSource::Bag(_) => Ok(None),
        };
        let count = source.images().len();
        let mut scans = Vec::with_capacity(count);
        for (i, image) in source.images().iter().enumerate() {
            match scan(image).map_err(|e| one_line(&e)) {
                Err(reason) if count == 1 || policy.on_bad == OnBadImage::Row => {
                    return Err(anyhow!("{}{reason}", place_of_file(&source, i)));
                }
                scan => scans.push(scan),
            }
        }
        if policy.of_volumes && scans.iter().any(|scan| matches!(scan, Ok(None))) {
            told_once("images for volumes", || {
                warn!(
                    "the model was trained on volumes, and images are read: without spacing, place and the window of \
                     volumes; name the volumes"
                )
            });
        }
        if scans.iter().any(|scan| matches!(scan, Ok(Some(_)))) {
            policy.tell_of_volumes();
        }
        if let Some(text) = policy.unread_of(scans.iter().flatten().flatten().map(Scan::count)) {
            told_once("slices left unread", || warn!("{text}"));
        }
        Ok(Self { source, scans })
    }

    /// How many images of `source` are read at most, without a look into its files.
    pub fn most(source: &ImageSource, policy: &BagPolicy) -> usize {
        let images = source.images();
        if images.iter().any(|image| volume_of(image).is_some()) { policy.max } else { images.len().min(policy.max) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.scans.iter().map(count_of).sum()
    }

    /// Whether it is a plain image, which is read whatever the policy.
    pub fn is_one_image(&self) -> bool {
        matches!(self.scans[..], [Ok(None)])
    }

    /// Reads those of these numbers, in order, and makes of each what the model takes. Of a bag of several, one that
    /// cannot be read is left out where `policy` says so.
    ///
    /// # Errors
    /// An image cannot be read, or none can; the message names the row or the file.
    pub fn read(
        &self,
        chosen: &[usize],
        policy: &BagPolicy,
        prepare: impl Fn(&Picture) -> Result<Prepared>,
    ) -> Result<Vec<Member>> {
        let count = self.count();
        if self.is_one_image() {
            let prepared = self.source.read().and_then(|picture| prepare(&picture))?;
            return Ok(vec![Member { number: 0, place: place(0, 1), prepared }]);
        }
        let (mut read, mut bad) = (Vec::with_capacity(chosen.len()), Vec::new());
        self.each(chosen, &mut |number, picture| {
            match picture.and_then(|picture| prepare(&picture).map_err(|e| self.named(number, &e))) {
                Ok(prepared) => read.push(Member { number, place: place(number, count), prepared }),
                Err(e) => bad.push(e),
            }
            // The rest is not read in vain.
            bad.is_empty() || policy.on_bad == OnBadImage::Drop
        });
        match bad.first() {
            Some(_) if policy.on_bad == OnBadImage::Row => Err(bad.swap_remove(0)),
            Some(bad) if read.is_empty() => Err(anyhow!("{bad}; no other image of it can be read either")),
            _ if read.is_empty() => Err(anyhow!("{}: has no images", self.source)),
            _ => {
                bad.iter().for_each(|bad| left_out::note(&bad.to_string()));
                Ok(read)
            }
        }
    }

    /// The image of this number, as it is.
    ///
    /// # Errors
    /// It cannot be read, or there is none; the message names the row or the file.
    pub fn picture(&self, number: usize) -> Result<Picture> {
        let mut found = None;
        self.each(&[number], &mut |_, picture| {
            found = Some(picture);
            false
        });
        found.unwrap_or_else(|| Err(self.named(number, &anyhow!("is not there"))))
    }

    /// Hands the images of these numbers, ascending, to `take` one after the other, until that says to stop.
    /// A volume is opened once for all of its slices. Errors name the row or the file.
    pub fn each(&self, numbers: &[usize], take: &mut dyn FnMut(usize, Result<Picture>) -> bool) {
        let files = self.source.images().iter().zip(&self.scans);
        let asked = by_file(self.scans.iter().map(count_of), numbers);
        for (i, ((image, scan), (start, which))) in files.zip(asked).enumerate() {
            let pictures: Vec<Result<Picture>> = match scan {
                _ if which.is_empty() => Vec::new(),
                Ok(None) => vec![image.read().map_err(|e| self.named(start, &e))],
                Ok(Some(scan)) => match scan.slices(&which) {
                    Ok(pictures) => pictures.into_iter().map(Ok).collect(),
                    // Of the file, whichever of its slices it is.
                    Err(e) => vec![Err(anyhow!("{}{}", place_of_file(&self.source, i), one_line(&e)))],
                },
                Err(reason) => vec![Err(anyhow!("{}{reason}", place_of_file(&self.source, i)))],
            };
            for (picture, slice) in pictures.into_iter().zip(&which) {
                if !take(start + slice, picture) {
                    return;
                }
            }
        }
    }

    /// Which image it was: all of a bag are told by their row, if one names them.
    fn named(&self, number: usize, error: &anyhow::Error) -> anyhow::Error {
        let (line, place) = (one_line(error), self.source.to_string());
        let images = self.source.images();
        if let Some(image) = images.get(number).filter(|image| images.len() == self.count() && !image.is_of_row()) {
            let own = image.to_string();
            return anyhow!("{own}: {}", line.strip_prefix(&format!("{own}: ")).unwrap_or(&line));
        }
        let reason = line.strip_prefix(&format!("{place}: ")).unwrap_or(&line);
        anyhow!("{place}: {} of {}: {reason}", number + 1, self.count())
    }
}

/// Images that a file holds.
fn count_of(scan: &Result<Option<Scan>, String>) -> usize {
    scan.as_ref().ok().and_then(Option::as_ref).map_or(1, Scan::count)
}

/// What messages about a file begin with: its name, or where a row names it the row, and which of several it is:
/// numbers of images count slices.
fn place_of_file(source: &ImageSource, file: usize) -> String {
    let images = source.images();
    match images.get(file) {
        Some(image) if images.len() == 1 || !image.is_of_row() => format!("{image}: "),
        _ => format!("{source}: file {} of the {} named: ", file + 1, images.len()),
    }
}

impl BagPolicy {
    /// Of a model that is trained on these rows.
    pub fn of_training(config: &DataConfig, rows: &[Row]) -> Self {
        Self { of_volumes: are_of_voxels(rows), of_images: are_single_images(rows), ..Self::from(config) }
    }
}

/// Whether no row has an image or a loop. All rows are looked at by their names, and where these do not tell into
/// evenly spaced files.
fn are_of_voxels(rows: &[Row]) -> bool {
    /// Of rows one in twenty of which is another kind, so many miss it twice in a million times.
    const MOST: usize = 256;
    let is_of_row = |row: &Row, looks| {
        let mut untold = false;
        for image in row.image().images() {
            match image {
                ImageSource::File(_) => match is_of_voxels(image.file(), looks) {
                    Some(false) => return Some(false),
                    Some(true) => {}
                    None => untold = true,
                },
                ImageSource::Packed(_) | ImageSource::Bag(_) => return Some(false),
            }
        }
        (!untold).then_some(true)
    };
    let mut untold = Vec::new();
    for row in rows {
        match is_of_row(row, false) {
            Some(true) => {}
            Some(false) => return false,
            None => untold.push(row),
        }
    }
    let most = untold.len().min(MOST);
    let is_one = |k| is_of_row(untold[evenly_spaced(k, most, untold.len())], true) == Some(true);
    !rows.is_empty() && (0..most).all(is_one)
}

/// Whether each row has one image. All rows are looked at by their names, and where these do not tell into evenly
/// spaced files.
fn are_single_images(rows: &[Row]) -> bool {
    /// Of rows one in twenty of which has several, so many miss all one time in 26; a warning goes by it, and no more.
    const MOST: usize = 64;
    let mut untold = Vec::new();
    for row in rows {
        let source = row.image();
        match source.images() {
            [image @ ImageSource::File(_)] => match is_of_voxels(image.file(), false) {
                Some(true) => return false,
                Some(false) => {}
                None => untold.push(row),
            },
            [ImageSource::Packed(_)] => {}
            _ => return false,
        }
    }
    let most = untold.len().min(MOST);
    (0..most).all(|k| volume_of(&untold[evenly_spaced(k, most, untold.len())].image()).is_none())
}

/// The file of a volume; `None` of other images.
pub(in crate::data) fn volume_of(image: &ImageSource) -> Option<&Path> {
    match image {
        ImageSource::File(_) => Some(image.file()).filter(|file| is_volume(file)),
        ImageSource::Packed(_) | ImageSource::Bag(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::Preprocess;

    #[test]
    fn a_volume_that_cannot_be_opened_is_left_out_where_images_are() {
        let dir = tempfile::tempdir().unwrap();
        let image = Picture { width: 4, height: 3, channels: 1, bytes: vec![9; 12] };
        std::fs::write(dir.path().join("a.png"), crate::data::image::png(&image).unwrap()).unwrap();
        std::fs::write(dir.path().join("b.nii"), "broken").unwrap();
        let source = ImageSource::of_files(&["a.png", "b.nii"].map(|name| dir.path().join(name)));
        let told = Members::of(source.clone(), &BagPolicy::default()).unwrap_err().to_string();
        assert!(told.contains("b.nii: has 6 bytes;") && !told.contains("a.png"), "{told}");
        let policy = BagPolicy { on_bad: OnBadImage::Drop, ..BagPolicy::default() };
        let members = Members::of(source, &policy).unwrap();
        let clip = Preprocess::clip(8);
        let read = members.read(&[0, 1], &policy, |picture| clip.prepare(picture, None)).unwrap();
        assert_eq!((members.count(), read.len(), read[0].number), (2, 1, 0));
        let alone = dir.path().join("b.nii");
        assert!(Members::of(alone.into(), &policy).is_err());
    }

    /// Of a bag none of whose images can be read nothing is left out: it is an error.
    #[test]
    fn what_is_left_out_is_noted_where_something_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (read, unread) = (b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.98");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/jpeg_8.dcm");
        let mut bytes = std::fs::read(golden).unwrap();
        let at = bytes.windows(read.len()).position(|w| w == read).unwrap();
        bytes[at..at + read.len()].copy_from_slice(unread);
        let image = Picture { width: 4, height: 3, channels: 1, bytes: vec![9; 12] };
        let png = crate::data::image::png(&image).unwrap();
        for (name, content) in [("a.dcm", &bytes), ("b.dcm", &bytes), ("c.png", &png)] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let policy = BagPolicy { on_bad: OnBadImage::Drop, ..BagPolicy::default() };
        let clip = Preprocess::clip(8);
        let noted = || left_out::noted(std::str::from_utf8(unread).unwrap());
        for (names, images, left_out) in [(["a.dcm", "b.dcm"], 0, 0), (["a.dcm", "c.png"], 1, 1)] {
            let files = ImageSource::of_files(&names.map(|name| dir.path().join(name)));
            let members = Members::of(files, &policy).unwrap();
            let read = members.read(&[0, 1], &policy, |picture| clip.prepare(picture, None));
            assert_eq!((read.map_or(0, |read| read.len()), noted()), (images, left_out), "{names:?}");
        }
    }

    /// What is wrong with a file shows when its slices are read: it is told of, and not a slice by its number.
    #[test]
    fn of_a_file_that_is_broken_it_is_told_which_of_the_row_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, last: f32| {
            let mut values = [1.0f32; 2 * 2 * 3];
            values[11] = last;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut head = crate::npy::header_of_bytes(&[3, 2, 2]);
            let at = head.windows(3).position(|text| text == b"|u1").unwrap();
            head[at..at + 3].copy_from_slice(b"<f4");
            std::fs::write(dir.path().join(name), [head, bytes].concat()).unwrap();
        };
        file("a.npy", 2.0);
        file("b.npy", f32::NAN);
        let manifest = dir.path().join("m.csv");
        std::fs::write(&manifest, "image,report\na.npy;b.npy,x\n").unwrap();
        let rows = crate::data::Manifest::open(&manifest, &crate::data::Columns::default(), None).unwrap().rows;
        let files = ImageSource::of_files(&["a.npy", "b.npy"].map(|name| dir.path().join(name)));
        for (source, wanted) in
            [(rows[0].image(), "m.csv:2: file 2 of the 2 named: holds 1 "), (files, "b.npy: holds 1 ")]
        {
            let members = Members::of(source, &BagPolicy::default()).unwrap();
            assert_eq!(members.count(), 6);
            assert!(members.picture(0).is_ok());
            let clip = Preprocess::clip(8);
            let read = members.read(&[1, 5], &BagPolicy::default(), |picture| clip.prepare(picture, None));
            for told in [members.picture(5).unwrap_err(), read.unwrap_err()] {
                assert!(told.to_string().contains(wanted), "{told}");
            }
        }
    }

    #[test]
    fn one_image_or_loop_among_the_rows_makes_a_model_none_of_volumes() {
        let dir = tempfile::tempdir().unwrap();
        let frames = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/frames.dcm");
        std::fs::copy(frames, dir.path().join("loop.dcm")).unwrap();
        for name in ["a.png", "a.nii"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        for (last, expected) in [("a.nii", true), ("a.png", false), ("loop.dcm", false), ("a.nii;a.png", false)] {
            let rows: String = (0..40).map(|i| format!("a.nii,report {i}\n")).collect();
            let manifest = dir.path().join("m.csv");
            std::fs::write(&manifest, format!("image,report\n{rows}{last},last\n")).unwrap();
            let rows = crate::data::Manifest::open(&manifest, &crate::data::Columns::default(), None).unwrap().rows;
            assert_eq!(rows.len(), 41);
            assert_eq!(are_of_voxels(&rows), expected, "{last}");
            assert!(!are_single_images(&rows), "{last}");
        }
        for (name, expected) in [("a.png", true), ("loop.dcm#2", true), ("loop.dcm", false), ("a.png;a.png", false)] {
            let manifest = dir.path().join("m.csv");
            std::fs::write(&manifest, format!("image,report\na.png,first\n{name},last\n")).unwrap();
            let rows = crate::data::Manifest::open(&manifest, &crate::data::Columns::default(), None).unwrap().rows;
            assert_eq!((rows.len(), are_single_images(&rows)), (2, expected), "{name}");
        }
    }

    /// A file of frames, none of which is named, is a bag of all; one that is named an image.
    #[test]
    fn frames_of_a_file_are_a_bag() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/frames.dcm");
        let policy = BagPolicy::default();
        let all = Members::of(path.clone().into(), &policy).unwrap();
        assert!(all.count() == 3 && !all.is_one_image());
        let named = Path::new(&format!("{}#2", path.display())).to_path_buf();
        assert!(Members::of(named.into(), &policy).unwrap().is_one_image());
        // Frames are shown by one window, that of volumes, and not each by its own.
        let shown: Vec<Picture> = (0..3).map(|number| all.picture(number).unwrap()).collect();
        assert!(shown[0] != shown[1] && shown[1] != shown[2]);
        assert!(all.picture(3).is_err());
    }
}
