//! What is used again must be what it was, by its content: data of a resumed run, kept features, members of a sweep,
//! indexes; and files that somebody else has are not written over.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::runs::{PROMPTS, Place, json, text};

/// Writes `bytes` without a trace in length or time, where the length is the same.
fn overwrite(path: &Path, bytes: &[u8]) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// The image of a row of the training split.
fn training_image(place: &Place) -> PathBuf {
    let text = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let row = reader.records().map(Result::unwrap).find(|row| &row[4] == "train").unwrap();
    place.path("phantom").join(&row[0])
}

/// Other pixels under the same name and time, and the same length if these are not harder to compress.
fn other_pixels(path: &Path) {
    let mut picture = reportclip::data::image::read(path).unwrap();
    picture.bytes.iter_mut().for_each(|b| *b = 255 - *b);
    let mut bytes = reportclip::data::image::png(&picture).unwrap();
    // What stands behind the end is nothing to a decoder.
    bytes.resize(bytes.len().max(fs::metadata(path).unwrap().len() as usize), 0);
    overwrite(path, &bytes);
}

#[test]
fn a_run_goes_on_with_nothing_else_than_it_was_started_with() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    let set = ["--set", "loss.kind=[\"clip\",\"class\"]", "--set", "loss.prompts=classes.toml"];
    place.train_ok("run", &[&set[..], &["--set", "train.stop_after=2"]].concat());
    let manifest = place.path("phantom/manifest.csv");
    let before = fs::read_to_string(&manifest).unwrap();
    let image = training_image(&place);
    let pixels = fs::read(&image).unwrap();
    let refused = |what: &str| {
        let args = [&["train", "tiny.toml", "--out", "run", "--resume", "latest"], &set[..]].concat();
        let errors = place.errors(&args, 1);
        assert!(errors.len() == 1 && errors[0].contains(what) && errors[0].len() < 500, "{what}: {errors:?}");
    };
    let first = before.lines().position(|line| line.contains(",train,")).unwrap();
    let edited = |from: &str, to: &str| {
        let edit = |(i, line): (usize, &str)| if i == first { line.replace(from, to) } else { line.to_string() };
        fs::write(&manifest, before.lines().enumerate().map(edit).collect::<Vec<_>>().join("\n")).unwrap();
    };
    let line = before.lines().nth(first).unwrap();
    let label = line.rsplit(',').next().unwrap();
    let other = if label == "normal" { "pneumothorax" } else { "normal" };
    edited(&format!(",train,{label}"), &format!(",train,{other}"));
    refused("labels changed in at least 1 of ");
    let patient = line.split(',').rev().nth(3).unwrap();
    edited(&format!(",{patient},"), ",P9999,");
    refused("patients changed in at least 1 of ");
    edited(&format!(",{patient}-S"), ",other-S");
    refused("studies changed in at least 1 of ");
    edited("IMPRESSION", "Impression");
    refused("reports changed in at least 1 of ");
    fs::write(
        &manifest,
        before.lines().enumerate().filter(|(i, _)| *i != first).map(|l| l.1).collect::<Vec<_>>().join("\n"),
    )
    .unwrap();
    refused("validation pairs are ");
    fs::write(&manifest, &before).unwrap();
    other_pixels(&image);
    refused("images changed in at least 1 of ");
    fs::write(&image, pixels).unwrap();
    fs::write(place.path("classes.toml"), PROMPTS.replacen("Clear", "Clean", 1)).unwrap();
    refused("the prompts changed");
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    place.train_ok("run", &[&set[..], &["--resume", "latest"]].concat());
}

#[test]
fn kept_features_and_sweeps_look_into_images() {
    let place = Place::new();
    let set = ["--set", "freeze.image=\"all\"", "--set", "augment.rotation=0", "--set", "augment.brightness=0"];
    let features = |out: &str| {
        let output = place.train_ok(out, &set);
        let said = text(&output.stderr);
        said.lines().find(|line| line.contains("rows to work out")).unwrap_or_else(|| panic!("{said}")).to_string()
    };
    assert!(!features("a").contains(", 0 of"));
    assert!(features("b").contains(", 0 of"), "the same images");
    let sweep = ["sweep", "tiny.toml", "--grid", "optim.lr=1e-3", "--set", "train.max_steps=2", "--out", "sweep"];
    assert!(place.run(&sweep).status.success());
    assert!(place.run(&sweep).status.success());
    let image = training_image(&place);
    other_pixels(&image);
    assert!(!features("c").contains(", 0 of"), "another image of the same name, length and time");
    let errors = place.errors(&sweep, 2);
    assert!(errors[0].contains("what data.train") && errors[0].contains("holds has changed"), "{errors:?}");
}

