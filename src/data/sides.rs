//! Whether reports name a side of the body: a flipped image would then contradict its report.

/// Whether `report` names a side, in English, German, French, Spanish or Chinese.
pub fn names_a_side(report: &str) -> bool {
    const WORDS: [&str; 15] = [
        "left",
        "right",
        "lt",
        "rt",
        "links",
        "rechts",
        "linke",
        "rechte",
        "linken",
        "rechten",
        "gauche",
        "droite",
        "droit",
        "izquierdo",
        "derecho",
    ];
    if report.contains(['左', '右']) {
        return true;
    }
    let lower = report.to_lowercase();
    lower.split(|c: char| !c.is_alphabetic()).any(|word| WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_only() {
        assert!(names_a_side("Effusion on the LEFT."));
        assert!(names_a_side("右下肺见斑片影"));
        assert!(names_a_side("Erguss rechts"));
        assert!(!names_a_side("Bright, upright chest; bilateral haze, no cleft."));
    }
}
