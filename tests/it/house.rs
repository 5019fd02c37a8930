//! House rules that a machine can check: which module may know which, that every config resolves, that the README says
//! what the program does.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// From the ground up; a module may know those of lower layers, and within a layer only what is listed.
const LAYERS: [&[&str]; 8] = [
    &["error", "fs", "html", "ops", "metrics", "seed", "device"],
    &["config", "track", "hub", "sweep", "dist"],
    &["data", "model", "loss", "optim", "run_report"],
    &["export", "eval"],
    &["train"],
    &["bench"],
    &["cli"],
    &["main", "lib"],
];
/// The optimizer goes by the parts of the model; evaluation needs nothing of export.
const SIDEWAYS: [(&str, &str); 1] = [("optim", "model")];

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|l| l.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

#[test]
fn no_arrow_between_modules_runs_back() {
    let mut arrows = 0;
    for path in files(&root().join("src"), "rs") {
        let relative = path.strip_prefix(root().join("src")).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.strip_suffix(".rs").unwrap_or(first);
        let source = fs::read_to_string(&path).unwrap();
        // Unit tests may reach anywhere.
        let source = source.split("#[cfg(test)]").next().unwrap();
        assert!(
            !source.contains("crate::{"),
            "{}: one use a module, so that this test can read them",
            relative.display()
        );
        for (_, rest) in source.match_indices("crate::").map(|(i, m)| source.split_at(i + m.len())) {
            let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if used == module || used.is_empty() || !LAYERS.concat().contains(&used.as_str()) {
                continue;
            }
            arrows += 1;
            let allowed = layer(&used) < layer(module) || SIDEWAYS.contains(&(module, used.as_str()));
            assert!(allowed, "{}: {module} must not know {used}", relative.display());
        }
    }
    assert!(arrows > 50, "the test reads the sources: {arrows} arrows");
}

#[test]
fn only_cli_and_sinks_print_and_only_ops_is_unsafe() {
    for path in files(&root().join("src"), "rs") {
        let relative = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_string();
        let source = fs::read_to_string(&path).unwrap();
        let prints = source.contains("io::stdout") || source.contains("println!");
        assert!(!prints || relative.starts_with("cli/"), "{relative} prints");
        let is_unsafe = source.contains("allow(unsafe_code");
        let allowed = relative.starts_with("ops/") || relative == "model/checkpoint/source.rs";
        assert!(!is_unsafe || allowed, "{relative} is unsafe");
        assert!(!source.contains("_no_bwd") || relative.starts_with("ops/"), "{relative} cuts the graph");
        let lines = source.split("#[cfg(test)]").next().unwrap().lines().count();
        assert!(lines <= 400, "{relative} has {lines} lines");
    }
}

#[test]
fn every_config_resolves() {
    // A config may name data that its user has; an empty file stands for it here.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("manifest.csv"), "").unwrap();
    let manifest = format!("data.train={}", dir.path().join("manifest.csv").display());
    let configs = files(&root().join("configs"), "toml");
    assert!(configs.len() >= 24);
    for path in configs {
        let config = reportclip::config::load(&path, std::slice::from_ref(&manifest));
        config.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

#[test]
fn a_resolved_config_resolves_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pairs.csv"), "image,report\n").unwrap();
    let path = dir.path().join("a.toml");
    fs::write(&path, "model.init = \"random\"\n[data]\ntrain = \"pairs.csv\"\n[optim]\nwarmup = 7\n").unwrap();
    let first = reportclip::config::load(&path, &["seed=5".into()]).unwrap();
    let again = dir.path().join("b.toml");
    fs::write(&again, first.to_toml()).unwrap();
    let second = reportclip::config::load(&again, &[]).unwrap();
    assert_eq!(first.to_toml(), second.to_toml());
    assert_eq!(second.seed, 5);
}

#[test]
fn the_readme_has_every_key_and_folder() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = reportclip::config::keys_as_markdown();
    assert!(readme.contains(&table), "run `reportclip config list --markdown` and put it into the README:\n{table}");
    let folders: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.path().is_dir())
        .map(|e| format!("  {}/", e.file_name().to_str().unwrap()))
        .collect();
    for folder in folders {
        assert!(readme.contains(&folder), "the README's tree lacks {folder}");
    }
}

#[test]
fn every_command_with_options_shows_examples() {
    let commands = [
        "train",
        "sweep",
        "run-report",
        "eval",
        "zero-shot",
        "explain",
        "embed",
        "search",
        "loss explain",
        "data synth",
        "data prepare",
        "data split",
        "data lint",
        "bench train-step",
        "bench encode",
        "bench data",
        "bench loader",
    ];
    for command in commands {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_reportclip"))
            .args(command.split(' '))
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let example = format!("\n  reportclip {command}");
        assert!(help.contains("Examples:") && help.contains(&example), "{command}: {help}");
    }
}
