//! Frames of one file, one after another. Where the file says before its pixels how long these are, of what is not
//! deflated only the frames that are asked for are read; else all of it. Where a file's elements and frames lie is
//! found once, and remembered of the last files with frames that are read alone.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::super::budget::most;
use super::super::picture::Picture;
use super::display::{modality, picture};
use super::elements::{Elements, Object};
use super::file::DicomFile;
use super::frame::{self, Described};
use super::recent::{Recent, Stamp};
use super::values::Frame;
use super::walk::{MOST_FRAGMENTS, PixelsAt};
use crate::fs::open_plain;

/// Bytes at a file's beginning that hold all elements before the pixels: nearly always; with places and windows of some
/// hundred frames; of some ten thousand.
pub(in crate::data) const HEADS: [u64; 3] = [64 << 10, 1 << 20, 16 << 20];
/// Groups of frames whose places are kept; more are looked for one by one.
const MOST_GROUPS: usize = 1 << 15;

/// Files with frames that are read alone: rows may name these one by one, and epochs come back to them, though what
/// shuffles the frames of many files has forgotten most of these.
static RECENT: Recent<Found> = Recent::new();

/// A file whose frames are read one after another; inflated once, where it is deflated.
pub(in crate::data) struct Frames {
    found: Arc<Found>,
    /// From which frames are read alone.
    file: File,
}

/// What a file holds, and where.
struct Found {
    /// All of it, or what stands before the pixels.
    file: DicomFile<'static>,
    elements: Elements,
    /// `None` where all of the file is there.
    pixels: Option<Pixels>,
}

/// Where the pixels of frames lie.
enum Pixels {
    /// From this byte on, frame by frame.
    Native(u64),
    /// The table of where frames begin, and where each fragment lies.
    Fragments(Vec<u8>, Vec<Range<u64>>),
}

impl Frames {
    /// No message says the file's name.
    ///
    /// # Errors
    /// No DICOM file, broken, or one that has to be read whole and is longer than an image may be, or inflates to more.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_plain(path)?;
        let stamp = Stamp::of(&file);
        if let Some(found) = stamp.and_then(|stamp| RECENT.find(path, stamp)) {
            return Ok(Self { found, file });
        }
        let found = Arc::new(Found::of(&mut file)?);
        if let Some(stamp) = stamp.filter(|_| found.pixels.is_some()) {
            RECENT.keep(path, stamp, found.size(), &found);
        }
        Ok(Self { found, file })
    }

    /// A frame's values after its own rescaling, row after row.
    ///
    /// # Errors
    /// As [`super::decode`], or it is in colour.
    pub fn rescaled(&self, index: usize, values: &mut Vec<f32>) -> Result<()> {
        let (object, frame) = self.frame(index)?;
        let is_gray = frame.samples == 1 && frame.photometric.starts_with("MONOCHROME");
        ensure!(is_gray, "is in colour, which no window fits");
        modality(&object, &frame, index)?.values(&frame.values, values);
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
        let Found { file, elements, pixels } = &*self.found;
        let object = elements.of(file.data());
        let Some(pixels) = pixels else {
            let frame = frame::read(&object, file, index)?;
            return Ok((object, frame));
        };
        let described = frame::described(&object, file)?;
        described.check(index)?;
        let mut bytes = Vec::new();
        let frame = match pixels {
            Pixels::Native(start) => {
                let length = (described.native_bits()? / 8) as u64;
                let from = start.saturating_add(length.saturating_mul(index as u64));
                bytes.reserve_exact(length as usize);
                self.read(index, from..from.saturating_add(length), &mut bytes)?;
                described.of_native(&bytes)?
            }
            Pixels::Fragments(table, fragments) => {
                frame::ensure_read(file)?;
                let begins = |fragment: &Range<u64>| fragment.start;
                let own = &fragments[frame::fragments_of(fragments, begins, table, described.frames, index)?];
                let length: u64 = own.iter().map(|place| place.end - place.start).sum();
                ensure!(length <= most(), "has {length} bytes in frame {}; allowed are {}", index + 1, most());
                bytes.reserve_exact(length as usize);
                for place in own {
                    self.read(index, place.clone(), &mut bytes)?;
                }
                described.of_fragment(&bytes, file)?
            }
        };
        Ok((object, frame))
    }

    /// Appends bytes of a frame, which are no more than an image may have.
    fn read(&self, index: usize, place: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        let length = (place.end - place.start) as usize;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(place.start))?;
        let read = file.take(length as u64).read_to_end(bytes)?;
        ensure!(read == length, "is broken or truncated DICOM: it ends in frame {}", index + 1);
        Ok(())
    }
}

