//! What the images of rows hold, by the content of their files.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::image::frame_of;
use super::{ImageSource, Row};
use crate::digest::{Depth, of_file, of_tree, sha256};

/// The distinct files, or members of archives, that the images of rows lie in. Frames share their file.
#[derive(Debug)]
pub struct ImageFiles {
    distinct: Vec<ImageSource>,
    /// Of each row, which of these; several of a bag.
    numbers: Vec<Vec<usize>>,
}

/// Each image of `rows` once, with the number of the row that names it first.
pub fn distinct_images<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<(usize, ImageSource)> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (number, row) in rows.into_iter().enumerate() {
        let image = row.image();
        let new = image.images().iter().filter(|image| seen.insert((*image).clone()));
        found.extend(new.map(|image| (number, image.clone())));
    }
    found
}

impl ImageFiles {
    /// Of these rows.
    pub fn of(rows: &[&Row]) -> Self {
        let place = |image: &ImageSource| match image {
            file @ ImageSource::File(_) => frame_of(file.file()).0.into(),
            other => other.clone(),
        };
        let of_row = |row: &&Row| row.image().images().iter().map(place).collect();
        let places: Vec<Vec<ImageSource>> = rows.par_iter().map(of_row).collect();
        let (mut known, mut distinct) = (HashMap::new(), Vec::new());
        let mut number = |place| {
            *known.entry(place).or_insert_with_key(|place: &&ImageSource| {
                distinct.push((*place).clone());
                distinct.len() - 1
            })
        };
        let numbers = places.iter().map(|places| places.iter().map(&mut number).collect()).collect();
        Self { distinct, numbers }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.distinct.len()
    }

    /// Bytes of all, as far as they are there.
    pub fn bytes(&self) -> u64 {
        self.distinct.par_iter().map(|place| place.file_len().unwrap_or(0)).sum()
    }

    /// Of each row what its image holds: SHA-256 of the file, or of the member of an archive; of the archive by parts
    /// where the depth is that. Of a bag SHA-256 over those of its images. Images that cannot be read are all the same:
    /// whoever needs one tells of it. `None` when `stop` says so before the end.
    pub fn contents(&self, depth: Depth, stop: &(dyn Fn() -> bool + Sync)) -> Option<Vec<[u8; 32]>> {
        let archives: HashMap<_, _> = match depth {
            Depth::Whole => HashMap::new(),
            Depth::Parts => {
                let packed = self.distinct.iter().filter(|place| matches!(place, ImageSource::Packed(_)));
                let files: HashSet<_> = packed.map(ImageSource::file).collect();
                files.into_par_iter().map(|file| (file, of_file(file, depth).unwrap_or_default())).collect()
            }
        };
        let content = |place: &ImageSource| match (place, archives.get(place.file())) {
            (ImageSource::Packed(_), Some(archive)) => *archive,
            _ => content_of(place, depth).unwrap_or_default(),
        };
        let contents = self.distinct.par_iter().map(|place| (!stop()).then(|| content(place)));
        let contents: Vec<[u8; 32]> = contents.collect::<Option<_>>()?;
        Some(self.numbers.iter().map(|numbers| of_several(numbers.iter().map(|&number| contents[number]))).collect())
    }
}

/// What an image holds, frames of its file and all: SHA-256 of the file, whatever its length, or of the member of an
/// archive; of a series, which is a folder, its tree's; of a bag [`of_several`]. `None` of what cannot be read.
pub fn content_of(image: &ImageSource, depth: Depth) -> Option<[u8; 32]> {
    match image {
        ImageSource::File(_) => {
            let file = frame_of(image.file()).0;
            if file.is_dir() { of_tree(&file).ok() } else { of_file(&file, depth).ok() }
        }
        ImageSource::Packed(_) => Some(sha256(&image.bytes().ok()?)),
        ImageSource::Bag(_) => {
            Some(of_several(image.images().iter().map(|image| content_of(image, depth).unwrap_or_default())))
        }
    }
}

/// Of a row's images: the content of one alone, of several SHA-256 over theirs.
fn of_several(contents: impl Iterator<Item = [u8; 32]>) -> [u8; 32] {
    let contents: Vec<[u8; 32]> = contents.collect();
    if let [content] = contents[..] { content } else { sha256(&contents.concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest};

    #[test]
    fn an_image_is_what_it_is_alone_and_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let image = |name: &str, byte: u8| std::fs::write(dir.path().join(name), vec![byte; 100_000]).unwrap();
        image("a.png", 1);
        image("b.png", 2);
        image("gone.png", 3);
        let manifest = dir.path().join("manifest.csv");
        std::fs::write(&manifest, "image,report\na.png,x\nb.png,y\na.png,z\ngone.png,z\n").unwrap();
        let rows = Manifest::open(&manifest, &Columns::default(), None).unwrap().rows;
        std::fs::remove_file(dir.path().join("gone.png")).unwrap();
        let rows: Vec<&Row> = rows.iter().collect();
        let all = ImageFiles::of(&rows);
        assert_eq!((all.count(), all.bytes()), (3, 200_000));
        let of = |files: &ImageFiles, depth| files.contents(depth, &|| false).unwrap();
        for depth in [Depth::Whole, Depth::Parts] {
            let alone = rows.iter().flat_map(|row| of(&ImageFiles::of(&[row]), depth)).collect::<Vec<_>>();
            assert_eq!(of(&all, depth), alone, "{depth:?}");
            assert!(alone[0] == alone[2] && alone[0] != alone[1] && alone[3] == [0; 32], "{depth:?}");
        }
        assert_eq!(all.contents(Depth::Whole, &|| true), None);
    }
}
