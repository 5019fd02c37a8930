//! Phantom chest radiographs with reports, for the demo and for tests: no real patient is in them.
//!
//! Owns patients, studies and splits. What a study shows is decided in `scene`; `draw` draws it and `report` words it
//! from that same scene, so picture and report correspond. Files, manifests and tokens are the caller's business.
//! A mirrored picture no longer fits its report, so training on phantoms must not flip.

mod anatomy;
mod ceiling;
mod chinese;
mod draw;
mod english;
mod noise;
mod random;
mod report;
mod scene;
mod shape;
mod study;
mod volume;
mod words;
mod write;

pub use ceiling::{Ceiling, ceiling};
pub use noise::Noise;
pub use study::{FindingBox, GrayImage, Language, NORMAL, Study, SynthOptions};
pub use volume::VolumeOptions;
pub use write::{write, write_once, write_until, write_volumes};

use anatomy::Body;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use random::{pick, shuffle};
use scene::{Device, Scene, Side, plan};

/// All phantom studies in order, patient by patient, about two for each. A patient's studies depend on the seed and
/// the patient's number, not on how many patients are asked for. Of every seven patients in a row five train, one is
/// for validation and one for testing; from patient 1,002 on all train, so that a larger set is judged on the same
/// ones.
pub fn generate(options: &SynthOptions) -> impl Iterator<Item = Study> + '_ {
    (0..options.patients).flat_map(move |patient| studies(options, patient as u64))
}

/// Random streams of one patient: own ones for the plan, the pictures and the words, so that a new phrase leaves the
/// pictures as they were.
fn stream(seed: u64, patient: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(patient * 16 + purpose);
    rng
}

/// What all studies of a patient have in common.
struct Patient {
    number: u64,
    body: Body,
    pacemaker: Option<Device>,
    scoliosis: Option<Side>,
    studies: u64,
}

impl Patient {
    fn new(seed: u64, number: u64) -> Self {
        let mut rng = stream(seed, number, 0);
        let body = Body::new(&mut rng);
        let side = pick(&mut rng, &[Side::Right, Side::Left]);
        let pacemaker = rng.random_ratio(1, 12).then_some(Device::Pacemaker(side));
        let side = pick(&mut rng, &[Side::Right, Side::Left]);
        let scoliosis = rng.random_ratio(1, 7).then_some(side);
        Self { number, body, pacemaker, scoliosis, studies: rng.random_range(1..4u64) }
    }

    /// What study `study` shows, from 1.
    fn scene(&self, options: &SynthOptions, study: u64) -> Scene {
        let mut rng = stream(options.seed, self.number, study * 3);
        plan(&mut rng, options.normal, self.pacemaker, self.scoliosis)
    }

    /// The report of `scene` in the words of study `study`.
    fn report(&self, options: &SynthOptions, study: u64, scene: &Scene) -> String {
        report::write(scene, options.language, &mut stream(options.seed, self.number, study * 3 + 1))
    }

    /// What is drawn for the report of each study.
    fn noise(&self, options: &SynthOptions) -> Vec<Option<Noise>> {
        let (trains, mut rng) = (split(options.seed, self.number) == "train", stream(options.seed, self.number, 12));
        let sample = |_| Noise::sample(options.noise, &mut rng).filter(|_| trains);
        (0..self.studies).map(sample).collect()
    }
}

/// The studies of one patient.
fn studies(options: &SynthOptions, number: u64) -> Vec<Study> {
    let patient = Patient::new(options.seed, number);
    let patient_id = format!("P{:04}", number + 1);
    let noise = patient.noise(options);
    let study = |study: u64| {
        let scene = patient.scene(options, study);
        let true_report = patient.report(options, study, &scene);
        let (noise, report) = match noise[study as usize - 1] {
            None => (None, true_report.clone()),
            Some(noise) => noisy(options, &patient, study, noise),
        };
        let picture = || stream(options.seed, number, study * 3 + 2);
        let places = draw::boxes(&patient.body, &scene, options.size, &mut picture());
        let boxes = scene.findings.iter().zip(places).map(|(finding, place)| FindingBox {
            label: finding.label(),
            sentence: report::sentence_of(*finding, options.language),
            place,
        });
        Study {
            boxes: boxes.collect(),
            patient_id: patient_id.clone(),
            study_id: format!("{patient_id}-S{study}"),
            split: split(options.seed, number),
            label: scene.label(),
            report,
            noise,
            true_report,
            image: draw::draw(&patient.body, &scene, options.size, &mut picture()),
        }
    };
    (1..=patient.studies).map(study).collect()
}

