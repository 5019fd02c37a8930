//! Against nibabel and scipy (scripts/golden/volumes.py), and hostile files.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::cut::Cut;
use super::open::{open_known, series_of};
use super::planes::Volume;
use super::*;
use crate::data::Picture;

fn scan(path: &Path, policy: &VolumePolicy) -> Result<Scan> {
    Scan::new(path, series_of(path)?, policy)
}

pub(super) fn slice_count(path: &Path, policy: &VolumePolicy) -> Result<usize> {
    scan(path, policy).map(|scan| scan.count()).with_context(|| path.display().to_string())
}

pub(super) fn slices(path: &Path, policy: &VolumePolicy, which: &[usize]) -> Result<Vec<Picture>> {
    scan(path, policy).and_then(|scan| scan.slices(which)).with_context(|| path.display().to_string())
}

fn open(path: &Path) -> Result<Volume> {
    open_known(path, series_of(path)?.as_ref())
}

pub(super) fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/volumes.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

pub(super) fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut all).unwrap();
    all
}

/// Axial slices in the order and orientation of nibabel's `as_closest_canonical`, one after another: the first axis
/// fastest, as `ravel(order="F")`.
fn canonical(path: &Path) -> ([usize; 3], Vec<f32>) {
    let policy = VolumePolicy { orientation: Orientation::Ras, ..VolumePolicy::default() };
    let mut volume = open(path).unwrap();
    let cut = Cut::of(&volume.geometry, &policy).unwrap();
    let which: Vec<usize> = (0..cut.count()).collect();
    let mut slices = vec![Vec::new(); which.len()];
    cut.values(&mut volume, &which, &mut |index, values| slices[index] = values.to_vec()).unwrap();
    let shape = volume.geometry.canonical().unwrap().map(|along| volume.geometry.shape[along.axis]);
    (shape, slices.concat())
}

fn shape_of(value: &Value) -> [usize; 3] {
    let shape = numbers(value);
    [0, 1, 2].map(|i| shape[i] as usize)
}

#[test]
fn voxels_of_all_types_and_orientations_are_nibabels() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden();
    for case in golden["drawn"].as_array().unwrap() {
        let packed = decoded(&case["file"]);
        let times = numbers(&case["shape"])[3] as usize;
        for (end, bytes) in [("nii.gz", packed.clone()), ("nii", unpacked(&packed))] {
            let path = folder.path().join(format!("a.{end}"));
            fs::write(&path, bytes).unwrap();
            assert_is(&folder.path().join(format!("a.{end}#{times}")), case);
        }
    }
    assert!(golden["drawn"].as_array().unwrap().len() >= 60);
}

/// Its values against a case's `first`, its spacing where there is one.
pub(super) fn assert_is(path: &Path, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let (shape, values) = canonical(path);
    assert_eq!(shape, shape_of(&case["shape"]), "{name}");
    let expected: Vec<f32> = numbers(&case["first"]).iter().map(|v| *v as f32).collect();
    assert_eq!(values, expected, "{name}");
    let geometry = open(path).unwrap().geometry;
    let spacing = geometry.canonical().unwrap().map(|along| geometry.spacing()[along.axis]);
    for (ours, theirs) in spacing.iter().zip(case.get("spacing").map(numbers).unwrap_or_default()) {
        assert!((ours - theirs).abs() < 1e-5 * theirs, "{name}: {ours} {theirs}");
    }
}

/// Writes a series and gives its folder.
pub(super) fn files_of(folder: &Path, case: &Value) -> PathBuf {
    let series = folder.join(case["name"].as_str().unwrap());
    fs::create_dir_all(&series).unwrap();
    for (name, file) in case["files"].as_object().unwrap() {
        fs::write(series.join(name), unpacked(&decoded(file))).unwrap();
    }
    series
}

#[test]
fn numpys_arrays_are_read_as_slices_rows_columns() {
    let folder = tempfile::tempdir().unwrap();
    for case in golden()["arrays"].as_array().unwrap() {
        let path = folder.path().join(format!("a.{}", case["end"].as_str().unwrap()));
        fs::write(&path, unpacked(&decoded(&case["file"]))).unwrap();
        assert_is(&path, case);
    }
    let npy = |header: &str| {
        let header = format!("{header}\n");
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 60]].concat()
    };
    for (header, told) in [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (3, 4, 5), }", "type |O"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4, 5), }", "no plain numbers"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 4, 5), }", "claims 100000"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4, 5), }", "claims 480 bytes of numbers"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (12, 5), }", "has 2 axes"),
        ("{}", "no plain numbers"),
    ] {
        let path = folder.path().join("bad.npy");
        fs::write(&path, npy(header)).unwrap();
        let error = slice_count(&path, &VolumePolicy::default()).map(|_| ()).unwrap_err();
        let line = crate::error::one_line(&error);
        assert!(line.contains(told), "{header}: {line}");
    }
}

