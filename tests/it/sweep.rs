//! `sweep` as users run it: members that go on, members that are not what they were, and halving.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::SystemTime;

use reportclip::metrics::hierarchical::PatientFigure;
use serde_json::Value;

use crate::runs::{PROMPTS, Place, json, text};

impl Place {
    fn sweep(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["sweep", "tiny.toml", "--json"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        json(&output.stdout)
    }

    /// When a member's figures were last written to.
    fn trained(&self, member: &str) -> SystemTime {
        fs::metadata(self.path(member).join("metrics.jsonl")).unwrap().modified().unwrap()
    }
}

#[test]
fn a_sweep_goes_on_and_its_members_are_runs() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    let args =
        ["sweep", "tiny.toml", "--grid", "loss.label_smoothing=0,0.1", "--seeds", "2", "--out", "sweep", "--json"];
    let args = [&args[..], &["--prompts", "classes.toml", "--set", "train.max_steps=4"]].concat();
    // One member cannot make its folder: the others are done all the same.
    fs::create_dir(place.path("sweep")).unwrap();
    let blocked = place.path("sweep/loss.label_smoothing=0.1+seed=4");
    fs::write(&blocked, "in the way").unwrap();
    let output = place.run(&args);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("1 of 4 members failed"), "{}", text(&output.stderr));
    fs::remove_file(&blocked).unwrap();
    let before = place.trained("sweep/loss.label_smoothing=0+seed=3");
    let output = place.run(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(place.trained("sweep/loss.label_smoothing=0+seed=3"), before, "what is done is not done again");
    let table = json(&output.stdout)["table"].clone();
    assert_eq!(table.as_array().unwrap().len(), 6, "two settings, both scaled, chance, ECE by luck");
    for name in ["recall@1", "match_ece", "class_auroc_macro", "class_brier", "class_nll"] {
        let cell = &table[1]["figures"][name];
        assert!(cell["mean"].is_number() && cell["half_width"].is_number() && cell["seeds"] == 2, "{name}: {cell}");
    }
    assert_eq!(table[2]["figures"]["class_nll"], table[0]["figures"]["class_nll_scaled"]);
    assert_eq!(table[3]["figures"]["match_nll"], table[1]["figures"]["match_nll_scaled"]);
    let chance = &table[4]["figures"];
    assert!((chance["class_auroc_macro"]["mean"].as_f64().unwrap() - 0.5).abs() < 1e-12, "{chance}");
    assert!(chance["match_nll"]["mean"].is_number() && chance["recall@1"]["mean"].is_number(), "{chance}");
    assert!(table[5]["figures"]["class_ece"]["mean"].as_f64().unwrap() > 0.0);
    // A member is the run that `train` makes.
    place.train_ok("alone", &["--set", "train.max_steps=4", "--set", "loss.label_smoothing=0"]);
    place.assert_same_run("alone", "sweep/loss.label_smoothing=0+seed=3");
}

