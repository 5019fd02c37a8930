//! CT-RATE: dataset/radiology_text_reports/train_reports.csv and validation_reports.csv, and volumes as
//! dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz. The first folders, train/ and valid/, hold values before
//! rescaling; those of the `_fixed` ones are Hounsfield units and are taken where they are there.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, ensure};

use super::entry::{Entry, Found, first_there, unpacked, with_headings};
use super::sheet;
use crate::data::sections::Section;

/// Split, how its volumes begin, its reports.
const SPLITS: [(&str, &str, &str); 2] =
    [("train", "train", "train_reports.csv"), ("val", "valid", "validation_reports.csv")];

pub(super) fn read(root: &Path) -> Result<Found> {
    let root = unpacked(root, "dataset");
    let reports = root.join("radiology_text_reports");
    let mut found = Found::default();
    let mut known = 0;
    for (split, start, file) in SPLITS {
        let Some(path) = sheet::find(&reports, file) else { continue };
        known += 1;
        let columns = ["VolumeName", "ClinicalInformation_EN?", "Technique_EN?", "Findings_EN", "Impressions_EN"];
        let long = sheet::each(&path, columns, |[volume, clinical, technique, findings, impressions]| {
            // train_1_a_1.nii.gz: patient 1, scan a, reconstruction 1.
            let parts: Vec<&str> = volume.strip_suffix(".nii.gz").unwrap_or_default().split('_').collect();
            let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric());
            let (&[named, patient, scan, _], true) = (&parts[..], parts.iter().all(|part| plain(part))) else {
                found.leave_out("whose VolumeName is none, as train_1_a_1.nii.gz is one");
                return Ok(());
            };
            let (patient, study) = (format!("{named}_{patient}"), format!("{named}_{patient}_{scan}"));
            let place = |folder: String| root.join(folder).join(&patient).join(&study).join(volume);
            let text = |text: &str| Some(text.to_string()).filter(|text| text != "Not given.");
            found.entries.push(Entry {
                image: first_there(vec![place(format!("{start}_fixed")), place(start.to_string())]),
                report: with_headings(&[
                    (Section::History, text(clinical)),
                    (Section::Technique, text(technique)),
                    (Section::Findings, text(findings)),
                    (Section::Impression, text(impressions)),
                ]),
                patient: Some(patient.clone()),
                study: Some(study.clone()),
                split: Some(split.into()),
                ..Entry::default()
            });
            Ok(())
        })?;
        found.leave_out_long(long);
    }
    ensure!(known > 0, "{}: holds neither train_reports.csv nor validation_reports.csv", reports.display());
    let scans: HashSet<&str> = found.entries.iter().filter_map(|entry| entry.study.as_deref()).collect();
    let (rows, scans) = (found.entries.len(), scans.len());
    if scans < rows {
        found.notes.push(format!(
            "{rows} reconstructions of {scans} scans are a row each, and those of a scan have one report: each is the \
             other's false negative; data.bag.by = \"study_id\" makes one row of each scan"
        ));
    }
    Ok(found)
}