/// nibabel's own files lie in its package.
#[test]
fn voxels_of_nibabels_own_files_are_equal() {
    let Some(folder) = std::env::var_os("REPORTCLIP_NIBABEL").map(PathBuf::from) else {
        let line = "skipped: volume::voxels_of_nibabels_own_files_are_equal: REPORTCLIP_NIBABEL does not name \
                    nibabel/tests/data\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    };
    for case in golden()["real"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let times = case["times"].as_u64().unwrap();
        for (which, time) in [("first", 1), ("last", times)] {
            let (shape, values) = canonical(&folder.join(format!("{name}#{time}")));
            assert_eq!(shape, shape_of(&case[which]["shape"]), "{name}");
            let sum: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
            let ramp: f64 = values.iter().enumerate().map(|(i, v)| f64::from(*v) * (i as f64).cos()).sum();
            let expected = [case[which]["sum"].as_f64().unwrap(), case[which]["ramp"].as_f64().unwrap()];
            assert!((sum - expected[0]).abs() <= 1e-9 * expected[0], "{name} {which}: {sum} {expected:?}");
            assert!((ramp - expected[1]).abs() <= 1e-9 * expected[0], "{name} {which}: {ramp} {expected:?}");
        }
    }
    for name in golden()["broken"].as_array().unwrap() {
        let error = slices(&folder.join(name.as_str().unwrap()), &VolumePolicy::default(), &[0]).unwrap_err();
        assert!(crate::error::one_line(&error).contains("voxels that are NaN"), "{name}: {error:#}");
    }
}

/// A NIfTI-1 file of 16-bit numbers, axes as RAS.
pub(super) fn file(shape: [usize; 3], spacing: [f32; 3], values: &[i16]) -> Vec<u8> {
    let mut head = vec![0; 352];
    head[..4].copy_from_slice(&348i32.to_le_bytes());
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    for (i, n) in [3, shape[0], shape[1], shape[2]].into_iter().enumerate() {
        put(40 + 2 * i, &(n as i16).to_le_bytes());
    }
    put(70, &4i16.to_le_bytes());
    put(108, &352f32.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    for (axis, size) in spacing.into_iter().enumerate() {
        put(80 + 4 * axis, &size.to_le_bytes());
        put(280 + 20 * axis, &size.to_le_bytes());
    }
    put(344, b"n+1\0");
    head.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    head
}

/// As scripts/golden/volumes.py draws it.
fn smooth([nx, ny, nz]: [usize; 3]) -> Vec<i16> {
    let value = |x: usize, y: usize, z: usize| {
        let (x, y, z) = (x as f64, y as f64, z as f64);
        (400.0 * (x / 3.0).sin() + 300.0 * (y / 4.0 + z / 2.0).cos() - 200.0 * (z % 3.0)).round_ties_even() as i16
    };
    (0..nz).flat_map(|z| (0..ny).flat_map(move |y| (0..nx).map(move |x| value(x, y, z)))).collect()
}

/// Slices along an axis put together again: bytes with x fastest, then y, then z.
fn whole(path: &Path, policy: &VolumePolicy, [nx, ny, nz]: [usize; 3]) -> Vec<u8> {
    let count = slice_count(path, policy).unwrap();
    let pictures = slices(path, policy, &(0..count).collect::<Vec<_>>()).unwrap();
    let mut bytes = vec![0; nx * ny * nz];
    for (slice, picture) in pictures.iter().enumerate() {
        for (i, byte) in picture.bytes.iter().enumerate() {
            let (column, row) = (i % picture.width as usize, i / picture.width as usize);
            let [x, y, z] = match policy.axis {
                Axis::Axial => [column, row, slice],
                Axis::Coronal => [column, slice, row],
                Axis::Sagittal => [slice, column, row],
            };
            bytes[(z * ny + y) * nx + x] = *byte;
        }
    }
    bytes
}

fn assert_within_one(what: &str, ours: &[u8], theirs: &[u8]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= 1, "{what}: {worst} of 255");
}

#[test]
fn resampling_along_each_axis_is_scipys() {
    let golden = golden();
    let resampled = &golden["resampled"];
    let shape = shape_of(&resampled["shape"]);
    let spacing = numbers(&resampled["file_spacing"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii");
    fs::write(&path, file(shape, [0, 1, 2].map(|i| spacing[i] as f32), &smooth(shape))).unwrap();
    let window = Window::Values(vec![Range { low: -160.0, high: 240.0 }]);
    for axis in [Axis::Axial, Axis::Coronal, Axis::Sagittal] {
        let plain = VolumePolicy { axis, orientation: Orientation::Ras, ..VolumePolicy::default() };
        for case in resampled["cases"].as_array().unwrap() {
            let target = numbers(&case["spacing"]);
            let spacing = Some([target[0], target[1], target[2]]);
            let policy = VolumePolicy { spacing, window: window.clone(), ..plain.clone() };
            let ours = whole(&path, &policy, shape_of(&case["shape"]));
            assert_within_one(&format!("{axis:?} {target:?}"), &ours, &decoded(&case["bytes"]));
        }
        assert_within_one("percentiles", &whole(&path, &plain, shape), &decoded(&resampled["percentile"]));
    }
}

#[test]
fn slices_hang_as_radiologists_hang_them_and_are_evenly_spaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    // Right, front, head are bright: one voxel of 8 each.
    let shape = [2, 2, 2];
    let bright = |at: usize| (0..8).map(|i| if i >> at & 1 == 1 { 100 } else { 0 }).collect::<Vec<i16>>();
    let window = Window::Values(vec![Range { low: 0.0, high: 100.0 }]);
    for (axis, right, top) in [(Axis::Axial, 0, 1), (Axis::Coronal, 0, 2), (Axis::Sagittal, 1, 2)] {
        let policy = VolumePolicy { axis, window: window.clone(), ..VolumePolicy::default() };
        let picture = |at: usize| {
            fs::write(&path, gzip(&file(shape, [1.0; 3], &bright(at)))).unwrap();
            slices(&path, &policy, &[0]).unwrap().remove(0).bytes
        };
        assert_eq!(picture(right), [255, 0, 255, 0], "{axis:?}: the patient's right (or front) is left in the picture");
        assert_eq!(picture(top), [255, 255, 0, 0], "{axis:?}: front or head is on top");
    }
    let tall: Vec<i16> = (0..10).flat_map(|z| [10 * z; 4]).collect();
    fs::write(&path, file([2, 2, 10], [1.0; 3], &tall)).unwrap();
    let policy = VolumePolicy { slices: Some(3), window, ..VolumePolicy::default() };
    assert_eq!(slice_count(&path, &policy).unwrap(), 3);
    let shown = slices(&path, &policy, &[2, 0, 1]).unwrap();
    let levels: Vec<u8> = shown.iter().map(|picture| picture.bytes[0]).collect();
    assert_eq!(levels, [204, 26, 128], "planes 8, 1 and 5");
    let three =
        Window::Values([[0.0, 100.0], [50.0, 60.0], [0.0, 10.0]].map(|[low, high]| Range { low, high }).to_vec());
    let shown = slices(&path, &VolumePolicy { window: three, ..policy }, &[1]).unwrap();
    assert_eq!((shown[0].channels, &shown[0].bytes[..3]), (3, &[128, 0, 255][..]));
}

#[test]
fn hostile_files_are_one_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let good = file([4, 5, 6], [1.0; 3], &[7; 120]);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let mut floats = with(70, &16i16.to_le_bytes());
    floats.resize(352 + 480, 0);
    floats[352 + 40..352 + 44].copy_from_slice(&f32::NAN.to_le_bytes());
    let noise: Vec<i16> = (0..120u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as i16).collect();
    let packed = gzip(&file([4, 5, 6], [1.0; 3], &noise));
    let many = with(46, &32_000i16.to_le_bytes());
    let mut long = with(72, &64i16.to_le_bytes());
    long.resize(352 + 8 * 120, 0);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut.nii", good[..500].to_vec(), "cannot hold"),
        ("cut.nii.gz", packed[..packed.len() - 20].to_vec(), "truncated"),
        ("short.nii", good[..100].to_vec(), "has 100 bytes; a NIfTI header takes 348"),
        ("short.nii.gz", gzip(&good[..100]), "unpacks to 100 bytes; a NIfTI header takes 348"),
        ("empty.nii", Vec::new(), "is empty; a NIfTI header takes 348"),
        ("empty.nii.gz", gzip(b""), "is a gzip file that holds nothing; a NIfTI header takes 348"),
        ("begun.nii.gz", packed[..5].to_vec(), "begins as gzip and cannot be unpacked (5 bytes)"),
        ("far.nii", with(108, &1e6f32.to_le_bytes()), "vox_offset 1000000, where voxels begin"),
        ("near.nii", with(108, &8f32.to_le_bytes()), "vox_offset 8, where voxels begin; allowed are 0 and from 352 on"),
        // All of these nibabel refuses as well.
        ("behind.nii", with(108, &348f32.to_le_bytes()), "vox_offset 348, where voxels begin; allowed are"),
        ("before.nii", with(108, &(-5f32).to_le_bytes()), "vox_offset -5, where voxels begin; allowed are"),
        ("nowhere.nii", with(108, &f32::NAN.to_le_bytes()), "vox_offset NaN, where voxels begin; allowed are"),
        ("endless.nii", with(108, &f32::INFINITY.to_le_bytes()), "vox_offset inf, where voxels begin; allowed are"),
        ("slope.nii", with(112, &[2f32, f32::NAN].map(f32::to_le_bytes).concat()), "scl_slope 2 and scl_inter NaN"),
        ("many.nii", many.clone(), "claims 32000 voxels"),
        ("many.nii.gz", gzip(&many), "claims 32000 voxels"),
        ("huge.nii.gz", gzip(&[with(42, &[255, 63, 255, 63, 255, 63]), vec![0; 1 << 16]].concat()), "cannot hold"),
        ("dim.nii", with(40, &200i16.to_le_bytes()), "dim[0] = 200"),
        ("none.nii", with(42, &[0, 0]), "claims 0 voxels"),
        ("flat.nii", with(280, &0f32.to_le_bytes()), "voxels of 0 × 1 × 1 mm"),
        ("same.nii", with(284, &1f32.to_le_bytes().repeat(5)), "the same way"),
        ("nan.nii", floats, "1 voxels that are NaN"),
        ("bits.nii", long, "has bitpix 64, bits of a voxel, where its data type has 16, and is as long as bitpix"),
        ("colour.nii", with(70, &128i16.to_le_bytes()), "colours"),
        ("pair.nii", with(344, b"ni1\0"), ".img"),
        ("text.nii", b"image,report\n".repeat(100), "no NIfTI file"),
    ];
    for (name, bytes, told) in cases {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = slices(&path, &VolumePolicy::default(), &[0, 5]).map(|_| ()).unwrap_err();
        let line = crate::error::one_line(&error);
        assert!(line.contains(name) && line.contains(told) && line.lines().count() == 1, "{name}: {line}");
    }
    fs::write(folder.path().join("good.nii"), &good).unwrap();
    // As nibabel: a slope that is 0 or no number is none, whatever stands beside it.
    let expected = slices(&folder.path().join("good.nii"), &VolumePolicy::default(), &[0, 5]).unwrap();
    for slope in [0.0, f32::NAN, f32::INFINITY] {
        let path = folder.path().join("unscaled.nii");
        fs::write(&path, with(112, &[slope, f32::NAN].map(f32::to_le_bytes).concat())).unwrap();
        assert_eq!(slices(&path, &VolumePolicy::default(), &[0, 5]).unwrap(), expected, "{slope}");
    }
    // Nor is bitpix looked at.
    for bits in [0i16, 8, 64, -1] {
        let path = folder.path().join("bitpix.nii");
        fs::write(&path, with(72, &bits.to_le_bytes())).unwrap();
        assert_eq!(slices(&path, &VolumePolicy::default(), &[0, 5]).unwrap(), expected, "{bits}");
    }
    let at = |name: &str, which: &[usize]| slices(&folder.path().join(name), &VolumePolicy::default(), which);
    assert!(at("good.nii", &[6]).unwrap_err().root_cause().to_string().contains("there is no slice 7"));
    assert!(at("good.nii#2", &[0]).unwrap_err().root_cause().to_string().contains("no #2"));
    assert_eq!(at("good.nii#1", &[]).unwrap().len(), 0);
}