/// Patients in a row whose reports are exchanged with each other.
const EXCHANGE: u64 = 70;

/// A report that is not right of study `study`, and what is the matter with it. Exchanged are those of [`EXCHANGE`]
/// patients in a row, each for the next: a patient does not depend on how many there are. One alone is wrong in part.
fn noisy(options: &SynthOptions, patient: &Patient, study: u64, noise: Noise) -> (Option<Noise>, String) {
    if noise == Noise::Swapped {
        let first = patient.number / EXCHANGE * EXCHANGE;
        let mut swapped = Vec::new();
        for other in (first..first + EXCHANGE).map(|number| Patient::new(options.seed, number)) {
            let of_other = (1..).zip(other.noise(options)).filter(|(_, noise)| *noise == Some(Noise::Swapped));
            swapped.extend(of_other.map(|(study, _)| (other.number, study)).collect::<Vec<_>>());
        }
        let own = swapped.iter().position(|of| *of == (patient.number, study)).unwrap_or(0);
        let (number, next) = swapped[(own + 1) % swapped.len()];
        if swapped.len() > 1 {
            let other = Patient::new(options.seed, number);
            let report = other.report(options, next, &other.scene(options, next));
            return (Some(Noise::Swapped), report);
        }
    }
    // 13 and 14 are free of streams: the third study draws as the second does, of another scene.
    let mut rng = stream(options.seed, patient.number, 12 + study.min(2));
    let scene = noise::altered(&patient.scene(options, study), &mut rng);
    (Some(Noise::Wrong), patient.report(options, study, &scene))
}

/// Blocks of seven patients that hold some to be judged on.
const JUDGED_BLOCKS: u64 = 143;

/// The split of a patient: drawn within blocks of seven, so that small sets hold every split too.
fn split(seed: u64, patient: u64) -> &'static str {
    if patient / 7 >= JUDGED_BLOCKS {
        return "train";
    }
    let mut block = ["val", "test", "train", "train", "train", "train", "train"];
    shuffle(&mut stream(seed, patient / 7, 15), &mut block);
    block[(patient % 7) as usize]
}

#[cfg(test)]
mod tests {
    use super::scene::{Extent, Finding, Inspiration, Scene, Zone};
    use super::*;
    use std::collections::{HashMap, HashSet};

    const SIDES: [Side; 2] = [Side::Right, Side::Left];

    fn all(patients: usize, seed: u64, language: Language) -> Vec<Study> {
        generate(&SynthOptions { patients, seed, size: 64, language, noise: 0.0, normal: NORMAL }).collect()
    }

    fn english(patients: usize, seed: u64) -> Vec<Study> {
        all(patients, seed, Language::English)
    }

    /// A scene of `findings` and `devices`.
    fn scene(findings: &[Finding], devices: &[Device]) -> Scene {
        let (findings, devices) = (findings.to_vec(), devices.to_vec());
        Scene { findings, devices, inspiration: Inspiration::Normal, scoliosis: None }
    }

    fn pixels(scene: &Scene, patient: u64) -> Vec<u8> {
        let body = Body::new(&mut stream(5, patient, 0));
        draw::draw(&body, scene, 64, &mut stream(5, patient, 1)).pixels
    }

    /// How much `scene` changes an empty one from `row` down: sums over the image's left and right half.
    fn change(scene_with: &Scene, patient: u64, row: usize) -> [f64; 2] {
        let pairs = pixels(&scene(&[], &[]), patient).into_iter().zip(pixels(scene_with, patient));
        let mut sums = [0.0; 2];
        for (at, (a, b)) in pairs.enumerate().skip(row * 64) {
            sums[usize::from(at % 64 >= 32)] += f64::from(b) - f64::from(a);
        }
        sums
    }

