//! What a bag holds, image by image, and reading those that are picked.

use std::path::Path;

use anyhow::{Result, anyhow};

use super::{BagPolicy, place};
use crate::data::config::OnBadImage;
use crate::data::table::ImageSource;
use crate::data::volume::{is_volume, slice_count, slices};
use crate::data::{Picture, Prepared};
use crate::error::one_line;

/// The images of a source, numbered from 0: its own, or those of its volumes slice by slice.
#[derive(Clone, Debug)]
pub struct Members {
    source: ImageSource,
    /// How many slices each of the source's volumes has; `None` for an image.
    slices: Vec<Option<usize>>,
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
    /// A volume that does not say how many slices it has.
    pub fn of(source: ImageSource, policy: &BagPolicy) -> Result<Self> {
        let count = |image: &ImageSource| {
            let count = |file| slice_count(file, &policy.volume).map_err(|e| (file, e));
            let count = volume_of(image).map(count).transpose();
            count.map_err(|(file, e)| anyhow!("{source}: {}", without_path(file, &e)))
        };
        let slices = source.images().iter().map(count).collect::<Result<_>>()?;
        Ok(Self { source, slices })
    }

    /// How many images of `source` are read at most, without a look into its files.
    pub fn most(source: &ImageSource, policy: &BagPolicy) -> usize {
        let images = source.images();
        if images.iter().any(|image| volume_of(image).is_some()) { policy.max } else { images.len().min(policy.max) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slices.iter().map(|slices| slices.unwrap_or(1)).sum()
    }

    /// Whether it is a plain image, which is read whatever the policy.
    pub fn is_one_image(&self) -> bool {
        self.slices == [None]
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
        let (mut read, mut first_bad) = (Vec::with_capacity(chosen.len()), None);
        self.each(chosen, policy, &mut |number, picture| {
            match picture.and_then(|picture| prepare(&picture)) {
                Ok(prepared) => read.push(Member { number, place: place(number, count), prepared }),
                Err(e) => {
                    first_bad.get_or_insert_with(|| self.named(number, &e));
                }
            }
            // The rest is not read in vain.
            first_bad.is_none() || policy.on_bad == OnBadImage::Drop
        });
        match first_bad {
            Some(bad) if policy.on_bad == OnBadImage::Row => Err(bad),
            Some(bad) if read.is_empty() => Err(anyhow!("{bad}; no other image of it can be read either")),
            _ if read.is_empty() => Err(anyhow!("{}: has no images", self.source)),
            _ => Ok(read),
        }
    }

    /// The image of this number, as it is.
    ///
    /// # Errors
    /// It cannot be read, or there is none; the message names the row or the file.
    pub fn picture(&self, number: usize, policy: &BagPolicy) -> Result<Picture> {
        let mut found = None;
        self.each(&[number], policy, &mut |_, picture| {
            found = Some(picture);
            false
        });
        found.unwrap_or_else(|| Err(anyhow!("is not there"))).map_err(|e| self.named(number, &e))
    }

    /// Hands the images of these numbers, ascending, to `take` one after the other, until that says to stop.
    /// A volume is opened once for all of its slices.
    pub fn each(&self, numbers: &[usize], policy: &BagPolicy, take: &mut dyn FnMut(usize, Result<Picture>) -> bool) {
        let (mut start, mut rest) = (0, numbers);
        for (image, count) in self.source.images().iter().zip(&self.slices) {
            let end = start + count.unwrap_or(1);
            let (own, later) = rest.split_at(rest.iter().take_while(|&&number| number < end).count());
            let which: Vec<usize> = own.iter().map(|number| number - start).collect();
            let pictures: Vec<Result<Picture>> = match count {
                _ if which.is_empty() => Vec::new(),
                None => vec![image.read()],
                Some(_) => match slices(image.file(), &policy.volume, &which) {
                    Ok(pictures) => pictures.into_iter().map(Ok).collect(),
                    // One line, whichever of them it is.
                    Err(e) => vec![Err(anyhow!("{}", without_path(image.file(), &e)))],
                },
            };
            for (picture, slice) in pictures.into_iter().zip(&which) {
                if !take(start + slice, picture) {
                    return;
                }
            }
            (start, rest) = (end, later);
        }
    }

    /// Which one it was: all of a bag are told by their row.
    fn named(&self, number: usize, error: &anyhow::Error) -> anyhow::Error {
        let (line, place) = (one_line(error), self.source.to_string());
        let reason = line.strip_prefix(&format!("{place}: ")).unwrap_or(&line);
        anyhow!("{place}: {} of {}: {reason}", number + 1, self.count())
    }
}

/// The file of a volume; `None` of other images.
pub(in crate::data) fn volume_of(image: &ImageSource) -> Option<&Path> {
    match image {
        ImageSource::File(_) => Some(image.file()).filter(|file| is_volume(file)),
        ImageSource::Packed(_) | ImageSource::Bag(_) => None,
    }
}

/// What went wrong, without the file's name: it may be called after a patient, and rows are told by their line.
fn without_path(file: &Path, error: &anyhow::Error) -> String {
    let line = one_line(error);
    line.strip_prefix(&format!("{}: ", file.display())).unwrap_or(&line).to_string()
}
