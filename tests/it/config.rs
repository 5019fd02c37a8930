//! Config files as users write them.
#![allow(clippy::unwrap_used)]

use std::fs;

use reportclip::config;

/// The lines that are told of a config of this text.
fn problems(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, text).unwrap();
    let lines = config::load(&path, &[]).unwrap_err().to_string();
    lines.lines().map(|line| line.replace(&dir.path().display().to_string(), "")).collect()
}

#[test]
fn a_missing_key_is_told_although_another_of_a_longer_name_is_wrong() {
    let told = problems("[model]\ninit = \"random\"\n[data]\ntrain_split = 5\n");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "/c.toml:4: data.train_split: is 5; allowed is text in quotes");
    assert!(told[1].starts_with("/c.toml: data.train is missing; name a manifest"), "{told:?}");
}

#[test]
fn a_key_that_is_wrong_is_not_missing_too() {
    let told = problems("[model]\ninit = \"random\"\n[data]\ntrain = 5\n");
    assert_eq!(told, ["/c.toml:4: data.train: is 5; allowed is a path in quotes, or a list of them"]);
    let told = problems("[model]\ninit = \"random\"\n[data]\ntrian = \"a.csv\"\n");
    assert_eq!(told, ["/c.toml:4: data.trian: unknown key; did you mean `data.train`?"]);
}

#[test]
fn what_attention_alone_has_is_not_passed_over_for_other_bag_poolings() {
    let of = |pooling: &str, position: &str| {
        let model = format!("[model]\ninit = \"random\"\nbag_pooling = \"{pooling}\"\n");
        problems(&format!("{model}bag_hidden = 32\nbag_position = \"{position}\"\n"))
    };
    for pooling in ["mean", "max"] {
        let told =
            |key: &str| format!("{key}: is set, but model.bag_pooling is \"{pooling}\"; only \"attention\" has it");
        let hidden = format!("/c.toml:4: {}", told("model.bag_hidden"));
        assert_eq!(of(pooling, "learned")[..2], [hidden.clone(), format!("/c.toml:5: {}", told("model.bag_position"))]);
        // Data are missing as well.
        for position in ["none", "auto"] {
            let lines = of(pooling, position);
            assert!(lines.len() == 2 && lines[0] == hidden && lines[1].contains("data.train"), "{lines:?}");
        }
    }
    for pooling in ["attention", "auto"] {
        assert_eq!(of(pooling, "learned").len(), 1, "{pooling}");
    }
}