    #[test]
    fn the_seed_decides_every_byte() {
        assert_eq!(english(12, 3), english(12, 3));
        assert_ne!(english(12, 3), english(12, 4));
    }

    #[test]
    fn patients_do_not_depend_on_how_many_there_are() {
        let few = english(9, 1);
        assert_eq!(few[..], english(30, 1)[..few.len()]);
    }

    /// Pictures, labels and right reports stay; of the training reports the share that was asked for is another's or
    /// wrong, and each that is another's is right of one study.
    #[test]
    fn noise_spoils_training_reports_and_what_is_right_stays_known() {
        let options =
            SynthOptions { patients: 350, seed: 4, size: 16, language: Language::English, noise: 0.3, normal: NORMAL };
        let (clean, noisy) = (SynthOptions { noise: 0.0, ..options.clone() }, generate(&options).collect::<Vec<_>>());
        let mut counts = HashMap::new();
        let right: HashMap<&str, &str> = noisy.iter().map(|s| (s.true_report.as_str(), s.label)).collect();
        let mut still_normal = 0;
        for (before, after) in generate(&clean).zip(&noisy) {
            assert_eq!((&before.image, before.label), (&after.image, after.label));
            assert_eq!((&before.report, before.noise), (&after.true_report, None));
            let noise = after.noise.map_or("", Noise::word);
            assert!(after.split == "train" || noise.is_empty(), "{}", after.study_id);
            match noise {
                "" => assert_eq!(after.report, after.true_report),
                "wrong" => assert_ne!(after.report, after.true_report),
                _ => {
                    let label = right.get(after.report.as_str()).expect(&after.study_id);
                    still_normal += usize::from(after.label == "normal" && *label == "normal");
                }
            }
            *counts.entry(if after.split == "train" { noise } else { "judged" }).or_insert(0usize) += 1;
        }
        let trained = (counts[""] + counts["swapped"] + counts["wrong"]) as f64;
        for kind in ["swapped", "wrong"] {
            let share = counts[kind] as f64 / trained;
            assert!((0.10..0.20).contains(&share), "{kind}: {share}");
        }
        let still_normal = f64::from(still_normal as u32) / counts["swapped"] as f64;
        assert!(
            (0.04..0.25).contains(&still_normal),
            "about one in eight exchanged reports still fits: {still_normal}"
        );
        let few = generate(&SynthOptions { patients: 9, ..options }).collect::<Vec<_>>();
        assert_eq!(few[..], noisy[..few.len()], "patients do not depend on how many there are");
    }

