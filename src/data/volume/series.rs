//! A folder of one DICOM series: files put in order along their normal, or one file of many frames.
//!
//! Slices lie where ImagePositionPatient and ImageOrientationPatient say (PS3.3 C.7.6.2); names and numbers of files
//! say nothing. Each frame has its own rescaling. No identifier reaches a message, and no file's name, which may hold
//! one: files are told by their place among the folder's, in the order of their names.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tracing::warn;

use super::doubt::told_once;
use super::fault::Fault;
use super::geometry::{self, Geometry, MOST_SLICES, Order};
use super::planes::{Planes, Volume};
use crate::data::image::dicom::{self, Place};
use crate::data::image::{Picture, afford, file_bytes};
use crate::fs::open_plain;

/// Bytes at a file's beginning that say whether it is DICOM.
const MARK: u64 = 132;
/// Millimetres between positions that are one, and between directions, whose length is 1.
const SAME: f64 = 1e-3;
/// Part of the usual step by which others may differ without a word.
const UNEVEN: f64 = 0.05;

/// Files that a series may lie in.
pub(super) struct Listing(Vec<PathBuf>);

impl Listing {
    /// The folder's files that are not hidden, by name.
    ///
    /// # Errors
    /// It cannot be read, or holds more files than any series.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_string();
            if path.is_file() && !name.starts_with('.') && name != "DICOMDIR" {
                files.push(path);
            }
        }
        ensure!(files.len() <= 2 * MOST_SLICES, "holds {} files; allowed are {}", files.len(), 2 * MOST_SLICES);
        files.sort();
        Ok(Self(files))
    }

    /// One file of several frames.
    pub fn of_file(file: &Path) -> Self {
        Self(vec![file.to_path_buf()])
    }

    /// Whether the first DICOM file says where in the patient it lies, or holds many frames; radiographs do neither.
    pub fn is_series(&self) -> bool {
        self.first().is_some_and(|place| place.frames > 1 || is_placed(&place))
    }

    /// Whether the first DICOM file says where in the patient it lies; loops do not.
    pub fn is_placed(&self) -> bool {
        self.first().is_some_and(|place| is_placed(&place))
    }

    /// Of the first DICOM file.
    fn first(&self) -> Option<Place> {
        let place = |file: &PathBuf| match place_of(file) {
            Ok(Start::Dicom(place, _)) => Some(place),
            Ok(Start::Other { .. }) | Err(_) => None,
        };
        self.0.iter().find_map(place)
    }
}

fn is_placed(place: &Place) -> bool {
    place.directions.is_some() && place.position.is_some()
}

/// A frame of a file, and where it lies.
struct Slice {
    /// Number of the file in the folder.
    file: usize,
    frame: usize,
    place: Place,
}

/// Frames in order, and the files that they lie in: found once, however often they are read.
#[derive(Debug)]
pub(super) struct Series {
    pub geometry: Geometry,
    /// A loop in colour, whose frames are shown as they are.
    pub is_colour_loop: bool,
    /// Whether the lowest values are white.
    pub is_inverted: bool,
    files: Vec<PathBuf>,
    /// Number of the file, and of the frame in it.
    slices: Vec<(usize, usize)>,
}

/// Planes of a series.
struct Frames {
    series: Arc<Series>,
    /// Whether values are those of the 8 bits that a viewer shows, by each frame's own window.
    as_shown: bool,
    /// The file that was read last: many frames may lie in it.
    held: Option<(usize, dicom::Frames)>,
}

impl Series {
    /// # Errors
    /// No DICOM file, several series, slices that are missing, doubled, or lie in different ways.
    pub fn of(Listing(files): Listing) -> Result<Self> {
        let mut slices = found(&files)?;
        let first = slices.first().context("holds no DICOM files")?.place.clone();
        let count = slices.len();
        ensure!(count <= MOST_SLICES, "holds {count} slices; allowed are {MOST_SLICES}");
        check_alike(&slices, &first)?;
        let (geometry, is_loop) = geometry(&mut slices, &first)?;
        let is_colour_loop = is_loop && first.is_colour;
        let slices = slices.into_iter().map(|slice| (slice.file, slice.frame)).collect();
        Ok(Self { geometry, is_colour_loop, is_inverted: first.is_inverted, files, slices })
    }

