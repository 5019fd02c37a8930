//! Every file of a checkpoint and of a model folder is what was written, or its damage is told.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reportclip::eval::{Kept, KeptTemperature};
use reportclip::model::checkpoint::{check_checksums, verify_checksums, write_checksums};

use crate::common::golden;
use crate::runs::{Place, json, text};

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

/// A kill may come between what is kept and the list: keeping it again mends the folder, and nothing else is let pass.
#[test]
fn a_kill_while_keeping_is_mended_by_keeping_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("model.safetensors"), "weights").unwrap();
    write_checksums(dir.path()).unwrap();
    let kept = |temperature| KeptTemperature {
        temperature,
        fitted_on: "split val".into(),
        predictions: 9,
        prompts: "0".repeat(64),
    };
    for temperature in [1.5, 2.0] {
        let before = fs::read(path("SHA256SUMS")).unwrap();
        kept(temperature).keep(dir.path()).unwrap();
        assert!(check_checksums(dir.path()).unwrap());
        fs::write(path("SHA256SUMS"), before).unwrap();
        fs::write(path(".reportclip_calibration.toml.tmp"), "temp").unwrap();
        fs::write(path(".SHA256SUMS.tmp"), "00").unwrap();
        assert!(check_checksums(dir.path()).is_err(), "as after a kill");
        assert!(KeptTemperature::find(dir.path()).is_err());
        KeptTemperature::may_keep(dir.path()).unwrap();
        kept(temperature).keep(dir.path()).unwrap();
        assert!(check_checksums(dir.path()).unwrap());
        assert_eq!(KeptTemperature::find(dir.path()).unwrap(), Some(kept(temperature)));
    }
    let list = fs::read(path("SHA256SUMS")).unwrap();
    write_checksums(dir.path()).unwrap();
    assert_eq!(fs::read(path("SHA256SUMS")).unwrap(), list, "the list is that of the files");
    flip(&path("model.safetensors"), 3);
    for error in [kept(3.0).keep(dir.path()).unwrap_err(), KeptTemperature::may_keep(dir.path()).unwrap_err()] {
        assert!(error.to_string().contains("model.safetensors: not what its SHA-256 says"), "{error}");
    }
    assert_eq!(fs::read(path("SHA256SUMS")).unwrap(), list);
    flip(&path("model.safetensors"), 3);
    fs::write(
        path("reportclip_calibration.toml"),
        toml::to_string(&KeptTemperature { predictions: 0, ..kept(1.0) }).unwrap(),
    )
    .unwrap();
    write_checksums(dir.path()).unwrap();
    let error = format!("{:#}", KeptTemperature::find(dir.path()).unwrap_err());
    assert!(error.contains("predictions is 0"), "{error}");
}

#[test]
fn any_flipped_bit_of_any_file_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!check_checksums(dir.path()).unwrap(), "there is no list");
    fs::create_dir(dir.path().join("text")).unwrap();
    for (name, length) in [("model.safetensors", 5000), ("state.json", 40), ("text/a b", 1), ("empty", 0)] {
        fs::write(dir.path().join(name), vec![7u8; length]).unwrap();
    }
    write_checksums(dir.path()).unwrap();
    assert!(check_checksums(dir.path()).unwrap());
    assert_eq!(verify_checksums(dir.path()).unwrap().whole.len(), 4);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for name in ["model.safetensors", "state.json", "text/a b"] {
        let path = dir.path().join(name);
        let bits = 8 * fs::metadata(&path).unwrap().len() as usize;
        for _ in 0..40 {
            let bit = rng.random_range(0..bits);
            flip(&path, bit);
            let error = check_checksums(dir.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("damaged"), "{error}");
            flip(&path, bit);
        }
    }
    // Each bit of the list itself, and each place where it may end too early.
    let list = dir.path().join("SHA256SUMS");
    let whole = fs::read(&list).unwrap();
    for bit in 0..8 * whole.len() {
        flip(&list, bit);
        assert!(check_checksums(dir.path()).is_err(), "bit {bit} of the list");
        flip(&list, bit);
    }
    for end in 0..whole.len() {
        fs::write(&list, &whole[..end]).unwrap();
        assert!(check_checksums(dir.path()).is_err(), "{end} bytes of the list");
    }
    fs::write(&list, &whole).unwrap();
    // One more, cut, and gone.
    fs::write(dir.path().join("more"), "").unwrap();
    assert!(check_checksums(dir.path()).unwrap_err().to_string().contains("more: is not in SHA256SUMS"));
    fs::remove_file(dir.path().join("more")).unwrap();
    fs::write(dir.path().join("empty"), "x").unwrap();
    assert!(check_checksums(dir.path()).is_err());
    fs::remove_file(dir.path().join("empty")).unwrap();
    assert!(check_checksums(dir.path()).unwrap_err().to_string().contains("empty: is missing"));
}

