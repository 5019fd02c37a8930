//! Volumes: unreadable, of one slice, of unknown orientation, of values that are no Hounsfield units. How many images
//! the rows have, the slices of their volumes among them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::finding::{Finding, Histogram, Level};
use super::kind::FindingKind;
use crate::data::volume::{Fault, Inspected, evenly_spaced, inspect};
use crate::data::{ImageSource, Row, dicom};
use crate::error::one_line;

/// A volume with the first row that names it, and what is known of it, or why it cannot be read, without its name.
struct Looked {
    row: usize,
    image: ImageSource,
    known: Result<Inspected, Unread>,
}

/// Why a volume cannot be read.
struct Unread {
    fault: Option<Fault>,
    /// In a line, without its name.
    reason: String,
}

/// The volumes of some rows.
pub(super) struct InspectedVolumes {
    looked_at: Vec<Looked>,
    /// All that there are: a look at each file again would take as long.
    all: HashSet<ImageSource>,
}

/// Numbers of images up to which rows stand together.
const SIZES: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

impl InspectedVolumes {
    /// Opens these volumes, each with the row that names it, or `most` of them, evenly spaced. `progress` hears how
    /// many are done, of how many.
    pub fn open(all: &[(usize, ImageSource)], most: usize, progress: &(dyn Fn(usize, usize) + Sync)) -> Self {
        let (count, done) = (all.len().min(most), AtomicUsize::new(0));
        let look = |i: usize| {
            let (row, image) = &all[evenly_spaced(i, count, all.len())];
            let known = inspect(image.file());
            let known = known.map_err(|e| Unread { fault: Fault::of(&e), reason: one_line(&e) });
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, count);
            Looked { row: *row, image: image.clone(), known }
        };
        let looked_at = (0..count).into_par_iter().map(look).collect();
        Self { looked_at, all: all.iter().map(|(_, image)| image.clone()).collect() }
    }

    /// How many were looked into.
    pub fn count(&self) -> usize {
        self.looked_at.len()
    }

    /// How many images each row has, slices of volumes among them: of the rows all of whose volumes were looked into.
    /// None where each row has one image.
    pub fn sizes(&self, rows: &[Row]) -> Option<Histogram> {
        let read = self.looked_at.iter().filter_map(|looked| Some((&looked.image, looked.known.as_ref().ok()?.slices)));
        let slices: HashMap<&ImageSource, usize> = read.collect();
        let size = |row: &Row| -> Option<usize> {
            let of_image = |image| if self.all.contains(image) { slices.get(image).copied() } else { Some(1) };
            row.image().images().iter().map(of_image).sum()
        };
        let mut bars: Vec<(String, usize)> = SIZES.iter().enumerate().map(|(i, to)| (range(i, *to), 0)).collect();
        bars.push((format!("> {}", SIZES[SIZES.len() - 1]), 0));
        rows.iter().filter_map(size).for_each(|size| bars[SIZES.partition_point(|&to| to < size)].1 += 1);
        bars[1..].iter().any(|(_, rows)| *rows > 0).then_some(Histogram { name: "images a row", bars })
    }

    pub fn findings(&self, rows: &[Row], findings: &mut Vec<Finding>) {
        let with = |wanted: &dyn Fn(&Inspected) -> bool| -> Vec<usize> {
            self.looked_at
                .iter()
                .filter(|looked| looked.known.as_ref().is_ok_and(wanted))
                .map(|looked| looked.row)
                .collect()
        };
        for (fault, kind, what) in [
            (Some(Fault::MissingSlices), FindingKind::MissingSlices, "series that lack slices"),
            (Some(Fault::MixedSeries), FindingKind::MixedSeries, "folders of slices that are no one series"),
            (Some(Fault::NoOrder), FindingKind::UnorderedSlices, "series whose slices do not say where they lie"),
            (None, FindingKind::UnreadableVolume, "volumes that cannot be read"),
        ] {
            let bad = self.looked_at.iter().filter_map(|looked| Some((looked.row, looked.known.as_ref().err()?)));
            let bad: Vec<(usize, &Unread)> = bad.filter(|(_, unread)| unread.fault == fault).collect();
            let Some((_, Unread { reason, .. })) = bad.first() else { continue };
            let uids = bad.iter().filter_map(|(_, unread)| dicom::unread_syntax(&unread.reason));
            let unread = dicom::unread_syntaxes(uids).map_or(String::new(), |told| format!("{told}; "));
            let message = format!(
                "{what}; {unread}the first {reason}; `reportclip embed --images FILE` says what is wrong with another"
            );
            let found = bad.iter().map(|(row, _)| *row).collect();
            findings.extend(Finding::new(Level::Error, kind, rows, found, message));
        }
        let cases = [
            (
                Level::Warning,
                FindingKind::SingleSlice,
                with(&|known| known.slices == 1),
                "volumes of one slice: localizers, or failed exports?",
            ),
            (
                Level::Warning,
                FindingKind::UnknownOrientation,
                with(&|known| !known.is_oriented),
                "volumes that do not say which way they lie: left and right may be exchanged",
            ),
            (
                Level::Warning,
                FindingKind::UnevenSpacing,
                with(&|known| known.is_uneven),
                "series whose slices are not evenly spaced: they are read as if they were",
            ),
            (
                Level::Note,
                FindingKind::FilesOutOfOrder,
                with(&|known| known.is_shuffled),
                "series whose files are not called in the order of their slices: they are put in order here, and not \
                 by who reads files by name",
            ),
            (
                Level::Warning,
                FindingKind::OddHounsfield,
                with(&|known| known.doubt.is_some()),
                "volumes whose values are no Hounsfield units: rescaled twice, or not at all; no matter for MR",
            ),
        ];
        for (level, kind, found, message) in cases {
            findings.extend(Finding::new(level, kind, rows, found, message.into()));
        }
    }

    /// None where there are no volumes.
    pub fn histograms(&self, histograms: &mut Vec<Histogram>) {
        if self.looked_at.is_empty() {
            return;
        }
        let edges = [2, 16, 32, 64, 128, 256, 512, 1024];
        let mut bars: Vec<(String, usize)> = edges.iter().map(|e| (format!("< {e}"), 0)).collect();
        bars.push(("≥ 1024".into(), 0));
        for known in self.looked_at.iter().filter_map(|looked| looked.known.as_ref().ok()) {
            bars[edges.partition_point(|&e| e <= known.slices)].1 += 1;
        }
        histograms.push(Histogram { name: "slices of volumes", bars });
    }
}

