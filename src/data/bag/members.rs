//! What a bag holds, image by image, and reading those that are picked.

use anyhow::{Context, Result, anyhow};

use super::{BagPolicy, place};
use crate::data::config::OnBadImage;
use crate::data::table::ImageSource;
use crate::data::{Picture, Prepared};
use crate::error::one_line;

/// The images of a source, numbered from 0: its own, or those of its volumes slice by slice.
#[derive(Clone, Debug)]
pub struct Members {
    source: ImageSource,
    /// How many each of the source's images holds.
    counts: Vec<usize>,
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
    /// Of `source`.
    ///
    /// # Errors
    /// A volume says not how many slices it has.
    pub fn of(source: ImageSource) -> Result<Self> {
        let counts = vec![1; source.images().len()];
        Ok(Self { source, counts })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.counts.iter().sum()
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
        if count == 1 {
            let prepared = self.source.read().and_then(|picture| prepare(&picture))?;
            return Ok(vec![Member { number: 0, place: place(0, 1), prepared }]);
        }
        let (mut read, mut first_bad) = (Vec::with_capacity(chosen.len()), None);
        self.each(chosen, &mut |number, picture| {
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
            _ => Ok(read),
        }
    }

    /// Hands the images of these numbers, ascending, to `take` one after the other, until that says to stop.
    pub fn each(&self, numbers: &[usize], take: &mut dyn FnMut(usize, Result<Picture>) -> bool) {
        for &number in numbers {
            let image = self.source.images().get(number).context("there is no such image");
            if !take(number, image.and_then(ImageSource::read)) {
                return;
            }
        }
    }

    /// Which one it was: all of a bag are told by their row.
    fn named(&self, number: usize, error: &anyhow::Error) -> anyhow::Error {
        let (line, place) = (one_line(error), self.source.to_string());
        let reason = line.strip_prefix(&format!("{place}: ")).unwrap_or(&line);
        anyhow!("{place}: {} of {}: {reason}", number + 1, self.count())
    }
}
