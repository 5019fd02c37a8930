//! House rules that a machine can check: which module may know which, that every config resolves, that the README says
//! what the program does.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use reportclip::data::Prompts;

use crate::sources::{Sources, code_only, files, without_tests};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A path as the repository names it.
fn named(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_string()
}

/// From the ground up; a module may know those of lower layers, and within a layer only what is listed.
const LAYERS: [&[&str]; 11] = [
    &[
        "error", "fs", "archive", "npy", "digest", "http", "json", "words", "span", "groups", "ops", "metrics", "seed",
        "device",
    ],
    &["track", "hub", "dist"],
    &["data", "model", "loss", "optim", "run_report"],
    &["config"],
    &["session"],
    &["export", "eval", "search"],
    &["train", "serve"],
    &["sweep"],
    &["bench"],
    &["cli"],
    &["lib"],
];
/// The optimizer goes by the parts of the model; JSON is read from files; threads are started when the tile registers
/// that kernels need have been asked for; names of an archive's entries and of JSON's fields are shown as errors show
/// what was given; what digests are made of is opened as other files are.
const SIDEWAYS: [(&str, &str); 6] =
    [("optim", "model"), ("json", "fs"), ("json", "error"), ("device", "ops"), ("archive", "error"), ("digest", "fs")];

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|l| l.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