    /// `as_shown`: of values from 0 to 255, as each frame is shown by its own window.
    pub fn volume(self: &Arc<Self>, as_shown: bool) -> Volume {
        let frames = Frames { series: Arc::clone(self), as_shown, held: None };
        Volume { geometry: self.geometry.clone(), planes: Box::new(frames) }
    }

    /// Frames of a loop in colour by their numbers, as they are shown.
    ///
    /// # Errors
    /// One cannot be read, or all take more memory than `data.max_image_mib`.
    pub fn shown(&self, which: &[usize]) -> Result<Vec<Picture>> {
        let [width, height, _] = self.geometry.shape;
        afford(3 * (width * height * which.len()) as u64)?;
        let mut held: Option<(usize, dicom::Frames)> = None;
        let mut pictures = Vec::with_capacity(which.len());
        for &k in which {
            let (file, frame) = self.slices[k];
            let frames = self.opened(file, &mut held)?;
            pictures.push(frames.shown(frame).with_context(|| name_of(file, &self.files))?);
        }
        Ok(pictures)
    }

    /// A file, if it is not the one that is held: then that.
    fn opened<'a>(&self, file: usize, held: &'a mut Option<(usize, dicom::Frames)>) -> Result<&'a dicom::Frames> {
        if held.as_ref().is_none_or(|(number, _)| *number != file) {
            // Two at once would take twice as much.
            *held = None;
        }
        Ok(match held {
            Some((_, frames)) => frames,
            none => {
                let frames = dicom::Frames::open(&self.files[file]);
                &none.insert((file, frames.with_context(|| name_of(file, &self.files))?)).1
            }
        })
    }
}

/// Whether all are of one series, of one size, and lie the same way.
fn check_alike(slices: &[Slice], first: &Place) -> Result<()> {
    let count = slices.len();
    let differing = |differs: &dyn Fn(&Place) -> bool| slices.iter().filter(|slice| differs(&slice.place)).count();
    let others = differing(&|place| place.series != first.series);
    let mixed = |message| Fault::MixedSeries.told(message);
    ensure!(
        others == 0,
        mixed(format!(
            "holds several DICOM series: {others} of {count} slices are not of the first one's; give each a folder"
        ))
    );
    let others = differing(&|place| place.size != first.size);
    let [rows, columns] = first.size;
    ensure!(
        others == 0,
        mixed(format!(
            "has slices of different sizes: {others} of {count} are not {columns} × {rows} pixels as the first; give \
             each series a folder"
        ))
    );
    let others = differing(&|place| place.is_inverted != first.is_inverted);
    ensure!(
        others == 0,
        mixed(format!(
            "has slices whose black is others' white: {others} of {count} are not as the first (MONOCHROME1)"
        ))
    );
    let turned = |place: &Place| match (place.directions, first.directions) {
        (Some(a), Some(b)) => a.iter().flatten().zip(b.iter().flatten()).any(|(a, b)| (a - b).abs() > SAME),
        (a, b) => a.is_some() != b.is_some(),
    };
    let others = differing(&turned);
    ensure!(
        others == 0,
        mixed(format!("has slices that lie in different ways: {others} of {count} are turned; is a localizer there?"))
    );
    Ok(())
}

/// Whether a file is DICOM and holds several frames.
pub(super) fn has_frames(file: &Path) -> bool {
    matches!(place_of(file), Ok(Start::Dicom(place, _)) if place.frames > 1)
}

/// What messages call a file.
fn name_of(file: usize, files: &[PathBuf]) -> String {
    format!("file {} of {}", file + 1, files.len())
}

