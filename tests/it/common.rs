//! What several test files share: where golden files are, and comparison with stated tolerances.
#![allow(dead_code, clippy::unwrap_used)] // Each test file uses its part.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use reportclip::data::Picture;
use reportclip::hub::{ModelFiles, Source};
use reportclip::model::checkpoint::{LoadOptions, Loaded, load};
use reportclip::optim::AdamWOptions;

/// What scripts/golden/clip.py trains with, but for decay and clipping.
pub const ADAMW: AdamWOptions = AdamWOptions {
    lr_image: 1e-3,
    lr_text: 1e-3,
    lr_heads: 1e-3,
    layer_decay: 1.0,
    beta1: 0.9,
    beta2: 0.98,
    eps: 1e-6,
    weight_decay: 0.0,
    clip_grad_norm: 1.0,
};

/// Says that the test that runs cannot: `skipped: <test>: <why>`, which `.ci/run` counts. Straight to stderr, since
/// what a passing test prints is swallowed.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// What an environment variable names, for tests of files that cannot lie in the repository; without it the test is
/// skipped.
pub fn named_by(variable: &str, what: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        skipped(&format!("{variable} does not name {what}"));
    }
    value
}

/// The lines of docs/`page` that call the program, each as its arguments; what a shell would do with the rest of a line
/// (`>`, `&&`, `#`) is left out.
pub fn commands_of(page: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page)).unwrap();
    let text = text.replace("\\\n", " ");
    text.lines().filter_map(|line| line.strip_prefix("reportclip ")).map(arguments).collect()
}

fn arguments(line: &str) -> Vec<String> {
    let (mut all, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        let last = all.last_mut().unwrap();
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (' ', None) if last.is_empty() => {}
            (' ', None) => all.push(String::new()),
            ('>' | '&' | '#', None) if last.is_empty() => break,
            _ => last.push(c),
        }
    }
    all.retain(|argument| !argument.is_empty());
    all
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A gray picture with `value` at each column and row.
pub fn gray(width: u32, height: u32, value: impl Fn(u32, u32) -> u8) -> Picture {
    let bytes = (0..width * height).map(|i| value(i % width, i / width)).collect();
    Picture { width, height, channels: 1, bytes }
}

pub fn open(folder: &Path) -> ModelFiles {
    ModelFiles::open(&Source::Folder(folder.to_path_buf())).unwrap()
}

pub fn load_golden(name: &str) -> Loaded {
    load(&open(&golden(name)), &LoadOptions::default(), &Device::Cpu).unwrap()
}

pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

pub fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// |a − b| ≤ relative · max|b| + absolute, element by element; the scale is the whole tensor's.
pub fn assert_close(what: &str, ours: &Tensor, expected: &Tensor, relative: f64, absolute: f64) {
    assert_eq!(ours.dims(), expected.dims(), "{what}: shape");
    let (a, b) = (numbers(ours), numbers(expected));
    let scale = b.iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(&b).fold(0f64, |m, (a, b)| {
        assert!(a.is_finite() && b.is_finite(), "{what}: {a} or {b} is not finite");
        m.max((a - b).abs())
    });
    let allowed = relative * scale + absolute;
    assert!(worst <= allowed, "{what}: differs by {worst:e}, allowed is {allowed:e} (largest value {scale:e})");
}

/// Every source file below `folder`, sorted.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
