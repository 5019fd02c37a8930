//! Merlin's abdominal CTs: merlin_data/STUDY.nii.gz, and reports_final.xlsx saved as reports_final.csv, with columns
//! study id, Findings and Split.

use std::path::Path;

use anyhow::{Result, ensure};

use super::entry::{Entry, Found, first_there, split_name, unpacked, with_headings};
use super::sheet;
use crate::data::sections::Section;

pub(super) fn read(root: &Path) -> Result<Found> {
    let root = unpacked(root, "merlinabdominalctdataset");
    let is_excel = sheet::find(&root, "reports_final.csv").is_none() && root.join("reports_final.xlsx").is_file();
    ensure!(
        !is_excel,
        "{}: holds reports_final.xlsx; save its sheet as reports_final.csv beside it, in UTF-8",
        root.display()
    );
    let path = sheet::required(&root, "reports_final.csv")?;
    let mut found = Found::default();
    let long = sheet::each(&path, ["study id", "Findings", "Split?"], |[study, findings, split]| {
        if study.is_empty() || !study.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            found.leave_out("whose study id is none");
            return Ok(());
        }
        let place = |end: &str| root.join("merlin_data").join(format!("{study}.{end}"));
        found.entries.push(Entry {
            image: first_there(vec![place("nii.gz"), place("nii")]),
            report: with_headings(&[(Section::Findings, Some(findings.to_string()))]),
            // Patients are not told; a study has its own.
            study: Some(study.to_string()),
            split: split_name(split),
            ..Entry::default()
        });
        Ok(())
    })?;
    found.leave_out_long(long);
    let unsplit = found.entries.iter().filter(|entry| entry.split.is_none()).count();
    let without = if unsplit > 0 { format!("; {unsplit} rows have none") } else { String::new() };
    found.notes.push(format!(
        "the data set does not say which studies are of one patient, so another split than its own may part a \
         patient's{without}"
    ));
    Ok(found)
}
