//! Columns by whose values figures are told of: their values are printed, so none may name patients or tell of their
//! reports.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::data::{Columns, Row};
use crate::error::ProblemList;

/// Different values that a column may have.
const MOST: usize = 32;

/// Characters of a value: longer ones are texts.
const LONGEST: usize = 48;

/// So few different values are groups, however few patients there are.
const FEW: usize = 4;

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

/// Refuses columns of `asked` whose values are no groups: too many, too long, or nearly one a patient. They are those
/// of the rows behind the first `skipped` extra ones. No value is shown.
///
/// # Errors
/// The first of them; one without a value.
pub(super) fn check_values(asked: &[String], columns: &Columns, rows: &[Row], skipped: usize) -> Result<()> {
    for (i, column) in asked.iter().enumerate() {
        let (mut values, mut patients) = (BTreeSet::new(), BTreeSet::new());
        for row in rows {
            let Some(value) = row.extra(skipped + i) else { continue };
            ensure!(
                value.chars().count() <= LONGEST,
                "--subgroup {column}: has values of more than {LONGEST} characters, which look like texts and would \
                 be printed; allowed are columns of groups, such as sex or view"
            );
            values.insert(value);
            patients.insert(row.patient_id().unwrap_or_else(|| row.image_name()));
        }
        ensure!(!values.is_empty(), "no row has a value in column {column:?}; name a column of the manifest");
        let known = [&columns.label, &columns.split].contains(&column);
        let one_each = !known && values.len() > FEW && 2 * values.len() > patients.len();
        ensure!(
            values.len() <= MOST && !one_each,
            "--subgroup {column}: has {} different values for {} patients, and they would be printed; allowed are \
             {MOST}, and two patients a value on average; cut it into fewer groups first",
            values.len(),
            patients.len()
        );
    }
    Ok(())
}