#[test]
fn damaged_checkpoints_are_named_and_strays_are_passed_over() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.stop_after=6", "--set", "train.ema=0.9"]);
    let resume = ["train", "tiny.toml", "--out", "run", "--resume", "latest", "--set", "train.ema=0.9"];
    let newest = place.path("run/checkpoints/step-00000006");
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let mut files: Vec<_> = fs::read_dir(&newest).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["SHA256SUMS", "ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]);
    for path in &files {
        for _ in 0..3 {
            let bit = rng.random_range(0..8 * fs::metadata(path).unwrap().len() as usize);
            flip(path, bit);
            let errors = place.errors(&resume, 1);
            let said = errors[0].contains("the checkpoint is damaged; resume from another: --resume ");
            assert!(said && errors[0].contains("step-00000004"), "{errors:?}");
            assert!(errors[0].contains("step-00000006/"), "{errors:?}");
            flip(path, bit);
        }
    }
    // The best one is another.
    let best = place.path("run/checkpoints/step-00000004/ema.safetensors");
    flip(&best, 5000);
    let errors = place.errors(&resume, 1);
    assert!(errors[0].contains("the best step, 4, is damaged") && errors[0].contains("ema.safetensors"), "{errors:?}");
    flip(&best, 5000);
    // What is no checkpoint does not stand in the way; what looks like one is named.
    let stray = place.path("run/checkpoints/step-99999999");
    fs::create_dir(&stray).unwrap();
    fs::write(stray.join("model.safetensors"), "junk").unwrap();
    fs::write(place.path("run/checkpoints/step-00000077"), "a file").unwrap();
    let beside = place.path("run/checkpoints/step-99999998");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("state.json"), "{junk").unwrap();
    let errors = place.errors(&resume, 1);
    assert!(errors[0].contains("step-99999998") && errors[0].contains("step-00000006"), "{errors:?}");
    fs::remove_dir_all(&beside).unwrap();
    let output = place.run(&resume);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn inspect_verifies_checkpoints_and_models() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.stop_after=2"]);
    for folder in ["run/checkpoints/step-00000002", "run/model"] {
        let output = place.run(&["model", "inspect", folder, "--verify"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("files are what their SHA-256 says"), "{}", text(&output.stdout));
    }
    fs::write(place.path("run/model/notes.txt"), "mine").unwrap();
    flip(&place.path("run/model/tokenizer.json"), 77);
    let output = place.run(&["model", "inspect", "run/model", "--verify", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found = json(&output.stdout);
    assert_eq!(found["unknown"], serde_json::json!(["notes.txt"]));
    assert!(found["damaged"][0].as_str().unwrap().starts_with("tokenizer.json: "), "{found}");
    let without = golden("encoders/siglip");
    let errors = place.errors(&["model", "inspect", without.to_str().unwrap(), "--verify"], 1);
    assert!(errors[0].contains("not verified: it has no SHA256SUMS"), "{errors:?}");
}
