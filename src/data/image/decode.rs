//! Image files to 8-bit pixels, gray or RGB: PNG, JPEG, DICOM.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::budget::{afford, most};
use super::picture::Picture;
use super::{dicom, exif, jpeg, png};
use crate::error::caught;
use crate::fs::open_plain;

/// Reads DICOM as [`dicom::decode`] does, the first frame unless `#N` behind the name says which, and PNG or JPEG:
/// gray, palette, RGB, with or without alpha, 8 or 16 bits. Alpha is laid over white and 16 bits are scaled to 8, both
/// as transformers 5 does (16-bit gray, which Pillow would clip, as `round(v / 257)`). The camera's orientation mark is
/// obeyed.
///
/// # Errors
/// Not an image, truncated, claiming more than 30,000 pixels a side, or taking more bytes than `data.max_image_mib`.
pub fn read(path: &Path) -> Result<Picture> {
    read_unnamed(path).with_context(|| path.display().to_string())
}

/// [`read`] of a file whose name may be a patient's: no error says it.
///
/// # Errors
/// As there.
pub(in crate::data) fn read_unnamed(path: &Path) -> Result<Picture> {
    match frame_alone(path) {
        Some(picture) => picture,
        None => decode(&file_bytes(path)?, frame_of(path).1),
    }
}

/// The frame that `x.dcm#3` names, of a DICOM file, of which no other is read; `None` of other paths.
fn frame_alone(path: &Path) -> Option<Result<Picture>> {
    let (file, frame) = frame_of(path);
    if file == path || counts_from_zero(&file) {
        return None;
    }
    let mut head = Vec::with_capacity(132);
    open_plain(&file).ok()?.take(132).read_to_end(&mut head).ok()?;
    dicom::is_dicom(&head).then(|| dicom::Frames::open(&file)?.shown(frame).and_then(whole))
}

/// [`read`] of a mask: alpha is laid over black, for what is transparent is not marked.
///
/// # Errors
/// As there.
pub(in crate::data) fn read_mask(path: &Path) -> Result<Picture> {
    let over_black = |bytes: Vec<u8>| decode_over(&bytes, frame_of(path).1, 0);
    file_bytes(path).and_then(over_black).with_context(|| path.display().to_string())
}

/// `x.dcm#3` is the third frame of x.dcm: the file, and the frame from 0.
pub(crate) fn frame_of(path: &Path) -> (PathBuf, usize) {
    let text = path.to_string_lossy();
    let named = text.rsplit_once('#').and_then(|(file, number)| Some((file, number.parse::<usize>().ok()?)));
    match named {
        // A file may be called that.
        Some((file, number)) if number > 0 && !path.exists() => (file.into(), number - 1),
        _ => (path.to_path_buf(), 0),
    }
}

/// Whether it ends as the number of a frame that is none, of a file that is there.
pub(crate) fn counts_from_zero(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.strip_suffix("#0").is_some_and(|file| Path::new(file).exists()) && !path.exists()
}

/// What is told of that.
pub(crate) const NO_ZEROTH: &str = "ends in #0; frames and points in time count from 1, as in scan.dcm#1";

/// That a file is not there, of a name that ends as that of a frame: its number, which may be a patient's, is not told.
fn of_the_file(path: &Path, error: io::Error) -> io::Error {
    let text = path.to_string_lossy();
    let is_of_frame = text.rsplit_once('#').is_some_and(|(_, number)| number.parse::<usize>().is_ok());
    match error.kind() {
        ErrorKind::NotFound if is_of_frame => {
            io::Error::new(ErrorKind::NotFound, "there is no such file, with or without the number behind the #")
        }
        _ => error,
    }
}

