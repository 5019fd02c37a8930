//! f32 or bf16, as users ask for it: what is chosen and told, that runs in either repeat and resume, that nothing of
//! one is taken for the other's. bf16 is emulated where the processor has none, so that this runs everywhere.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use reportclip::config::Precision;
use reportclip::ops::bf16_support;
use reportclip::session::{PrecisionRequest, Session};

use crate::common::tensors;
use crate::runs::{Place, json, text};

const BF16: [&str; 4] = ["--set", "train.precision=bf16", "--set", "train.emulate_bf16=true"];

fn has_kernel() -> bool {
    bf16_support().kernel.is_some()
}

/// As checkpoints and cards call it here.
fn kind() -> &'static str {
    if has_kernel() { "bf16" } else { "emulated bf16" }
}

#[test]
fn five_steps_in_bf16_resume_and_five_are_ten() {
    let place = Place::new();
    let told = text(&place.train_ok("ten", &BF16).stderr);
    let line = if has_kernel() { "products in bf16: " } else { "products rounded as in bf16 and worked out in f32" };
    assert_eq!(told.matches(line).count(), 1, "{told}");
    place.train_ok("five", &[&BF16[..], &["--set", "train.stop_after=5"]].concat());
    let resumed = text(&place.train_ok("five", &[&BF16[..], &["--resume", "latest"]].concat()).stderr);
    assert!(!resumed.contains("steps had products"), "{resumed}");
    place.assert_same_run("ten", "five");
    let one_thread = [&["train", "tiny.toml", "--out", "one"], &BF16[..]].concat();
    assert!(place.command(&one_thread).env("RAYON_NUM_THREADS", "1").status().unwrap().success());
    place.assert_same_run("ten", "one");
    // Near f32's run, and another.
    place.train_ok("f32", &[]);
    let weights = |run: &str| fs::read(place.path(run).join("model/model.safetensors")).unwrap();
    assert_ne!(weights("ten"), weights("f32"));
    let losses = |run: &str| -> Vec<f64> {
        let lines = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
        lines.lines().filter_map(|line| json(line.as_bytes())["loss"].as_f64()).collect()
    };
    let (a, b) = (losses("ten"), losses("f32"));
    assert!(a.len() == 10 && b.len() == 10 && a != b);
    a.iter().zip(&b).for_each(|(a, b)| assert!((a - b).abs() < 0.05 * b, "{a} in bf16, {b} in f32"));
    // What was done is on record.
    let card = fs::read_to_string(place.path("ten/model/README.md")).unwrap();
    assert!(card.contains(&format!("with products in {};", kind())), "{card}");
    let record = json(&fs::read(place.path("ten/run.json")).unwrap());
    assert!(record["products"].as_str().unwrap().starts_with(line), "{record}");
}

#[test]
fn a_checkpoint_goes_on_in_the_other_precision_and_says_so() {
    let place = Place::new();
    let pause = ["--set", "train.stop_after=5"];
    place.train_ok("to-bf16", &pause);
    place.train_ok("to-f32", &[&BF16[..], &pause].concat());
    let resume = ["--resume", "latest"];
    let told = text(&place.train_ok("to-bf16", &[&BF16[..], &resume].concat()).stderr);
    let line = format!("the checkpoint's 5 steps had products in f32, the next ones have them in {}", kind());
    assert_eq!(told.matches(&line).count(), 1, "{told}");
    let told = text(&place.train_ok("to-f32", &resume).stderr);
    let line = format!("the checkpoint's 5 steps had products in {}, the next ones have them in f32", kind());
    assert_eq!(told.matches(&line).count(), 1, "{told}");
    let state = json(&fs::read(place.path("to-f32/checkpoints/step-00000010/state.json")).unwrap());
    assert_eq!(state["products"], format!("{}, then f32", kind()));
    // Once more, in either, though no step is left.
    for more in [&resume[..], &[&BF16[..], &resume].concat()] {
        let told = text(&place.train_ok("to-f32", more).stderr);
        assert!(!told.contains("steps had products"), "{told}");
    }
    let card = fs::read_to_string(place.path("to-f32/model/README.md")).unwrap();
    assert!(card.contains(&format!("products in {}, then f32", kind())), "{card}");
}

