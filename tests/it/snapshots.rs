//! What users see, word for word. After a change that is meant: `INSTA_UPDATE=always cargo test --release --test it
//! snapshots::`, and read the difference before committing it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use insta::assert_snapshot;

use crate::common::golden;
use crate::runs::{Place, text};

const BINARY: &str = env!("CARGO_BIN_EXE_reportclip");

pub fn help(command: &[&str]) -> String {
    let output = Command::new(BINARY).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    text(&output.stdout)
}

/// The names under "Commands:".
pub fn commands(help: &str) -> Vec<String> {
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default().lines().take_while(|line| !line.is_empty());
    let named = listed.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let names = named.filter_map(|line| line.split_whitespace().next()).map(str::to_string);
    names.filter(|name| name != "help").collect()
}

#[test]
fn help_of_every_command() {
    let mut shown = 0;
    let top = help(&[]);
    assert_snapshot!("help", top);
    for command in commands(&top) {
        let text = help(&[&command]);
        assert_snapshot!(format!("help-{command}"), text);
        for inner in commands(&text) {
            assert_snapshot!(format!("help-{command}-{inner}"), help(&[&command, &inner]));
            shown += 1;
        }
        shown += 1;
    }
    assert!(shown > 20, "the help lists commands: {shown}");
}

/// Lines of stderr that are errors.
fn errors(place: &Place, args: &[&str], code: i32) -> String {
    place.errors(args, code).join("\n")
}

#[test]
fn errors_of_a_config() {
    let place = Place::new();
    let broken = "sed = 1\nseed = 1\nseed = 2\n[loss]\nlable_smoothing = 0.1\nlabel_smoothing = 1.5\n\
                  kind = [\"clip\", \"clap\"]\nweights = [-1]\n[train]\nbatch_size = \"big\"\n\
                  eval_every = \"two weeks\"\nema = 1\nprecision = \"f16\"\n[data]\ntrain = \"nowhere.csv\"\n\
                  val = []\nworkers = 0\n[data.augment]\nrotation = 5\n[model]\ninit = \"randm\"\nimage = \"a\"\n\
                  [freeze]\nimage = \"some\"\ntext_until = 5\n[lora]\ntargets = [\"q\"]\n";
    fs::write(place.path("broken.toml"), broken).unwrap();
    let args = ["config", "validate", "broken.toml", "--set", "optim.schedule=cosin", "--set", "optim"];
    assert_snapshot!("config-errors", errors(&place, &args, 2));
}

#[test]
fn lint_of_a_small_set() {
    let place = Place::new();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let lines: Vec<&str> = manifest.lines().collect();
    let broken = [
        &lines[..6],
        &["images/none.png,Text,P9,S9,train,normal", "images/P0001-S1.png,,P9,S9,train,normal", lines[1]],
    ]
    .concat();
    fs::write(place.path("phantom/broken.csv"), broken.join("\n")).unwrap();
    let output = place.run(&["data", "lint", "phantom/broken.csv"]);
    assert_snapshot!("lint", format!("{}{}", text(&output.stdout), text(&output.stderr)));
}

/// Figures differ between machines, so each stands as `#`, and columns are not aligned: they are as wide as figures.
fn without_figures(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if shown.ends_with('#') => {}
            '.' if shown.ends_with('#') => shown.push('.'),
            '0'..='9' if shown.ends_with("#.") => {
                shown.pop();
            }
            '0'..='9' => shown.push('#'),
            ' ' if shown.ends_with(' ') => {}
            c => shown.push(c),
        }
    }
    shown.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

#[test]
fn summary_of_a_run() {
    let place = Place::new();
    let output = place.train_ok("run", &["--set", "train.max_steps=4"]);
    assert_snapshot!("train", without_figures(&text(&output.stdout)));
    let args = ["eval", "--model", "run/model", "--data", "phantom/manifest.csv", "--split", "test"];
    assert_snapshot!("eval", without_figures(&text(&place.run(&args).stdout)));
}

#[test]
fn loss_explained() {
    let place = Place::new();
    let input = r#"{"logits": [[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]], "targets": [0, 1], "label_smoothing": 0.1}"#;
    fs::write(place.path("in.json"), input).unwrap();
    assert_snapshot!("loss-explain", text(&place.run(&["loss", "explain", "--input", "in.json"]).stdout));
}

/// The golden folder has no tokenizer, so what is in it is told, and why it would be refused.
#[test]
fn a_model_inspected() {
    let folder = golden("clip/quick_gelu_legacy_eos");
    let output = Command::new(BINARY).args(["model", "inspect"]).arg(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_snapshot!("model-inspect", shown.replace(&folder.display().to_string(), "FOLDER"));
}
