//! What is read of a volume, and what is not; loops.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::tests::{decoded, file, files_of, golden, slices, unpacked};
use super::*;

/// Bytes that this thread has read from files, where the system counts them.
fn bytes_read() -> Option<u64> {
    let counts = fs::read_to_string("/proc/thread-self/io").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
}

fn window(low: f64, high: f64) -> Window {
    Window::Values(vec![Range { low, high }])
}

/// Of a file that is not compressed, the planes of the slices and no others: these hold NaN, or are so many that nobody
/// reads them all.
#[test]
fn of_a_plain_file_only_the_planes_of_slices_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii");
    let [width, height, planes] = [64, 64, 200];
    let mut bytes = file([width, height, planes], [1.0; 3], &[]);
    // Numbers of 32 bits with a point.
    bytes[70..72].copy_from_slice(&16i16.to_le_bytes());
    let wanted: Vec<usize> = (0..8).map(|k| evenly_spaced(k, 8, planes)).collect();
    for k in 0..planes {
        let value = if wanted.contains(&k) { k as f32 } else { f32::NAN };
        bytes.extend(value.to_le_bytes().repeat(width * height));
    }
    fs::write(&path, bytes).unwrap();
    let policy = VolumePolicy { slices: Some(8), window: window(0.0, 255.0), ..VolumePolicy::default() };
    let scan = Scan::of(&path, &policy).unwrap().unwrap();
    let before = bytes_read();
    let pictures = scan.slices(&(0..8).collect::<Vec<_>>()).unwrap();
    let read = bytes_read().zip(before).map(|(after, before)| after - before);
    let shades: Vec<usize> = pictures.iter().map(|picture| picture.bytes[77].into()).collect();
    assert_eq!(shades, wanted);
    let planes = (8 * width * height * 4) as u64;
    assert!(read.is_none_or(|read| (planes..planes + 2000).contains(&read)), "{read:?} bytes for {planes} of planes");

    let [side, planes] = [512, 20_000];
    fs::write(&path, file([side, side, planes], [1.0; 3], &[])).unwrap();
    let sparse = File::options().write(true).open(&path).unwrap();
    sparse.set_len(352 + (side * side * planes * 2) as u64).unwrap();
    let scan = Scan::of(&path, &VolumePolicy { slices: Some(100), ..policy }).unwrap().unwrap();
    let before = bytes_read();
    assert_eq!(scan.slices(&[0, 99]).unwrap()[1].bytes, vec![0; side * side]);
    let read = bytes_read().zip(before).map(|(after, before)| after - before);
    assert!(read.is_none_or(|read| read < (2 * side * side * 2 + 2000) as u64), "{read:?} bytes for 2 planes");
}

/// A pipe waits for who writes into it.
#[cfg(unix)]
#[test]
fn a_pipe_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.nii", "a.npy", "a.dcm"] {
        let pipe = folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        match Scan::of(&pipe, &VolumePolicy::default()) {
            Ok(scan) => assert!(scan.is_none() && name == "a.dcm", "reading it as an image is refused"),
            Err(error) => assert_eq!(error.to_string(), "is no regular file"),
        }
    }
}

/// Files that lie in between may be gone by then.
#[test]
fn a_series_is_looked_through_once_and_read_where_slices_lie() {
    let folder = tempfile::tempdir().unwrap();
    let series = files_of(folder.path(), &golden()["series"][0]);
    let policy = VolumePolicy { slices: Some(2), window: window(-2000.0, 4000.0), ..VolumePolicy::default() };
    let scan = Scan::of(&series, &policy).unwrap().unwrap();
    let whole = scan.slices(&[0, 1]).unwrap();
    let away = folder.path().join("away.dcm");
    let mut needed = 0;
    for k in 0..5 {
        let one = series.join(format!("IM{k}.dcm"));
        fs::rename(&one, &away).unwrap();
        match scan.slices(&[0, 1]) {
            Ok(pictures) => assert_eq!(pictures, whole),
            Err(_) => needed += 1,
        }
        fs::rename(&away, &one).unwrap();
    }
    assert_eq!(needed, 2, "a file for each slice");
}

