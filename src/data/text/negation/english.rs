//! English sentences: what they deny or affirm, sides, sizes.

use super::opposite::{Opposite, OppositeKind};
use super::words::{Sentence, is_among};

/// Longer sentences say more than one thing.
const MOST_WORDS: usize = 30;

/// Words that deny. A sentence with two of them is left alone.
const DENIALS: &str = "no not without none neither nor never negative absent absence free lack lacks lacking denies \
    non resolved cannot removed removal cleared clearing";

/// Words that leave open what is the case, or say it of something else: another time, another study, an exception.
const UNSURE: &str = "may might could can would should must if whether possible possibly probable probably likely \
    unlikely suspected suspicious suspicion suggest suggests suggested suggesting suggestion suggestive versus vs \
    questionable question questioned uncertain indeterminate equivocal exclude excluded excluding rule ruled \
    consider considered considerations differential concerning concern recommend recommended recommendation perhaps \
    appear appears appearing apparent presumably presumed represent represents representing definite definitely \
    definitive convincing obvious gross grossly limited suboptimal evaluation assessment history known prior \
    previous previously comparison compared available change changed unchanged longer further improved improvement \
    improving progression increase increased increasing decrease decreased decreasing stable persistent persists \
    worsening worsened resolution resolving interval again redemonstrated remains remain continued since follow but \
    however although though except exception other others otherwise besides apart aside despite yet while whereas \
    rather only else unless almost nearly borderline significant significantly near status post artifact technique \
    exam examination clinical clinically correlate correlation etiology due secondary accounting vague compatible \
    consistent favor favored nothing hardly scarcely little fail fails failed failing gone disappeared subsided \
    drained doubtful also less smaller larger better";

/// What is found or not found; by their beginnings.
const FINDINGS: &str = "effusion pneumothora hydropneumothora hemothora consolidat infiltrat edema oedema opaci \
    disease abnormalit cardiomegaly enlarge fractur nodul mass atelecta pneumonia pneumonitis congest lesion \
    hyperinflat hyperexpan adenopath lymphadenopath scar fibros emphysem calcifi granulom hernia deformit widening \
    thickening collapse infect tubercul malignan metasta cyst hemorrhag haemorrhag infarct stenos aneurysm tumor \
    tumour carcinoma dislocat pneumoperitoneum cavit pneumomediastin hydroceph thromb embol dissection ascites \
    obstruction calcul dilat perforat abscess scolios kyphos spondyl osteophyt airspace bronchiectas degenerative \
    degeneration blunting hypertrophy process shift elevation";

const COPULAS: &str = "is are was were";

/// What a denied or affirmed thing is: seen, or there.
const SEEN: &str = "seen identified present visualized visualised demonstrated noted evident detected observed \
    visible";

/// What a part is where it is ill.
const ILL: &str = "enlarged dilated widened displaced thickened elevated hyperinflated hyperexpanded blunted \
    flattened tortuous ectatic calcified collapsed fractured deviated low obscured";

/// What a part is where it is well.
const WELL: &str = "clear normal unremarkable intact midline patent sharp symmetric preserved within";

/// Verbs: a sentence without any is a name of what is seen.
const VERBS: &str = "is are was were be been has have had shows show demonstrates demonstrate reveals reveal there \
    see seen noted obscures obscuring lies ends overlies overlying projects extends given please call called \
    measuring measures lost separated spreads crosses curves";

const ARTICLES: &str = "a an some the";

/// Everything that the rules are sure about. `others` are the other sentences of the report.
pub(super) fn opposites(text: &str, others: &[&str]) -> Vec<Opposite> {
    let s = Sentence::new(text);
    let unsure = s.words.len() > MOST_WORDS
        || text.contains('?')
        || s.has(UNSURE)
        || ["n't", "n’t"].iter().any(|not| text.contains(not));
    if unsure {
        return Vec::new();
    }
    let denials = s.places(DENIALS).count();
    let affirmed = denials == 0 && names_finding(&s, 0) && !s.has(WELL);
    let negation = match denials {
        0 => of_well(&s).or_else(|| if affirmed { denied(&s) } else { None }),
        1 => affirmed_instead(&s),
        _ => None,
    };
    let side = if affirmed { other_side(&s, others) } else { None };
    let size = if affirmed { other_size(&s) } else { None };
    let kinds = [(OppositeKind::Negation, negation), (OppositeKind::Laterality, side), (OppositeKind::Size, size)];
    kinds.into_iter().filter_map(|(kind, text)| Some(Opposite { kind, of_denial: denials == 1, text: text? })).collect()
}