/// Every frame of every DICOM file, by the files' names.
fn found(files: &[PathBuf]) -> Result<Vec<Slice>> {
    let mut slices = Vec::new();
    for (file, path) in files.iter().enumerate() {
        let name = || name_of(file, files);
        let (first, head) = match place_of(path).with_context(name)? {
            Start::Dicom(first, head) => (first, head),
            Start::Other { is_text } => {
                // Notes and licences lie beside slices without an ending, as some slices do.
                let is_named = path.extension().map_or(!is_text, |end| end.eq_ignore_ascii_case("dcm"));
                ensure!(!is_named, "{}: is no DICOM file; take it out of the folder, or copy it anew", name());
                continue;
            }
        };
        let frames = first.frames;
        ensure!(frames <= MOST_SLICES, "{}: claims {frames} frames; allowed are {MOST_SLICES}", name());
        if frames == 1 {
            slices.push(Slice { file, frame: 0, place: first });
            continue;
        }
        let places = dicom::places(&head, frames).with_context(name)?;
        slices.extend(places.into_iter().enumerate().map(|(frame, place)| Slice { file, frame, place }));
    }
    Ok(slices)
}

/// What a file begins as.
enum Start {
    /// Its first frame, and its bytes up to the pixels or beyond.
    Dicom(Place, Vec<u8>),
    Other {
        is_text: bool,
    },
}

fn place_of(path: &Path) -> Result<Start> {
    let (mut file, mut head) = (open_plain(path)?, Vec::new());
    file.by_ref().take(MARK).read_to_end(&mut head)?;
    if !dicom::is_dicom(&head) {
        let is_text = head.iter().all(|byte| *byte >= b' ' || byte.is_ascii_whitespace());
        return Ok(Start::Other { is_text: is_text && !head.is_empty() });
    }
    // Radiographs end their elements here, as slices do; files of many frames have a place of each.
    for most in dicom::HEADS {
        file.by_ref().take(most - head.len() as u64).read_to_end(&mut head)?;
        if let Some(place) = dicom::place_at_start(&head) {
            return Ok(Start::Dicom(place?, head));
        }
        if (head.len() as u64) < most {
            return Ok(Start::Dicom(dicom::place(&head)?, head));
        }
    }
    // A longer head, or one that is deflated.
    let bytes = file_bytes(path)?;
    Ok(Start::Dicom(dicom::place(&bytes)?, bytes))
}