#[test]
fn where_the_processor_has_no_bf16_it_is_f32_and_told() {
    let place = Place::new();
    let asked = ["--set", "train.precision=bf16", "--set", "train.max_steps=3"];
    let told = text(&place.train_ok("asked", &asked).stderr);
    place.train_ok("f32", &["--set", "train.max_steps=3"]);
    let weights = |run: &str| fs::read(place.path(run).join("model/model.safetensors")).unwrap();
    if has_kernel() {
        assert!(told.contains("products in bf16: "), "{told}");
        assert_ne!(weights("asked"), weights("f32"));
    } else {
        let line = format!("train.precision = \"bf16\" runs in f32: {}", bf16_support().reason);
        assert_eq!(told.matches(&line).count(), 1, "{told}");
        assert_eq!(weights("asked"), weights("f32"));
    }
    let dry = place.run(&["train", "tiny.toml", "--dry-run"]);
    let plan = text(&dry.stdout);
    assert_eq!(plan.contains("this processor has faster ones in bf16"), has_kernel(), "{plan}");
    assert!(plan.contains("products in f32"), "{plan}");
    assert!(plan.contains(" s in all at that speed"), "no hours of seconds: {plan}");
}

#[test]
fn a_dry_run_tells_the_type_of_products_once() {
    let place = Place::new();
    for (more, line) in [(&[][..], "products in f32"), (&BF16[..2], "bf16"), (&BF16[..], "products ")] {
        let dry = place.run(&[&["train", "tiny.toml", "--dry-run"], more].concat());
        let (plan, told) = (text(&dry.stdout), text(&dry.stderr));
        let lines = |of: &str| of.lines().filter(|of| of.contains(line)).count();
        assert_eq!((lines(&plan), lines(&told)), (1, 0), "{more:?}: {plan}{told}");
    }
}

