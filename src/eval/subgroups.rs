//! Columns by whose values figures are told of: their values are printed, so none may name patients or tell of their
//! reports.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::data::{Columns, Row};
use crate::error::ProblemList;

/// Different values that a column may have.
const MOST: usize = 32;

/// Characters of a value: longer ones are texts.
const LONGEST: usize = 48;

/// Patients that a value is told of for: brothers and namesakes are fewer.
const PATIENTS: usize = 5;

/// What stands for the values of fewer.
const OF_FEW: &str = "(fewer than 5 patients)";

/// What columns of people are called, behind a word for whose they are; letters and digits alone.
const PERSONAL: [&str; 28] = [
    "name",
    "names",
    "fullname",
    "firstname",
    "givenname",
    "forename",
    "middlename",
    "lastname",
    "surname",
    "familyname",
    "initials",
    "mrn",
    "ssn",
    "dob",
    "birthdate",
    "dateofbirth",
    "birthday",
    "birthname",
    "address",
    "phone",
    "telephone",
    "email",
    "accession",
    "accessionnumber",
    "姓名",
    "病历号",
    "身份证",
    "出生日期",
];
/// Whose.
const WHOSE: [&str; 9] = ["", "patient", "patients", "pat", "subject", "person", "患者", "病人", "case"];

/// Words of a column's name that say people, dates or files, wherever they stand in it.
const PERSONAL_WORDS: [&str; 27] = [
    "physician",
    "doctor",
    "radiologist",
    "reader",
    "operator",
    "author",
    "technologist",
    "nurse",
    "person",
    "subject",
    "pid",
    "signed",
    "vorname",
    "nom",
    "apellido",
    "apellidos",
    "postcode",
    "zip",
    "insurance",
    "file",
    "filename",
    "path",
    "uid",
    "birth",
    "date",
    "mrn",
    "ssn",
];
/// The same in Chinese, where no space parts words.
const PERSONAL_PARTS: [&str; 3] = ["医生", "医师", "姓名"];

/// Refuses by their names the columns of images, reports, patients and studies: those that are called so by default,
/// and those that take these parts here.
///
/// # Errors
/// All of them.
pub(super) fn check_names(asked: &[String], columns: &Columns) -> Result<()> {
    let usual = Columns::default();
    let parts = |of: &Columns| [&of.image, &of.report, &of.patient_id, &of.study_id].map(|name| name.to_lowercase());
    let refused: BTreeSet<String> = parts(&usual).into_iter().chain(parts(columns)).collect();
    let mut problems = ProblemList::default();
    for column in asked.iter().filter(|column| refused.contains(&column.trim().to_lowercase())) {
        problems.push(format!(
            "--subgroup {column}: names patients or tells what is theirs, and values are printed; allowed are columns \
             of groups, such as sex or view"
        ));
    }
    Ok(problems.finish()?)
}

/// Whether a column is called as one of people: few values of many patients would be names still.
fn is_personal(column: &str) -> bool {
    let words = words(column);
    let has = |word: &str| words.iter().any(|w| w == word);
    let called = words.concat();
    WHOSE.iter().filter_map(|whose| called.strip_prefix(whose)).any(|what| PERSONAL.contains(&what))
        || PERSONAL_WORDS.iter().any(|word| has(word))
        || PERSONAL_PARTS.iter().any(|part| called.contains(part))
        || words.last().is_some_and(|last| ["name", "names"].contains(&last.as_str()))
        || (has("reported") && has("by"))
}

/// The words of a column's name in lower case: `StudyInstanceUID` and `study_instance_uid` have the same.
fn words(column: &str) -> Vec<String> {
    let chars: Vec<char> = column.chars().collect();
    let mut spaced = String::new();
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|at| chars[at]);
        let ends_capitals = || chars.get(i + 1).is_some_and(|next| next.is_lowercase());
        let begins = before.is_some_and(|b| b.is_lowercase() || (b.is_uppercase() && ends_capitals()));
        if !c.is_alphanumeric() || (c.is_uppercase() && begins) {
            spaced.push(' ');
        }
        if c.is_alphanumeric() {
            spaced.extend(c.to_lowercase());
        }
    }
    spaced.split_whitespace().map(str::to_string).collect()
}