/// Whether a word from number `from` on names something that is found.
fn names_finding(s: &Sentence, from: usize) -> bool {
    s.words.iter().skip(from).any(|word| FINDINGS.split_ascii_whitespace().any(|start| word.lower.starts_with(start)))
}

/// A sentence that denies: without what denies.
fn affirmed_instead(s: &Sentence) -> Option<String> {
    let at = s.places(DENIALS).next()?;
    let there_is = at == 2 && s.word(0) == "there" && is_among(COPULAS, s.word(1));
    match s.word(at) {
        // "No. 3" is a number.
        "no" if s.word(at + 1).starts_with(|c: char| c.is_ascii_digit()) => None,
        "no" if at == 0 || there_is => names_finding(s, at + 1).then(|| s.without(at..at + 1)),
        "not" if at > 0 && is_among(COPULAS, s.word(at - 1)) => {
            let said = s.word(at + 1);
            (is_among(SEEN, said) || is_among(ILL, said) || is_among(WELL, said)).then(|| s.without(at..at + 1))
        }
        // "Clear with opacity" contradicts itself.
        "without" if at > 0 && !s.has(WELL) => names_finding(s, at + 1).then(|| s.replaced(at, "with")),
        "negative" if s.word(at + 1) == "for" => names_finding(s, at + 2).then(|| s.replaced(at, "positive")),
        _ => None,
    }
}

/// A sentence that says that a part is well: that it is not.
fn of_well(s: &Sentence) -> Option<String> {
    if s.word(0) == "normal" && !s.has(COPULAS) && s.only(WELL).is_some() && s.words.len() > 1 {
        return Some(s.replaced(0, "abnormal"));
    }
    let copula = s.only(COPULAS)?;
    let said = s.word(copula + 1);
    let is_well = is_among(WELL, said) && (said != "within" || s.word(copula + 2) == "normal");
    // "The heart, which is normal": what is said of it ends the sentence or is joined by nothing that turns it.
    (is_well && copula > 0 && s.word(0) != "there").then(|| s.with_before(copula + 1, "not"))
}

/// A sentence that affirms a finding: one that denies it.
fn denied(s: &Sentence) -> Option<String> {
    if s.word(0) == "there" && is_among(COPULAS, s.word(1)) && s.only(COPULAS).is_some() {
        let article = is_among(ARTICLES, s.word(2));
        return if article { Some(s.replaced(2, "no")) } else { Some(s.with_before(2, "no")) };
    }
    if let Some(copula) = s.only(COPULAS) {
        let said = s.word(copula + 1);
        let plain = copula > 0 && (is_among(SEEN, said) || is_among(ILL, said));
        return plain.then(|| s.with_before(copula + 1, "not"));
    }
    if let Some(verb) = s.only("shows show demonstrates demonstrate reveals reveal") {
        let article = is_among(ARTICLES, s.word(verb + 1));
        let made = if article { s.replaced(verb + 1, "no") } else { s.with_before(verb + 1, "no") };
        return (verb > 0 && names_finding(s, verb + 1)).then_some(made);
    }
    let name = !s.has(VERBS) && !s.text.contains([',', ':', ';']) && s.words.len() <= 10;
    if !name {
        return None;
    }
    Some(if is_among(ARTICLES, s.word(0)) { s.replaced(0, "no") } else { s.with_before(0, "no") })
}

/// Left for right, where the one side is all that the report speaks of, and where the other side has such a part.
fn other_side(s: &Sentence, others: &[&str]) -> Option<String> {
    const SIDES: &str = "left right";
    /// Parts of one side only, and words that speak of both.
    const ONE_SIDED: &str = "bilateral bilaterally both ventricle ventricular atrium atrial heart cardiac lingula \
        lingular quadrant mainstem aorta aortic leftward rightward coronary contralateral opposite axis greater than \
        well minor horizontal";
    let at = s.only(SIDES)?;
    if s.has(ONE_SIDED) || (s.has("middle") && s.has("lobe lobar")) {
        return None;
    }
    let other = if s.word(at) == "left" { "right" } else { "left" };
    let speaks_of_other = |text: &&str| {
        Sentence::new(text).has(&format!("{other} bilateral bilaterally both bibasilar biapical bibasal"))
    };
    (!others.iter().any(speaks_of_other)).then(|| s.replaced(at, other))
}

