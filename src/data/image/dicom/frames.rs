//! Frames of one file, one after another. Where the file says before its pixels how long these are, of what is not
//! deflated only the frames that are asked for are read; else all of it.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::super::budget::most;
use super::super::picture::Picture;
use super::display::{Modality, modality, picture};
use super::elements::{Object, PixelsAt};
use super::file::DicomFile;
use super::frame::{self, Described};
use super::place::lines_of;
use super::tags;
use super::values::Frame;
use crate::fs::open_plain;

/// Bytes at a file's beginning that hold all elements before the pixels: nearly always; with places and windows of some
/// hundred frames; of some ten thousand.
pub(in crate::data) const HEADS: [u64; 3] = [64 << 10, 1 << 20, 16 << 20];
/// Fragments of compressed pixels.
const MOST_FRAGMENTS: usize = 1 << 20;

/// A file whose frames are read one after another; inflated once, where it is deflated.
pub(in crate::data) struct Frames {
    /// All of it, or what stands before the pixels.
    file: DicomFile<'static>,
    /// `None` where all of it is there.
    parts: Option<Parts>,
    /// Slope and intercept of each frame with a group of its own; looked for once, as groups lie one after another.
    lines: Vec<(f64, f64)>,
}

/// Where the pixels of frames lie.
struct Parts {
    file: File,
    pixels: Pixels,
}

enum Pixels {
    /// From this byte on, frame by frame.
    Native(u64),
    /// Place and length of each fragment, after the table of where frames begin; and the lengths alone.
    Fragments(Vec<u8>, Vec<(u64, u64)>, Vec<usize>),
}

impl Frames {
    /// No message says the file's name.
    ///
    /// # Errors
    /// No DICOM file, broken, or one that has to be read whole and is longer than an image may be, or inflates to more.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_plain(path)?;
        let (length, mut bytes) = (file.metadata()?.len(), Vec::new());
        for head in HEADS {
            bytes.reserve_exact(head.min(length).saturating_sub(bytes.len() as u64) as usize);
            file.by_ref().take(head - bytes.len() as u64).read_to_end(&mut bytes)?;
            let Ok(start) = DicomFile::open(&bytes) else { break };
            if let Some(at) = start.pixels() {
                match several_frames(&start, &at)? {
                    None => break,
                    Some(frame) => return Self::of_parts(bytes, &at, file, length, &frame),
                }
            }
            if (bytes.len() as u64) < head {
                break;
            }
        }
        let most = most();
        ensure!(
            length <= most,
            "has {length} bytes and is read whole; allowed are {most} (data.max_image_mib, --max-image-mib)"
        );
        bytes.reserve_exact(length.saturating_sub(bytes.len() as u64) as usize);
        file.take((most + 1).saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
        Self::of_file(DicomFile::open_kept(bytes)?, None)
    }

    /// `at`: where in the elements the pixels begin.
    fn of_parts(mut bytes: Vec<u8>, at: &PixelsAt, file: File, length: u64, frame: &Described) -> Result<Self> {
        let before = bytes.len() - DicomFile::open(&bytes)?.len();
        let start = (before + at.value) as u64;
        let pixels = match at.length {
            Some(claimed) => {
                let left = length.saturating_sub(start);
                ensure!(
                    claimed as u64 <= left,
                    "is broken or truncated DICOM: {claimed} bytes of pixels are claimed, where {left} are left"
                );
                let needed = frame.native_bits()?.saturating_mul(frame.frames) / 8;
                ensure!(needed <= claimed, "has fewer pixels than it says: it is truncated");
                Pixels::Native(start)
            }
            None => fragments(&file, start, length)?,
        };
        bytes.truncate(before + at.tag);
        Self::of_file(DicomFile::open_kept(bytes)?, Some(Parts { file, pixels }))
    }

    fn of_file(file: DicomFile<'static>, parts: Option<Parts>) -> Result<Self> {
        let lines = match file.object_without_pixels()? {
            object if object.value(tags::MODALITY_LUTS).is_some() => Vec::new(),
            object => lines_of(&object)?,
        };
        Ok(Self { file, parts, lines })
    }

