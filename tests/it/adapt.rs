//! Adapting a model to a few labelled images, as users do it.
#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::Value;

use crate::runs::{PROMPTS, Place, json, text};

/// A place with a small model and prompts.
fn trained() -> Place {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    place.train_ok("run", &["--set", "train.max_steps=8"]);
    place
}

const ON: [&str; 6] = ["--model", "run/model", "--data", "phantom/manifest.csv", "--prompts", "classes.toml"];

fn run(place: &Place, args: &[&str]) -> Value {
    let output = place.run(&[args, &["--bootstrap", "50", "--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    json(&output.stdout)
}

fn adapt(place: &Place, more: &[&str]) -> Value {
    run(place, &[&["adapt"], &ON[..], more].concat())
}

fn figure(report: &Value, name: &str) -> f64 {
    report["figures"].as_array().unwrap().iter().find(|f| f["name"] == name).unwrap()["value"].as_f64().unwrap()
}

#[test]
fn every_method_is_judged_over_seeds_and_patients() {
    let place = trained();
    let more = ["--split", "test", "--shots", "1,4", "--seeds", "3"];
    let report = adapt(&place, &more);
    assert_eq!(report, adapt(&place, &more), "the same seed draws the same shots");
    let settings = report["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 2 * 2 * 3);
    assert_eq!(report["shots_from"], "split train");
    for setting in settings {
        let images = setting["images"].as_f64().unwrap();
        let asked = 3.0 * setting["shots"].as_f64().unwrap();
        assert!(images > 0.0 && images <= asked, "{setting}");
        assert!(setting["draw"] == "balanced" || images == asked.min(report["pool"].as_f64().unwrap()), "{setting}");
        let accuracy = &setting["figures"]["accuracy"];
        let (value, low) = (accuracy["value"].as_f64().unwrap(), accuracy["interval"][0].as_f64().unwrap());
        assert!(low <= value && value <= accuracy["interval"][1].as_f64().unwrap(), "{accuracy}");
        assert!(accuracy["over_seeds"].is_array() && accuracy["over_patients"].is_array(), "{accuracy}");
        assert!(setting["figures"]["nll"]["value"].as_f64().unwrap() > 0.0);
    }
    // The prompts alone are what zero-shot classification is.
    let zero = run(&place, &[&["zero-shot"], &ON[..], &["--split", "test"]].concat());
    for name in ["accuracy", "balanced_accuracy", "auroc_macro", "nll", "ece"] {
        let ours = report["zero_shot"][name]["value"].as_f64().unwrap();
        assert!((ours - figure(&zero, name)).abs() < 1e-6, "{name}: {ours}");
    }
    assert_eq!(report["judged"], zero["images"]);
    let told = text(&place.run(&[&["adapt"], &ON[..], &more, &["--bootstrap", "20"]].concat()).stdout);
    assert!(told.contains("\nchance ") && told.contains("\nzero-shot ") && told.contains("text_probe"), "{told}");
    assert!(told.contains("4 a class, as the data lie (12 images"), "{told}");
    // Without splits, one half of the patients gives the shots, and the other is judged.
    let halves = adapt(&place, &["--shots", "2", "--seeds", "2"]);
    let labelled = run(&place, &[&["zero-shot"], &ON[..]].concat())["images"].as_u64().unwrap();
    assert_eq!(halves["judged"].as_u64().unwrap() + halves["pool"].as_u64().unwrap(), labelled);
    // Embeddings of an index are those that the model gives.
    let embed = ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "all.safetensors"];
    assert!(place.run(&embed).status.success());
    let index = ["adapt", "--model", "run/model", "--index", "all.safetensors", "--prompts", "classes.toml"];
    let kept = run(&place, &[&index[..], &more].concat());
    assert_eq!((&kept["judged"], &kept["pool"]), (&report["judged"], &report["pool"]));
    let values = |report: &Value| -> Vec<f64> {
        let nll = |setting: &Value| setting["figures"]["nll"]["value"].as_f64().unwrap();
        let settings = report["settings"].as_array().unwrap().iter();
        settings.filter(|setting| setting["method"] != "logistic").map(nll).collect()
    };
    // Other batches round otherwise, and logistic regression with hardly any penalty makes much of a last digit.
    let apart = values(&kept).iter().zip(values(&report)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-4 && values(&kept).len() == 8, "{apart}");
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    fs::write(place.path("phantom/manifest.csv"), manifest.replacen("normal", "nodule", 1)).unwrap();
    let errors = place.errors(&[&index[..], &more].concat(), 1);
    assert!(errors[0].contains("1 of its rows have changed since it was made"), "{errors:?}");
}

#[test]
fn a_head_is_kept_beside_the_model_and_used() {
    let place = trained();
    let embed = ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "all.safetensors"];
    assert!(place.run(&embed).status.success());
    let save = ["--split", "test", "--shots", "4", "--seeds", "1", "--draw", "balanced", "--save", "run/model"];
    let report = adapt(&place, &save);
    let head = "run/model/reportclip_head.safetensors";
    assert_eq!(report["head"], head);
    let about = json(&fs::read(place.path("run/model/reportclip_head.json")).unwrap());
    assert_eq!((&about["classes"][0], &about["method"]), (&Value::from("normal"), &Value::from("text_probe")));
    // The folder's list of checksums knows of it, and an index made before is still of this model.
    assert!(place.run(&["model", "inspect", "run/model", "--verify"]).status.success());
    assert!(place.run(&["search", "--index", "all.safetensors", "--text", "nodule"]).status.success());
    let zero = [&["zero-shot"], &ON[..], &["--split", "test"]].concat();
    let used = run(&place, &[&zero[..], &["--head", head]].concat());
    let probe = report["settings"].as_array().unwrap().iter().find(|s| s["method"] == "text_probe").unwrap();
    for name in ["accuracy", "auroc_macro", "nll", "ece"] {
        let judged = probe["figures"][name]["value"].as_f64().unwrap();
        assert!((figure(&used, name) - judged).abs() < 1e-4, "{name}: {judged}");
    }
    assert_ne!(figure(&used, "nll"), figure(&run(&place, &zero), "nll"));
    // Of the classes in another order, the same; a model beside it is judged by its prompts.
    let lines: Vec<&str> = PROMPTS.lines().rev().collect();
    fs::write(place.path("classes.toml"), lines.join("\n")).unwrap();
    let turned = run(&place, &[&zero[..], &["--head", head, "--compare", "run/model"]].concat());
    assert!((figure(&turned, "nll") - figure(&used, "nll")).abs() < 1e-12);
    assert!(turned["difference"].as_array().unwrap().iter().any(|f| f["value"].as_f64().is_some_and(|v| v != 0.0)));
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    // A threshold that was chosen with it is none for the prompts alone.
    // Of the few patients of `val` hardly more can be said with confidence.
    run(&place, &[&zero[..], &["--head", head, "--keep-abstention", "0.05"]].concat());
    run(&place, &[&zero[..], &["--head", head, "--abstain"]].concat());
    let errors = place.errors(&[&zero[..], &["--abstain"]].concat(), 1);
    assert!(errors[0].contains("with other prompts, or another head"), "{errors:?}");
}

#[test]
fn heads_and_shots_that_do_not_fit_are_refused() {
    let place = trained();
    let save = ["--split", "test", "--shots", "2", "--seeds", "1", "--save", "head"];
    adapt(&place, &save);
    let adapt = [&["adapt"], &ON[..]].concat();
    let error = |args: &[&str]| place.errors(args, 1).remove(0);
    let there = error(&[&adapt[..], &save].concat());
    assert!(there.contains("reportclip_head.safetensors") && there.contains("--force"), "{there}");
    let same = place.errors(&[&adapt[..], &["--split", "train"]].concat(), 2).remove(0);
    assert!(same.contains("--shots-split train: is the split that is judged"), "{same}");
    let zero = [&["zero-shot"], &ON[..], &["--head", "head/reportclip_head.safetensors"]].concat();
    fs::write(place.path("classes.toml"), format!("{PROMPTS}nodule = \"A nodule.\"\n")).unwrap();
    let other = error(&zero);
    assert!(other.contains("the head tells apart normal, pneumothorax, consolidation, the prompt file"), "{other}");
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    place.train_ok("other", &["--set", "train.max_steps=9"]);
    let other = error(&[&zero[..2], &["other/model"], &zero[3..]].concat());
    assert!(other.contains("was made on another model than other/model"), "{other}");
    // Files of somebody else's.
    let about = place.path("head/reportclip_head.json");
    let good = fs::read_to_string(&about).unwrap();
    for (from, to, told) in [
        ("\"format\": 1", "\"format\": 9", "has format 9"),
        ("\"embed_dim\": 16", "\"embed_dim\": 17", "not [3, 17]"),
        ("\"temperature\": 1.0", "\"temperature\": 0.0", "allowed is above 0"),
        ("\"pneumothorax\"", "\"normal\"", "names a class twice"),
        ("[\n    2,", "[\n    1,", "is not the one that it was written with"),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        fs::write(&about, good.replace(from, to)).unwrap();
        let error = error(&zero);
        assert!(error.contains(told), "{error}");
    }
    let turned = good.replacen("\"normal\"", "\"?\"", 1).replacen("\"pneumothorax\"", "\"normal\"", 1);
    fs::write(&about, turned.replacen("\"?\"", "\"pneumothorax\"", 1)).unwrap();
    assert!(
        error(&zero).contains("which weights are which class's is not known; `reportclip adapt --save` makes both")
    );
    fs::write(&about, good).unwrap();
    fs::write(place.path("head/reportclip_head.safetensors"), [255; 40]).unwrap();
    assert!(error(&zero).contains("not a whole safetensors file"));
    // Whoever is both drawn and judged.
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let of = |split: &str| manifest.lines().find(|line| line.contains(&format!(",{split},"))).unwrap().to_string();
    let patient = |line: &str| line.rsplit(',').nth(3).unwrap().to_string();
    let (drawn, judged) = (of("train"), of("test"));
    let twice = judged.replace(&format!(",{},", patient(&judged)), &format!(",{},", patient(&drawn)));
    fs::write(place.path("phantom/manifest.csv"), manifest.replace(&judged, &twice)).unwrap();
    let both = error(&[&adapt[..], &["--split", "test"]].concat());
    assert!(both.contains("patients stand in split train and in split test"), "{both}");
}

#[test]
fn one_patient_has_no_halves() {
    let place = trained();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let (head, rows) = manifest.split_once('\n').unwrap();
    let patient = head.split(',').position(|name| name == "patient_id").unwrap();
    let one = rows.lines().take(6).map(|row| {
        let mut cells: Vec<&str> = row.split(',').collect();
        let at = cells.len() + patient - head.split(',').count();
        cells[at] = "P1";
        cells.join(",")
    });
    let all: Vec<String> = std::iter::once(head.to_string()).chain(one).collect();
    fs::write(place.path("phantom/one.csv"), all.join("\n")).unwrap();
    let args = ["adapt", "--model", "run/model", "--data", "phantom/one.csv", "--prompts", "classes.toml"];
    let errors = place.errors(&args, 1);
    assert!(errors.len() == 1 && errors[0].contains("one.csv: all rows are of one patient"), "{errors:?}");
}

#[test]
fn embeddings_that_are_none_are_refused_by_their_row() {
    let place = trained();
    let embed = ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "all.safetensors"];
    assert!(place.run(&embed).status.success());
    let mut good = fs::read(place.path("all.safetensors")).unwrap();
    // One that does not say what its vectors are, as those of older versions.
    let told = good.windows(7).position(|word| word == b"vectors").unwrap();
    good[told] = b'V';
    let tensors = safetensors::SafeTensors::deserialize(&good).unwrap();
    let embeds = tensors.tensor("image_embeds").unwrap();
    let (start, width) = (embeds.data().as_ptr() as usize - good.as_ptr() as usize, 4 * embeds.shape()[1]);
    let index = ["adapt", "--model", "run/model", "--index", "all.safetensors", "--prompts", "classes.toml"];
    for (value, told) in [(f32::NAN, "is not finite"), (0.0, "has length 0.0;"), (1e38, "e38; allowed is length 1")] {
        let mut bad = good.clone();
        bad[start + 3 * width..start + 4 * width].copy_from_slice(&value.to_le_bytes().repeat(width / 4));
        fs::write(place.path("all.safetensors"), bad).unwrap();
        let errors = place.errors(&[&index[..], &["--split", "test", "--save", "head"]].concat(), 1);
        let line = &errors[0];
        assert!(line.contains("all.safetensors: row 3 (from 0) of its image_embeds ") && line.contains(told), "{line}");
        assert!(errors.len() == 1 && !place.path("head").exists());
    }
    // Nothing has changed where another model made it.
    fs::write(place.path("all.safetensors"), good).unwrap();
    place.train_ok("other", &["--set", "train.max_steps=2"]);
    let errors = place.errors(&[&["adapt", "--model", "other/model"], &index[3..]].concat(), 1);
    assert!(errors[0].contains("run/model, not by other/model; name that one"), "{errors:?}");
    // The same model by its name, which has changed.
    fs::copy(place.path("other/model/model.safetensors"), place.path("run/model/model.safetensors")).unwrap();
    let errors = place.errors(&index, 1);
    assert!(errors[0].contains("model run/model has changed since the index was made"), "{errors:?}");
}

#[test]
fn few_seeds_are_told_for_what_they_are() {
    let place = trained();
    let adapt =
        |more: &[&str]| run(&place, &[&["adapt"], &ON[..], &["--split", "test", "--shots", "2"], more].concat());
    // Two seeds say next to nothing of others, of a share no more than that it is one.
    let report = adapt(&["--seeds", "2"]);
    let mut widest = 0.0f64;
    for setting in report["settings"].as_array().unwrap() {
        for (name, spread) in setting["figures"].as_object().unwrap() {
            for of in ["interval", "over_seeds", "over_patients"] {
                let bound = |i: usize| spread[of][i].as_f64().unwrap();
                let most = if name == "nll" { f64::INFINITY } else { 1.0 };
                assert!(bound(0) >= 0.0 && bound(0) <= bound(1) && bound(1) <= most, "{name} {of}: {spread}");
                widest = widest.max(if name == "nll" { 0.0 } else { bound(1) - bound(0) });
            }
        }
    }
    assert!(widest > 0.5, "{widest}");
    let output = place.run(&[&["adapt"], &ON[..], &["--split", "test", "--seeds", "1", "--bootstrap", "20"]].concat());
    let told = text(&output.stdout);
    assert!(
        told.lines().next().unwrap().ends_with("; 1 seed") && told.contains("of one seed nothing is known"),
        "{told}"
    );
}

/// The weights fit, what is told of them does not: neither is left, and the next try needs no --force.
#[cfg(unix)]
#[test]
fn a_head_is_kept_whole_or_not_at_all() {
    let place = trained();
    let long = "n".repeat(1200);
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    fs::write(place.path("phantom/manifest.csv"), manifest.replace(",normal\n", &format!(",{long}\n"))).unwrap();
    fs::write(place.path("classes.toml"), PROMPTS.replacen("normal", &long, 1)).unwrap();
    let save = [&["adapt"], &ON[..], &["--split", "test", "--shots", "2", "--seeds", "1", "--save", "head"]].concat();
    let limited = format!("ulimit -f 1; exec \"$B\" {}", save.join(" "));
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &limited]).current_dir(place.path("")).env("B", env!("CARGO_BIN_EXE_reportclip"));
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("File too large"), "{stderr}");
    assert!(!place.path("head").exists(), "{stderr}");
    let output = place.run(&save);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(place.path("head/reportclip_head.json").is_file());
}

/// Half a minute of silence looks like a program that hangs.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_is_told_how_far_it_is() {
    let place = trained();
    let adapt = [&["adapt"], &ON[..], &["--split", "test", "--seeds", "3", "--bootstrap", "50"]].concat().join(" ");
    let at_terminal = format!("{} {adapt} >result.txt", env!("CARGO_BIN_EXE_reportclip"));
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &at_terminal, "/dev/null"]).current_dir(place.path("")).env("TERM", "xterm");
    let Ok(output) = command.stdin(std::process::Stdio::null()).output() else {
        return crate::common::skipped("script is not here");
    };
    let told = text(&output.stdout);
    assert!(output.status.success() && (told.contains(" images ") || told.contains(" settings ")), "{told}");
    assert!(fs::read_to_string(place.path("result.txt")).unwrap().contains("text_probe"));
    // Elsewhere it says nothing of it.
    let output = place.run(&[&["adapt"], &ON[..], &["--split", "test", "--seeds", "1", "--bootstrap", "0"]].concat());
    assert!(!text(&output.stderr).contains(" settings "), "{}", text(&output.stderr));
}
