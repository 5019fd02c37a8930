//! Models that may say nothing, and sets in place of answers, as users run them.
#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::Value;

use crate::runs::{PROMPTS, Place, json, text};

fn figure<'a>(figures: &'a Value, name: &str) -> &'a Value {
    figures.as_array().unwrap().iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("{name} in {figures}"))
}

/// A place with a small model and prompts.
fn trained() -> Place {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    place.train_ok("run", &["--set", "train.max_steps=8"]);
    place
}

fn zero_shot(place: &Place, more: &[&str]) -> Value {
    let args = ["zero-shot", "--model", "run/model", "--data", "phantom/manifest.csv", "--prompts", "classes.toml"];
    let output = place.run(&[&args[..], &["--bootstrap", "20", "--json"], more].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    json(&output.stdout)
}

#[test]
fn an_abstention_is_chosen_on_validation_kept_and_used() {
    let place = trained();
    let zero = ["zero-shot", "--model", "run/model", "--data", "phantom/manifest.csv", "--prompts", "classes.toml"];
    let errors = place.errors(&[&zero[..], &["--abstain"]].concat(), 1);
    assert!(errors[0].contains("reportclip_abstention.toml: is not there"), "{errors:?}");
    // The highest share of which the few patients of val can say that it holds.
    let keep = |wanted: &str| place.run(&[&zero[..], &["--split", "test", "--keep-abstention", wanted]].concat());
    let (wanted, chosen) = ["0.95", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3", "0.2", "0.1"]
        .into_iter()
        .filter(|wanted| keep(wanted).status.success())
        .map(|wanted| (wanted, zero_shot(&place, &["--split", "test", "--keep-abstention", wanted])))
        .next()
        .unwrap();
    assert_ne!(wanted, "0.95", "a model of 8 steps");
    let errors = place.errors(&[&zero[..], &["--split", "test", "--keep-abstention", "0.999"]].concat(), 1);
    assert!(errors[0].contains("of no threshold on "), "{errors:?}");
    let rule = &chosen["abstained"]["rule"];
    // More were right there than can be said of others.
    assert!(rule["accuracy"].as_f64().unwrap() > wanted.parse::<f64>().unwrap(), "{rule}");
    assert!(place.path("run/model/reportclip_abstention.toml").is_file());
    // The folder's list of checksums knows of it.
    let inspected = place.run(&["model", "inspect", "run/model", "--verify"]);
    assert!(inspected.status.success(), "{}", text(&inspected.stdout));
    let used = zero_shot(&place, &["--split", "test", "--abstain"]);
    assert_eq!(used["abstained"], chosen["abstained"], "what is kept is what was chosen");
    let answers = used["abstained"]["answers"].as_array().unwrap();
    assert_eq!(answers.len(), used["images"].as_u64().unwrap() as usize);
    let unsure = answers.iter().filter(|a| a["answer"] == "unsure").count();
    assert!(answers.iter().all(|a| (a["answer"] == "unsure") == a["right"].is_null()));
    let coverage = figure(&used["abstained"]["figures"], "coverage")["value"].as_f64().unwrap();
    assert!((coverage - 1.0 + unsure as f64 / answers.len() as f64).abs() < 1e-12, "{coverage} {unsure}");
    let told = text(&place.run(&[&zero[..], &["--split", "test", "--abstain", "--bootstrap", "0"]].concat()).stdout);
    assert!(told.contains("\nunsure ") && told.contains("answered where "), "{told}");
    // Other prompts are other predictions.
    fs::write(place.path("classes.toml"), PROMPTS.replace("Clear lungs.", "Nothing.")).unwrap();
    let errors = place.errors(&[&zero[..], &["--abstain"]].concat(), 1);
    assert!(errors[0].contains("was chosen with other prompts"), "{errors:?}");
}

#[test]
fn sets_are_calibrated_on_others_and_cover_what_was_asked_for() {
    let place = trained();
    let report = zero_shot(&place, &["--split", "test", "--conformal", "0.2", "--subgroup", "label"]);
    let conformal = &report["conformal"];
    assert_eq!(conformal["calibrated_on"], "split val");
    let methods: Vec<&str> =
        conformal["methods"].as_array().unwrap().iter().map(|m| m["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["lac", "aps", "raps", "lac_by_class", "aps_by_class", "raps_by_class"]);
    for method in conformal["methods"].as_array().unwrap() {
        let (coverage, size) = (figure(&method["figures"], "coverage"), figure(&method["figures"], "size"));
        assert_eq!(coverage["chance"], 0.8);
        // 1 − alpha less three standard errors of as many patients.
        let error = 3.0 * (0.16 / report["images"].as_f64().unwrap()).sqrt();
        assert!(coverage["value"].as_f64().unwrap() > 0.8 - error, "{method}");
        let sets = method["sets"].as_array().unwrap();
        assert_eq!(sets.len() as u64, report["images"].as_u64().unwrap());
        let lines: std::collections::BTreeSet<u64> = sets.iter().map(|s| s["line"].as_u64().unwrap()).collect();
        assert_eq!(lines.len(), sets.len());
        let by_class = method["method"].as_str().unwrap().ends_with("by_class");
        assert_eq!(method["thresholds"].as_array().unwrap().len(), if by_class { 3 } else { 1 });
        assert!((0.0..=3.0).contains(&size["value"].as_f64().unwrap()), "{method}");
        assert!(!method["by_class"].as_array().unwrap().is_empty());
        let groups = method["by_subgroup"].as_array().unwrap();
        assert!(groups.iter().any(|g| g["name"] == "label = normal"), "{groups:?}");
    }
    // Almost nothing may be left out: of few patients nothing is known, and sets hold everything.
    let whole = zero_shot(&place, &["--conformal", "0.001"]);
    let lac = &whole["conformal"]["methods"][0];
    assert_eq!(figure(&lac["figures"], "size")["value"], 3.0);
    assert_eq!(whole["conformal"]["calibrated_on"], "each half of the patients on the other half");
    let args = ["eval", "--model", "run/model", "--data", "phantom/manifest.csv", "--json", "--bootstrap", "20"];
    let output = place.run(&[&args[..], &["--conformal", "0.1", "--subgroup", "label"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = json(&output.stdout);
    for (method, gallery) in
        report["conformal"]["methods"].as_array().unwrap().iter().zip(["image_to_text", "text_to_image"])
    {
        let size = figure(&method["figures"], "size")["value"].as_f64().unwrap();
        assert!(size > 1.0 && size <= report[gallery]["gallery"].as_f64().unwrap(), "{method}");
        assert!(figure(&method["figures"], "coverage")["value"].as_f64().unwrap() > 0.7, "{method}");
        // Of each subgroup the rows that it has, of all together every query.
        let groups = method["by_subgroup"].as_array().unwrap();
        assert!(groups.iter().any(|g| g["name"] == "label = normal"), "{groups:?}");
        let direction = &report[method["method"].as_str().unwrap()];
        let rows: u64 = groups.iter().map(|g| g["rows"].as_u64().unwrap()).sum();
        assert_eq!(rows, direction["queries"].as_u64().unwrap());
    }
    let orders = report["selective"].as_array().unwrap();
    assert_eq!(orders.len(), 4);
    assert!(figure(&orders[0]["figures"], "excess_aurc")["value"].as_f64().unwrap() >= 0.0);
    // The first k together have more probability the larger k is, and a right one more often.
    let directions = report["top_k"].as_array().unwrap();
    assert_eq!(directions.len(), 2);
    for direction in directions {
        let of = |name: &str| figure(&direction["figures"], name);
        for k in [1, 5, 10] {
            let nll = of(&format!("nll_top_{k}"));
            assert!(nll["value"].as_f64().unwrap() > 0.0 && nll["chance"].as_f64().unwrap() > 0.0, "{nll}");
            let ece = of(&format!("ece_top_{k}_scaled"));
            assert!((0.0..=1.0).contains(&ece["value"].as_f64().unwrap()) && ece["interval"].is_array(), "{ece}");
        }
    }
    let errors = place.errors(&[&args[..], &["--conformal", "0.1", "--subgroup", "nothing"]].concat(), 1);
    assert!(errors[0].contains("no row has a value in column \"nothing\""), "{errors:?}");
    let errors = place.errors(&[&args[..], &["--conformal", "1.5"]].concat(), 2);
    assert!(errors.iter().any(|e| e.contains("allowed are numbers between 0 and 1")), "{errors:?}");
}

const ZERO: [&str; 5] = ["zero-shot", "--model", "run/model", "--prompts", "classes.toml"];

/// Keeps an abstention that few patients can vouch for, and sets.
fn keep_both(place: &Place) {
    zero_shot(place, &["--split", "test", "--keep-abstention", "0.05", "--keep-conformal", "0.2"]);
}

#[test]
fn what_is_kept_and_damaged_is_refused_by_its_name() {
    let place = trained();
    let few = ["--data", "phantom/manifest.csv", "--split", "test", "--bootstrap", "0", "--conformal", "0.001"];
    let output = place.run(&[&ZERO[..], &few].concat());
    let told = text(&output.stderr);
    assert!(output.status.success() && told.contains("--conformal 0.001: of so few patients, sets hold"), "{told}");
    keep_both(&place);
    let abstention = [
        ("threshold = ", "threshold = nan # ", "threshold is NaN; allowed are finite numbers"),
        ("wanted_accuracy = ", "wanted_accuracy = 7 # ", "wanted_accuracy is 7; allowed is 0 to 1"),
        ("coverage = ", "coverage = -0.5 # ", "coverage is -0.5; allowed is 0 to 1"),
        ("score = \"", "score = \"x", "; allowed are max_probability, margin, normalised_logit, entropy"),
        ("predictions = ", "predictions = \"x\" # ", "invalid type"),
        ("prompts = ", "others = 1\nprompts = ", "unknown field"),
    ];
    let sets = [
        ("alpha = ", "alpha = nan # ", "alpha is NaN; allowed is 0 to 1"),
        ("\nlac = [", "\nlac = [nan, ", "a threshold of \"lac\" is NaN; allowed is 0 and above"),
        ("\nlac = [", "\nlac = [-1.0] # ", "a threshold of \"lac\" is -1; allowed is 0 and above"),
        ("\nlac = [", "\nlac = [] # ", "thresholds of \"lac\" are none"),
        ("\nlac = [", "\nother = [", "has no thresholds of lac"),
        ("\nlac = [", "\nlac = [0.5, ", "has 2 thresholds of lac, not 1"),
        ("patients = ", "patients = 0 # ", "patients is 0"),
    ];
    let sums = fs::read(place.path("run/model/SHA256SUMS")).unwrap();
    for (option, file, damages) in [
        ("--abstain", "reportclip_abstention.toml", &abstention[..]),
        ("--sets", "reportclip_conformal.toml", &sets[..]),
    ] {
        let path = place.path("run/model").join(file);
        let good = fs::read_to_string(&path).unwrap();
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            let errors = place.errors(&[&ZERO[..], &["--data", "phantom/manifest.csv", option]].concat(), 1);
            fs::write(&path, &good).unwrap();
            assert_eq!(errors.len(), 1, "{errors:?}");
            errors[0].clone()
        };
        for (from, to, told) in damages {
            assert!(good.contains(from), "{from} in {good}");
            // With the list of checksums every change is seen; without it, what cannot be.
            fs::write(place.path("run/model/SHA256SUMS"), &sums).unwrap();
            let error = refused(&good.replacen(from, to, 1));
            assert!(error.contains(file) && error.contains("not what its SHA-256 says"), "{error}");
            fs::remove_file(place.path("run/model/SHA256SUMS")).unwrap();
            let error = refused(&good.replacen(from, to, 1));
            assert!(error.contains(told) && error.contains(file), "{to}: {error}");
        }
        fs::write(place.path("run/model/SHA256SUMS"), &sums).unwrap();
    }
    // Kept for one set of prompts, of no use for another.
    fs::write(place.path("classes.toml"), PROMPTS.replace("Clear lungs.", "Nothing.")).unwrap();
    let errors = place.errors(&[&ZERO[..], &["--data", "phantom/manifest.csv", "--sets"]].concat(), 1);
    assert!(errors[0].contains("reportclip_conformal.toml) were calibrated with other prompts"), "{errors:?}");
}

/// The rows of split test as a manifest that knows only `columns`, with their lines in the first one.
fn of_test(place: &Place, to: &str, columns: &[usize]) -> Vec<u64> {
    let mut reader = csv::Reader::from_path(place.path("phantom/manifest.csv")).unwrap();
    let mut writer = csv::Writer::from_path(place.path(to)).unwrap();
    let header = reader.headers().unwrap().clone();
    writer.write_record(columns.iter().map(|&c| &header[c])).unwrap();
    let mut lines = Vec::new();
    for row in reader.records().map(Result::unwrap).filter(|row| &row[4] == "test") {
        writer.write_record(columns.iter().map(|&c| &row[c])).unwrap();
        lines.push(row.position().unwrap().line());
    }
    writer.flush().unwrap();
    lines
}

#[test]
fn images_without_labels_get_answers_and_sets_by_what_was_kept() {
    let place = trained();
    keep_both(&place);
    let lines = of_test(&place, "phantom/new.csv", &[0, 1, 2, 3]);
    let new = [&ZERO[..], &["--data", "phantom/new.csv"]].concat();
    let errors = place.errors(&new, 1);
    assert!(errors[0].contains("no row is labelled with a class of the prompt file"), "{errors:?}");
    let errors = place.errors(&[&new[..], &["--conformal", "0.1"]].concat(), 1);
    assert!(errors[0].contains("no row that is judged has a label to calibrate sets on"), "{errors:?}");

    let rules = ["--abstain", "--sets", "--predictions", "new.jsonl"];
    let output = place.run(&[&new[..], &rules].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert!(told.starts_with(&format!("{} images, none with a label", lines.len())), "{told}");
    assert!(told.contains("sets hold ") && !told.contains("accuracy"), "{told}");
    let said: Vec<Value> =
        fs::read_to_string(place.path("new.jsonl")).unwrap().lines().map(|l| json(l.as_bytes())).collect();
    assert_eq!(said.len(), lines.len());
    // The same images with their labels: the same answers and sets, with figures.
    let known = zero_shot(&place, &["--split", "test", "--abstain", "--sets"]);
    let conformal = &known["conformal"];
    assert!(conformal["calibrated_on"].as_str().unwrap().starts_with("split val, kept with the model ("));
    assert_eq!((&conformal["alpha"], &conformal["methods"][0]["method"]), (&0.2.into(), &"lac".into()));
    let fresh = zero_shot(&place, &["--split", "test", "--conformal", "0.2"]);
    assert_eq!(conformal["methods"], fresh["conformal"]["methods"], "kept is what was calibrated on val");
    let of = |line: &Value| &said[lines.iter().position(|l| l == line).unwrap()];
    let answers = known["abstained"]["answers"].as_array().unwrap();
    assert!(answers.len() > 3 && answers.len() < said.len());
    for answer in answers {
        assert_eq!(of(&answer["line"])["answer"], answer["answer"]);
    }
    for set in conformal["methods"][0]["sets"].as_array().unwrap() {
        assert_eq!(of(&set["line"])["set"], set["set"]);
    }
    let output = place.run(&[&new[..], &["--abstain", "--sets", "--json"]].concat());
    let whole = json(&output.stdout);
    assert_eq!((&whole["images"], &whole["predictions"]), (&0.into(), &Value::from(said.clone())));

    // What is there stays, and other endings are none.
    let errors = place.errors(&[&new[..], &rules].concat(), 1);
    assert!(errors[0].contains("new.jsonl: is there already; --force"), "{errors:?}");
    let errors = place.errors(&[&new[..], &["--predictions", "new.txt"]].concat(), 2);
    assert!(errors[0].contains("allowed are files that end in .csv and .jsonl"), "{errors:?}");
    let errors = place.errors(&[&new[..], &["--force", "--predictions", "phantom/new.csv"]].concat(), 1);
    assert!(errors[0].contains("this command reads it"), "{errors:?}");
    // Without rules an answer to everything; with labels figures as well.
    zero_shot(&place, &["--split", "test", "--predictions", "all.csv"]);
    let table = fs::read_to_string(place.path("all.csv")).unwrap();
    assert_eq!(table.lines().next(), Some("line,answer,probability"));
    assert!(table.lines().count() == lines.len() + 1 && !table.contains("unsure"), "{table}");
}

#[test]
fn sets_of_images_without_labels_are_calibrated_on_a_split_that_has_some() {
    let place = trained();
    let known = zero_shot(&place, &["--split", "test", "--conformal", "0.2"]);
    let lines = of_test(&place, "phantom/of-test.csv", &[0]);
    let mut reader = csv::Reader::from_path(place.path("phantom/manifest.csv")).unwrap();
    let mut writer = csv::Writer::from_path(place.path("phantom/half.csv")).unwrap();
    writer.write_record(reader.headers().unwrap()).unwrap();
    for row in reader.records().map(Result::unwrap) {
        let label = if &row[4] == "test" { "" } else { &row[5] };
        writer.write_record([&row[0], &row[1], &row[2], &row[3], &row[4], label]).unwrap();
    }
    writer.flush().unwrap();
    let more = ["--data", "phantom/half.csv", "--split", "test", "--conformal", "0.2", "--json"];
    let output = place.run(&[&ZERO[..], &more].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = json(&output.stdout)["predictions"].clone();
    assert_eq!(said.as_array().unwrap().len(), lines.len());
    for set in known["conformal"]["methods"][0]["sets"].as_array().unwrap() {
        let same = said.as_array().unwrap().iter().find(|s| s["line"] == set["line"]).unwrap();
        assert_eq!(same["set"], set["set"]);
    }
}