/// Puts slices in order; where they lie, and whether they are a loop.
fn geometry(slices: &mut Vec<Slice>, first: &Place) -> Result<(Geometry, bool)> {
    let count = slices.len();
    let shape = geometry::sides([first.size[1], first.size[0], count].map(|side| side as i64))?;
    let spacing = first.spacing.unwrap_or([1.0; 2]);
    let is_one_file = slices.iter().all(|slice| slice.file == slices[0].file);
    // Frames that differ in time alone, or do not say where each lies.
    let is_loop = is_one_file && count > 1 && slices.iter().all(|slice| slice.place.position == first.position);
    let Some([column, row]) = first.directions.filter(|_| !is_loop) else {
        let loops = slices.chunk_by(|a, b| a.file == b.file).filter(|of_file| of_file.len() > 1).count();
        ensure!(
            is_one_file || loops == 0,
            Fault::NoOrder.told(format!(
                "holds {loops} files of several frames that do not say where they lie: loops, of which a folder has \
                 one; name the files instead, as a.dcm;b.dcm"
            ))
        );
        let message = "has slices that do not say where they lie (ImageOrientationPatient), so have no order; name the \
                       files in theirs, as a.dcm;b.dcm";
        ensure!(is_one_file, Fault::NoOrder.told(message.into()));
        // Frames as they come, from the feet to the head, hung as radiologists do.
        let steps = [[-spacing[1], 0.0, 0.0], [0.0, -spacing[0], 0.0], [0.0, 0.0, 1.0]];
        let affine = [0, 1, 2].map(|x| [steps[0][x], steps[1][x], steps[2][x], 0.0]);
        return Ok((Geometry { shape, affine, is_known: false, order: Order::default() }, true));
    };
    let normal = [
        column[1] * row[2] - column[2] * row[1],
        column[2] * row[0] - column[0] * row[2],
        column[0] * row[1] - column[1] * row[0],
    ];
    let along = |position: [f64; 3]| (0..3).map(|x| position[x] * normal[x]).sum::<f64>();
    let mut heights = Vec::with_capacity(count);
    for slice in slices.iter() {
        let message = "has a slice that does not say where it lies (ImagePositionPatient); take it out of the folder";
        let position = slice.place.position.ok_or_else(|| Fault::NoOrder.told(message.into()))?;
        heights.push(along(position));
    }
    let mut placed: Vec<(f64, Slice)> = heights.into_iter().zip(slices.drain(..)).collect();
    placed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let is_uneven = is_uneven(&placed.iter().map(|(height, _)| *height).collect::<Vec<_>>())?;
    slices.extend(placed.into_iter().map(|(_, slice)| slice));
    let files = || slices.iter().map(|slice| slice.file);
    let is_shuffled = !files().is_sorted() && !files().rev().is_sorted();
    let positions: Vec<[f64; 3]> = slices.iter().filter_map(|slice| slice.place.position).collect();
    let (start, end) = (positions[0], positions[count - 1]);
    // One slice has the thickness of nothing that is told here.
    let step = if count > 1 { [0, 1, 2].map(|x| (end[x] - start[x]) / (count - 1) as f64) } else { normal };
    // DICOM's x and y run the other way.
    let affine = [(0, -1.0), (1, -1.0), (2, 1.0)]
        .map(|(x, sign)| [column[x] * spacing[1], row[x] * spacing[0], step[x], start[x]].map(|v| sign * v));
    Ok((Geometry { shape, affine, is_known: true, order: Order { is_uneven, is_shuffled } }, false))
}

/// Whether steps between slices in order differ from the usual one.
///
/// # Errors
/// Slices are missing, or lie at one place.
fn is_uneven(heights: &[f64]) -> Result<bool> {
    let steps: Vec<f64> = heights.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let Some(usual) = middle(&steps) else { return Ok(false) };
    let doubled = steps.iter().filter(|step| **step < SAME).count();
    ensure!(
        doubled == 0,
        Fault::MixedSeries.told(format!(
            "has {doubled} of {} slices at the place of another: several series or points in time? Give each a \
                 folder",
            heights.len()
        ))
    );
    if let Some(at) = steps.iter().position(|step| *step > 1.5 * usual) {
        let missing: f64 = steps.iter().map(|step| (step / usual).round() - 1.0).filter(|n| *n > 0.0).sum();
        return Err(Fault::MissingSlices.told(format!(
            "lacks slices: {:.2} mm lie between slice {} and the next, where {usual:.2} are usual; {missing:.0} of \
             {:.0} seem to be missing; bring them, or leave the series out",
            steps[at],
            at + 1,
            heights.len() as f64 + missing
        )));
    }
    let is_uneven = steps.iter().any(|step| (step / usual - 1.0).abs() > UNEVEN);
    if is_uneven {
        let allowed = 100.0 * UNEVEN;
        told_once("uneven", || {
            warn!(
                "a series has slices more than {allowed}% nearer or farther than usual; they are read as if they were \
                 evenly spaced"
            )
        });
    }
    Ok(is_uneven)
}

