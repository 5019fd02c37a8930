//! DICOM pixels against pydicom. Fixtures: scripts/golden/dicom.py.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use crate::common::{golden, named_by};
use crate::runs::{Place, text};
use reportclip::data::dicom;
use serde_json::Value;

/// What differs, if anything: values before windowing must be equal (within `allowed` for the rounding of
/// lossy decoders), after within 1.
fn compare(bytes: &[u8], case: &Value, stored: &[i32], shown: Option<&[i32]>, allowed: i32) -> Result<(), String> {
    let frame = case["frame"].as_u64().unwrap_or(0) as usize;
    let ours = dicom::stored(bytes, frame).map_err(|e| format!("{e:#}"))?;
    let size = (case["rows"].as_u64().unwrap() as usize, case["columns"].as_u64().unwrap() as usize);
    if (ours.rows, ours.columns) != size || ours.values.len() != stored.len() {
        return Err(format!("is {} × {}, {} values", ours.rows, ours.columns, ours.values.len()));
    }
    let worst = ours.values.iter().zip(stored).map(|(a, b)| (a - b).abs()).max().unwrap_or(0);
    if worst > allowed {
        return Err(format!("stored values differ by up to {worst}"));
    }
    if let Some(shown) = shown {
        let picture = dicom::decode(bytes, frame).map_err(|e| format!("{e:#}"))?;
        let worst = picture.bytes.iter().zip(shown).map(|(a, b)| (i32::from(*a) - b).abs()).max().unwrap_or(0);
        // A window stretches what a lossy decoder rounds differently.
        if worst > 1 + 2 * allowed || picture.bytes.len() != shown.len() {
            return Err(format!("shown values differ by up to {worst}"));
        }
    }
    Ok(())
}

fn list(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i32).collect()
}

