//! MIMIC-CXR and MIMIC-CXR-JPG: mimic-cxr-2.0.0-metadata.csv, files/p10/p10000032/s50414267/<dicom_id>.jpg or .dcm, and
//! files/p10/p10000032/s50414267.txt.

use std::collections::{HashMap, hash_map};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::entry::{Entry, Found, MAX_REPORT, first_there, split_name};
use super::sheet;
use crate::fs::unnamed_up_to;

pub(super) fn read(root: &Path) -> Result<Found> {
    let metadata = sheet::required(root, "mimic-cxr-2.0.0-metadata.csv")?;
    let mut splits: HashMap<String, String> = HashMap::new();
    let mut long = 0;
    if let Some(path) = sheet::find(root, "mimic-cxr-2.0.0-split.csv") {
        long += sheet::each(&path, ["dicom_id", "split"], |[image, split]| {
            splits.extend(split_name(split).map(|split| (image.to_string(), split)));
            Ok(())
        })?;
    }
    let labels = labels(root, &mut long)?;
    let mut found = Found::default();
    let mut reports: HashMap<PathBuf, String> = HashMap::new();
    let mut row = 0;
    long += sheet::each(
        &metadata,
        ["dicom_id", "subject_id", "study_id", "ViewPosition?"],
        |[image, subject, study, view]| {
            row += 1;
            let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if ![image, subject, study].into_iter().all(plain) {
                found.leave_out("whose number of image, patient or study is none");
                return Ok(());
            }
            let group = &subject[..subject.len().min(2)];
            let patient = format!("files/p{group}/p{subject}");
            let report = first_there(
                ["", "mimic-cxr-reports", "reports"]
                    .map(|f| root.join(f).join(format!("{patient}/s{study}.txt")))
                    .to_vec(),
            );
            let text = match reports.entry(report) {
                hash_map::Entry::Occupied(known) => known.into_mut(),
                hash_map::Entry::Vacant(new) => {
                    // Its path has the patient's number.
                    let place = || format!("{}: the report of row {row}", metadata.display());
                    let text = text(new.key()).with_context(place)?;
                    new.insert(text)
                }
            };
            found.entries.push(Entry {
                image: first_there(
                    ["jpg", "dcm", "png"].map(|e| root.join(format!("{patient}/s{study}/{image}.{e}"))).to_vec(),
                ),
                report: text.clone(),
                patient: Some(subject.to_string()),
                study: Some(study.to_string()),
                view: Some(view.to_string()).filter(|v| !v.is_empty()),
                label: labels.get(study).cloned(),
                split: splits.get(image).cloned(),
                ..Entry::default()
            });
            Ok(())
        },
    )?;
    found.leave_out_long(long);
    Ok(found)
}

/// A report; empty where there is none, or where it is no text.
fn text(path: &Path) -> Result<String> {
    match unnamed_up_to(path, MAX_REPORT) {
        Ok(bytes) => Ok(String::from_utf8(bytes).unwrap_or_default()),
        Err(e) => match e.downcast_ref::<Error>().map(Error::kind) {
            Some(ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename) => Ok(String::new()),
            _ => Err(e),
        },
    }
}

/// Of each study the first finding that CheXpert's labeller called present; rows with cells beyond the header are added
/// to `long`.
fn labels(root: &Path, long: &mut usize) -> Result<HashMap<String, String>> {
    const FINDINGS: [&str; 14] = [
        "Pneumothorax",
        "Pleural Effusion",
        "Pneumonia",
        "Edema",
        "Consolidation",
        "Cardiomegaly",
        "Atelectasis",
        "Lung Lesion",
        "Fracture",
        "Enlarged Cardiomediastinum",
        "Lung Opacity",
        "Pleural Other",
        "Support Devices",
        "No Finding",
    ];
    let mut labels = HashMap::new();
    if let Some(path) = sheet::find(root, "mimic-cxr-2.0.0-chexpert.csv") {
        let mut columns = ["study_id"; 15];
        columns[1..].copy_from_slice(&FINDINGS);
        *long += sheet::each(&path, columns, |row| {
            let present = row[1..].iter().position(|v| v.parse() == Ok(1.0f32));
            labels.extend(present.map(|i| (row[0].to_string(), FINDINGS[i].to_string())));
            Ok(())
        })?;
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::read;

    #[test]
    fn a_report_without_bound_is_refused_and_one_that_is_not_there_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = "dicom_id,subject_id,study_id\na,10000032,1\nb,10000032,2\n";
        fs::write(dir.path().join("mimic-cxr-2.0.0-metadata.csv"), sheet).unwrap();
        assert!(read(dir.path()).unwrap().entries.iter().all(|entry| entry.report.is_empty()));
        let folder = dir.path().join("files/p10/p10000032");
        fs::create_dir_all(&folder).unwrap();
        fs::File::create(folder.join("s2.txt")).unwrap().set_len(1 << 40).unwrap();
        let error = format!("{:#}", read(dir.path()).unwrap_err());
        assert!(error.contains("the report of row 2: has 1099511627776 bytes"), "{error}");
        assert!(!error.contains("10000032"), "{error}");
    }
}