/// Settings that no grid makes, over-fitting, and how far seeds agree.
#[test]
fn a_sweep_tells_over_fitting_and_agreement_of_settings_beside_its_grid() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    let also = r#"loss.label_smoothing={ from = 0.2, to = 0.0, over = "100%" }; optim.lr=1e-2"#;
    let args = [
        "sweep",
        "tiny.toml",
        "--grid",
        "loss.label_smoothing=0",
        "--also",
        also,
        "--seeds",
        "3",
        "--prompts",
        "classes.toml",
        "--over-fitting",
        "--set",
        "train.max_steps=4",
        "--out",
        "sweep",
    ];
    let output = place.run(&[&args[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let sweep = json(&output.stdout);
    let members = sweep["members"].as_array().unwrap();
    assert_eq!(members.len(), 6);
    assert_eq!(members[3]["setting"][1], serde_json::json!(["optim.lr", "1e-2"]));
    for member in members {
        let figures = &member["figures"];
        let of = |name: &str| figures[name].as_f64().unwrap();
        assert!((of("match_nll") - of("train_nll") - of("over_fitting")).abs() < 1e-9, "{figures}");
        assert!(of("class_aurc_scaled") > 0.0 && of("match_aurc_normalised") > 0.0, "{figures}");
    }
    for row in &sweep["table"].as_array().unwrap()[..2] {
        for name in ["class_agreement", "report_agreement"] {
            let share = row["figures"][name]["mean"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share) && row["figures"][name]["half_width"].is_number(), "{row}");
        }
    }
    let compared = |name: &str| sweep["differences"].as_array().unwrap().iter().any(|d| d["figure"] == name);
    let of_classes = ["class_auroc_macro", "class_ece", "class_aurc_normalised", "class_coverage_at_90"];
    let of_matches = ["over_fitting", "match_ece", "match_ece_scaled", "match_coverage_at_90"];
    assert!(of_classes.into_iter().chain(of_matches).all(compared), "{}", sweep["differences"]);

    // The training pairs are what `eval` says of them.
    let model = format!("sweep/{}/model", members[0]["name"].as_str().unwrap());
    let eval = ["eval", "--model", &model, "--data", "phantom/manifest.csv", "--split", "train", "--json"];
    let report = json(&place.run(&[&eval[..], &["--loss-batch-size", "8"]].concat()).stdout);
    assert_eq!(report["calibration"]["as_is"]["nll"], members[0]["figures"]["train_nll"]);
    // What is told by patient adds up to the figure itself.
    let report = json(&place.run(&[&eval[..], &["--loss-batch-size", "8", "--by-patient"]].concat()).stdout);
    let of_patients = |name: &str| {
        let figure = report["by_patient"]["figures"][name].clone();
        serde_json::from_value::<PatientFigure>(figure).unwrap().value()
    };
    let surest = &report["selective"].as_array().unwrap().iter().find(|o| o["score"] == "max_probability").unwrap();
    let coverage = surest["figures"].as_array().unwrap().iter().find(|f| f["name"] == "coverage_at_90").unwrap();
    for (name, value) in [
        ("match_ece", &report["calibration"]["as_is"]["ece"]),
        ("match_ece_scaled", &report["calibration"]["scaled"]["ece"]),
        ("match_coverage_at_90", &coverage["value"]),
    ] {
        assert!((of_patients(name) - value.as_f64().unwrap()).abs() < 1e-12, "{name}: {value}");
    }

    let shown = text(&place.run(&[&args[..], &["--figures", "class_ece,over_fitting"]].concat()).stdout);
    assert!(shown.contains("| setting | over-fitting | class ECE |") && !shown.contains("recall"), "{shown}");
    let errors = place.errors(&[&args[..], &["--figures", "luck"]].concat(), 2);
    assert!(errors[0].starts_with("--figures luck: there is no such figure; known are recall@1, "), "{errors:?}");
}

/// Reports that are known to be wrong are no part of the training loss, and both losses are among as many pairs.
#[test]
fn over_fitting_is_told_of_right_reports_among_as_many() {
    let place = Place::new();
    let drawn = place.run(&["data", "synth", "--out", "noisy", "--patients", "40", "--size", "32", "--noise", "0.5"]);
    assert!(drawn.status.success(), "{}", text(&drawn.stderr));
    let args = ["--grid", "optim.lr=1e-3,0.001", "--over-fitting", "--out", "sweep", "--set", "train.max_steps=2"];
    let data = ["--set", "data.train=noisy/manifest.csv", "--set", "train.batch_size=16"];
    let swept = place.sweep(&[&args[..], &data].concat());
    let members = swept["members"].as_array().unwrap();
    assert_eq!(members.len(), 1, "one number, written twice");

    let mut reader = csv::Reader::from_path(place.path("noisy/manifest.csv")).unwrap();
    let header = reader.headers().unwrap().clone();
    let noise = header.iter().position(|name| name == "noise").unwrap();
    let mut clean = csv::Writer::from_path(place.path("noisy/clean.csv")).unwrap();
    clean.write_record(&header).unwrap();
    for row in reader.records().map(Result::unwrap).filter(|row| row[noise].is_empty()) {
        clean.write_record(&row).unwrap();
    }
    clean.flush().unwrap();
    let model = format!("sweep/{}/model", members[0]["name"].as_str().unwrap());
    let eval = |data: &str, split: &str, batch: &str| {
        let args = ["eval", "--model", &model, "--data", data, "--split", split, "--loss-batch-size", batch, "--json"];
        json(&place.run(&args).stdout)
    };
    let among = &eval("noisy/manifest.csv", "test", "16")["loss_batch_size"];
    assert!(among.as_u64().unwrap() < 16, "few enough are judged for the two to differ: {among}");
    let of_clean = eval("noisy/clean.csv", "train", &among.to_string());
    assert_eq!(of_clean["calibration"]["as_is"]["nll"], members[0]["figures"]["train_nll"]);
}

/// Halving ends with one of three, and says of the others when they were pruned.
#[test]
fn halving_leaves_one_of_three() {
    let place = Place::new();
    let swept = place.sweep(&["--grid", "optim.lr=1e-5,1e-3,1e-2", "--halving", "3", "--out", "halved"]);
    let members = swept["members"].as_array().unwrap();
    assert_eq!(members.iter().filter(|m| m["figures"].is_object()).count(), 1, "{members:?}");
    assert!(members.iter().any(|m| m["problem"] == "pruned at step 1 of 10"), "{members:?}");
}

/// Rounds end before the first validation that is due: members are validated at the stop, and one that learns beats
/// those that stand still although they come first.
#[test]
fn halving_compares_what_members_have_learnt() {
    let place = Place::new();
    let rare = ["--set", "train.max_steps=90", "--set", "train.eval_every=90", "--set", "eval.bootstrap=0"];
    let grid = ["--grid", "optim.lr=0,1e-8,3e-4", "--halving", "3", "--out", "halved"];
    let swept = place.sweep(&[&grid[..], &rare].concat());
    let judged = |m: &&Value| m["figures"].is_object();
    let left: Vec<&str> =
        swept["members"].as_array().unwrap().iter().filter(judged).map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(left, ["optim.lr=3e-4+seed=3"], "{swept}");
}

#[test]
fn what_a_sweep_cannot_try_is_told_at_once() {
    let place = Place::new();
    fs::write(place.path("one.toml"), "normal = \"Clear lungs.\"\n").unwrap();
    let grid = ["--grid", "optim.lr=1e-3"];
    let seeds = "seeds are counted, not listed: --seeds N takes N for each combination, from --set seed=FIRST on";
    let cases: [(&[&str], &str); 14] = [
        (&["--grid", "seed=1,2"], &format!("--grid \"seed=1,2\": {seeds}")),
        (&["--also", "seed=3"], &format!("--also \"seed=3\": {seeds}")),
        (&["--also", "loss.kind=clip; seed=3"], seeds),
        (&["--grid", "output=a,b"], "--grid \"output=a,b\": the folder of a member lies in the sweep's"),
        (&["--grid", "train.stop_after=1,2"], "--grid \"train.stop_after=1,2\": members are trained to their end"),
        (&["--set", "train.stop_after=2"], "train.stop_after: is set, and a sweep trains members to their end"),
        (&["--also", ""], "--also \"\": expected key=value, and a semicolon before each further one"),
        (&["--also", "x"], "--also \"x\": expected key=value, and a semicolon"),
        (&["--also", "optim.lr="], "--also \"optim.lr=\": optim.lr has no value"),
        (&["--also", "optim.lr=1e-3; optim.lr=1e-4"], "--also \"optim.lr=1e-3; optim.lr=1e-4\": names optim.lr twice"),
        (&["--grid", "optim.lr=1e-4"], "--grid: two name optim.lr; allowed is one, with all values: optim.lr=v1,v2"),
        (&["--grid", "train.batch_size"], "--grid \"train.batch_size\": expected key=v1,v2"),
        (&["--grid", "optim.eps=1..2"], "--grid optim.eps: a range needs --random N; a grid takes a list of values"),
        (&["--prompts", "one.toml"], "--prompts: prompts one.toml: names fewer than two classes"),
    ];
    for (args, told) in cases {
        let errors = place.errors(&[&["sweep", "tiny.toml", "--out", "swept"], &grid[..], args].concat(), 2);
        assert!(errors.len() == 1 && errors[0].contains(told), "{args:?}: {errors:?}");
    }
    assert!(!place.path("swept").exists());
}

#[test]
fn halving_by_unlike_figures_is_refused() {
    let place = Place::new();
    let args = ["sweep", "tiny.toml", "--grid", "loss.kind=clip,multi_positive", "--halving", "2", "--out", "sw"];
    let errors = place.errors(&args, 1);
    assert!(errors[0].contains("mean_recall for some and loss for others; name one"), "{errors:?}");
    let many = ["sweep", "tiny.toml", "--grid", "optim.lr=1,2,3,4,5,6,7,8,9,10,11", "--seeds", "1000", "--out", "sw"];
    let errors = place.errors(&many, 1);
    assert_eq!(errors, ["the sweep would have 11000 members; allowed are 10000"]);
}

#[test]
fn halving_without_validation_pairs_is_refused() {
    let place = Place::new();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap().replace(",val,", ",train,");
    fs::write(place.path("phantom/manifest.csv"), manifest).unwrap();
    let args = ["sweep", "tiny.toml", "--grid", "optim.lr=0,1e-3", "--halving", "2", "--out", "halved"];
    let errors = place.errors(&args, 1);
    assert!(errors[0].starts_with("--halving compares members by their validations, and there are"), "{errors:?}");
    assert!(!place.path("halved").exists());
}

/// Members are skipped only when they are what they would become again; the user is told what is not.
#[test]
fn members_that_were_made_from_something_else_are_refused() {
    let place = Place::new();
    let args = ["sweep", "tiny.toml", "--grid", "loss.label_smoothing=0,0.1", "--out", "sweep"];
    let args = [&args[..], &["--set", "train.max_steps=2"]].concat();
    let output = place.run(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (member, table) = ("sweep/loss.label_smoothing=0+seed=3", fs::read(place.path("sweep/sweep.md")).unwrap());
    let before = place.trained(member);
    let refused = |more: &[&str]| -> String {
        let errors = place.errors(&[&args[..], more].concat(), 2);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("sweep: holds members of another sweep: "), "{errors:?}");
        assert_eq!(place.trained(member), before);
        assert_eq!(fs::read(place.path("sweep/sweep.md")).unwrap(), table);
        errors[0].clone()
    };
    // On the command line, in the file, in the data.
    let error = refused(&["--set", "optim.lr=3e-3"]);
    assert!(error.contains(": optim.lr was 0.001 and is 0.003 now; name another folder with --out"), "{error}");
    let config = fs::read_to_string(place.path("tiny.toml")).unwrap();
    fs::write(place.path("tiny.toml"), config.replace("brightness = 0.1", "brightness = 0.2")).unwrap();
    assert!(refused(&[]).contains(": augment.brightness was 0.1 and is 0.2 now;"));
    fs::write(place.path("tiny.toml"), config).unwrap();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    fs::write(place.path("phantom/manifest.csv"), manifest.replacen("IMPRESSION", "Impression", 1)).unwrap();
    let error = refused(&[]);
    assert!(error.contains("manifest.csv\" holds has changed"), "{error}");
    fs::write(place.path("phantom/manifest.csv"), manifest).unwrap();
    // How often a run is validated decides which step is its best.
    let error = refused(&["--set", "train.eval_every=1"]);
    assert!(error.contains(": train.eval_every was 4 and is 1 now;"), "{error}");
    assert!(refused(&["--set", "train.early_stopping=1"]).contains(": train.early_stopping was 0 and is 1 now;"));
    // What changes neither weights nor that is no change.
    let output = place.run(&[&args[..], &["--set", "data.workers=1"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(place.trained(member), before, "nothing is trained again");
}

/// Another split, or other prompts, judge members anew and train nothing.
#[test]
fn members_are_judged_anew_where_that_is_another_judgement() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    let figures = |more: &[&str]| {
        let args = ["--grid", "loss.label_smoothing=0.1", "--out", "sweep", "--set", "train.max_steps=2"];
        place.sweep(&[&args[..], more].concat())["members"][0]["figures"].clone()
    };
    let prompts = ["--prompts", "classes.toml"];
    let on_test = figures(&prompts);
    let before = place.trained("sweep/loss.label_smoothing=0.1+seed=3");
    let on_train = figures(&["--prompts", "classes.toml", "--split", "train"]);
    assert_ne!(on_train["mean_recall"], on_test["mean_recall"], "another split");
    assert_eq!(figures(&prompts), on_test);
    fs::write(place.path("classes.toml"), PROMPTS.replace("Clear lungs.", "Opacity in the left lung.")).unwrap();
    let other = figures(&prompts);
    assert_eq!(other["mean_recall"], on_test["mean_recall"]);
    assert_ne!(other["class_nll"], on_test["class_nll"], "other prompts under the same name");
    assert_eq!(place.trained("sweep/loss.label_smoothing=0.1+seed=3"), before, "nothing is trained again");
}