#[test]
fn a_sweep_says_once_that_bf16_ran_in_f32() {
    let place = Place::new();
    let sweep = |out: &str, more: &[&str]| {
        let grid = ["sweep", "tiny.toml", "--grid", "train.precision=f32,bf16", "--set", "train.max_steps=2", "--out"];
        let output = place.run(&[&grid[..], &[out], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let table = fs::read_to_string(place.path(out).join("sweep.md")).unwrap();
        (text(&output.stderr), table)
    };
    let (told, table) = sweep("asked", &[]);
    let line = format!("1 of 2 members: train.precision = \"bf16\" runs in f32: {}", bf16_support().reason);
    let times = usize::from(!has_kernel());
    assert_eq!((told.matches(&line).count(), table.matches(&line).count()), (times, times), "{told}{table}");
    // Emulated it is bf16; the switch is the f32 members' too, whose logs say that it changes nothing.
    let (told, table) = sweep("emulated", &BF16[2..]);
    assert!(!told.contains("runs in f32") && !table.contains("runs in f32"), "{told}{table}");
    let log =
        |word: &str| fs::read_to_string(place.path(&format!("emulated/train.precision={word}+seed=3.log"))).unwrap();
    let unheeded = "emulating bf16 changes nothing without train.precision = \"bf16\"";
    assert_eq!((log("f32").matches(unheeded).count(), log("bf16").matches(unheeded).count()), (1, 0), "{}", log("f32"));
}

#[test]
fn commands_take_a_precision_and_indexes_remember_it() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=3"]);
    let ok = |args: &[&str]| {
        let output = place.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let told = |stderr: &str| {
        let line = if has_kernel() { "products in bf16: " } else { "--precision bf16 runs in f32: " };
        assert_eq!(stderr.matches(line).count(), 1, "{stderr}");
    };
    let (model, data) = (["--model", "run/model"], ["--data", "phantom/manifest.csv", "--split", "val"]);
    let judge = [&model[..], &data, &["--bootstrap", "0", "--precision", "bf16"]].concat();
    // Two models are opened, and it is told once.
    told(&ok(&[&["eval", "--compare", "run/model"], &judge[..]].concat()).1);
    fs::write(place.path("prompts.toml"), crate::runs::PROMPTS).unwrap();
    told(&ok(&[&["zero-shot", "--prompts", "prompts.toml"], &judge[..]].concat()).1);
    let image = fs::read_dir(place.path("phantom/images")).unwrap().next().unwrap().unwrap().path();
    let pair = ["--image", image.to_str().unwrap(), "--text", "left effusion", "--precision", "bf16"];
    told(&ok(&[&["explain"], &model[..], &pair].concat()).1);
    let out = ["--out", "all.safetensors", "--precision", "bf16"];
    told(&ok(&[&["embed"], &model[..], &data, &out].concat()).1);
    let bytes = fs::read(place.path("all.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let source = json(header.metadata().as_ref().unwrap()["reportclip"].as_bytes());
    assert_eq!(source["precision"], if has_kernel() { "bf16" } else { "f32" });
    let search = ["search", "--index", "all.safetensors", "--text", "left effusion"];
    let (_, quiet) = ok(&search);
    assert_eq!(quiet.contains("products in bf16: "), has_kernel(), "as in the index: {quiet}");
    told(&ok(&[&search[..], &["--precision", "bf16"]].concat()).1);
    let errors = place.errors(&[&search[..], &["--precision", "f16"]].concat(), 2);
    assert!(errors[0].contains("allowed are f32 and bf16"), "{errors:?}");
}

#[test]
fn benchmarks_say_what_worked_out_their_products() {
    let place = Place::new();
    let small =
        ["--batch-size", "2", "--image-size", "32", "--tokens", "4", "--steps", "2", "--threads", "2", "--json"];
    let figures = |more: &[&str]| {
        let output = place.run(&[&["bench", "train-step"], &small[..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        json(&output.stdout)
    };
    let (f32, bf16, as_before) = (figures(&[]), figures(&["--precision", "bf16"]), figures(&["--bf16"]));
    assert_eq!(f32["precision"], "f32");
    for of_bf16 in [&bf16, &as_before] {
        assert_eq!(of_bf16["precision"], if has_kernel() { "bf16" } else { "f32" });
        let products = of_bf16["products"].as_str().unwrap();
        assert!(products.ends_with(&bf16_support().reason), "{products}");
    }
    assert_eq!(has_kernel(), f32["loss"] != bf16["loss"]);
    place.run(&["bench", "matmul", "--precision", "bf16", "--bf16"]).status.code().map(|c| assert_eq!(c, 2)).unwrap();
}

/// Features of frozen layers worked out in one type are not taken for those of the other.
#[test]
fn kept_features_are_those_of_their_precision() {
    let place = Place::new();
    let still = ["augment.rotation=0", "augment.brightness=0", "freeze.image=\"all\"", "train.max_steps=12"];
    let sets: Vec<&str> = still.iter().flat_map(|s| ["--set", *s]).collect();
    let missing = |out: &str, more: &[&str]| {
        let told = text(&place.train_ok(out, &[&sets[..], more].concat()).stderr);
        let (_, kept) = told.split_once(" MiB, ").unwrap_or_else(|| panic!("{told}"));
        kept.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let all = missing("runs/f32", &[]);
    assert!(all > 0 && missing("runs/bf16", &BF16) == all);
    assert_eq!((missing("runs/f32-again", &[]), missing("runs/bf16-again", &BF16)), (0, 0));
    place.assert_same_run("runs/bf16", "runs/bf16-again");
    place.assert_same_run("runs/f32", "runs/f32-again");
    let cached = fs::read_dir(place.path("runs/feature-cache")).unwrap().count();
    assert_eq!(cached, 2);
}

/// What a session encodes in bf16 is near what it encodes in f32, and another.
#[test]
fn a_session_encodes_in_bf16() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=3"]);
    let model = place.path("run/model");
    let request = PrecisionRequest { emulate: true, ..Precision::Bf16.into() };
    let open = || Session::open(model.to_str().unwrap(), "cpu").unwrap();
    let (f32, bf16) = (open(), open().in_precision(request));
    assert_eq!((f32.precision(), bf16.precision()), (Precision::F32, Precision::Bf16));
    let texts = |session: &Session| -> Vec<Vec<f32>> {
        session.encoder(4).unwrap().texts(&["left effusion", "no effusion"]).unwrap().to_vec2().unwrap()
    };
    let (a, b) = (texts(&f32), texts(&bf16));
    assert_ne!(a, b);
    for (a, b) in a.iter().zip(&b) {
        let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{cosine}");
    }
    let weights: HashMap<String, _> = tensors(&model.join("model.safetensors"));
    assert!(weights.values().all(|t| t.dtype() == candle_core::DType::F32), "weights are f32 either way");
}
