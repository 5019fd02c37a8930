//! Columns whose values are printed are groups, and never patients.
#![allow(clippy::unwrap_used)]

use std::fs;

use crate::runs::{PROMPTS, Place, json, text};

/// `manifest.csv` with further columns, whose cells `cells` gives from the number of the row and its patient.
fn widened(place: &Place, header: &str, cells: impl Fn(usize, &str) -> String) {
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let mut lines: Vec<String> = vec![format!("{},{header}", manifest.lines().next().unwrap())];
    for (number, line) in manifest.lines().skip(1).enumerate() {
        let patient = line.rsplit(',').nth(3).unwrap();
        lines.push(format!("{line},{}", cells(number, patient)));
    }
    fs::write(place.path("phantom/wide.csv"), lines.join("\n")).unwrap();
}

#[test]
fn values_of_a_subgroup_are_never_patients_or_reports() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    widened(&place, "sex,name,many,note,pairs,Patient_Name,who,rare", |number, patient| {
        let (sex, two) = (["F", "M"][number % 2], number % 2);
        // Of the 40 patients, two or three a value.
        let patient_number = patient.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap();
        let of_two = patient_number / 2;
        // Two values of one patient each; one of four or three patients beside one of all others.
        let who = if patient_number < 3 { format!("Zxqv {patient_number}") } else { String::new() };
        let rare = if patient_number < 5 { "Zxqv rare" } else { "common" };
        let note = format!("Zxqv {two} {}", "w".repeat(48));
        format!("{sex},Zxqv {patient},Zxqv {},{note},Zxqv {of_two},Zxqv {two},{who},{rare}", number % 33)
    });
    let on = ["--model", "run/model", "--data", "phantom/wide.csv", "--bootstrap", "0"];
    let zero = [&["zero-shot", "--prompts", "classes.toml"], &on[..]].concat();
    let eval = [&["eval", "--conformal", "0.1"], &on[..]].concat();
    for command in [&zero, &eval] {
        // By name: as they are called by default, and as they are called here.
        for column in ["image", "report", "patient_id", "study_id", "Patient_ID"] {
            let errors = place.errors(&[&command[..], &["--subgroup", &format!("sex,{column}")]].concat(), 2);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].contains(&format!("--subgroup {column}: names patients or tells")), "{errors:?}");
        }
        let called = ["--patient-id-column", "name", "--subgroup", "name,report"];
        let errors = place.errors(&[&command[..], &called].concat(), 2);
        assert_eq!(errors.len(), 2, "{errors:?}");
        // By what they hold, which is not shown.
        for (column, told) in [
            ("name", " different values for 40 patients, and they would be printed; allowed are 32"),
            ("many", "has 33 different values for 40 patients"),
            ("note", "has values of more than 48 characters"),
            ("pairs", " different values for 40 patients, and they would be printed; allowed are 32, and 5 patients"),
            ("Patient_Name", "is called as what names people"),
            ("who", " different values for "),
        ] {
            let output = place.run(&[&command[..], &["--subgroup", column, "-vv"]].concat());
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains(&format!("--subgroup {column}: ")) && stderr.contains(told), "{stderr}");
            assert!(!stderr.contains("Zxqv") && !text(&output.stdout).contains("Zxqv"), "{stderr}");
        }
        let output = place.run(&[&command[..], &["--subgroup", "sex,split,rare", "--json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = json(&output.stdout).to_string();
        assert!(!said.contains("Zxqv") && said.contains("val"), "{said}");
        assert!(said.contains("(fewer than 5 patients)") && said.contains("common"), "{said}");
    }
}