/// The folder or file of `src` that a file belongs to.
fn module(path: &str) -> &str {
    let first = path.split('/').next().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

#[test]
fn no_arrow_between_modules_runs_back() {
    let sources = Sources::read(&root().join("src"));
    let mut arrows = 0;
    for ((from, to), path) in &sources.uses {
        let (user, used) = (module(from), module(to));
        if user != used {
            arrows += 1;
            let allowed = layer(used) < layer(user) || SIDEWAYS.contains(&(user, used));
            assert!(allowed, "{from} ({path}): {user} must not know {used}");
        }
    }
    assert!(arrows > 50, "the test reads the sources: {arrows} arrows");
}

#[test]
fn no_circle_of_files() {
    let sources = Sources::read(&root().join("src"));
    assert!(sources.files.len() > 100 && sources.uses.len() > 200, "the test reads the sources");
    let told = |circle: &Vec<String>| {
        let next = circle.iter().cycle().skip(1);
        let steps = circle.iter().zip(next).map(|(a, b)| format!("{a} ({})", sources.uses[&(a.clone(), b.clone())]));
        steps.collect::<Vec<_>>().join(" → ")
    };
    let circles: Vec<String> = sources.circles().iter().map(told).collect();
    assert!(circles.is_empty(), "circles of files:\n{}", circles.join("\n"));
}

#[test]
fn only_cli_and_sinks_print_and_only_ops_is_unsafe() {
    for path in files(&root().join("src"), "rs") {
        let relative = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_string();
        let source = fs::read_to_string(&path).unwrap();
        let prints = source.contains("io::stdout") || source.contains("println!");
        assert!(!prints || relative.starts_with("cli/"), "{relative} prints");
        let is_unsafe = source.contains("allow(unsafe_code");
        assert!(!is_unsafe || relative.starts_with("ops/"), "{relative} is unsafe");
        assert!(!source.contains("_no_bwd") || relative.starts_with("ops/"), "{relative} cuts the graph");
        let lines = without_tests(&code_only(&source)).lines().count();
        assert!(lines <= 400, "{relative} has {lines} lines");
    }
}

/// Decoders of somebody else's, how code names each, and the only places that may: bytes from outside pass the bounds
/// there first.
const DECODERS: [(&str, &str, &[&str]); 16] = [
    ("png", r"use png::\{|\bpng::(Decoder|Reader)", &["data/image/png.rs"]),
    ("jpeg-decoder", r"jpeg_decoder", &["data/image/jpeg.rs", "data/image/dicom/frame.rs"]),
    ("jpeg2k", r"jpeg2k", &["data/image/dicom/jpeg_2000.rs"]),
    ("a DICOM crate", r"\bdicom_(object|core|parser|pixeldata)", &[]),
    (
        "flate2",
        // Not its checksum.
        r"\bflate2::(read|bufread|\{|Decompress)",
        &[
            "data/image/dicom/file.rs",
            "data/prepare/openi.rs",
            "data/prepare/sheet.rs",
            "data/table/formats/parquet/unpack.rs",
            "data/volume/",
        ],
    ),
    ("zip", r"\bzip::", &[]),
    (
        "parquet",
        r"use parquet::|\bparquet::(file|column|basic|schema|data_type|errors)",
        // The second reads what it wrote.
        &["data/table/formats/parquet/", "search/parquet.rs"],
    ),
    ("snap", r"\bsnap::", &["data/table/formats/parquet/unpack.rs"]),
    ("lz4_flex", r"\blz4_flex::", &["data/table/formats/parquet/unpack.rs"]),
    ("brotli", r"\bbrotli\w*::", &["data/table/formats/parquet/unpack.rs"]),
    ("ruzstd", r"\bruzstd::", &["data/table/formats/parquet/unpack.rs"]),
    ("tar", r"\btar::", &["data/prepare/openi.rs", "data/table/formats/webdataset/"]),
    ("roxmltree", r"\broxmltree::", &["data/prepare/openi.rs"]),
    ("csv, reading", r"\bcsv::(Reader|ReaderBuilder)\b", &["data/prepare/sheet.rs", "data/table/formats/csv.rs"]),
    ("tokenizers", r"\btokenizers::", &["data/text/bpe.rs", "data/text/tokenize.rs"]),
    (
        "safetensors and pickles",
        r"\bsafetensors::|candle_core::pickle",
        // The third reads this repository's golden files.
        &[
            "model/checkpoint/source.rs",
            "search/tensors.rs",
            "bench/parity/models.rs",
            "train/checkpoint.rs",
            "model/checkpoint/tensor_file.rs",
        ],
    ),
];

#[test]
fn decoders_are_called_within_their_bounds_only() {
    let mut missing = Vec::new();
    for (name, pattern, places) in DECODERS {
        let pattern = regex::Regex::new(pattern).unwrap();
        let mut found = BTreeSet::new();
        for path in files(&root().join("src"), "rs") {
            let relative = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_string();
            let code = without_tests(&code_only(&fs::read_to_string(&path).unwrap()));
            if pattern.is_match(&code) {
                let place = places.iter().find(|place| relative.starts_with(*place));
                let place = place.unwrap_or_else(|| panic!("{relative} calls {name}; only {places:?} may"));
                found.insert(*place);
            }
        }
        missing.extend(places.iter().filter(|place| !found.contains(*place)).map(|place| (name, *place)));
    }
    assert!(missing.is_empty(), "no longer there: {missing:?}");
}

#[test]
fn no_line_is_longer_than_120_columns() {
    let folders = ["src", "tests", "docs"].map(|f| root().join(f));
    for path in folders.iter().flat_map(|f| files(f, "rs")).chain([root().join("build.rs")]) {
        for (i, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let columns = line.chars().count();
            assert!(columns <= 120, "{}:{} has {columns} columns", named(&path), i + 1);
        }
    }
}

#[test]
fn nothing_names_a_path_outside_of_the_repository() {
    // In two parts each, so that this file does not name them either.
    let outside = [["shared", "/"].concat(), ["/work", "/"].concat(), ["/root", "/"].concat()];
    let kinds = ["rs", "toml", "py", "sh", "md", "cu", "cpp", "css"];
    let folders = ["src", "tests", "scripts", "configs", "prompts", "docs", "data"].map(|f| root().join(f));
    let inside = kinds.iter().flat_map(|kind| folders.iter().flat_map(|folder| files(folder, kind)));
    let tops = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Cargo.toml", "build.rs", ".ci/run"];
    for path in inside.chain(tops.map(|f| root().join(f))).filter(|p| !p.starts_with(root().join("tests/golden"))) {
        let text = fs::read_to_string(&path).unwrap();
        for (i, line) in text.lines().enumerate() {
            assert!(!outside.iter().any(|o| line.contains(o)), "{}:{}: {line}", named(&path), i + 1);
        }
    }
}

#[test]
fn every_config_and_prompt_file_is_read() {
    // A config may name data that its user has, or a model that another config makes; an empty file and a folder stand
    // for them here.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("manifest.csv"), "").unwrap();
    let manifest = format!("data.train={}", dir.path().join("manifest.csv").display());
    let teacher = format!("loss.teacher={}", dir.path().display());
    let folders = ["configs", "prompts", "docs"].map(|f| root().join(f));
    let (mut configs, mut prompts) = (0, 0);
    for path in folders.iter().flat_map(|f| files(f, "toml")) {
        if named(&path).contains("prompts") {
            Prompts::open(&path).unwrap_or_else(|e| panic!("{}: {e:#}", named(&path)));
            prompts += 1;
        } else {
            let learns = fs::read_to_string(&path).unwrap().contains("\nteacher = ");
            let set = [Some(&manifest), Some(&teacher).filter(|_| learns)].into_iter().flatten().cloned();
            let config = reportclip::config::load(&path, &set.collect::<Vec<_>>());
            config.unwrap_or_else(|e| panic!("{}: {e:#}", named(&path)));
            configs += 1;
        }
    }
    assert!(configs > 0 && prompts > 0);
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
fn the_docs_have_every_key_and_folder() {
    let keys = fs::read_to_string(root().join("docs/config.md")).unwrap();
    let table = reportclip::config::keys_as_markdown();
    assert!(keys.contains(&table), "put what `reportclip config list --markdown` prints into docs/config.md:\n{table}");
    let architecture = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let folders: BTreeSet<String> = files(&root().join("src"), "rs")
        .iter()
        .map(|path| path.strip_prefix(root().join("src")).unwrap().parent().unwrap().to_str().unwrap().to_string())
        // A folder of one tower among towers is what the page tells once.
        .filter(|folder| !folder.is_empty() && folder.matches('/').count() < 2)
        .collect();
    for folder in folders {
        assert!(architecture.contains(&format!("`{folder}/`")), "docs/architecture.md does not name `{folder}/`");
    }
}

#[test]
fn the_readme_is_short_and_every_link_leads_somewhere() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.len() <= 15 * 1024, "README.md has {} bytes", readme.len());
    let link = regex::Regex::new(r"\]\(([^)#\s]+)").unwrap();
    let pages = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|f| root().join(f));
    let mut links = 0;
    for page in pages.into_iter().chain(files(&root().join("docs"), "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for target in link.captures_iter(&text).map(|m| m[1].to_string()).filter(|t| !t.starts_with("http")) {
            assert!(page.parent().unwrap().join(&target).exists(), "{}: {target} is not there", named(&page));
            links += 1;
        }
    }
    assert!(links > 10, "{links} links");
}

#[test]
fn every_command_with_options_shows_examples() {
    let commands = [
        "train",
        "sweep",
        "run-report",
        "eval",
        "zero-shot",
        "adapt",
        "explain",
        "embed",
        "export onnx",
        "search",
        "serve",
        "loss explain",
        "data synth",
        "data prepare",
        "data split",
        "data lint",
        "bench train-step",
        "bench encode",
        "bench data",
        "bench volumes",
        "bench loader",
        "completions",
        "man",
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
