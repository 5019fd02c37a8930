//! Volumes: unreadable, of one slice, of unknown orientation, of values that are no Hounsfield units.

use rayon::prelude::*;

use super::finding::{Finding, Histogram, Level};
use super::kind::FindingKind;
use crate::data::volume::{Inspected, evenly_spaced, inspect};
use crate::data::{ImageSource, Row};
use crate::error::one_line;

/// The volumes of some rows: row, and what is known of its volume, or why it cannot be read, without its name.
pub(super) struct InspectedVolumes(Vec<(usize, Result<Inspected, String>)>);

impl InspectedVolumes {
    /// Opens these volumes, each with the row that names it, or `most` of them, evenly spaced.
    pub fn open(all: &[(usize, ImageSource)], most: usize) -> Self {
        let count = all.len().min(most);
        let look = |i: usize| {
            let (row, image) = &all[evenly_spaced(i, count, all.len())];
            (*row, inspect(image.file()).map_err(|e| one_line(&e)))
        };
        Self((0..count).into_par_iter().map(look).collect())
    }

    pub fn findings(&self, rows: &[Row], findings: &mut Vec<Finding>) {
        let with = |wanted: &dyn Fn(&Inspected) -> bool| -> Vec<usize> {
            self.0.iter().filter(|(_, known)| known.as_ref().is_ok_and(wanted)).map(|(row, _)| *row).collect()
        };
        let bad = || self.0.iter().filter_map(|(row, known)| Some((*row, known.as_ref().err()?)));
        let unreadable = bad().map(|(row, _)| row).collect();
        let reason = bad().next().map_or("", |(_, reason)| reason);
        let why = format!(
            "volumes that cannot be read; the first {reason}; `reportclip embed --images FILE` says what is wrong with \
             another"
        );
        let cases = [
            (Level::Error, FindingKind::UnreadableVolume, unreadable, why.as_str()),
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
        if self.0.is_empty() {
            return;
        }
        let edges = [2, 16, 32, 64, 128, 256, 512, 1024];
        let mut bars: Vec<(String, usize)> = edges.iter().map(|e| (format!("< {e}"), 0)).collect();
        bars.push(("≥ 1024".into(), 0));
        for known in self.0.iter().filter_map(|(_, known)| known.as_ref().ok()) {
            bars[edges.partition_point(|&e| e <= known.slices)].1 += 1;
        }
        histograms.push(Histogram { name: "slices of volumes", bars });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest, distinct_images};

    #[test]
    fn a_volume_that_cannot_be_read_is_told_with_the_reason_and_without_its_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Jane-Doe.nii"), b"image,report\n".repeat(100)).unwrap();
        let path = dir.path().join("m.csv");
        std::fs::write(&path, "image,report\nJane-Doe.nii,clear\n").unwrap();
        let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
        let mut findings = Vec::new();
        InspectedVolumes::open(&distinct_images(&rows), 8).findings(&rows, &mut findings);
        assert_eq!(findings.len(), 1);
        let message = &findings[0].message;
        assert!(
            message.contains("cannot be read; the first is no NIfTI file;") && !message.contains("Doe"),
            "{message}"
        );
    }
}
