//! Reports of phantom studies. Owns what a report says and leaves out: it names all that the [`Scene`] holds and denies
//! only what it lacks. The wordings are in `english` and `chinese`.

use super::random::{pick, shuffle};
use super::scene::{Extent, Finding, Grade, Scene, Side};
use super::study::Language;
use super::words::{Denial, Words};
use super::{chinese, english};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The report of a scene: findings in random order, then a short impression.
pub(super) fn write(scene: &Scene, language: Language, rng: &mut ChaCha8Rng) -> String {
    let words = match language {
        Language::English => &english::WORDS,
        Language::Chinese => &chinese::WORDS,
    };
    let mut body: Vec<String> = Vec::new();
    let mut summary: Vec<String> = Vec::new();
    for &finding in &scene.findings {
        let (long, short) = (words.finding)(finding);
        body.push(fill(pick(rng, long), finding, words));
        summary.push(fill(pick(rng, short), finding, words));
    }
    for &device in &scene.devices {
        body.push(with_side(pick(rng, (words.device)(device)), device.side(), words));
    }
    let volume = (words.volume)(scene.inspiration);
    if !volume.is_empty() {
        body.push(pick(rng, volume).to_string());
    }
    if scene.scoliosis.is_some() {
        body.push(with_side(pick(rng, words.scoliosis), scene.scoliosis, words));
    }
    let plain = scene.findings.is_empty() && body.is_empty();
    for (denial, side) in denials(scene) {
        // A report denies less when it has more to tell, so that reports stay short.
        let said = match (scene.findings.is_empty(), denial) {
            (true, Denial::Bones) => rng.random_ratio(1, 3),
            (true, _) => true,
            (false, _) => body.len() < 2 || (body.len() < 4 && rng.random_ratio(1, 2)),
        };
        if said {
            body.push(with_side(pick(rng, (words.denial)(denial)), side, words));
        }
    }
    if summary.is_empty() {
        let phrases = if plain { words.normal } else { words.healthy };
        summary.push(pick(rng, phrases).to_string());
    }
    shuffle(rng, &mut body);
    match language {
        Language::English => {
            format!("FINDINGS: {} IMPRESSION: {}", sentences(&body), sentences(&summary))
        }
        Language::Chinese => {
            format!("检查所见：{}。 诊断意见：{}。", body.join("。"), summary.join("；"))
        }
    }
}

/// A finding as a sentence of its own, always in the same words.
pub(super) fn sentence_of(finding: Finding, language: Language) -> String {
    match language {
        Language::English => sentences(&[fill((english::WORDS.finding)(finding).1[0], finding, &english::WORDS)]),
        Language::Chinese => format!("{}。", fill((chinese::WORDS.finding)(finding).1[0], finding, &chinese::WORDS)),
    }
}

/// What may be denied truthfully, some of it of one side.
fn denials(scene: &Scene) -> Vec<(Denial, Option<Side>)> {
    let has = |label: &str| scene.findings.iter().any(|f| f.label() == label);
    let mut denials = Vec::new();
    // Fluid and haze up to the heart's border leave its size open.
    let hidden =
        |f: &Finding| matches!(f, Finding::Effusion(Side::Left, Extent::Large) | Finding::Edema(Grade::Severe));
    if !has("cardiomegaly") && !scene.findings.iter().any(hidden) {
        denials.push((Denial::Heart, None));
    }
    match (has("pleural_effusion"), has("pneumothorax")) {
        (false, false) => denials.push((Denial::Pleura, None)),
        (true, false) => denials.push((Denial::Pneumothorax, None)),
        (false, true) => denials.push((Denial::Effusion, None)),
        (true, true) => {}
    }
    let sides: Vec<Option<Side>> =
        scene.findings.iter().filter(|f| f.label() != "cardiomegaly").map(|f| f.side()).collect();
    if sides.is_empty() {
        denials.push((Denial::Lungs, None));
    } else if sides.iter().all(|side| *side == Some(Side::Right)) {
        denials.push((Denial::Lung, Some(Side::Left)));
    } else if sides.iter().all(|side| *side == Some(Side::Left)) {
        denials.push((Denial::Lung, Some(Side::Right)));
    } else if !has("consolidation") && !has("pulmonary_edema") {
        denials.push((Denial::Consolidation, None));
    }
    if scene.scoliosis.is_none() {
        denials.push((Denial::Bones, None));
    }
    denials
}

/// English sentences: upper case in front, full stop behind.
fn sentences(phrases: &[String]) -> String {
    let sentence = |phrase: &String| {
        let mut letters = phrase.chars();
        let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        format!("{first}{}.", letters.as_str())
    };
    phrases.iter().map(sentence).collect::<Vec<_>>().join(" ")
}

/// Fills a finding's blanks.
fn fill(phrase: &str, finding: Finding, words: &Words) -> String {
    let (zone, size, mm) = match finding {
        Finding::Pneumothorax(_, extent) | Finding::Effusion(_, extent) => (None, (words.extent)(extent), 0),
        Finding::Consolidation(_, zone, extent) => (Some(zone), (words.spread)(extent), 0),
        Finding::Nodule(_, zone, mm) => (Some(zone), "", mm),
        Finding::Atelectasis(_, zone) => (Some(zone), "", 0),
        Finding::Edema(grade) | Finding::Cardiomegaly(grade) => (None, (words.grade)(grade), 0),
    };
    let zone = zone.map_or("", words.zone);
    let phrase = phrase.replace("{size}", size).replace("{zone}", zone);
    with_side(&phrase.replace("{mm}", &mm.to_string()), finding.side(), words)
}

/// Fills in the side.
fn with_side(phrase: &str, side: Option<Side>, words: &Words) -> String {
    phrase.replace("{side}", side.map_or("", words.side))
}
