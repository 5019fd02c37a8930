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
    let called: String = column.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    WHOSE.iter().filter_map(|whose| called.strip_prefix(whose)).any(|what| PERSONAL.contains(&what))
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
             of groups, such as sex or view"
        );
        all.push(rare);
    }
    Ok(RareValues(all))
}