/// What the bar of rows of up to `to` images is called.
fn range(bar: usize, to: usize) -> String {
    let from = if bar == 0 { 1 } else { SIZES[bar - 1] + 1 };
    if from == to { to.to_string() } else { format!("{from}–{to}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::bag::volume_of;
    use crate::data::{Columns, Manifest, distinct_images};

    #[test]
    fn rows_are_counted_by_their_images_and_slices() {
        let dir = tempfile::tempdir().unwrap();
        for (name, slices) in [("a.npy", 5), ("b.npy", 1)] {
            let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({slices}, 2, 2), }}");
            let mut file = [&b"\x93NUMPY\x01\0"[..], &(118u16.to_le_bytes())[..]].concat();
            file.extend(format!("{header:<117}\n").bytes());
            file.extend(vec![7; slices * 4]);
            std::fs::write(dir.path().join(name), file).unwrap();
        }
        std::fs::write(dir.path().join("c.nii"), "broken").unwrap();
        for name in ["x.png", "y.png"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let path = dir.path().join("m.csv");
        let rows = |text: &str| {
            std::fs::write(&path, format!("image,report\n{text}")).unwrap();
            Manifest::open(&path, &Columns::default(), None).unwrap().rows
        };
        let sizes = |rows: &[Row]| {
            let volumes: Vec<_> =
                distinct_images(rows).into_iter().filter(|(_, image)| volume_of(image).is_some()).collect();
            let told = AtomicUsize::new(0);
            let progress =
                |_: usize, of: usize| assert_eq!((told.fetch_add(1, Ordering::Relaxed), of).1, volumes.len());
            let sizes = InspectedVolumes::open(&volumes, 9, &progress).sizes(rows);
            assert_eq!(told.into_inner(), volumes.len());
            sizes.map(|sizes| sizes.bars.into_iter().filter(|(_, rows)| *rows > 0).collect::<Vec<_>>())
        };
        assert_eq!(sizes(&rows("x.png,r\nb.npy,r\n")), None, "one image each");
        let found = sizes(&rows("x.png,r\na.npy,r\nx.png;a.npy;b.npy,r\nx.png;y.png,r\nc.nii;x.png,r\n")).unwrap();
        let expected = [("1", 1), ("2", 1), ("5–8", 2)].map(|(name, rows)| (name.to_string(), rows));
        assert_eq!(found, expected, "the row with a volume that cannot be read is none of them");
    }

    #[test]
    fn a_volume_that_cannot_be_read_is_told_with_the_reason_and_without_its_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Jane-Doe.nii"), b"image,report\n".repeat(100)).unwrap();
        let path = dir.path().join("m.csv");
        std::fs::write(&path, "image,report\nJane-Doe.nii,clear\n").unwrap();
        let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
        let mut findings = Vec::new();
        InspectedVolumes::open(&distinct_images(&rows), 8, &|_, _| {}).findings(&rows, &mut findings);
        assert_eq!(findings.len(), 1);
        let message = &findings[0].message;
        assert!(
            message.contains("cannot be read; the first is no NIfTI file;") && !message.contains("Doe"),
            "{message}"
        );
    }
}