    /// A frame's values after its own rescaling, row after row.
    ///
    /// # Errors
    /// As [`super::decode`], or it is in colour.
    pub fn rescaled(&self, index: usize, values: &mut Vec<f32>) -> Result<()> {
        let (object, frame) = self.frame(index)?;
        let is_gray = frame.samples == 1 && frame.photometric.starts_with("MONOCHROME");
        ensure!(is_gray, "is in colour, which no window fits");
        let modality = match self.lines.get(index) {
            Some((slope, intercept)) => Modality::Line(*slope, *intercept),
            None => modality(&object, &frame, index)?,
        };
        modality.values(&frame.values, values);
        Ok(())
    }

    /// A frame as [`super::decode`] shows it.
    ///
    /// # Errors
    /// As there.
    pub fn shown(&self, index: usize) -> Result<Picture> {
        let (object, frame) = self.frame(index)?;
        picture(&object, frame, index)
    }

    fn frame(&self, index: usize) -> Result<(Object<'_>, Frame)> {
        let Some(Parts { file, pixels }) = &self.parts else {
            let object = self.file.object()?;
            let frame = frame::read(&object, &self.file, index)?;
            return Ok((object, frame));
        };
        let object = self.file.object_without_pixels()?;
        let described = frame::described(&object, &self.file)?;
        described.check(index)?;
        let read = |from: u64, length: usize, bytes: &mut Vec<u8>| -> Result<()> {
            let mut file = file;
            file.seek(SeekFrom::Start(from))?;
            let read = file.take(length as u64).read_to_end(bytes)?;
            ensure!(read == length, "is broken or truncated DICOM: it ends in frame {}", index + 1);
            Ok(())
        };
        let mut bytes = Vec::new();
        let frame = match pixels {
            Pixels::Native(start) => {
                let length = described.native_bits()? / 8;
                let from = start.saturating_add((length as u64).saturating_mul(index as u64));
                read(from, length, &mut bytes)?;
                described.of_native(&bytes)?
            }
            Pixels::Fragments(table, fragments, lengths) => {
                let own = &fragments[frame::fragments_of(lengths, table, described.frames, index)?];
                let length: u64 = own.iter().map(|(_, length)| length).sum();
                ensure!(length <= most(), "has {length} bytes in frame {}; allowed are {}", index + 1, most());
                for (from, length) in own {
                    read(*from, *length as usize, &mut bytes)?;
                }
                described.of_fragment(&bytes, &self.file)?
            }
        };
        Ok((object, frame))
    }
}

/// What is said of the frames of a file, where there are several and each can be read alone.
fn several_frames(start: &DicomFile, at: &PixelsAt) -> Result<Option<Described>> {
    let frame = frame::described(&start.object_without_pixels()?, start)?;
    // Bits of a frame may begin within a byte.
    let is_alone = frame.frames > 1 && (at.length.is_none() || frame.has_whole_bytes());
    Ok(Some(frame).filter(|_| is_alone))
}

