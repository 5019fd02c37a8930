//! MIMIC-CXR and MIMIC-CXR-JPG: mimic-cxr-2.0.0-metadata.csv, files/p10/p10000032/s50414267/<dicom_id>.jpg or .dcm, and
//! files/p10/p10000032/s50414267.txt.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::entry::{Entry, first_there, split_name};
use super::sheet;

pub(super) fn read(root: &Path) -> Result<Vec<Entry>> {
    let metadata = sheet::required(root, "mimic-cxr-2.0.0-metadata.csv")?;
    let mut splits: HashMap<String, String> = HashMap::new();
    if let Some(path) = sheet::find(root, "mimic-cxr-2.0.0-split.csv") {
        sheet::each(&path, ["dicom_id", "split"], |[image, split]| {
            splits.extend(split_name(split).map(|split| (image.to_string(), split)));
            Ok(())
        })?;
    }
    let labels = labels(root)?;
    let mut entries = Vec::new();
    let mut reports: HashMap<PathBuf, String> = HashMap::new();
    sheet::each(
        &metadata,
        ["dicom_id", "subject_id", "study_id", "ViewPosition?"],
        |[image, subject, study, view]| {
            let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if ![image, subject, study].into_iter().all(plain) {
                return Ok(());
            }
            let group = &subject[..subject.len().min(2)];
            let patient = format!("files/p{group}/p{subject}");
            let report = first_there(
                ["", "mimic-cxr-reports", "reports"]
                    .map(|f| root.join(f).join(format!("{patient}/s{study}.txt")))
                    .to_vec(),
            );
            let text =
                reports.entry(report).or_insert_with_key(|path| std::fs::read_to_string(path).unwrap_or_default());
            entries.push(Entry {
                image: first_there(
                    ["jpg", "dcm", "png"].map(|e| root.join(format!("{patient}/s{study}/{image}.{e}"))).to_vec(),
                ),
                report: text.clone(),
                patient: Some(subject.to_string()),
                study: Some(study.to_string()),
                view: Some(view.to_string()).filter(|v| !v.is_empty()),
                label: labels.get(study).cloned(),
                split: splits.get(image).cloned(),
            });
            Ok(())
        },
    )?;
    Ok(entries)
}

/// Of each study the first finding that CheXpert's labeller called present.
fn labels(root: &Path) -> Result<HashMap<String, String>> {
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
        sheet::each(&path, columns, |row| {
            let present = row[1..].iter().position(|v| v.parse() == Ok(1.0f32));
            labels.extend(present.map(|i| (row[0].to_string(), FINDINGS[i].to_string())));
            Ok(())
        })?;
    }
    Ok(labels)
}
