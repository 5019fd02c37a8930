//! What an oracle reaches on phantoms that knows all that each picture shows, and of a report what it says, but not
//! which of equal studies' reports was written for which. Nobody has a higher recall; a higher AUROC has who weighs
//! findings against one another.

use std::collections::{HashMap, HashSet};

use super::scene::Scene;
use super::study::SynthOptions;
use super::{Patient, split};

/// The oracle's figures on one split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// Pictures.
    pub images: usize,
    /// Reports that differ.
    pub reports: usize,
    /// Recall@1, image→text and text→image, the highest that there is: where several reports fit a picture, the one
    /// that most of the pictures that show the same have is named; where several pictures fit a report, any.
    pub recall_at_1: (f64, f64),
    /// Mean over labels of the AUROC of who scores each finding by itself, by whether the picture shows it: a label is
    /// the main finding alone, so others beside it cost, and ties count half. No maximum: who sees all findings and
    /// knows their order of rank knows the label, and has 1.
    pub auroc: f64,
}

/// Of the phantoms of `options` in `split`; NaN where it is empty.
pub fn ceiling(options: &SynthOptions, of_split: &str) -> Ceiling {
    let patients = (0..options.patients as u64).filter(|&number| split(options.seed, number) == of_split);
    let mut studies: Vec<(Scene, String)> = Vec::new();
    for patient in patients.map(|number| Patient::new(options.seed, number)) {
        studies.extend((1..=patient.studies).map(|study| {
            let scene = patient.scene(options, study);
            let report = patient.report(options, study, &scene);
            (scene, report)
        }));
    }
    let reports: HashSet<&str> = studies.iter().map(|(_, report)| report.as_str()).collect();
    Ceiling { images: studies.len(), reports: reports.len(), recall_at_1: recall(&studies), auroc: auroc(&studies) }
}

/// Reports that are word for word the same are one, as in retrieval; a report names all that its picture shows.
fn recall(studies: &[(Scene, String)]) -> (f64, f64) {
    let mut of_scene: HashMap<&Scene, Vec<&str>> = HashMap::new();
    let mut of_report: HashMap<&str, Vec<&Scene>> = HashMap::new();
    for (scene, report) in studies {
        of_scene.entry(scene).or_default().push(report);
        of_report.entry(report).or_default().push(scene);
    }
    let mut pictures: HashMap<(&Scene, &str), usize> = HashMap::new();
    studies.iter().for_each(|(scene, report)| *pictures.entry((scene, report)).or_default() += 1);
    let mut commonest: HashMap<&Scene, usize> = HashMap::new();
    for ((scene, _), count) in pictures {
        let most = commonest.entry(scene).or_default();
        *most = count.max(*most);
    }
    let to_text: usize = commonest.values().sum();
    let to_image = of_report.values().map(|scenes| scenes.len() as f64 / of_scene[scenes[0]].len() as f64);
    (to_text as f64 / studies.len() as f64, to_image.sum::<f64>() / of_report.len() as f64)
}

fn auroc(studies: &[(Scene, String)]) -> f64 {
    let labels: HashSet<&str> = studies.iter().map(|(scene, _)| scene.label()).collect();
    let shows = |scene: &Scene, label: &str| match label {
        "normal" => scene.findings.is_empty(),
        _ => scene.findings.iter().any(|finding| finding.label() == label),
    };
    let of_label = |label: &&str| {
        // Whoever has a label shows it: positives are only tied with negatives that show it too.
        let others = studies.iter().filter(|(scene, _)| scene.label() != *label);
        let tied: Vec<bool> = others.map(|(scene, _)| shows(scene, label)).collect();
        1.0 - tied.iter().filter(|tied| **tied).count() as f64 / tied.len() as f64 / 2.0
    };
    labels.iter().map(of_label).sum::<f64>() / labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Extent, Finding, Inspiration, Side};
    use super::super::study::{Language, NORMAL};
    use super::*;

    fn study(findings: &[Finding], report: &str) -> (Scene, String) {
        let scene =
            Scene { findings: findings.to_vec(), devices: vec![], inspiration: Inspiration::Normal, scoliosis: None };
        (scene, report.to_string())
    }

    #[test]
    fn studies_that_show_the_same_are_told_apart_by_luck_alone() {
        let air = Finding::Pneumothorax(Side::Left, Extent::Small);
        let fluid = Finding::Effusion(Side::Right, Extent::Small);
        let studies =
            [study(&[fluid], "a"), study(&[fluid], "b"), study(&[air, fluid], "c"), study(&[], "d"), study(&[], "d")];
        // Pictures: a half twice, and three with one report each. Reports: a half twice, c, and d with both its own.
        let (to_text, to_image) = recall(&studies);
        assert!((to_text - 4.0 / 5.0).abs() < 1e-12 && (to_image - 3.0 / 4.0).abs() < 1e-12, "{to_text} {to_image}");
        // Of three pictures that show the same two have one report: who names it is right of both.
        let (to_text, to_image) = recall(&[study(&[], "d"), study(&[], "e"), study(&[], "d")]);
        assert!((to_text - 2.0 / 3.0).abs() < 1e-12 && (to_image - 1.0 / 2.0).abs() < 1e-12, "{to_text} {to_image}");
        // Of the three pictures without the label effusion one shows some.
        assert!((auroc(&studies) - (1.0 - 1.0 / 6.0 + 1.0 + 1.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_ceiling_is_of_the_studies_that_are_drawn() {
        let options =
            SynthOptions { patients: 70, seed: 3, size: 16, language: Language::English, noise: 0.0, normal: NORMAL };
        let drawn: Vec<_> = super::super::generate(&options).filter(|study| study.split == "test").collect();
        let reports: HashSet<&str> = drawn.iter().map(|study| study.report.as_str()).collect();
        let of_test = ceiling(&options, "test");
        assert_eq!((of_test.images, of_test.reports), (drawn.len(), reports.len()));
        assert!(of_test.recall_at_1.0 < 1.0 && of_test.recall_at_1.0 > 1.0 / drawn.len() as f64, "{of_test:?}");
        assert!((0.9..1.0).contains(&of_test.auroc), "{of_test:?}");
    }
}
