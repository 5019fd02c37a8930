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

/// As gzip and nibabel read it: members one after another are one file, and what stands behind the last is passed over.
#[test]
fn what_stands_behind_a_packed_volume_is_no_damage_to_it() {
    let packed = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    let plain = file([4, 5, 6], [1.0; 3], &(0..120).collect::<Vec<i16>>());
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let read = slices(&path, &VolumePolicy::default(), &[0, 3, 5]);
        read.map_err(|error| error.root_cause().to_string())
    };
    let expected = read(&packed(&plain)).unwrap();
    let (first, second) = (packed(&plain[..400]), packed(&plain[400..]));
    let members = [&first[..], &second].concat();
    for behind in [&b""[..], &[0; 512], b"x", b"\x1f\x8b\x08 no gzip", &b"notes ".repeat(99)] {
        for whole in [&packed(&plain)[..], &members, &[&packed(b"")[..], &members].concat()] {
            assert_eq!(read(&[whole, behind].concat()).as_ref(), Ok(&expected), "{behind:?}");
        }
    }
    // But for a member that begins there and is cut off.
    for behind in [&b"\x1f"[..], b"\x1f\x8b", b"\x1f\x8b\x08"] {
        assert!(read(&[&members, behind].concat()).unwrap_err().contains("is truncated"), "{behind:?}");
    }
    // Where voxels are lacking, what stands behind a member is no padding.
    for cut in [1, 9, 12, second.len() - 1] {
        let told = read(&members[..members.len() - second.len() + cut]).unwrap_err();
        assert!(told.contains("is truncated"), "{cut}: {told}");
    }
    let mut flipped = members.clone();
    let end = flipped.len();
    flipped[end - 6] ^= 1;
    assert!(read(&flipped).unwrap_err().contains("its checksum is not"));
}