/// The median step; `None` of none.
fn middle(steps: &[f64]) -> Option<f64> {
    let mut sorted = steps.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

const IN_COLOUR: &str = "is in colour, which is shown only in loops; leave it out, or name its files as images";

impl Planes for Frames {
    fn read(&mut self, k: usize, plane: &mut Vec<f32>) -> Result<()> {
        let Self { series, as_shown, held } = self;
        let (file, frame) = series.slices[k];
        let name = || name_of(file, &series.files);
        let frames = series.opened(file, held)?;
        if *as_shown {
            let picture = frames.shown(frame).with_context(name)?;
            ensure!(picture.channels == 1, "{}: {IN_COLOUR}", name());
            plane.clear();
            plane.extend(picture.bytes.iter().map(|&byte| f32::from(byte)));
        } else {
            frames.rescaled(frame, plane).with_context(name)?;
        }
        let pixels = series.geometry.shape[0] * series.geometry.shape[1];
        ensure!(plane.len() == pixels, "{}: has {} pixels, not {pixels}", name(), plane.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::volume::tests::{slice_count, slices};
    use crate::data::volume::{Range, VolumePolicy, Window, inspect, is_volume};

    const HEAD: u64 = dicom::HEADS[0];

    /// Frames of two pixels, of 8 bits.
    fn dicom(kind: &str, position: &[u8], frames: &[u8], pixels: &[u8]) -> Vec<u8> {
        let mut file = [&[0; 128], &b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"[..]].concat();
        let mut put = |group: u16, element: u16, kind: &str, value: &[u8]| {
            file.extend([group.to_le_bytes(), element.to_le_bytes()].concat());
            file.extend(kind.as_bytes());
            file.extend((value.len() as u16).to_le_bytes());
            file.extend(value);
        };
        if !position.is_empty() {
            put(0x20, 0x32, "DS", position);
            put(0x20, 0x37, "DS", b"1\\0\\0\\0\\1\\0 ");
        }
        put(0x28, 0x04, "CS", kind.as_bytes());
        put(0x28, 0x08, "IS", frames);
        for (element, number) in [(0x10, 1u16), (0x11, 2), (0x100, 8), (0x101, 8), (0x103, 0)] {
            put(0x28, element, "US", &number.to_le_bytes());
        }
        file.extend(b"\xe0\x7f\x10\0OB\0\0");
        file.extend((pixels.len() as u32).to_le_bytes());
        file.extend(pixels);
        file
    }

    /// A file that says one position for all of its frames.
    #[test]
    fn frames_at_one_place_come_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = |kind: &str| dicom(kind, b"0\\0\\0 ", b"2 ", &[10, 20, 30, 40]);
        std::fs::write(folder.path().join("loop.dcm"), file("MONOCHROME2 ")).unwrap();
        let window = Window::Values(vec![Range { low: 0.0, high: 255.0 }]);
        let policy = VolumePolicy { window, ..VolumePolicy::default() };
        assert!(is_volume(folder.path()) && slice_count(folder.path(), &policy).unwrap() == 2);
        let shown = || slices(folder.path(), &policy, &[0, 1]).unwrap().into_iter().map(|picture| picture.bytes);
        assert_eq!(shown().collect::<Vec<_>>(), [[10, 20], [30, 40]]);
        assert!(!inspect(folder.path()).unwrap().is_oriented);
        // Where the lowest values are white, they are so in slices too.
        std::fs::write(folder.path().join("loop.dcm"), file("MONOCHROME1 ")).unwrap();
        assert_eq!(shown().collect::<Vec<_>>(), [[245, 235], [225, 215]]);
    }

    #[test]
    fn a_radiograph_is_told_from_a_series_without_its_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.dcm");
        let file = dicom("MONOCHROME2 ", b"", b"1 ", &vec![7; 3 * HEAD as usize]);
        std::fs::write(&path, &file).unwrap();
        let Start::Dicom(place, head) = place_of(&path).unwrap() else { panic!("is DICOM") };
        assert!(place.frames == 1 && place.position.is_none() && head.len() as u64 == HEAD);
        // What ends before its pixels is read whole.
        std::fs::write(&path, &file[..file.len() - 3 * HEAD as usize - 12]).unwrap();
        assert!(matches!(place_of(&path), Ok(Start::Dicom(..))) && !is_volume(&path));
    }
}
