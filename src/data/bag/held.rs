//! The images of a report that came as bytes, from a request.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use tracing::warn;

use super::{BagPolicy, Member, by_file, place};
use crate::data::config::OnBadImage;
use crate::data::image::{self, begins_as_one, dicom, is_over_limit, most_bytes};
use crate::data::volume::HeldVolume;
use crate::data::{Picture, Preprocess};
use crate::error::one_line;

/// Files in memory, whose images are numbered from 0: one of each, or the slices of a volume.
#[derive(Clone, Debug)]
pub struct HeldImages {
    files: Vec<File>,
    policy: BagPolicy,
}

#[derive(Clone, Debug)]
enum File {
    Image(Arc<[u8]>),
    Volume(HeldVolume),
    /// Cannot be read, and is left out for that.
    Bad(String),
}

impl HeldImages {
    /// Of files as they were sent, whose volumes are cut and whose images are picked as evaluation does it by `policy`.
    /// All volumes together may unpack to what one image may take. Of several, one that is broken is left out where
    /// `policy` says so, here and when it is read; what is too large or of a kind that is not taken is not.
    ///
    /// # Errors
    /// No file, a NIfTI that cannot be opened or unpacks to too much beside those before it, or a DICOM file of many
    /// frames, of which one alone would be read.
    pub fn of(files: Vec<Vec<u8>>, policy: &BagPolicy) -> Result<Self> {
        ensure!(!files.is_empty(), "has no images");
        let (count, mut room) = (files.len(), most_bytes());
        let file = |(number, bytes): (usize, Vec<u8>)| {
            let (bytes, leaves_out): (Arc<[u8]>, _) = (bytes.into(), leaves_out(policy, count));
            if !HeldVolume::is_one(&bytes) {
                one_frame(&bytes).map_err(|e| of_file(number, count, &e))?;
                // What nothing tells of may have been a volume.
                let bad = if leaves_out && !begins_as_one(&bytes) { image::decode(&bytes, 0).err() } else { None };
                return Ok(bad.map_or(File::Image(bytes), |e| File::Bad(one_line(&e))));
            }
            match HeldVolume::open(bytes, &policy.volume, &mut room) {
                Err(e) if leaves_out && !is_over_limit(&e) => Ok(File::Bad(one_line(&e))),
                opened => opened.map(File::Volume).map_err(|e| of_file(number, count, &e)),
            }
        };
        let files = files.into_iter().enumerate().map(file).collect::<Result<Vec<File>>>()?;
        if files.iter().any(|file| matches!(file, File::Volume(_))) {
            policy.tell_of_volumes();
        }
        Ok(Self { files, policy: policy.evenly() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.files.iter().map(File::count).sum()
    }

    /// Whether all that can be read are slices of volumes.
    pub fn are_of_volumes(&self) -> bool {
        self.files.iter().all(|file| matches!(file, File::Volume(_) | File::Bad(_)))
    }

    /// Those that evaluation reads, as the model takes them, file by file as long as `is_wanted` says so; and of how
    /// many files something was left out.
    ///
    /// # Errors
    /// One cannot be read, or where these are left out none can; or nobody wants them any more.
    pub fn read(&self, preprocess: &Preprocess, is_wanted: &dyn Fn() -> bool) -> Result<(Vec<Member>, usize)> {
        let count = self.count();
        let mut read = Vec::new();
        let (bad, left_out) = self.each(&self.policy.fixed(count), is_wanted, &mut |number, picture| {
            read.push(Member { number, place: place(number, count), prepared: preprocess.prepare(&picture, None)? });
            Ok(())
        })?;
        match bad {
            Some(bad) if read.is_empty() => Err(anyhow!("{bad}; no other image that is read of it can be either")),
            Some(bad) => {
                warn!("an image that was sent is left out (data.bag.on_bad): {bad}");
                Ok((read, left_out))
            }
            None => Ok((read, 0)),
        }
    }

    /// Those of these numbers, ascending, with their numbers, file by file as long as `is_wanted` says so.
    ///
    /// # Errors
    /// One cannot be read, or is not there, or nobody wants them any more.
    pub fn pictures(&self, numbers: &[usize], is_wanted: &dyn Fn() -> bool) -> Result<Vec<(usize, Picture)>> {
        let mut pictures = Vec::new();
        let (bad, _) = self.each(numbers, is_wanted, &mut |number, picture| {
            pictures.push((number, picture));
            Ok(())
        })?;
        bad.map_or(Ok(()), Err)?;
        ensure!(pictures.len() == numbers.len(), "has {} images; one that is not there was asked for", self.count());
        Ok(pictures)
    }

    /// A volume is opened once for all of its slices. Gives what is wrong with the first file of which something was
    /// left out, and how many these are.
    fn each(
        &self,
        numbers: &[usize],
        is_wanted: &dyn Fn() -> bool,
        take: &mut dyn FnMut(usize, Picture) -> Result<()>,
    ) -> Result<(Option<anyhow::Error>, usize)> {
        let (asked, mut first_bad) = (by_file(self.files.iter().map(File::count), numbers), None);
        let mut left_out = 0;
        for (i, (file, (start, which))) in self.files.iter().zip(asked).enumerate() {
            ensure!(is_wanted(), "is not wanted any more");
            let mut is_whole = true;
            let mut check = |e: anyhow::Error| {
                let told = of_file(i, self.files.len(), &e);
                if !leaves_out(&self.policy, self.files.len()) || is_over_limit(&e) {
                    return Err(told);
                }
                first_bad.get_or_insert(told);
                is_whole = false;
                Ok(())
            };
            match file.pictures(&which) {
                Ok(pictures) => {
                    for (slice, picture) in which.iter().zip(pictures) {
                        take(start + slice, picture).or_else(&mut check)?;
                    }
                }
                Err(e) => check(e)?,
            }
            left_out += usize::from(!is_whole);
        }
        Ok((first_bad, left_out))
    }
}

/// Whether one of so many files that cannot be read is left out.
fn leaves_out(policy: &BagPolicy, files: usize) -> bool {
    files > 1 && policy.on_bad == OnBadImage::Drop
}

impl File {
    fn count(&self) -> usize {
        match self {
            Self::Image(_) | Self::Bad(_) => 1,
            Self::Volume(volume) => volume.count(),
        }
    }

    fn pictures(&self, which: &[usize]) -> Result<Vec<Picture>> {
        match self {
            _ if which.is_empty() => Ok(Vec::new()),
            Self::Bad(reason) => Err(anyhow!(reason.clone())),
            Self::Image(bytes) => Ok(vec![image::decode(bytes, 0)?]),
            Self::Volume(volume) => volume.slices(which),
        }
    }
}

fn one_frame(bytes: &[u8]) -> Result<()> {
    // What is wrong with others is told by their decoder.
    let frames = if dicom::is_dicom(bytes) { dicom::place(bytes).map_or(1, |place| place.frames) } else { 1 };
    ensure!(frames <= 1, "is a DICOM file of {frames} frames; send them as images of their own, or a volume as NIfTI");
    Ok(())
}

/// Which one it was, where there are several.
fn of_file(number: usize, count: usize, error: &anyhow::Error) -> anyhow::Error {
    match count {
        1 => anyhow!("{}", one_line(error)),
        _ => anyhow!("{} of {count} {}", number + 1, one_line(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_wrong_is_told_by_its_place() {
        let picture = Picture { width: 4, height: 3, channels: 1, bytes: vec![9; 12] };
        let png = image::png(&picture).unwrap();
        let policy = BagPolicy::default();
        let held = HeldImages::of(vec![png.clone(), b"text".to_vec()], &policy).unwrap();
        let told = held.read(&Preprocess::clip(8), &|| true).unwrap_err().to_string();
        assert!(told.starts_with("2 of 2 is not an image"), "{told}");
        let asked = std::cell::Cell::new(0);
        let gone = held.read(&Preprocess::clip(8), &|| asked.replace(asked.get() + 1) < 1).unwrap_err().to_string();
        assert_eq!(gone, "is not wanted any more", "the second file is not read for nobody");
        let told = HeldImages::of(vec![vec![0x1f, 0x8b, 8]], &policy).unwrap_err().to_string();
        assert!(told.starts_with("begins as gzip and cannot be unpacked"), "{told}");
        assert!(HeldImages::of(Vec::new(), &policy).is_err());
    }

    #[test]
    fn one_of_several_that_cannot_be_read_is_left_out_where_the_policy_says_so() {
        let picture = Picture { width: 4, height: 3, channels: 1, bytes: vec![9; 12] };
        let (png, cut) = (image::png(&picture).unwrap(), vec![0x1f, 0x8b, 8]);
        let policy = BagPolicy { on_bad: OnBadImage::Drop, ..BagPolicy::default() };
        let read = |files: &[&[u8]], policy| {
            let held = HeldImages::of(files.iter().map(|file| file.to_vec()).collect(), policy)?;
            let (read, left_out) = held.read(&Preprocess::clip(8), &|| true)?;
            assert_eq!(left_out, files.len() - read.len());
            let numbers: Vec<usize> = read.iter().map(|member| member.number).collect();
            assert_eq!(held.pictures(&numbers, &|| true)?.len(), numbers.len());
            anyhow::Ok((held.count(), numbers))
        };
        assert_eq!(read(&[&cut, &png, b"text", &png], &policy).unwrap(), (4, vec![1, 3]));
        // What is too large, or of a kind that is not taken, is refused as before.
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let frames = std::fs::read(root.join("tests/golden/dicom/frames.dcm")).unwrap();
        let told = HeldImages::of(vec![png.clone(), frames], &policy).unwrap_err().to_string();
        assert!(told.starts_with("2 of 2 is a DICOM file of 3 frames"), "{told}");
        let limited = HeldImages {
            files: vec![File::Bad("is broken".into()), File::Image(png.clone().into())],
            policy: policy.clone(),
        };
        let mut too_large = |_: usize, _: Picture| crate::data::image::afford(u64::MAX);
        let told = limited.each(&[0, 1], &|| true, &mut too_large).unwrap_err().to_string();
        assert!(told.starts_with("2 of 2 takes "), "{told}");
        let refused = |files: &[&[u8]], policy| read(files, policy).unwrap_err().to_string();
        let told = refused(&[&cut, b"text"], &policy);
        assert!(told.starts_with("1 of 2 begins as gzip") && told.ends_with("can be either"), "{told}");
        assert!(refused(&[b"text"], &policy).starts_with("is not an image"), "one alone is told as it is");
        assert!(refused(&[&cut, &png], &BagPolicy::default()).starts_with("1 of 2 begins as gzip"));
    }
}
