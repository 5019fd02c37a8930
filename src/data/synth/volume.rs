//! Phantom CTs of the chest with reports: lungs, heart, spine, and at a known place a nodule or an effusion, which few
//! of the slices show.
//!
//! A nodule lies in one to three slices, so whoever takes the mean of all slices hardly sees it.

use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::GzBuilder;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::random::{pick, uniform};
use super::{split, stream};

/// Millimetres that the phantom measures: right to left, front to back, feet to head.
const BODY: [f32; 3] = [360.0, 260.0, 256.0];

/// What is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOptions {
    /// Patients, one CT each.
    pub patients: usize,
    /// Seed of everything.
    pub seed: u64,
    /// Voxels a side of a slice; there are half as many slices.
    pub size: usize,
}

/// A CT with its report.
pub(super) struct Scan {
    pub patient_id: String,
    pub split: &'static str,
    pub label: &'static str,
    pub report: String,
    /// Slices that show the finding, counted from 0 at the feet.
    pub finding_slices: Vec<usize>,
    /// NIfTI, gzip.
    pub file: Vec<u8>,
}

/// What is wrong, its place in millimetres from the middle of the body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Finding {
    None,
    Nodule {
        centre: [f32; 3],
        radius: f32,
    },
    /// Fluid behind and below the lung of a side (−1 right, 1 left), up to a height.
    Effusion {
        side: f32,
        top: f32,
    },
}

/// An ellipsoid: centre, half axes.
struct Ellipsoid([f32; 3], [f32; 3]);

impl Ellipsoid {
    fn holds(&self, at: [f32; 3]) -> bool {
        (0..3).map(|i| ((at[i] - self.0[i]) / self.1[i]).powi(2)).sum::<f32>() <= 1.0
    }
}

/// A patient's organs.
struct Chest {
    body: Ellipsoid,
    lungs: [Ellipsoid; 2],
    heart: Ellipsoid,
    spine: [f32; 2],
}

impl Chest {
    fn new(rng: &mut ChaCha8Rng) -> Self {
        let mut near = |value: f32| value * uniform(rng, 0.93, 1.07);
        let lung = |side: f32, width: f32, depth: f32, height: f32| {
            Ellipsoid([side * 75.0, -5.0, 0.0], [width, depth, height])
        };
        Self {
            // A tube: slices at both ends are as wide as the others.
            body: Ellipsoid([0.0; 3], [near(165.0), near(110.0), 1e6]),
            lungs: [lung(-1.0, near(58.0), near(80.0), near(112.0)), lung(1.0, near(54.0), near(78.0), near(110.0))],
            heart: Ellipsoid([28.0, -30.0, -35.0], [near(48.0), near(40.0), near(52.0)]),
            spine: [near(20.0), 75.0],
        }
    }

    /// Hounsfield units, without noise.
    fn value(&self, at: [f32; 3], finding: Finding) -> f32 {
        if !self.body.holds(at) {
            return -1000.0;
        }
        let [x, y, z] = at;
        if x.hypot(y - self.spine[1]) < self.spine[0] {
            return 420.0;
        }
        if self.heart.holds(at) {
            return 45.0;
        }
        let Some(lung) = self.lungs.iter().position(|lung| lung.holds(at)) else { return 20.0 };
        match finding {
            Finding::Nodule { centre, radius } if Ellipsoid(centre, [radius; 3]).holds(at) => 60.0,
            // It lies behind, and rises towards the back.
            Finding::Effusion { side, top } if (side > 0.0) == (lung == 1) && z < top && y > 10.0 - 0.3 * (top - z) => {
                12.0
            }
            _ => -850.0,
        }
    }
}

/// CTs of all patients, one after another. A patient does not depend on how many there are.
pub(super) fn scans(options: &VolumeOptions) -> impl Iterator<Item = Result<Scan>> + '_ {
    (0..options.patients as u64).map(move |patient| scan(options, patient))
}

