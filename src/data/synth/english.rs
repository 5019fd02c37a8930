//! English wordings of phantom reports: tables only. To word something in another way, add a line. Phrases start in
//! lower case and end without a full stop; `report` makes sentences of them.

use super::scene::{Device, Extent, Finding, Grade, Inspiration, Side, Zone};
use super::words::{Denial, Phrases, Words};

/// The English tables.
pub(super) const WORDS: Words = Words {
    finding,
    device,
    volume,
    denial,
    scoliosis: &SCOLIOSIS,
    normal: &NORMAL,
    healthy: &HEALTHY,
    side,
    zone,
    extent,
    spread,
    grade,
};

/// Impressions of studies without findings, devices or variants.
const NORMAL: [&str; 6] = [
    "normal chest radiograph",
    "no acute cardiopulmonary abnormality",
    "no evidence of acute chest disease",
    "unremarkable study",
    "no acute findings",
    "normal chest",
];

/// Impressions of studies without findings but with a device or variant.
const HEALTHY: [&str; 5] = [
    "no acute cardiopulmonary abnormality",
    "no acute findings",
    "no evidence of acute chest disease",
    "no acute cardiopulmonary process",
    "no active chest disease",
];

/// A bent spine.
const SCOLIOSIS: [&str; 3] =
    ["scoliosis convex to the {side}", "the thoracic spine curves to the {side}", "{side} convex thoracic scoliosis"];

fn finding(finding: Finding) -> (Phrases, Phrases) {
    match finding {
        Finding::Pneumothorax(..) => (
            &[
                "there is a {size} {side} pneumothorax",
                "a {size} pneumothorax is present on the {side}",
                "{size} {side} pneumothorax with a visible pleural line",
                "lucency without lung markings along the {side} chest wall, a {size} pneumothorax",
                "the {side} lung is separated from the chest wall by a {size} pneumothorax",
            ],
            &["{size} {side} pneumothorax", "{side}-sided pneumothorax, {size}"],
        ),
        Finding::Consolidation(..) => (
            &[
                "{size} consolidation in the {side} {zone} zone",
                "there is {size} airspace opacity in the {side} {zone} lung zone",
                "the {side} {zone} zone shows {size} consolidation",
                "{size} airspace disease is seen in the {zone} zone of the {side} lung",
                "{size} area of increased opacity in the {side} {zone} lung, in keeping with consolidation",
            ],
            &[
                "{size} {side} {zone} zone consolidation",
                "{side} {zone} zone airspace disease, {size}",
                "{size} consolidation of the {side} {zone} lung",
            ],
        ),
        Finding::Edema(_) => (
            &[
                "{size} pulmonary edema with bilateral perihilar haze",
                "bilateral perihilar opacities consistent with {size} pulmonary edema",
                "there is {size} bilateral pulmonary edema",
                "hazy opacity spreads from both hila, {size} edema",
            ],
            &["{size} pulmonary edema", "{size} bilateral edema"],
        ),
        Finding::Effusion(..) => (
            &[
                "there is a {size} {side} pleural effusion",
                "a {size} pleural effusion is present on the {side}",
                "{size} {side} pleural effusion obscures the costophrenic angle",
                "opacity with a meniscus at the {side} base, a {size} effusion",
                "the {side} costophrenic angle is lost to a {size} pleural effusion",
            ],
            &["{size} {side} pleural effusion", "{side}-sided effusion, {size}"],
        ),
        Finding::Nodule(..) => (
            &[
                "a {mm} mm nodule is seen in the {side} {zone} zone",
                "there is a {mm} mm round opacity in the {side} {zone} lung",
                "well-defined nodule of {mm} mm in the {zone} zone of the {side} lung",
                "solitary nodule in the {side} {zone} zone measuring {mm} mm",
            ],
            &["{mm} mm {side} {zone} zone nodule", "{side} {zone} lung nodule, {mm} mm"],
        ),
        Finding::Cardiomegaly(_) => (
            &[
                "there is {size} enlargement of the cardiac silhouette",
                "the heart shows {size} enlargement",
                "{size} cardiomegaly is present",
                "increased cardiothoracic ratio, {size} cardiomegaly",
            ],
            &["{size} cardiomegaly", "{size} enlargement of the heart"],
        ),
        Finding::Atelectasis(..) => (
            &[
                "linear atelectasis in the {side} {zone} zone",
                "plate-like atelectasis is present in the {side} {zone} lung",
                "band-like opacity in the {zone} zone of the {side} lung, consistent with atelectasis",
                "subsegmental atelectasis crosses the {side} {zone} zone",
            ],
            &["{side} {zone} zone atelectasis", "linear atelectasis of the {side} {zone} lung"],
        ),
    }
}

