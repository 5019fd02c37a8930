//! The table of objectives: all that lists them.

use super::objective::ObjectiveKind;
use super::{class, clip, distill, local, multi_label, multi_positive, siglip};

/// Every objective that `loss.kind` may name.
pub const OBJECTIVES: [&ObjectiveKind; 7] =
    [&clip::KIND, &siglip::KIND, &multi_positive::KIND, &class::KIND, &multi_label::KIND, &local::KIND, &distill::KIND];

/// Their words, for the table of config keys.
pub const OBJECTIVE_NAMES: [&str; OBJECTIVES.len()] = {
    let mut names = [""; OBJECTIVES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = OBJECTIVES[i].name;
        i += 1;
    }
    names
};

/// "name = what it does" of each, for the help of the key.
pub const OBJECTIVES_HELP: &str = {
    const BYTES: [u8; help_length()] = help_bytes();
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => panic!("texts joined are text"),
    }
};

const BEFORE_ALL: &str = "Objective, or several that are added up: ";

/// What stands before a name, between it and its meaning, and after that.
const fn pieces(i: usize) -> [&'static str; 4] {
    let before = if i == 0 { BEFORE_ALL } else { ", " };
    [before, OBJECTIVES[i].name, " = ", OBJECTIVES[i].help]
}

const fn help_length() -> usize {
    let (mut length, mut i) = (0, 0);
    while i < 4 * OBJECTIVES.len() {
        length += pieces(i / 4)[i % 4].len();
        i += 1;
    }
    length
}

const fn help_bytes() -> [u8; help_length()] {
    let mut bytes = [0; help_length()];
    let (mut at, mut i) = (0, 0);
    while i < 4 * OBJECTIVES.len() {
        let piece = pieces(i / 4)[i % 4].as_bytes();
        let mut k = 0;
        while k < piece.len() {
            bytes[at] = piece[k];
            (at, k) = (at + 1, k + 1);
        }
        i += 1;
    }
    bytes
}

/// The objective of this name.
pub fn find(name: &str) -> Option<&'static ObjectiveKind> {
    OBJECTIVES.into_iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Direction, FalseNegatives, LocalConfig, LocalForm, Settings};

    #[test]
    fn every_row_makes_the_objective_that_it_names() {
        let settings = Settings {
            label_smoothing: 0.1,
            direction: Direction::Both,
            class_weights: None,
            local: LocalConfig { form: LocalForm::Map, temperature: 0.07, attention_temperature: 0.1 },
            false_negatives: FalseNegatives::Keep,
            debias: 0.0,
        };
        for kind in OBJECTIVES {
            assert_eq!((kind.build)(&settings).kind().name, kind.name);
            assert_eq!(find(kind.name), Some(kind), "names are unique");
        }
        assert_eq!(find("nothing"), None);
    }
}