/// Of each column the values that fewer than [`PATIENTS`] patients have: none of them is printed.
#[derive(Clone, Debug)]
pub(super) struct RareValues(Vec<BTreeSet<String>>);

impl RareValues {
    /// Puts one group in place of them, in rows that have a value a column.
    pub fn fold(&self, rows: &mut [Vec<Option<String>>]) {
        for row in rows {
            for (value, rare) in row.iter_mut().zip(&self.0) {
                if value.as_ref().is_some_and(|value| rare.contains(value)) {
                    *value = Some(OF_FEW.to_string());
                }
            }
        }
    }
}

/// Refuses columns of `asked` whose values are no groups: too many, too long, of few patients all of them, or of a
/// column that is called as people's; tells which values of others are of few patients. Labels and splits may be. They
/// are those of the rows behind the first `skipped` extra ones. No value is shown.
///
/// # Errors
/// The first of them; one without a value.
pub(super) fn check_values(asked: &[String], columns: &Columns, rows: &[Row], skipped: usize) -> Result<RareValues> {
    let mut all = Vec::new();
    for (i, column) in asked.iter().enumerate() {
        let mut patients: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for row in rows {
            let Some(value) = row.extra(skipped + i) else { continue };
            ensure!(
                value.chars().count() <= LONGEST,
                "--subgroup {column}: has values of more than {LONGEST} characters, which look like texts and would \
                 be printed; allowed are columns of groups, such as sex or view"
            );
            patients.entry(value).or_default().insert(row.patient_id().unwrap_or_else(|| row.image_name()));
        }
        ensure!(!patients.is_empty(), "no row has a value in column {column:?}; name a column of the manifest");
        let known = [&columns.label, &columns.split].contains(&column);
        let rare = patients.iter().filter(|(_, who)| !known && who.len() < PATIENTS);
        let rare: BTreeSet<String> = rare.map(|(value, _)| value.to_string()).collect();
        ensure!(
            patients.len() <= MOST && rare.len() < patients.len(),
            "--subgroup {column}: has {} different values for {} patients, and they would be printed; allowed are \
             {MOST}, and {PATIENTS} patients of one value at least; cut it into fewer groups first",
            patients.len(),
            patients.values().flatten().collect::<BTreeSet<_>>().len()
        );
        ensure!(
            known || !is_personal(column),
            "--subgroup {column}: is called as what names people, and its values would be printed; allowed are columns \
             of groups, such as sex or view: rename it if it is one"
        );
        all.push(rare);
    }
    Ok(RareValues(all))
}

#[cfg(test)]
mod tests {
    use super::is_personal;

    #[test]
    fn columns_of_people_dates_and_files_are_known_by_the_words_of_their_names() {
        for column in [
            "PerformingPhysicianName",
            "referring_physician",
            "Radiologist",
            "reader 2",
            "operator",
            "reported-by",
            "signed_by",
            "nom",
            "主治医生",
            "审核医师",
            "birth_year",
            "StudyDate",
            "SOPInstanceUID",
            "image_path",
            "zip_code",
            "Subject",
            "patient_pid",
            "hospital names",
            "PATIENT_NAME",
            "MRN",
        ] {
            assert!(is_personal(column), "{column}");
        }
        for column in [
            "sex",
            "age_group",
            "view",
            "ViewPosition",
            "machine",
            "hospital",
            "site",
            "pathology",
            "modality",
            "reported_finding",
            "name_of_device",
            "updated",
            "profile",
            "category",
        ] {
            assert!(!is_personal(column), "{column}");
        }
    }
}
