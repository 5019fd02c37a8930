//! Reports of training that are not their picture's: exchanged with another study's, or wrong in part. Owns which and
//! how; what is so stays known.

use super::random::pick;
use super::scene::{Finding, Scene, Side};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What is the matter with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// It is another study's, and that one's is a third one's.
    Swapped,
    /// A finding stands on the other side, is left out, or is made up.
    Wrong,
}

impl Noise {
    /// As the manifest has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Swapped => "swapped",
            Self::Wrong => "wrong",
        }
    }

    /// Drawn for one report: with `share` there is some, of both kinds alike.
    pub(super) fn sample(share: f64, rng: &mut ChaCha8Rng) -> Option<Self> {
        let (drawn, kind) = (rng.random::<f64>(), pick(rng, &[Self::Swapped, Self::Wrong]));
        (drawn < share).then_some(kind)
    }
}

/// The scene of which a report would be wrong in one finding.
pub(super) fn altered(scene: &Scene, rng: &mut ChaCha8Rng) -> Scene {
    let mut altered = scene.clone();
    let findings = &mut altered.findings;
    if findings.is_empty() {
        findings.push(Finding::sample(rng));
        return altered;
    }
    let at = rng.random_range(0..findings.len() as u32) as usize;
    match mirrored(findings[at]).filter(|_| rng.random_ratio(1, 2)) {
        Some(mirrored) => findings[at] = mirrored,
        None => drop(findings.remove(at)),
    }
    altered
}

/// The same finding on the other side, where it has one.
fn mirrored(finding: Finding) -> Option<Finding> {
    let other = match finding.side()? {
        Side::Right => Side::Left,
        Side::Left => Side::Right,
    };
    Some(match finding {
        Finding::Pneumothorax(_, extent) => Finding::Pneumothorax(other, extent),
        Finding::Consolidation(_, zone, extent) => Finding::Consolidation(other, zone, extent),
        Finding::Effusion(_, extent) => Finding::Effusion(other, extent),
        Finding::Nodule(_, zone, mm) => Finding::Nodule(other, zone, mm),
        Finding::Atelectasis(_, zone) => Finding::Atelectasis(other, zone),
        Finding::Edema(_) | Finding::Cardiomegaly(_) => return None,
    })
}