/// Content of an image file, which may be as long as what decoding one image may take. No error says its name, and one
/// of the system is a [`std::io::Error`].
pub(crate) fn file_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = frame_of(path).0;
    if file.is_dir() {
        let text = "is a folder and no series of DICOM slices; name the PNG, JPEG or DICOM files in it";
        return Err(io::Error::other(text).into());
    }
    ensure!(!counts_from_zero(&file), "{NO_ZEROTH}");
    let file = open_plain(&file).map_err(|e| of_the_file(path, e))?;
    let (len, most) = (file.metadata()?.len(), most());
    ensure!(len <= most, "has {len} bytes; allowed are {most} (data.max_image_mib, --max-image-mib)");
    let mut bytes = Vec::with_capacity(len as usize);
    // It may grow meanwhile.
    file.take(most + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= most, "has more than {most} bytes (data.max_image_mib, --max-image-mib)");
    Ok(bytes)
}

/// Bytes of an image file where it is there; of a series, which is a folder, those of all its files.
pub(in crate::data) fn file_len(path: &Path) -> Option<u64> {
    let file = frame_of(path).0;
    if file.is_dir() {
        return file.read_dir().ok()?.map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum();
    }
    Some(file.metadata().ok()?.len())
}

/// [`read`] for bytes in memory; `frame` counts from 0.
///
/// # Errors
/// As there, or there is no such frame: files other than DICOM have one.
pub fn decode(bytes: &[u8], frame: usize) -> Result<Picture> {
    decode_over(bytes, frame, 255)
}

/// With alpha laid over gray of `background`.
fn decode_over(bytes: &[u8], frame: usize, background: u8) -> Result<Picture> {
    ensure!(!bytes.is_empty(), "is empty");
    ensure!(!is_lfs_pointer(bytes), "is a Git LFS pointer, not an image; run `git lfs pull`");
    if dicom::is_dicom(bytes) {
        return dicom::decode(bytes, frame).and_then(whole);
    }
    ensure!(frame == 0, "is no DICOM file and has one frame, so there is no frame {}", frame + 1);
    // A decoder that meets what it did not think of must not take the program with it.
    let (picture, orientation) = if bytes.starts_with(png::SIGNATURE) {
        caught(|| png::decode(bytes, background))?
    } else if bytes.starts_with(jpeg::SIGNATURE) {
        caught(|| jpeg::decode(bytes))?
    } else {
        bail!("is not an image that can be read; known are PNG, JPEG and DICOM")
    };
    if orientation > 1 {
        // A picture that is turned is copied.
        afford(2 * picture.bytes.len() as u64)?;
    }
    whole(exif::upright(picture, orientation))
}

/// What comes after a decoder goes by the picture's size.
fn whole(picture: Picture) -> Result<Picture> {
    let Picture { width, height, channels, bytes } = &picture;
    let wanted = *width as usize * *height as usize * channels;
    ensure!(bytes.len() == wanted, "has {} values where {width} × {height} pixels have {wanted}", bytes.len());
    Ok(picture)
}

/// Whether bytes begin as one of the images that are read.
pub(in crate::data) fn begins_as_one(bytes: &[u8]) -> bool {
    bytes.starts_with(png::SIGNATURE) || bytes.starts_with(jpeg::SIGNATURE) || dicom::is_dicom(bytes)
}

/// Whether a file holds no image, but says where Git LFS has it.
pub(in crate::data) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_what_has_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Picture { width: 2, height: 1, channels: 1, bytes: vec![3, 4] };
        std::fs::write(folder.path().join("a.png"), super::super::png(&picture).unwrap()).unwrap();
        let at = |name: &str| read(&folder.path().join(name));
        assert_eq!(at("a.png#1").unwrap(), picture);
        let told = at("a.png#3").unwrap_err().root_cause().to_string();
        assert_eq!(told, "is no DICOM file and has one frame, so there is no frame 3");
        assert!(at("a.png#0").unwrap_err().root_cause().to_string().starts_with("ends in #0; frames"));
        for name in ["gone.png#0", "gone.png#3"] {
            let told = at(name).unwrap_err().root_cause().to_string();
            assert_eq!(told, "there is no such file, with or without the number behind the #");
        }
        assert!(at("gone.png").unwrap_err().root_cause().to_string().starts_with("No such file"));
    }

    #[test]
    fn a_folder_is_told_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let told = read(folder.path()).unwrap_err().root_cause().to_string();
        assert_eq!(told, "is a folder and no series of DICOM slices; name the PNG, JPEG or DICOM files in it");
    }
}
