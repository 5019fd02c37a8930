//! What a phantom study shows: findings, devices and how they go together. Owns frequencies and conflicts, neither
//! pixels nor words.
//!
//! To add a finding: a variant of [`Finding`], its line in [`Finding::sample`], and the match arms that the compiler
//! then asks for here (label, region), in `draw` (opacity), `report` (blanks), `english` and `chinese` (phrases).

use super::random::pick;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Side of the patient; the right side is on the image's left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Side {
    Right,
    Left,
}

impl Side {
    /// Sign of x in the picture.
    pub(super) fn sign(self) -> f32 {
        if self == Side::Right { -1.0 } else { 1.0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Zone {
    Upper,
    Middle,
    Lower,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Extent {
    Small,
    /// Of effusions only.
    Moderate,
    Large,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Grade {
    Mild,
    /// Of heart size only.
    Moderate,
    Severe,
}

/// What a study can show; the first in this order is the study's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Finding {
    Pneumothorax(Side, Extent),
    Consolidation(Side, Zone, Extent),
    Edema(Grade),
    Effusion(Side, Extent),
    /// With the diameter in mm.
    Nodule(Side, Zone, u32),
    Cardiomegaly(Grade),
    Atelectasis(Side, Zone),
}

impl Finding {
    /// Draws a finding, common ones more often.
    pub(super) fn sample(rng: &mut ChaCha8Rng) -> Self {
        let side = pick(rng, &[Side::Right, Side::Left]);
        let zone = pick(rng, &[Zone::Upper, Zone::Middle, Zone::Lower]);
        let extent = pick(rng, &[Extent::Small, Extent::Moderate, Extent::Large]);
        let ends = pick(rng, &[Extent::Small, Extent::Large]);
        let grade = pick(rng, &[Grade::Mild, Grade::Moderate, Grade::Severe]);
        let severe = pick(rng, &[Grade::Mild, Grade::Severe]);
        // Far enough apart to be told apart at 64 pixels.
        let mm = pick(rng, &[12, 20, 30]);
        let low = pick(rng, &[Zone::Middle, Zone::Lower]);
        match rng.random_range(0..28u32) {
            0..=4 => Finding::Effusion(side, extent),
            5..=9 => Finding::Consolidation(side, zone, ends),
            10..=13 => Finding::Pneumothorax(side, ends),
            14..=17 => Finding::Cardiomegaly(grade),
            18..=21 => Finding::Nodule(side, zone, mm),
            22..=24 => Finding::Atelectasis(side, low),
            _ => Finding::Edema(severe),
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Finding::Pneumothorax(..) => "pneumothorax",
            Finding::Consolidation(..) => "consolidation",
            Finding::Edema(_) => "pulmonary_edema",
            Finding::Effusion(..) => "pleural_effusion",
            Finding::Nodule(..) => "nodule",
            Finding::Cardiomegaly(_) => "cardiomegaly",
            Finding::Atelectasis(..) => "atelectasis",
        }
    }

    /// The side, of findings that have one.
    pub(super) fn side(self) -> Option<Side> {
        match self {
            Finding::Pneumothorax(side, _)
            | Finding::Consolidation(side, ..)
            | Finding::Effusion(side, _)
            | Finding::Nodule(side, ..)
            | Finding::Atelectasis(side, _) => Some(side),
            Finding::Edema(_) | Finding::Cardiomegaly(_) => None,
        }
    }

    /// Parts of the chest that the finding needs to itself, as bits: lung zones and the heart. Findings with a bit in
    /// common would hide one another, and the report would name what nobody can see.
    fn region(self) -> u32 {
        const HEART: u32 = 1 << 6;
        let zone = |side: Side, zone: Zone| 1 << (side as u32 * 3 + zone as u32);
        let lung = |side: Side| 0b111 << (side as u32 * 3);
        match self {
            Finding::Pneumothorax(side, Extent::Small) => zone(side, Zone::Upper),
            Finding::Pneumothorax(side, _) => lung(side),
            Finding::Effusion(side, Extent::Small) => zone(side, Zone::Lower),
            Finding::Effusion(side, Extent::Moderate) => zone(side, Zone::Lower) | zone(side, Zone::Middle),
            Finding::Effusion(side, _) => lung(side) | HEART,
            // Extensive ones reach into the next zone.
            Finding::Consolidation(side, _, Extent::Large) => lung(side),
            Finding::Consolidation(side, at, _) | Finding::Nodule(side, at, _) | Finding::Atelectasis(side, at) => {
                zone(side, at)
            }
            // An enlarged heart covers the lower part of the left lung.
            Finding::Cardiomegaly(Grade::Mild) => HEART | zone(Side::Left, Zone::Lower),
            Finding::Cardiomegaly(_) => HEART | zone(Side::Left, Zone::Lower) | zone(Side::Left, Zone::Middle),
            Finding::Edema(Grade::Severe) => 0b011_011,
            Finding::Edema(_) => 0b010_010,
        }
    }
}

/// A line, tube or implant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Device {
    EndotrachealTube,
    NasogastricTube,
    CentralLine(Side),
    Pacemaker(Side),
}

impl Device {
    /// The side, of devices that have one.
    pub(super) fn side(self) -> Option<Side> {
        match self {
            Device::CentralLine(side) | Device::Pacemaker(side) => Some(side),
            Device::EndotrachealTube | Device::NasogastricTube => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Inspiration {
    Low,
    Normal,
    Deep,
}

/// All that one study shows, and all that its report may name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scene {
    /// The main one first, at most three, of different kinds.
    pub(super) findings: Vec<Finding>,
    pub(super) devices: Vec<Device>,
    pub(super) inspiration: Inspiration,
    /// Side to which the spine bends.
    pub(super) scoliosis: Option<Side>,
}

impl Scene {
    pub(super) fn label(&self) -> &'static str {
        self.findings.first().map_or("normal", |finding| finding.label())
    }
}

/// Decides what a study shows; `normal` percent of them have no finding.
pub(super) fn plan(rng: &mut ChaCha8Rng, normal: u32, pacemaker: Option<Device>, scoliosis: Option<Side>) -> Scene {
    let mut findings: Vec<Finding> = Vec::new();
    if !rng.random_ratio(normal, 100) {
        let wanted = pick(rng, &[1, 1, 1, 2, 2, 3]);
        // Large findings may leave no room for more.
        for _ in 0..30 {
            let next = Finding::sample(rng);
            let clash = |f: &Finding| f.region() & next.region() != 0 || f.label() == next.label();
            if findings.len() < wanted && !findings.iter().any(clash) {
                findings.push(next);
            }
        }
    }
    findings.sort();
    let mut devices: Vec<Device> = pacemaker.into_iter().collect();
    let side = pick(rng, &[Side::Right, Side::Left]);
    // One device besides the pacemaker: a line could not be told from a pacemaker's lead, and reports stay short.
    match rng.random_range(0..100u32) {
        _ if findings.len() > 2 => {}
        0..=9 => devices.push(Device::EndotrachealTube),
        10..=17 => devices.push(Device::NasogastricTube),
        18..=29 if pacemaker.is_none() => devices.push(Device::CentralLine(side)),
        _ => {}
    }
    let inspiration = match rng.random_range(0..100u32) {
        _ if findings.len() > 2 => Inspiration::Normal,
        // A shallow breath makes every heart look large, so the two do not meet.
        0..=17 if !findings.iter().any(|f| matches!(f, Finding::Cardiomegaly(_))) => Inspiration::Low,
        18..=35 => Inspiration::Deep,
        _ => Inspiration::Normal,
    };
    Scene { findings, devices, inspiration, scoliosis }
}