fn device(device: Device) -> Phrases {
    match device {
        Device::EndotrachealTube => &[
            "endotracheal tube ends above the carina",
            "an endotracheal tube is in place",
            "the patient is intubated, tube tip in the trachea",
        ],
        Device::NasogastricTube => &[
            "nasogastric tube reaches the stomach",
            "a nasogastric tube passes below the diaphragm",
            "the tip of the nasogastric tube lies in the stomach",
        ],
        Device::CentralLine(_) => &[
            "{side} central venous line ends in the superior vena cava",
            "a {side} subclavian central line is in place",
            "central venous catheter from the {side}, tip in the superior vena cava",
        ],
        Device::Pacemaker(_) => &[
            "{side} chest wall pacemaker with a lead to the right ventricle",
            "a pacemaker lies in the {side} chest wall",
            "{side}-sided pacemaker with intact lead",
        ],
    }
}

fn volume(inspiration: Inspiration) -> Phrases {
    match inspiration {
        Inspiration::Normal => &[],
        Inspiration::Low => &["lung volumes are low", "shallow inspiration", "low lung volumes with raised diaphragms"],
        Inspiration::Deep => {
            &["the lungs are hyperinflated", "hyperinflation with flat diaphragms", "lung volumes are large"]
        }
    }
}

fn denial(denial: Denial) -> Phrases {
    match denial {
        Denial::Heart => &[
            "heart size is normal",
            "the heart is not enlarged",
            "normal cardiac silhouette",
            "the cardiomediastinal contour is unremarkable",
            "cardiac size is within normal limits",
        ],
        Denial::Pleura => &[
            "no pleural effusion or pneumothorax",
            "no pneumothorax or effusion is seen",
            "the pleural spaces are clear",
            "there is no effusion and no pneumothorax",
            "neither effusion nor pneumothorax",
        ],
        Denial::Effusion => &["no pleural effusion", "no effusion is seen"],
        Denial::Pneumothorax => &["no pneumothorax", "no pneumothorax is seen"],
        Denial::Lungs => &[
            "the lungs are clear",
            "both lungs are clear",
            "no focal consolidation",
            "clear lungs without focal opacity",
            "no airspace disease or nodule",
            "lung fields are clear bilaterally",
        ],
        Denial::Lung => &["the {side} lung is clear", "clear {side} lung", "no abnormality of the {side} lung"],
        Denial::Consolidation => &["no focal consolidation", "no consolidation is seen"],
        Denial::Bones => &["no acute osseous abnormality", "bony structures are intact", "no fracture is seen"],
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Right => "right",
        Side::Left => "left",
    }
}

fn zone(zone: Zone) -> &'static str {
    match zone {
        Zone::Upper => "upper",
        Zone::Middle => "middle",
        Zone::Lower => "lower",
    }
}

/// Amount of fluid or air.
fn extent(extent: Extent) -> &'static str {
    match extent {
        Extent::Small => "small",
        Extent::Moderate => "moderate",
        Extent::Large => "large",
    }
}

/// Size of a consolidation.
fn spread(extent: Extent) -> &'static str {
    match extent {
        Extent::Small => "focal",
        Extent::Moderate | Extent::Large => "extensive",
    }
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Mild => "mild",
        Grade::Moderate => "moderate",
        Grade::Severe => "severe",
    }
}