#[test]
fn frames_of_loops_come_in_their_order_gray_or_in_colour() {
    let folder = tempfile::tempdir().unwrap();
    for case in golden()["loops"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let inside = folder.path().join(name);
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("loop.dcm"), unpacked(&decoded(&case["file"]))).unwrap();
        let values: Vec<f64> = case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let shape: Vec<usize> =
            case["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let policy = VolumePolicy { window: window(0.0, 4095.0), ..VolumePolicy::default() };
        for path in [inside.clone(), inside.join("loop.dcm")] {
            assert!(is_volume(&path), "{name}");
            let scan = Scan::of(&path, &policy).unwrap().unwrap();
            assert_eq!(scan.count(), shape[0], "{name}");
            for (frame, picture) in scan.slices(&[0, 1, 2, 3]).unwrap().into_iter().enumerate() {
                let channels = if name == "gray" { 1 } else { 3 };
                assert_eq!(
                    [picture.height as usize, picture.width as usize, picture.channels],
                    [shape[1], shape[2], channels]
                );
                let byte = |v: &f64| match channels {
                    1 => (255.0 * (v / 4095.0).clamp(0.0, 1.0)).round_ties_even() as u8,
                    _ => *v as u8,
                };
                let pixels = shape[1] * shape[2] * channels;
                let expected: Vec<u8> = values[frame * pixels..][..pixels].iter().map(byte).collect();
                assert_eq!(picture.bytes, expected, "{name}, frame {frame}");
            }
            // Of four frames the second and the fourth.
            let two = Scan::of(&path, &VolumePolicy { slices: Some(2), ..policy.clone() }).unwrap().unwrap();
            let all = scan.slices(&[1, 3]).unwrap();
            assert_eq!(two.slices(&[0, 1]).unwrap(), all, "{name}");
            assert!(two.slices(&[2]).is_err());
            let known = inspect(&path).unwrap();
            assert_eq!((known.slices, known.is_oriented), (4, false), "{name}");
        }
        assert!(!is_volume(&inside.join("loop.dcm#3")), "a frame that is named is an image");
    }
}

/// Slices by the window of each frame are what frames are alone, which is held against pydicom (tests/it/dicom.rs).
#[test]
fn slices_by_the_window_of_their_file_are_shown_as_frames_are() {
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/dicom/{name}.dcm"));
    let policy = VolumePolicy { window: Window::File, ..VolumePolicy::default() };
    let folder = tempfile::tempdir().unwrap();
    // Where the lowest values are white, frames are turned once.
    let inverted = folder.path().join("inverted.dcm");
    let mut bytes = fs::read(golden("frames")).unwrap();
    let at = bytes.windows(11).position(|text| text == b"MONOCHROME2").unwrap();
    bytes[at + 10] = b'1';
    fs::write(&inverted, bytes).unwrap();
    for path in [golden("enhanced_frames"), golden("enhanced_shared"), golden("frames"), inverted] {
        let scan = Scan::of(&path, &policy).unwrap().unwrap();
        let bytes = fs::read(&path).unwrap();
        let all: Vec<usize> = (0..scan.count()).collect();
        let frame = |&index: &usize| crate::data::image::decode(&bytes, index).unwrap();
        assert!(scan.count() > 1);
        assert_eq!(scan.slices(&all).unwrap(), all.iter().map(frame).collect::<Vec<_>>(), "{}", path.display());
        let fixed = VolumePolicy { window: window(-500.0, 500.0), ..policy.clone() };
        let fixed = Scan::of(&path, &fixed).unwrap().unwrap().slices(&all).unwrap();
        assert_ne!(fixed, scan.slices(&all).unwrap(), "{}", path.display());
    }
    // What names no window is shown between percentiles.
    let path = folder.path().join("a.nii");
    fs::write(&path, file([4, 5, 6], [1.0; 3], &(0..120).collect::<Vec<i16>>())).unwrap();
    let by = |policy: &VolumePolicy| slices(&path, policy, &[0, 5]).unwrap();
    assert_eq!(by(&policy), by(&VolumePolicy::default()));
}

#[test]
fn a_folder_of_loops_and_times_that_are_not_there_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden();
    let told = |path: &Path| {
        let error = slices(path, &VolumePolicy::default(), &[0]).unwrap_err();
        error.root_cause().to_string()
    };
    let gray = unpacked(&decoded(&golden["loops"][0]["file"]));
    for name in ["a.dcm", "b.dcm"] {
        fs::write(folder.path().join(name), &gray).unwrap();
    }
    let line = told(folder.path());
    assert!(line.contains("2 files of several frames") && line.contains("a folder has one"), "{line}");
    let series = files_of(folder.path(), &golden["series"][0]);
    let at = |path: &Path, end: &str| Path::new(&format!("{}{end}", path.display())).to_path_buf();
    assert!(told(&at(&series, "#2")).contains("at one time, so there is no #2"));
    let array: &Value = &golden["arrays"][0];
    let path = folder.path().join("a.npy");
    File::create(&path).unwrap().write_all(&unpacked(&decoded(&array["file"]))).unwrap();
    assert!(told(&at(&path, "#3")).contains("one point in time, so there is no #3"));
}
