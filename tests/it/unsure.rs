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
