//! Dependencies against deny.toml, as far as that can be told without cargo-deny and the network.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Whether an SPDX expression (or Cargo's older form with slashes) can be met by licences that are allowed.
fn is_allowed(expression: &str, allow: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    let parts = |word: &str| -> Vec<&str> {
        let mut depth = 0;
        let (mut parts, mut start) = (Vec::new(), 0);
        for (i, c) in expression.char_indices() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            if depth == 0 && expression[i..].starts_with(word) {
                parts.push(&expression[start..i]);
                start = i + word.len();
            }
        }
        parts.push(&expression[start..]);
        parts
    };
    for word in [" OR ", "/"] {
        if parts(word).len() > 1 {
            return parts(word).iter().any(|part| is_allowed(part, allow));
        }
    }
    if parts(" AND ").len() > 1 {
        return parts(" AND ").iter().all(|part| is_allowed(part, allow));
    }
    match expression.strip_prefix('(').and_then(|e| e.strip_suffix(')')) {
        Some(inner) => is_allowed(inner, allow),
        None => allow.contains(expression),
    }
}

#[test]
fn expressions_of_licences_are_read() {
    let allow = BTreeSet::from(["MIT", "ISC"]);
    for good in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "MIT AND ISC", "(GPL-3.0 OR MIT) AND ISC", "MIT / Apache-2.0"]
    {
        assert!(is_allowed(good, &allow), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "", "GPL-3.0 OR LGPL-2.1"] {
        assert!(!is_allowed(bad, &allow), "{bad}");
    }
}

/// What is built on Linux, tests included.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        // Not offline: cargo asks for the packages of all platforms, and a clean machine has those of its own only.
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let built: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap()).collect();
    let all = metadata["packages"].as_array().unwrap();
    all.iter().filter(|p| built.contains(p["id"].as_str().unwrap()) && !p["source"].is_null()).cloned().collect()
}

#[test]
fn licences_sources_and_versions_are_what_deny_toml_allows() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap();
    let deny: toml::Table = toml::from_str(&text).unwrap();
    let list = |section: &str, key: &str| deny[section][key].as_array().unwrap().clone();
    let allow = list("licenses", "allow");
    let mut problems = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_string();
        let name = text("name");
        let mut allowed: BTreeSet<&str> = allow.iter().map(|l| l.as_str().unwrap()).collect();
        let exceptions = list("licenses", "exceptions");
        for exception in exceptions.iter().filter(|e| e["crate"].as_str() == Some(&name)) {
            allowed.extend(exception["allow"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()));
        }
        if !is_allowed(&text("license"), &allowed) {
            problems.push(format!("{name}: licence {:?}", text("license")));
        }
        if text("source") != "registry+https://github.com/rust-lang/crates.io-index" {
            problems.push(format!("{name}: source {:?}", text("source")));
        }
        if list("bans", "deny").iter().any(|d| d["crate"].as_str() == Some(&name)) {
            problems.push(format!("{name}: is banned"));
        }
        versions.entry(name).or_default().insert(text("version"));
    }
    assert!(versions.len() > 100, "{} packages", versions.len());
    let skip: Vec<String> = list("bans", "skip").iter().map(|s| s["crate"].as_str().unwrap().to_string()).collect();
    let mut needless: BTreeSet<&String> = skip.iter().collect();
    for (name, mut versions) in versions {
        let is_alone = versions.len() == 1;
        versions.retain(|v| {
            let is_of = |s: &&String| {
                s.strip_prefix(&format!("{name}@")).is_some_and(|s| format!("{v}.").starts_with(&format!("{s}.")))
            };
            let entry = skip.iter().find(is_of);
            if let (Some(entry), false) = (entry, is_alone) {
                needless.remove(entry);
            }
            entry.is_none()
        });
        if versions.len() > 1 {
            problems.push(format!("{name}: in versions {versions:?}"));
        }
    }
    problems.extend(needless.iter().map(|s| format!("{s}: is skipped and stands beside no other version")));
    assert!(problems.is_empty(), "{problems:#?}");
}