fn scan(options: &VolumeOptions, patient: u64) -> Result<Scan> {
    let mut rng = stream(options.seed, patient, 0);
    let chest = Chest::new(&mut rng);
    let side = pick(&mut rng, &[-1.0f32, 1.0]);
    let upper = rng.random_bool(0.5);
    let shape = [options.size, options.size, (options.size / 2).max(1)];
    let step = [0, 1, 2].map(|i| BODY[i] / shape[i] as f32);
    let finding = match rng.random_range(0..3u32) {
        0 => Finding::None,
        1 => nodule(&chest, side, upper, step, &mut rng),
        _ => Finding::Effusion { side, top: uniform(&mut rng, -85.0, -60.0) },
    };
    let (side_word, zone) = (if side < 0.0 { "right" } else { "left" }, if upper { "upper" } else { "lower" });
    let (label, report) = worded(finding, side_word, zone, &mut rng);
    let mut values = Vec::with_capacity(shape.iter().product());
    let mut finding_slices = Vec::new();
    let mut noise = stream(options.seed, patient, 1);
    for z in 0..shape[2] {
        let mut shown = 0;
        for (y, x) in (0..shape[1]).flat_map(|y| (0..shape[0]).map(move |x| (y, x))) {
            let at = [x, y, z].map(|v| v as f32 + 0.5);
            let at = [0, 1, 2].map(|i| at[i] * step[i] - BODY[i] / 2.0);
            let (with, without) = (chest.value(at, finding), chest.value(at, Finding::None));
            shown += usize::from(with != without);
            // The sum of three uniform numbers is near a normal one.
            let grain: f32 = (0..3).map(|_| uniform(&mut noise, -15.0, 15.0)).sum();
            values.push((with + grain).round().max(-1024.0) as i16);
        }
        if shown > 0 {
            finding_slices.push(z);
        }
    }
    let patient_id = format!("V{:04}", patient + 1);
    let file = nifti(shape, step, &values)?;
    Ok(Scan { patient_id, split: split(options.seed, patient), label, report, finding_slices, file })
}

/// In the lung of that side, and not behind the heart's surface.
fn nodule(chest: &Chest, side: f32, upper: bool, step: [f32; 3], rng: &mut ChaCha8Rng) -> Finding {
    let lung = &chest.lungs[usize::from(side > 0.0)];
    let radius = uniform(rng, 6.0, 11.0);
    let height = if upper { uniform(rng, 25.0, 55.0) } else { uniform(rng, -55.0, -25.0) };
    let (turn, share) = (uniform(rng, 0.0, std::f32::consts::TAU), uniform(rng, 0.0, 0.35));
    // Outwards and back: the heart lies inwards and in front.
    let across = side * 12.0 + share * lung.1[0] * turn.cos();
    let back = 15.0 + share * lung.1[1] * turn.sin().abs();
    let centre = [lung.0[0] + across, lung.0[1] + back, height];
    // On a voxel: between two thick slices a small one would not show.
    let centre = [0, 1, 2].map(|i| (((centre[i] + BODY[i] / 2.0) / step[i]).floor() + 0.5) * step[i] - BODY[i] / 2.0);
    Finding::Nodule { centre, radius }
}

fn worded(finding: Finding, side: &str, zone: &str, rng: &mut ChaCha8Rng) -> (&'static str, String) {
    match finding {
        Finding::None => {
            let words =
                pick(rng, &["The lungs are clear.", "No nodule or effusion.", "Clear lungs, no pleural fluid."]);
            ("normal", format!("FINDINGS: {words} IMPRESSION: Normal CT of the chest."))
        }
        Finding::Nodule { radius, .. } => {
            let (mm, lobe) = ((2.0 * radius).round(), format!("{side} {zone} lobe"));
            let words = pick(rng, &["There is a nodule of", "A solid nodule measures", "Round opacity of"]);
            ("nodule", format!("FINDINGS: {words} {mm} mm in the {lobe}. IMPRESSION: Nodule in the {lobe}."))
        }
        Finding::Effusion { .. } => {
            let words =
                pick(rng, &["Pleural fluid on the", "Layering fluid behind the lung on the", "Effusion on the"]);
            ("effusion", format!("FINDINGS: {words} {side} side. IMPRESSION: Pleural effusion on the {side}."))
        }
    }
}