impl Found {
    fn of(file: &mut File) -> Result<Self> {
        let (length, mut bytes) = (file.metadata()?.len(), Vec::new());
        let mut known = None;
        for head in HEADS {
            bytes.reserve_exact(head.min(length).saturating_sub(bytes.len() as u64) as usize);
            file.by_ref().take(head - bytes.len() as u64).read_to_end(&mut bytes)?;
            let Ok(start) = DicomFile::open(&bytes) else { break };
            if !start.is_plain() {
                break;
            }
            if let Ok((object, Some(at))) = start.before_pixels() {
                let several = several_frames(&object, &start, &at)?;
                let elements = object.into_elements();
                match several {
                    None => known = Some((elements, at)),
                    Some(frame) => {
                        let before = start.start();
                        return Self::of_parts((bytes, before), (elements, at), (&*file, length), &frame);
                    }
                }
                break;
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
        let file = DicomFile::open_kept(bytes)?;
        let object = match known {
            Some((elements, at)) => file.object_of(elements, at.tag)?,
            None => file.object()?,
        };
        let elements = object.with_groups(MOST_GROUPS).into_elements();
        Ok(Self { file, elements, pixels: None })
    }

    /// Of a file's first bytes, of which those of its elements, of which these are known, begin at byte `before`.
    fn of_parts(
        (mut bytes, before): (Vec<u8>, usize),
        (elements, at): (Elements, PixelsAt),
        (file, length): (&File, u64),
        frame: &Described,
    ) -> Result<Self> {
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
            None => fragments(file, start, length)?,
        };
        bytes.truncate(before + at.tag);
        bytes.shrink_to_fit();
        let file = DicomFile::open_kept(bytes)?;
        let elements = elements.of(file.data()).with_groups(MOST_GROUPS).into_elements();
        Ok(Self { file, elements, pixels: Some(pixels) })
    }

    /// Bytes of memory that it takes.
    fn size(&self) -> usize {
        let pixels = match &self.pixels {
            Some(Pixels::Fragments(table, fragments)) => table.len() + size_of_val(&fragments[..]),
            Some(Pixels::Native(_)) | None => 0,
        };
        self.file.start() + self.file.data().len() + self.elements.size() + pixels
    }
}

/// What is said of the frames of a file, where there are several and each can be read alone.
fn several_frames(object: &Object, start: &DicomFile, at: &PixelsAt) -> Result<Option<Described>> {
    let frame = frame::described(object, start)?;
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
            fragments.push(at..at + size);
            file.seek_relative(size as i64)?;
        }
        at += size;
    }
    let table = table.context("is broken or truncated DICOM: it has no table of fragments")?;
    fragments.shrink_to_fit();
    Ok(Pixels::Fragments(table, fragments))
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
            assert_eq!(frames.found.pixels.is_some(), alone, "{name}");
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
        // A row may name one of a file that is longer than an image may be.
        assert!(at(frames) > crate::data::image::most_bytes());
        let named = crate::data::ImageSource::from(dir.path().join("a.dcm#10000"));
        assert_eq!(named.read().unwrap(), open.shown(9_999).unwrap());
        assert!(named.bytes().is_err());
        file.set_len(at(frames) - 1).unwrap();
        let told = Frames::open(&path).map(|_| ()).unwrap_err().to_string();
        assert!(told.contains("bytes of pixels are claimed, where"), "{told}");
    }

    /// Where frames lie is remembered as long as the file is the same.
    #[test]
    fn a_file_that_changed_is_looked_into_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.dcm");
        let written = |name: &str, seconds| {
            std::fs::copy(golden(name), &path).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
            Frames::open(&path).unwrap()
        };
        let first = written("frames", 1);
        let again = Frames::open(&path).unwrap();
        assert!(Arc::ptr_eq(&first.found, &again.found));
        assert_eq!(again.shown(1).unwrap(), first.shown(1).unwrap());
        let other = written("frames", 2);
        assert!(!Arc::ptr_eq(&first.found, &other.found));
        let bytes = std::fs::read(golden("rle_frames")).unwrap();
        assert_eq!(written("rle_frames", 2).shown(1).unwrap(), dicom::decode(&bytes, 1).unwrap());
    }

    /// Words whose high byte comes first, of which a frame may begin and end in the middle.
    #[test]
    fn frames_of_an_odd_number_of_bytes_are_turned_each_for_itself() {
        let pixels: Vec<u8> = (1..=10).map(|i| 20 * i).collect();
        let mut bytes = [&[0; 128], &b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.2\0"[..]].concat();
        let mut put = |element: u16, kind: &[u8], value: &[u8]| {
            let length = (value.len() as u16).to_be_bytes();
            bytes.extend([&0x28u16.to_be_bytes(), &element.to_be_bytes(), kind, &length, value].concat());
        };
        put(0x04, b"CS", b"MONOCHROME2 ");
        put(0x08, b"IS", b"3 ");
        for (element, number) in [(0x10, 1u16), (0x11, 3), (0x100, 8), (0x101, 8), (0x103, 0)] {
            put(element, b"US", &number.to_be_bytes());
        }
        put(0x1050, b"DS", b"128 ");
        put(0x1051, b"DS", b"256 ");
        bytes.extend([&b"\x7f\xe0\0\x10OW\0\0"[..], &10u32.to_be_bytes()].concat());
        bytes.extend(pixels.chunks(2).flat_map(|word| [word[1], word[0]]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.dcm");
        std::fs::write(&path, &bytes).unwrap();
        let frames = Frames::open(&path).unwrap();
        for index in [2, 0, 1] {
            assert_eq!(frames.shown(index).unwrap().bytes, pixels[3 * index..3 * index + 3], "{index}");
        }
        assert!(frames.shown(3).is_err());
    }

    #[test]
    fn a_table_that_points_elsewhere_than_at_fragments_is_told() {
        // Of two bytes each, eight of a head before them: items at 0, 10 and 20 from the first.
        let fragments = [8..10, 18..20, 28..30u64];
        let of = |table: [u32; 2], index| {
            let table: Vec<u8> = table.iter().flat_map(|offset| offset.to_le_bytes()).collect();
            frame::fragments_of(&fragments, |fragment| fragment.start, &table, 2, index).ok()
        };
        assert_eq!([of([0, 20], 0), of([0, 20], 1)], [Some(0..2), Some(2..3)]);
        assert_eq!([of([0, 10], 0), of([0, 10], 1)], [Some(0..1), Some(1..3)]);
        // Within a fragment, behind all, in disorder.
        assert_eq!([of([0, 11], 1), of([0, 100], 1), of([20, 0], 0), of([0, 0], 0)], [None, None, None, None]);
        // The next one lies there: this one would have a part of it.
        assert_eq!([of([0, 11], 0), of([0, 100], 0), of([0, 30], 0)], [None, None, None]);
        let none: [Range<u64>; 0] = [];
        assert!(frame::fragments_of(&none, |fragment| fragment.start, &[], 1, 0).is_err());
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
