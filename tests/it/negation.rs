//! Opposites of real sentences, and what `eval --negation` says of models.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;

use crate::common::{golden, named_by};
use crate::runs::{Place, json, text};
use reportclip::data::{opposites, sections};
use reportclip::seed::name_index;

/// Findings and impression of each report of Open-i's archive, as they are read, by the report's id.
fn openi_reports(archive: &str) -> HashMap<String, String> {
    let file = flate2::read::GzDecoder::new(fs::File::open(archive).unwrap());
    let mut reports = HashMap::new();
    for member in tar::Archive::new(file).entries().unwrap() {
        let mut member = member.unwrap();
        if member.path().unwrap().extension().is_none_or(|e| e != "xml") {
            continue;
        }
        let mut xml = String::new();
        member.read_to_string(&mut xml).unwrap();
        let document = roxmltree::Document::parse(&xml).unwrap();
        let id = document.descendants().find(|n| n.has_tag_name("uId")).unwrap().attribute("id").unwrap().to_string();
        let part = |name: &str| {
            let node = document.descendants().find(|n| n.attribute("Label") == Some(name));
            let words =
                node.and_then(|n| n.text()).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            (!words.is_empty()).then_some(words)
        };
        let parts: Vec<String> = ["FINDINGS", "IMPRESSION"].into_iter().filter_map(part).collect();
        reports.insert(id, sections::without_blanks(&parts.join("\n")).into_owned());
    }
    reports
}

/// 200 opposites, drawn at random of all that the rules make of Open-i's reports (100, 50 and 50 of the three kinds,
/// each sentence once), were read against their reports by hand: right is what contradicts the report and says what it
/// means. Four that the rules make no more were taken out. The list has no text, of the opposite a hash
/// ([`name_index`]). The rules must still make these, word by word, and the docs say how many are right.
#[test]
fn opposites_of_open_i_are_those_that_were_read() {
    let Some(archive) = named_by("REPORTCLIP_OPENI", "Open-i's NLMCXR_reports.tgz") else { return };
    let reports = openi_reports(&archive);
    let list = fs::read_to_string(golden("openi_opposites.csv")).unwrap();
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut lost = Vec::new();
    for line in list.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let ([report, offset, kind, right], hash) = (cells.first_chunk().unwrap(), cells.get(4));
        let offset: usize = offset.parse().unwrap();
        let made = opposites(&reports[*report]);
        let here = made.iter().filter(|o| o.place.start == offset && o.opposite.kind.word() == *kind);
        let hashes: Vec<String> = here.map(|o| format!("{:016x}", name_index(&o.opposite.text))).collect();
        println!("{report},{offset},{kind},{right},{}", hashes.join(" "));
        if hashes.is_empty() || hash.is_some_and(|hash| !hashes.iter().any(|made| made == hash)) {
            lost.push(line);
        }
        let count = counts.entry(*kind).or_default();
        (count.0, count.1) = (count.0 + usize::from(*right == "1"), count.1 + 1);
    }
    assert!(lost.is_empty(), "not made any more, elsewhere, or in other words: {lost:?}");
    assert_eq!(counts, BTreeMap::from([("laterality", (50, 50)), ("negation", (95, 97)), ("size", (48, 49))]));
    let sentences: usize = reports.values().map(|r| sections::sentences(r).len()).sum();
    let with_opposite: usize = reports
        .values()
        .map(|r| opposites(r).iter().map(|o| o.place.start).collect::<std::collections::BTreeSet<_>>().len())
        .sum();
    println!("{with_opposite} of {sentences} sentences have an opposite");
    assert!(with_opposite * 2 > sentences, "{with_opposite} of {sentences}");
}

/// A model that was trained against opposites is asked which of two sentences it prefers, alone and beside another.
#[test]
fn eval_tells_how_often_the_truth_is_preferred() {
    let place = Place::new();
    place.train_ok("plain", &["--set", "train.max_steps=4"]);
    place.train_ok("opposed", &["--set", "train.max_steps=4", "--set", "data.negation=1"]);
    let eval = |model: &str, more: &[&str]| {
        let args = ["eval", "--model", model, "--data", "phantom/manifest.csv", "--split", "test", "--negation"];
        let output = place.run(&[&args[..], &["--bootstrap", "50"], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    let report = json(&eval("opposed/model", &["--compare", "plain/model", "--json"]));
    let negation = &report["negation"];
    let figures = negation["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|f| f["name"].as_str().unwrap()).collect();
    let blind = negation["of_others"].as_array().unwrap();
    assert_eq!(blind.iter().map(|f| f["name"].as_str().unwrap()).collect::<Vec<_>>(), names, "with other images");
    assert!(blind[0]["value"].is_number() && blind[0]["chance"] == 0.5, "{negation}");
    assert!(blind.iter().zip(figures).any(|(a, b)| a["value"] != b["value"]), "images are exchanged: {negation}");
    let over = negation["over_others"].as_array().unwrap();
    let value_of = |figure: &serde_json::Value| figure["value"].as_f64().unwrap();
    assert!((value_of(&over[0]) - (value_of(&figures[0]) - value_of(&blind[0]))).abs() < 1e-9, "paired: {negation}");
    assert!(over[0]["interval"].is_array() && over[0]["chance"] == 0.0, "{negation}");
    let names_of = |parts: &[&str]| parts.iter().map(|part| format!("prefers truth, {part}")).collect::<Vec<_>>();
    let by_direction = ["negation of denials", "negation of what is affirmed", "negation, mean of these two"];
    let expected = names_of(&[&["all", "negation", "laterality", "size"][..], &by_direction].concat());
    let value = |i: usize| figures[i]["value"].as_f64().unwrap();
    assert_eq!(value(6), (value(4) + value(5)) / 2.0, "{negation}");
    assert_eq!(names, expected);
    let sentences = |i: usize| negation["sentences"][i][1].as_f64().unwrap();
    let told = |i: usize| i == 0 || sentences(i - 1) > 0.0;
    for (i, figure) in figures.iter().take(4).enumerate() {
        assert_eq!(figure["value"].is_number(), told(i), "{negation}");
        let Some(value) = figure["value"].as_f64() else { continue };
        assert!((0.0..=1.0).contains(&value) && figure["chance"] == 0.5, "{figure}");
        assert!(figure["interval"][0].as_f64().unwrap() <= value, "{figure}");
    }
    let weighted: f64 = (0..3).filter_map(|i| Some(sentences(i) * figures[i + 1]["value"].as_f64()?)).sum();
    let all = figures[0]["value"].as_f64().unwrap();
    assert!((weighted / (0..3).map(sentences).sum::<f64>() - all).abs() < 1e-9, "{negation}");
    // Two models on the same sentences, paired.
    let plain = json(&eval("plain/model", &["--json"]));
    let theirs = plain["negation"]["figures"][0]["value"].as_f64().unwrap();
    let difference = report["difference"].as_array().unwrap().iter().find(|f| f["name"] == expected[0]).unwrap();
    assert!((difference["value"].as_f64().unwrap() - (all - theirs)).abs() < 1e-9, "{difference}");
    let lines = text(&eval("plain/model", &[]));
    assert!(lines.contains("true sentences against their opposites: negation "), "{lines}");
    assert!(lines.contains("another's image           chance\nprefers truth, all "), "{lines}");
    assert!(lines.contains("its own image minus another's, paired on the same sentences"), "{lines}");
}
