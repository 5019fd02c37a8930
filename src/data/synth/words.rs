//! What each language has words for.

use super::scene::{Device, Extent, Finding, Grade, Inspiration, Side, Zone};

/// Ways to say one thing, with the blanks {side}, {zone}, {size} and {mm}.
pub(super) type Phrases = &'static [&'static str];

/// All wordings of one language.
pub(super) struct Words {
    /// For the findings section and for the impression.
    pub(super) finding: fn(Finding) -> (Phrases, Phrases),
    pub(super) device: fn(Device) -> Phrases,
    /// Depth of breath; none for the usual one.
    pub(super) volume: fn(Inspiration) -> Phrases,
    pub(super) denial: fn(Denial) -> Phrases,
    pub(super) scoliosis: Phrases,
    /// Impressions where there is nothing but a healthy chest.
    pub(super) normal: Phrases,
    /// Impressions where there is no finding, but a device or a variant.
    pub(super) healthy: Phrases,
    pub(super) side: fn(Side) -> &'static str,
    pub(super) zone: fn(Zone) -> &'static str,
    pub(super) extent: fn(Extent) -> &'static str,
    pub(super) spread: fn(Extent) -> &'static str,
    pub(super) grade: fn(Grade) -> &'static str,
}

/// What a report may say is absent or healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    Heart,
    /// Neither effusion nor pneumothorax.
    Pleura,
    Effusion,
    Pneumothorax,
    /// Both lungs.
    Lungs,
    /// The lung of one side.
    Lung,
    Consolidation,
    Bones,
}
