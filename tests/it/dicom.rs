//! DICOM pixels against pydicom. Fixtures: scripts/golden/dicom.py.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use crate::common::{golden, named_by};
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

/// `REPORTCLIP_PYDICOM` names what `scripts/golden/dicom.py --real` wrote.
#[test]
fn pydicoms_own_files_are_what_pydicom_reads() {
    let Some(folder) = named_by("REPORTCLIP_PYDICOM", "what scripts/golden/dicom.py wrote") else { return };
    let folder = Path::new(&folder);
    let (mut right, mut failures) = (0, Vec::new());
    for line in std::fs::read_to_string(folder.join("golden.jsonl")).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let numbers = |kind: &str| -> Option<Vec<i32>> {
            let bytes = std::fs::read(folder.join(format!("{}.{kind}", case["number"]))).ok()?;
            Some(bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect())
        };
        let path = case["path"].as_str().unwrap();
        let lossy = ["4.50", "4.51", "4.91"].iter().any(|s| case["syntax"].as_str().unwrap().ends_with(s));
        let bytes = std::fs::read(path).unwrap();
        match compare(&bytes, &case, &numbers("stored").unwrap(), numbers("shown").as_deref(), i32::from(lossy)) {
            Ok(()) => right += 1,
            Err(problem) => failures.push(format!("{path} ({}, {}): {problem}", case["syntax"], case["photometric"])),
        }
    }
    println!("{right} files agree, {} do not:\n{}", failures.len(), failures.join("\n"));
    assert!(right > 60);
}

#[test]
fn broken_files_are_errors_without_a_patient() {
    for entry in std::fs::read_dir(golden("dicom")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "dcm") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 100, 132, 200, bytes.len() / 2, bytes.len() - 40] {
            if let Err(e) = dicom::decode(&bytes[..cut], 0) {
                let text = format!("{e:#}");
                assert!(!text.contains("PHANTOM"), "{text}");
            }
        }
        let frames = dicom::decode(&bytes, 5000).unwrap_err();
        assert!(frames.to_string().contains("so there is no frame 5001"), "{frames}");
    }
}