    #[test]
    fn patients_stay_in_one_split_and_small_sets_hold_all_splits() {
        let mut splits = HashMap::new();
        for study in english(70, 2) {
            let known = splits.entry(study.patient_id).or_insert(study.split);
            assert_eq!(*known, study.split);
        }
        let count = |split| splits.values().filter(|s| **s == split).count();
        assert_eq!([count("train"), count("val"), count("test")], [50, 10, 10]);
        assert_eq!(english(7, 9).iter().map(|s| s.split).collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn a_larger_set_is_judged_on_the_same_patients() {
        let judged = |patients: u64| (0..patients).filter(|&p| split(5, p) != "train").collect::<Vec<_>>();
        assert_eq!(judged(1001).len(), 286);
        assert_eq!(judged(1001), judged(4000));
    }

    #[test]
    fn a_third_of_the_studies_is_normal() {
        let all = english(400, 6);
        let normal = all.iter().filter(|s| s.label == "normal").count() as f64 / all.len() as f64;
        assert!((0.28..0.42).contains(&normal), "{normal}");
    }

    #[test]
    fn reports_hold_both_headings_and_pictures_do_not_depend_on_the_language() {
        for (english, chinese) in english(60, 1).iter().zip(all(60, 1, Language::Chinese)) {
            let (words, text) = (&english.report, &chinese.report);
            assert!(words.starts_with("FINDINGS: ") && words.contains(" IMPRESSION: "), "{words}");
            assert!(text.starts_with("检查所见：") && text.contains("。 诊断意见："), "{text}");
            assert!(!words.contains(['{', '}']) && !text.contains(['{', '}']), "{words} {text}");
            assert_eq!(english.image, chinese.image);
        }
    }

    /// Each finding has a box inside the picture, on the side that its sentence names, of about its size.
    #[test]
    fn boxes_lie_where_findings_were_drawn() {
        let mut seen = HashSet::new();
        for study in english(120, 3) {
            let (width, height) = (study.image.width, study.image.height);
            assert_eq!(study.boxes.is_empty(), study.label == "normal");
            assert!(study.boxes.first().is_none_or(|first| first.label == study.label));
            for FindingBox { label, sentence, place: [x, y, w, h] } in &study.boxes {
                assert!(*w > 0 && *h > 0 && x + w <= width && y + h <= height, "{label}: {x} {y} {w} {h}");
                let middle = f64::from(2 * x + w) / f64::from(2 * width);
                if label != &"cardiomegaly" && sentence.to_lowercase().contains("right") {
                    assert!(middle < 0.5, "{sentence} at {middle}: the patient's right is the image's left");
                } else if label != &"cardiomegaly" && sentence.to_lowercase().contains("left") {
                    assert!(middle > 0.5, "{sentence} at {middle}");
                }
                if *label == "nodule" {
                    let share = f64::from(w * h) / f64::from(width * height);
                    assert!(share < 0.04, "{sentence}: {share} of the picture");
                }
                seen.insert(*label);
            }
        }
        assert_eq!(seen.len(), 7);
    }

    #[test]
    fn effusions_whiten_the_lower_lung_of_the_side_that_the_report_names() {
        for (own, word) in [(0, "right"), (1, "left")] {
            for extent in [Extent::Small, Extent::Moderate, Extent::Large] {
                let effusion = scene(&[Finding::Effusion(SIDES[own], extent)], &[]);
                for patient in 0..20 {
                    let sums = change(&effusion, patient, 32);
                    assert!(sums[own] > 2000.0 && sums[1 - own].abs() < 500.0, "{effusion:?} {sums:?}");
                    let report = report::write(&effusion, Language::English, &mut stream(5, patient, 2));
                    let impression = report.split("IMPRESSION").last().unwrap().to_lowercase();
                    assert!(impression.contains(word), "{report}");
                }
            }
        }
    }

    #[test]
    fn findings_and_devices_show_on_their_side() {
        for own in [0, 1] {
            let side = SIDES[own];
            let mut findings = [Extent::Small, Extent::Large].map(|e| Finding::Pneumothorax(side, e)).to_vec();
            for zone in [Zone::Upper, Zone::Middle, Zone::Lower] {
                findings.extend([12, 20, 30].map(|mm| Finding::Nodule(side, zone, mm)));
                findings.push(Finding::Consolidation(side, zone, Extent::Small));
                findings.push(Finding::Atelectasis(side, zone));
            }
            let mut scenes: Vec<Scene> = findings.iter().map(|f| scene(&[*f], &[])).collect();
            scenes.push(scene(&[], &[Device::Pacemaker(side)]));
            for (with, patient) in scenes.iter().flat_map(|s| (0..10).map(move |p| (s, p))) {
                let sums = change(with, patient, 0).map(f64::abs);
                assert!(sums[own] > 250.0 && sums[own] > 2.0 * sums[1 - own], "{with:?} {sums:?}");
            }
        }
    }

    #[test]
    fn no_finding_of_a_study_hides_another() {
        for patient in 0..400 {
            let whole = plan(&mut stream(8, patient, 3), NORMAL, None, None);
            for slot in 0..whole.findings.len() {
                let mut without = whole.clone();
                // A nodule of no size keeps the others in their places.
                without.findings[slot] = Finding::Nodule(Side::Left, Zone::Upper, 0);
                let (a, b) = (pixels(&without, patient), pixels(&whole, patient));
                let change: u32 = a.iter().zip(&b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
                assert!(change > 400, "{change}: number {slot} in {whole:?}");
            }
        }
    }
}