/// Small for large, mild for severe.
fn other_size(s: &Sentence) -> Option<String> {
    const SIZES: [(&str, &str); 12] = [
        ("small", "large"),
        ("large", "small"),
        ("tiny", "large"),
        ("minimal", "severe"),
        ("mild", "severe"),
        ("severe", "mild"),
        ("mildly", "severely"),
        ("minimally", "severely"),
        ("slightly", "severely"),
        ("severely", "mildly"),
        ("massive", "tiny"),
        ("marked", "mild"),
    ];
    /// Beside them the size is a range, or no size.
    const BESIDE: &str = "moderate moderately to bowel bore airway airways intestine caliber";
    let mut found = s
        .words
        .iter()
        .enumerate()
        .filter_map(|(i, word)| SIZES.iter().find(|(size, _)| *size == word.lower).map(|(_, other)| (i, *other)));
    let (at, other) = found.next()?;
    (found.next().is_none() && !s.has(BESIDE)).then(|| s.replaced(at, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negation(text: &str) -> Option<String> {
        opposites(text, &[]).into_iter().find(|o| o.kind == OppositeKind::Negation).map(|o| o.text)
    }

    #[test]
    fn what_is_denied_is_affirmed() {
        for (said, opposite) in [
            ("No pleural effusion or pneumothorax.", "Pleural effusion or pneumothorax."),
            ("There is no evidence of pneumonia.", "There is evidence of pneumonia."),
            ("The heart is not enlarged.", "The heart is enlarged."),
            ("No fracture is seen", "Fracture is seen"),
            ("Chest without focal opacity.", "Chest with focal opacity."),
            ("NO PNEUMOTHORAX.", "PNEUMOTHORAX."),
            ("Negative for pneumothorax.", "Positive for pneumothorax."),
        ] {
            assert_eq!(negation(said).as_deref(), Some(opposite));
        }
    }

    #[test]
    fn what_is_affirmed_is_denied() {
        for (said, opposite) in [
            ("The lungs are clear.", "The lungs are not clear."),
            ("Heart size is within normal limits.", "Heart size is not within normal limits."),
            ("Normal cardiac silhouette", "Abnormal cardiac silhouette"),
            ("There is a small left pleural effusion.", "There is no small left pleural effusion."),
            ("There are scattered granulomas.", "There are no scattered granulomas."),
            ("Mild cardiomegaly is present.", "Mild cardiomegaly is not present."),
            ("Left lower lobe consolidation.", "No left lower lobe consolidation."),
            ("The left upper zone shows focal consolidation.", "The left upper zone shows no focal consolidation."),
        ] {
            assert_eq!(negation(said).as_deref(), Some(opposite));
        }
    }

    #[test]
    fn what_is_unsure_stays_alone() {
        for said in [
            "No change in the left effusion.",
            "No significant interval change.",
            "Pneumonia cannot be excluded.",
            "Possible left effusion.",
            "No effusion, and no pneumothorax.",
            "Lungs are clear except for a granuloma.",
            "Is there a pneumothorax?",
            "Clear lungs without focal opacity.",
            "There isn't a pneumothorax.",
            "Hardly any effusion.",
            "No. 3 rib fracture.",
            "The effusion has disappeared.",
            "Stable cardiomegaly.",
            "Comparison: None.",
            "There is no other effusion.",
            "PICC line ends in the superior vena cava.",
        ] {
            assert_eq!(opposites(said, &[]), [], "{said}");
        }
    }

    #[test]
    fn sides_and_sizes_of_what_is_there() {
        let of = |kind, text: &str, others: &[&str]| {
            opposites(text, others).into_iter().find(|o| o.kind == kind).map(|o| o.text)
        };
        let side = |text, others: &[&str]| of(OppositeKind::Laterality, text, others);
        let said = "Small left-sided pleural effusion.";
        assert_eq!(side(said, &[]).as_deref(), Some("Small right-sided pleural effusion."));
        assert_eq!(of(OppositeKind::Size, said, &[]).as_deref(), Some("Large left-sided pleural effusion."));
        assert_eq!(side(said, &["Right basilar atelectasis."]), None, "it may be true of the other side as well");
        for said in [
            "No left effusion.",
            "Right middle lobe pneumonia.",
            "Left ventricular enlargement.",
            "The left lung is clear.",
        ] {
            assert_eq!(side(said, &[]), None, "{said}");
        }
        assert_eq!(of(OppositeKind::Size, "Small to moderate left effusion.", &[]), None);
        assert_eq!(of(OppositeKind::Size, "Small bowel obstruction.", &[]), None);
    }
}