/// NIfTI-1 in one file, gzip, columns to the left and rows to the back as scanners have them.
fn nifti(shape: [usize; 3], step: [f32; 3], values: &[i16]) -> Result<Vec<u8>> {
    let mut head = [0; 352];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348i32.to_le_bytes());
    put(40, &3i16.to_le_bytes());
    // Axes that are not there have one voxel.
    (4..8).for_each(|axis| put(40 + 2 * axis, &1i16.to_le_bytes()));
    put(70, &4i16.to_le_bytes());
    put(72, &16i16.to_le_bytes());
    put(76, &1f32.to_le_bytes());
    put(108, &352f32.to_le_bytes());
    put(112, &1f32.to_le_bytes());
    // Millimetres; an affine of the scanner's.
    put(123, &[2]);
    put(254, &1i16.to_le_bytes());
    for (axis, sign) in [-1.0, -1.0, 1.0f32].into_iter().enumerate() {
        put(42 + 2 * axis, &i16::try_from(shape[axis])?.to_le_bytes());
        put(80 + 4 * axis, &step[axis].to_le_bytes());
        put(280 + 20 * axis, &(sign * step[axis]).to_le_bytes());
        put(280 + 16 * axis + 12, &(-sign * (BODY[axis] - step[axis]) / 2.0).to_le_bytes());
    }
    put(344, b"n+1\0");
    let mut file = GzBuilder::new().write(Vec::new(), Compression::fast());
    file.write_all(&head)?;
    file.write_all(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
    Ok(file.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::volume::{self, VolumePolicy, Window};

    const FEW: VolumeOptions = VolumeOptions { patients: 30, seed: 3, size: 32 };

    fn all(options: &VolumeOptions) -> Vec<Scan> {
        scans(options).map(Result::unwrap).collect()
    }

    #[test]
    fn the_seed_decides_every_byte_and_patients_stand_alone() {
        let (many, few) = (all(&FEW), all(&VolumeOptions { patients: 4, ..FEW }));
        for (a, b) in few.iter().zip(&many) {
            assert_eq!((&a.file, &a.report, &a.finding_slices), (&b.file, &b.report, &b.finding_slices));
        }
        let other = all(&VolumeOptions { patients: 1, seed: 4, ..FEW });
        assert_ne!(other[0].file, many[0].file);
    }

    /// Read back by the reader of volumes: a finding changes the slices that are told, and no others.
    #[test]
    fn few_slices_show_the_finding_and_they_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let window: Window = serde_json::from_value(serde_json::json!([-1000, 1000])).unwrap();
        let policy = VolumePolicy { window, ..VolumePolicy::default() };
        let mut seen = std::collections::HashMap::new();
        for scan in all(&FEW) {
            *seen.entry(scan.label).or_insert(0) += 1;
            let path = folder.path().join("a.nii.gz");
            std::fs::write(&path, &scan.file).unwrap();
            let read = volume::Scan::of(&path, &policy).unwrap().unwrap();
            let count = read.count();
            assert_eq!(count, 16);
            let pictures = read.slices(&(0..count).collect::<Vec<_>>()).unwrap();
            // Between lungs and bone: the share of a side's lung that is as dense as tissue grows with a finding.
            assert!(pictures.iter().all(|picture| picture.width == 32 && picture.bytes[0] < 10), "air at the corner");
            let (told, most) = (scan.finding_slices.len(), if scan.label == "effusion" { 6 } else { 3 });
            assert_eq!(told == 0, scan.label == "normal", "{}", scan.patient_id);
            assert!(told <= most, "{}: {told} slices", scan.label);
            assert!(scan.report.contains(match scan.label {
                "normal" => "Normal",
                "nodule" => "odule",
                _ => "ffusion",
            }));
        }
        assert!(seen.len() == 3 && seen.values().all(|n| *n >= 4), "{seen:?}");
    }
}