#[test]
fn an_index_marks_other_images_and_refuses_another_model() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    let embed = |args: &[&str]| {
        let output = place.run(&[&["embed", "--model", "run/model"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    let image = training_image(&place);
    let name = image.to_string_lossy().into_owned();
    embed(&["--data", "phantom/manifest.csv", "--out", "all.safetensors"]);
    embed(&["--images", &name, "--out", "numbers.safetensors"]);
    embed(&["--images", &name, "--keep-names", "--out", "names.safetensors"]);
    let search = |index: &str| {
        let output = place.run(&["search", "--index", index, "--text", "left effusion", "-k", "1000", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        json(&output.stdout)["hits"].as_array().unwrap().clone()
    };
    let changed = |index: &str| search(index).iter().filter(|hit| hit["changed"] == true).count();
    assert_eq!((changed("all.safetensors"), changed("names.safetensors")), (0, 0));
    other_pixels(&image);
    assert_eq!((changed("all.safetensors"), changed("names.safetensors")), (1, 1));
    assert_eq!(search("names.safetensors")[0]["image"], name.as_str());
    assert!(search("numbers.safetensors")[0]["image"].is_null());
    let bytes = fs::read(place.path("numbers.safetensors")).unwrap();
    let file = image.file_name().unwrap().to_string_lossy().into_owned();
    assert!(!text(&bytes).contains(&file));
    fs::write(place.path("run/model/README.md"), "another").unwrap();
    assert!(!search("all.safetensors").is_empty(), "a card is not what a model is opened from");
    let weights = place.path("run/model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    // A low bit of the last number's.
    let end = bytes.len() - 4;
    bytes[end] ^= 1;
    overwrite(&weights, &bytes);
    let errors = place.errors(&["search", "--index", "all.safetensors", "--text", "x"], 1);
    assert!(errors[0].contains("has changed since the index was made"), "{errors:?}");
}

#[cfg(unix)]
#[test]
fn what_is_there_is_written_over_only_when_asked() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    fs::write(place.path("lines.txt"), "clear\n").unwrap();
    std::os::unix::fs::symlink("lines.txt", place.path("link")).unwrap();
    let image = training_image(&place).to_string_lossy().into_owned();
    let commands: [&[&str]; 5] = [
        &["embed", "--model", "run/model", "--texts", "lines.txt", "--out"],
        &["explain", "--model", "run/model", "--image", &image, "--text", "clear", "--out"],
        &["data", "lint", "phantom/manifest.csv", "--html"],
        &["data", "split", "phantom/manifest.csv", "--out"],
        &["run-report", "run", "--out"],
    ];
    for (i, command) in commands.into_iter().enumerate() {
        let with = |more: &[&str]| [command, more].concat().iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let run = |args: &[String]| place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let error = |args: &[String]| place.errors(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1).join("");
        for special in ["/dev/null", "link", "phantom"] {
            let said = error(&with(&[special, "--force"]));
            assert!(said.contains("only plain files are written over"), "{command:?}: {said}");
        }
        let out = format!("out-{i}");
        assert!(run(&with(&[&out])).status.success());
        let first = fs::read(place.path(&out)).unwrap();
        let said = error(&with(&[&out]));
        assert!(said.contains("is there already; --force writes over it"), "{command:?}: {said}");
        fs::write(place.path(&out), "mine").unwrap();
        error(&with(&[&out]));
        assert_eq!(fs::read(place.path(&out)).unwrap(), b"mine");
        assert!(run(&with(&[&out, "--force"])).status.success());
        assert!(fs::read(place.path(&out)).unwrap() == first, "{command:?}");
    }
    assert_eq!(fs::read_to_string(place.path("lines.txt")).unwrap(), "clear\n");
    // The page of a run is its own.
    assert!(place.run(&["run-report", "run"]).status.success());
    assert!(place.run(&["run-report", "run"]).status.success());
}