/// The fragments from byte `start` on (PS3.5 A.4), each found by the length of those before it; none is read.
fn fragments(file: &File, start: u64, length: u64) -> Result<Pixels> {
    const CUT: &str = "is broken or truncated DICOM: its fragments end early";
    let mut file = BufReader::with_capacity(512, file);
    file.seek(SeekFrom::Start(start))?;
    let (mut at, mut table, mut fragments) = (start, None, Vec::new());
    loop {
        let mut head = [0; 8];
        file.read_exact(&mut head).context(CUT)?;
        let size = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        at += 8;
        match &head[..4] {
            b"\xfe\xff\xdd\xe0" => break,
            b"\xfe\xff\x00\xe0" => {}
            _ => anyhow::bail!("is broken or truncated DICOM: something else than fragments stands among its pixels"),
        }
        ensure!(at.saturating_add(size) <= length, CUT);
        if table.is_none() {
            ensure!(size <= 4 * MOST_FRAGMENTS as u64, "has a table of fragments of {size} bytes");
            let mut bytes = vec![0; size as usize];
            file.read_exact(&mut bytes).context(CUT)?;
            table = Some(bytes);
        } else {
            ensure!(fragments.len() < MOST_FRAGMENTS, "has more than {MOST_FRAGMENTS} fragments");
            fragments.push((at, size));
            file.seek_relative(size as i64)?;
        }
        at += size;
    }
    let lengths = fragments.iter().map(|(_, length)| *length as usize).collect();
    let table = table.context("is broken or truncated DICOM: it has no table of fragments")?;
    Ok(Pixels::Fragments(table, fragments, lengths))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::dicom;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/dicom/{name}.dcm"))
    }

    /// What `decode` gives of them is held against pydicom (tests/it/dicom.rs).
    #[test]
    fn frames_that_are_read_alone_are_those_of_the_whole_file() {
        for (name, alone) in [
            ("frames", true),
            ("rle_frames", true),
            ("jpeg_fragments", true),
            ("enhanced_frames", true),
            ("enhanced_shared", true),
            ("mono2_12", false),
            ("deflated", false),
        ] {
            let bytes = std::fs::read(golden(name)).unwrap();
            let frames = Frames::open(&golden(name)).unwrap();
            let count = dicom::place(&bytes).unwrap().frames;
            assert_eq!(frames.parts.is_some(), alone, "{name}");
            assert_eq!(count > 1, alone, "{name}");
            // Backwards, as nothing says in which order they are asked for.
            for index in (0..count).rev() {
                assert_eq!(frames.shown(index).unwrap(), dicom::decode(&bytes, index).unwrap(), "{name} {index}");
            }
            assert!(frames.shown(count).unwrap_err().to_string().contains("so there is no frame"), "{name}");
        }
    }

    /// A file of 8 bits, of more bytes than an image may have: of its frames those that are asked for are read.
    #[test]
    fn of_many_frames_only_those_that_are_asked_for_are_read() {
        const SIDE: u16 = 256;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.dcm");
        let frames = 10_000u32;
        let mut bytes = [&[0; 128], &b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"[..]].concat();
        let mut put = |element: u16, kind: &[u8], value: &[u8]| {
            let length = (value.len() as u16).to_le_bytes();
            bytes.extend([&0x28u16.to_le_bytes(), &element.to_le_bytes(), kind, &length, value].concat());
        };
        put(0x04, b"CS", b"MONOCHROME2 ");
        put(0x08, b"IS", b"10000 ");
        for (element, number) in [(0x10, SIDE), (0x11, SIDE), (0x100, 8), (0x101, 8), (0x103, 0)] {
            put(element, b"US", &number.to_le_bytes());
        }
        put(0x1050, b"DS", b"128 ");
        put(0x1051, b"DS", b"256 ");
        let size = u32::from(SIDE) * u32::from(SIDE);
        bytes.extend([&b"\xe0\x7f\x10\0OB\0\0"[..], &(frames * size).to_le_bytes()].concat());
        std::fs::write(&path, &bytes).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        let at = |frame: u32| bytes.len() as u64 + u64::from(frame * size);
        file.set_len(at(frames)).unwrap();
        for frame in [3, 9_999] {
            file.seek(SeekFrom::Start(at(frame))).unwrap();
            std::io::Write::write_all(&mut file, &vec![frame as u8; size as usize]).unwrap();
        }
        let bytes_read = || {
            let counts = std::fs::read_to_string("/proc/thread-self/io").ok()?;
            counts.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse::<u64>().ok()
        };
        let before = bytes_read();
        let open = Frames::open(&path).unwrap();
        for frame in [9_999, 3, 4] {
            let level = if frame == 4 { 0 } else { frame as u8 };
            let shown = open.shown(frame as usize).unwrap();
            // LINEAR: from 0 to 255 values are shown as they are.
            assert!(shown.bytes.iter().all(|&byte| byte == level), "{frame}: {:?}", &shown.bytes[..4]);
        }
        let read = bytes_read().zip(before).map(|(after, before)| after - before);
        let most = HEADS[0] + 3 * u64::from(size) + 4096;
        let fits = |read| (3 * u64::from(size)..most).contains(&read);
        assert!(read.map_or(cfg!(not(target_os = "linux")), fits), "{read:?} bytes, {most} at most");
        file.set_len(at(frames) - 1).unwrap();
        let told = Frames::open(&path).map(|_| ()).unwrap_err().to_string();
        assert!(told.contains("bytes of pixels are claimed, where"), "{told}");
    }

    #[test]
    fn files_of_frames_that_are_cut_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.dcm");
        for name in ["frames", "rle_frames", "jpeg_fragments"] {
            let whole = std::fs::read(golden(name)).unwrap();
            for cut in [1, 9, 30, 300] {
                std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
                let told = Frames::open(&path).and_then(|frames| frames.shown(0)).map(|_| ()).unwrap_err().to_string();
                assert!(told.starts_with("is broken or truncated DICOM"), "{name} {cut}: {told}");
            }
        }
    }
}