#[test]
fn every_kind_of_file_is_what_pydicom_reads() {
    let cases: Value = serde_json::from_slice(&std::fs::read(golden("dicom/golden.json")).unwrap()).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 45, "{}", cases.len());
    let mut failures = Vec::new();
    for case in cases {
        let name = case["file"].as_str().unwrap();
        let bytes = std::fs::read(golden(&format!("dicom/{name}"))).unwrap();
        let shown = case.get("shown").map(list);
        // Chroma of JPEG is rounded differently by libjpeg.
        let allowed = if name == "jpeg_ybr.dcm" {
            3
        } else {
            i32::from(name == "ybr.dcm" || name.starts_with("jpeg_") || name == "j2k_lossy.dcm")
        };
        if let Err(problem) = compare(&bytes, case, &list(&case["stored"]), shown.as_deref(), allowed) {
            failures.push(format!("{name}: {problem}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// pydicom's own files that are not as pydicom reads them, and what differs.
const NOT_ALIKE: [(&str, &str); 13] = [
    ("JPGExtended.dcm", "its JPEG pixels cannot be decoded: unsupported JPEG feature: SamplePrecision(12)"),
    ("OBXXXX1A_expb.dcm", "stored values differ by up to 65025"),
    ("OBXXXX1A_expb_2frame.dcm", "stored values differ by up to 65025"),
    ("SC_jpeg_no_color_transform.dcm", "stored values differ by up to 137"),
    ("SC_rgb_dcmtk_+eb+cy+n1.dcm", "stored values differ by up to 2"),
    ("SC_rgb_dcmtk_+eb+cy+np.dcm", "stored values differ by up to 2"),
    (
        "SC_rgb_jls_lossy_sample.dcm",
        "its JPEG-LS pixels cannot be decoded: components lie pixel by pixel, which is not read",
    ),
    ("SC_rgb_jpeg.dcm", "stored values differ by up to 137"),
    ("SC_rgb_jpeg_lossy_gdcm.dcm", "stored values differ by up to 2"),
    ("color3d_jpeg_baseline.dcm", "stored values differ by up to 5"),
    ("examples_ybr_color.dcm", "stored values differ by up to 3"),
    ("gdcm-US-ALOKA-16.dcm", "a lookup table has no entries"),
    ("gdcm-US-ALOKA-16_big.dcm", "a lookup table has no entries"),
];

/// `REPORTCLIP_PYDICOM` names what `scripts/golden/dicom.py --real` wrote.
#[test]
fn pydicoms_own_files_are_what_pydicom_reads() {
    let Some(folder) = named_by("REPORTCLIP_PYDICOM", "what scripts/golden/dicom.py wrote") else { return };
    let folder = Path::new(&folder);
    let (mut files, mut failures) = (0, Vec::new());
    for line in std::fs::read_to_string(folder.join("golden.jsonl")).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let numbers = |kind: &str| -> Option<Vec<i32>> {
            let bytes = std::fs::read(folder.join(format!("{}.{kind}", case["number"]))).ok()?;
            Some(bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect())
        };
        let path = Path::new(case["path"].as_str().unwrap());
        let lossy = ["4.50", "4.51", "4.91"].iter().any(|s| case["syntax"].as_str().unwrap().ends_with(s));
        let bytes = std::fs::read(path).unwrap();
        let (stored, shown) = (numbers("stored").unwrap(), numbers("shown"));
        files += 1;
        if let Err(problem) = compare(&bytes, &case, &stored, shown.as_deref(), i32::from(lossy)) {
            failures.push((path.file_name().unwrap().to_str().unwrap().to_string(), problem));
        }
    }
    failures.sort();
    let failures: Vec<(&str, &str)> = failures.iter().map(|(name, problem)| (&name[..], &problem[..])).collect();
    assert_eq!((files, &failures[..]), (149, &NOT_ALIKE[..]), "{failures:#?}");
}

/// Every fixture, by its name.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let paths = std::fs::read_dir(golden("dicom")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "dcm"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    assert!(files.len() >= 45, "{}", files.len());
    files
}

/// Ends the fragments of compressed pixels.
const END_MARK: [u8; 8] = [0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0];

/// Bytes up to the mark behind the last fragment: the pixels are whole without it.
fn needed(bytes: &[u8]) -> usize {
    bytes.len() - if bytes.ends_with(&END_MARK) { END_MARK.len() } else { 0 }
}

/// Half an image must not be shown as if it were whole.
#[test]
fn a_cut_file_is_an_error_at_every_cut_without_a_patient() {
    let mut accepted = Vec::new();
    for (name, bytes) in fixtures() {
        dicom::decode(&bytes, 0).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        // The end of a deflated stream, up to 15 bits and a zero that makes its length even, holds no pixels.
        let needed = needed(&bytes) - if name == "deflated.dcm" { 4 } else { 0 };
        for cut in (0..needed).step_by(61).chain(needed - 40..needed) {
            match dicom::decode(&bytes[..cut], 0) {
                Ok(_) => accepted.push(format!("{name} is read from {cut} of {needed} bytes")),
                Err(e) => assert!(!format!("{e:#}").contains("PHANTOM"), "{name}: {e:#}"),
            }
        }
        let frames = dicom::decode(&bytes, 5000).unwrap_err();
        assert!(frames.to_string().contains("so there is no frame 5001"), "{frames}");
    }
    assert!(accepted.is_empty(), "{accepted:#?}");
}

/// The same where DICOM's own structure is whole and the compressed pixels inside end early.
#[test]
fn compressed_pixels_that_end_early_are_an_error() {
    let (mut files, mut accepted) = (0, Vec::new());
    for (name, bytes) in fixtures().into_iter().filter(|(_, bytes)| bytes.ends_with(&END_MARK)) {
        let item = bytes.windows(4).rposition(|w| w == [0xfe, 0xff, 0x00, 0xe0]).unwrap();
        let (start, end) = (item + 8, needed(&bytes));
        assert_eq!(u32::from_le_bytes(bytes[item + 4..start].try_into().unwrap()) as usize, end - start, "{name}");
        let frame = usize::from(name.contains("frames") || name.contains("fragments")) * 2;
        dicom::decode(&bytes, frame).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        // Without the end mark of JPEG's kinds and the byte that makes the length even the pixels may be whole.
        for len in (0..end - start - 3).step_by(2) {
            let mut cut = bytes[..start + len].to_vec();
            cut[item + 4..start].copy_from_slice(&(len as u32).to_le_bytes());
            cut.extend(END_MARK);
            if dicom::decode(&cut, frame).is_ok() {
                accepted.push(format!("{name} is read from {len} of {} bytes", end - start));
            }
        }
        files += 1;
    }
    assert!(files >= 15, "{files}");
    assert!(accepted.is_empty(), "{accepted:#?}");
}

/// Such a file may be whole: it is counted apart from what is broken, by its UID.
#[test]
fn a_transfer_syntax_that_is_not_read_is_counted_apart() {
    let place = Place::new();
    let (read, unread) = (b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.99");
    let mut bytes = std::fs::read(golden("dicom/jpeg_8.dcm")).unwrap();
    let at = bytes.windows(read.len()).position(|w| w == read).unwrap();
    bytes[at..at + read.len()].copy_from_slice(unread);
    let error = dicom::decode(&bytes, 0).unwrap_err().to_string();
    assert!(dicom::unread_syntax(&error).is_some_and(|uid| uid.as_bytes() == unread), "{error}");
    // What is read is found by its content, whatever it is called.
    let manifest = std::fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let images = manifest.lines().filter(|line| line.contains(",train,")).map(|line| line.split(',').next().unwrap());
    for (image, content) in images.zip([&bytes[..], b"no image"]) {
        std::fs::write(place.path("phantom").join(image), content).unwrap();
    }
    let told = "1 of a transfer syntax that is not supported: 1.2.840.10008.1.2.4.99";
    let run = place.train_ok("skip", &["--set", "train.max_steps=30", "--set", "data.on_error=skip"]);
    assert_eq!(text(&run.stderr).matches(told).count(), 1, "{}", text(&run.stderr));
    let lint = text(&place.run(&["data", "lint", "phantom/manifest.csv"]).stdout);
    let advice = format!("{told}; see `reportclip embed --images FILE`");
    assert!(lint.contains(&advice) && lint.contains("2 unreadable_image"), "{lint}");
}
