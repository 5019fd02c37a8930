//! Volumes through the program: what their reading takes, and what a study of several becomes.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::runs::{Place, json, text};

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

/// A model that was trained on volumes says so in its folder, and what is edited there is checked as configs are.
#[test]
fn a_model_of_volumes_knows_it_and_its_policy_is_checked() {
    let place = Place::new();
    let ok = |args: &[&str]| {
        let out = place.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stderr)
    };
    ok(&["data", "synth", "--volumes", "--out", "ct", "--patients", "40", "--size", "32"]);
    place.train_ok("of-images", &["--set", "train.max_steps=2"]);
    assert!(!place.path("of-images/model/reportclip_bags.json").exists());
    place.train_ok("run", &["--set", "train.max_steps=2", "--set", "data.train=ct/manifest.csv"]);
    let kept = place.path("run/model/reportclip_bags.json");
    let policy = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(json(policy.as_bytes())["of_volumes"], true, "{policy}");
    let volume = place.path("ct/images/V0001.nii.gz");
    let image = std::fs::read_dir(place.path("phantom/images")).unwrap().next().unwrap().unwrap().path();
    let embed_by = |model: &str, file: &Path| {
        let file = file.display().to_string();
        ["embed", "--model", model, "--out", "e.safetensors", "--force", "--images", &file].map(str::to_string)
    };
    let embed = |file: &Path| embed_by("run/model", file);
    let by = |model: &str, file: &Path| ok(&embed_by(model, file).each_ref().map(String::as_str));
    let told = |file: &Path| by("run/model", file).contains("was trained on volumes");
    assert!(told(&image) && !told(&volume));
    // So does one that was trained on single images, by saying nothing of bags.
    let warning = "the model was trained on single images, and volumes are read: of each at most 32 slices";
    assert_eq!(by("of-images/model", &volume).matches(warning).count(), 1);
    assert!(!by("of-images/model", &image).contains(warning) && !by("run/model", &volume).contains(warning));
    for (from, to, wanted) in [
        (r#""max": 32"#, r#""max": 0"#, "max is 0; allowed is a whole number from 1 to 65536"),
        (r#""max": 32"#, r#""max": 32, "max": 3"#, "a name stands twice"),
        (r#""max": 32"#, r#""max": 32, "most": 3"#, "most is no key; allowed are max,"),
        (r#""axis": "axial""#, r#""axis": "axial", "slices": 0"#, "volume: slices is 0; allowed is a whole number"),
        (r#""axis": "axial""#, r#""spacing": [1, 1, -1]"#, "volume: spacing is [1,1,-1]; allowed is a list of three"),
        ("}", "", "not JSON from line"),
    ] {
        let edited = policy.replacen(from, to, 1);
        assert_ne!(edited, policy, "{from}");
        std::fs::write(&kept, edited).unwrap();
        let args = embed(&volume);
        let errors = place.errors(&args.each_ref().map(String::as_str), 1);
        let [line] = &errors[..] else { panic!("{errors:?}") };
        assert!(line.contains("reportclip_bags.json: ") && line.contains(wanted), "{line}");
    }
}

/// What is no volume is told by its number, with what is there instead.
#[test]
fn what_is_no_volume_is_one_line() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("several")).unwrap();
    std::fs::create_dir_all(place.path("empty")).unwrap();
    std::fs::create_dir_all(place.path("above/inner")).unwrap();
    packed(&place.path("several/a.nii.gz"), 2);
    packed(&place.path("several/b.nii.gz"), 2);
    for (name, wanted) in [
        ("none", "there is no such file or folder"),
        ("empty", "is an empty folder; name one that holds the slices of one DICOM series"),
        ("several", "is a folder of 2 NIfTI or NumPy files; name the file"),
        ("above", "is a folder of 1 folders; name the one that holds the slices"),
        ("phantom/images", "images, and no series; name the file"),
        ("tiny.toml", "is no volume; allowed are NIfTI (.nii, .nii.gz), NumPy (.npy, .npz), a folder of one DICOM"),
    ] {
        let errors = place.errors(&["bench", "volumes", name, "--rounds", "1"], 1);
        let [line] = &errors[..] else { panic!("{errors:?}") };
        // The file may be called after a patient.
        assert!(line.starts_with("volume 1 of the 1 on the command line: ") && line.contains(wanted), "{line}");
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
    for (policy, wanted) in [
        ("{", "not JSON from line 1, column 1 on"),
        (r#"{"window": "liver"}"#, r#"window is "liver"; allowed is "percentile""#),
        (r#"{"slice": 3}"#, "slice is no key; allowed are axis, spacing, slices"),
        (r#"{"slices": 3, "slices": 4}"#, "a name stands twice"),
        (r#"{"slices": 0}"#, "slices is 0; allowed is a whole number from 1 to 30000"),
        (r#"{"spacing": [1, 1, 0]}"#, "spacing is [1,1,0]; allowed is a list of three numbers above 0 and up to 100"),
    ] {
        let output = Command::new(BINARY).args(["bench", "volumes", "a.nii.gz", "--policy", policy]).output().unwrap();
        let told = text(&output.stderr);
        let is_line = told.lines().filter(|line| line.starts_with("error: ")).count() == 1;
        assert!(output.status.code() == Some(2) && is_line && told.contains(wanted), "{told}");
    }
}
