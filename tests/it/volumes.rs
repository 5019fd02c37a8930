//! Volumes through the program: what their reading takes, and what a study of several becomes.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::runs::text;

const BINARY: &str = env!("CARGO_BIN_EXE_reportclip");

/// A CT of so many planes of 256 × 256, 128 KiB each, packed.
fn packed(path: &Path, planes: u16) {
    let mut head = vec![0; 352];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348i32.to_le_bytes());
    for (i, side) in [3, 256, 256, planes].into_iter().enumerate() {
        put(40 + 2 * i, &side.to_le_bytes());
    }
    // Numbers of 16 bits; voxels of 1 mm along the axes of RAS.
    put(70, &4i16.to_le_bytes());
    put(108, &352f32.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    for axis in 0..3 {
        put(80 + 4 * axis, &1f32.to_le_bytes());
        put(280 + 20 * axis, &1f32.to_le_bytes());
    }
    put(344, b"n+1\0");
    let mut encoder = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
    encoder.write_all(&head).unwrap();
    for k in 0..planes {
        encoder.write_all(&(k as i16 - 500).to_le_bytes().repeat(256 * 256)).unwrap();
    }
    encoder.finish().unwrap();
}

/// What a volume takes does not grow with it: 512 planes, 64 MiB, are read in the memory that 16 take, for slices along
/// each axis, and one volume after the other.
#[test]
fn reading_takes_the_memory_of_planes_and_not_of_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let measure = |volumes: &[&str], policy: &str| -> (u64, u64) {
        let output = Command::new(BINARY)
            .args(["bench", "volumes"])
            .args(volumes)
            .args(["--policy", policy, "--rounds", "1", "--json"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
        (figures["peak_rss_mib"].as_u64().unwrap(), figures["slices"].as_u64().unwrap())
    };
    packed(&dir.path().join("small.nii.gz"), 16);
    for i in 0..2 {
        packed(&dir.path().join(format!("large-{i}.nii.gz")), 512);
    }
    for policy in [
        r#"{"window": "lung", "slices": 8}"#,
        r#"{"window": "percentile", "slices": 8, "spacing": [2, 2, 2]}"#,
        r#"{"window": "lung", "slices": 8, "axis": "coronal"}"#,
    ] {
        let (small, slices) = measure(&["small.nii.gz"], policy);
        assert_eq!(slices, 8, "{policy}");
        let (large, slices) = measure(&["large-0.nii.gz", "large-1.nii.gz"], policy);
        assert_eq!(slices, 16, "{policy}");
        // Along another axis a line of each plane waits for each slice: 8 slices of 256 × 512 values of 4 bytes.
        let waiting = if policy.contains("coronal") { (2 * 8 * 256 * 512 * 4) >> 20 } else { 0 };
        assert!(large <= small + waiting + 8, "{policy}: {small} MiB for 2 MiB of voxels, {large} for 64");
    }
}

/// The slices that are measured are those that are written.
#[test]
fn slices_that_are_kept_are_an_array() {
    let dir = tempfile::tempdir().unwrap();
    packed(&dir.path().join("a.nii.gz"), 12);
    let output = Command::new(BINARY)
        .args(["bench", "volumes", "a.nii.gz", "--rounds", "1", "--keep", "kept.npy"])
        .args(["--policy", r#"{"window": [-500, -245], "slices": 3}"#])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let kept = std::fs::read(dir.path().join("kept.npy")).unwrap();
    assert_eq!(kept.len(), 128 + 3 * 256 * 256);
    // Planes 2, 6 and 10 of 12.
    let shades: Vec<u8> = kept[128..].chunks(256 * 256).map(|slice| slice[1000]).collect();
    assert_eq!(shades, [2, 6, 10]);
    for (policy, wanted) in [("{", "EOF"), (r#"{"window": "liver"}"#, "liver"), (r#"{"slice": 3}"#, "unknown field")] {
        let output = Command::new(BINARY).args(["bench", "volumes", "a.nii.gz", "--policy", policy]).output().unwrap();
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(wanted), "{}", text(&output.stderr));
    }
}
