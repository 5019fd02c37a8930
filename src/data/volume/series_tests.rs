//! DICOM series against nibabel's reading of the same voxels, and those that are none.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::tests::{assert_is, decoded, files_of, golden, slice_count, slices, unpacked};
use super::*;

#[test]
fn dicom_series_are_put_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for case in golden()["series"].as_array().unwrap() {
        let series = files_of(folder.path(), case);
        fs::write(series.join("notes.txt"), "not a slice").unwrap();
        fs::write(series.join("LICENSE"), "Räume, in which slices are kept.\n".repeat(9)).unwrap();
        assert!(is_volume(&series) && !is_volume(folder.path()));
        assert_is(&series, case);
        let enhanced = folder.path().join("enhanced");
        fs::create_dir_all(&enhanced).unwrap();
        fs::write(enhanced.join("a.dcm"), unpacked(&decoded(&case["enhanced"]))).unwrap();
        assert_is(&enhanced, case);
    }
}

#[test]
fn a_series_that_is_none_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden();
    let (axial, coronal) = (&golden["series"][0], &golden["series"][1]);
    let told = |wanted: &str, change: &dyn Fn(&Path)| {
        let series = files_of(folder.path(), axial);
        change(&series);
        let error = slice_count(&series, &VolumePolicy::default()).map(|_| ()).unwrap_err();
        let line = crate::error::one_line(&error);
        assert!(line.contains(wanted) && line.lines().count() == 1, "{wanted}: {line}");
        let coronal = VolumePolicy { axis: Axis::Coronal, slices: Some(3), ..VolumePolicy::default() };
        assert!(slice_count(&series, &coronal).is_err(), "{wanted}");
        let hidden = ["1.2.826", "PHANTOM", ".dcm"];
        assert!(hidden.iter().all(|name| !line.contains(name)), "{line}");
        // Nor does reading say more than opening.
        let error = slices(&series, &VolumePolicy::default(), &[0, 1, 2, 3]).map(|_| ()).unwrap_err();
        assert_eq!(crate::error::one_line(&error), line);
        fs::remove_dir_all(&series).unwrap();
    };
    let file = |case: &Value, name: &str| unpacked(&decoded(&case["files"][name]));
    let with = |from: &[u8], to: &[u8]| {
        let mut bytes = file(axial, "IM2.dcm");
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let write = |name: &'static str, bytes: Vec<u8>| move |series: &Path| fs::write(series.join(name), &bytes).unwrap();
    // Positions are 5, 7.5, 10, 12.5, 15: one of the inner ones is taken away.
    told("1 of 5 seem to be missing", &|series| {
        let inner = (0..5)
            .map(|i| series.join(format!("IM{i}.dcm")))
            .find(|path| fs::read(path).unwrap().windows(14).any(|window| window == &b"10.0\\-20.0\\10.0"[..14]));
        fs::remove_file(inner.unwrap()).unwrap();
    });
    told("at the place of another", &write("again.dcm", file(axial, "IM2.dcm")));
    told("several DICOM series", &write("IM2.dcm", with(b"498.77", b"498.79")));
    told("lie in different ways", &write("other.dcm", file(coronal, "IM0.dcm")));
    // Names of files may be those of patients.
    told("file 6 of 6: is no DICOM file", &write("IM9.dcm", b"nothing".repeat(40)));
    told("file 3 of 5: is broken", &write("IM2.dcm", file(axial, "IM2.dcm")[..400].to_vec()));
    // Rows, Columns: every slice claims none.
    for tag in [*b"\x28\0\x10\0US\x02\0", *b"\x28\0\x11\0US\x02\0"] {
        told("claims 0 voxels along one axis", &|series| {
            for i in 0..5 {
                let mut bytes = file(axial, &format!("IM{i}.dcm"));
                let at = bytes.windows(8).position(|window| window == tag).unwrap();
                bytes[at + 8..at + 10].fill(0);
                fs::write(series.join(format!("IM{i}.dcm")), bytes).unwrap();
            }
        });
    }
    told("no DICOM files", &|series| {
        (0..5).for_each(|i| fs::remove_file(series.join(format!("IM{i}.dcm"))).unwrap());
    });
    // What is cut among its pixels is met when they are read.
    let series = files_of(folder.path(), axial);
    let whole = file(axial, "IM2.dcm");
    fs::write(series.join("IM2.dcm"), &whole[..whole.len() - 10]).unwrap();
    assert_eq!(slice_count(&series, &VolumePolicy::default()).unwrap(), 5);
    let error = slices(&series, &VolumePolicy::default(), &[0, 1, 2, 3, 4]).map(|_| ()).unwrap_err();
    let line = crate::error::one_line(&error);
    assert!(line.contains("file 3 of 5: ") && !line.contains(".dcm"), "{line}");
}
