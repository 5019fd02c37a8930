//! Damage to packed volumes that unpacking alone does not show.

use std::fs;
use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::tests::{file, slices};
use super::*;

/// A stored block of gzip unpacks whatever is in it; only the checksum at the end tells.
#[test]
fn damage_behind_the_slices_that_are_read_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&file([4, 5, 6], [1.0; 3], &[7; 120])).unwrap();
    let good = encoder.finish().unwrap();
    let end = good.len();
    let path = folder.path().join("a.nii.gz");
    let sagittal = VolumePolicy { axis: Axis::Sagittal, ..VolumePolicy::default() };
    let read = |bytes: &[u8]| -> [Option<String>; 3] {
        fs::write(&path, bytes).unwrap();
        let told = |result: Result<()>| result.err().map(|error| error.root_cause().to_string());
        [
            told(slices(&path, &VolumePolicy::default(), &[0]).map(|_| ())),
            told(slices(&path, &sagittal, &[0]).map(|_| ())),
            told(inspect(&path).map(|_| ())),
        ]
    };
    assert_eq!(read(&good), [None, None, None]);
    let mut flipped = good.clone();
    // In the last plane.
    flipped[end - 20] ^= 1;
    let mut zeroed = good.clone();
    zeroed[end - 8..].fill(0);
    for (bytes, wanted) in [
        (&flipped[..], "its checksum is not"),
        (&zeroed[..], "its checksum is not"),
        (&good[..end - 3], "is truncated"),
    ] {
        for told in read(bytes) {
            assert!(told.as_ref().is_some_and(|line| line.contains(wanted)), "{wanted}: {told:?}");
        }
    }
}
