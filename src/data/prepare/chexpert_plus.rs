//! CheXpert Plus: df_chexpert_plus_240401.csv and the images as JPEG, PNG (under PNG/) or DICOM.

use std::path::Path;

use anyhow::Result;

use super::entry::{Entry, Found, NO_NAME, first_there, split_name, with_headings};
use super::sheet;
use crate::data::sections::Section;

pub(super) fn read(root: &Path) -> Result<Found> {
    let path = sheet::required(root, "df_chexpert_plus_240401.csv")?;
    let columns = [
        "path_to_image",
        "deid_patient_id",
        "split",
        "frontal_lateral?",
        "ap_pa?",
        "section_clinical_history?",
        "section_history?",
        "section_comparison?",
        "section_technique?",
        "section_findings?",
        "section_impression?",
        "report?",
        "path_to_dcm?",
    ];
    let mut found = Found::default();
    let long = sheet::each(&path, columns, |row| {
        let [
            image,
            patient,
            split,
            side,
            view,
            clinical,
            history,
            comparison,
            technique,
            findings,
            impression,
            report,
            dcm,
        ] = row;
        if image.is_empty() || image.split(['/', '\\']).any(|part| part == "..") {
            found.leave_out(NO_NAME);
            return Ok(());
        }
        let text = |text: &str| Some(text.to_string());
        let parsed = with_headings(&[
            (Section::History, text(if clinical.is_empty() { history } else { clinical })),
            (Section::Technique, text(technique)),
            (Section::Comparison, text(comparison)),
            (Section::Findings, text(findings)),
            (Section::Impression, text(impression)),
        ]);
        let png = Path::new(image).with_extension("png");
        let mut candidates = vec![root.join(image), root.join("PNG").join(&png), root.join(&png)];
        if !dcm.is_empty() && !dcm.contains("..") {
            candidates.extend([root.join("DICOM").join(dcm), root.join(dcm)]);
        }
        let view = [side, view].join(" ").trim().to_string();
        found.entries.push(Entry {
            image: first_there(candidates),
            report: if parsed.is_empty() { report.to_string() } else { parsed },
            patient: Some(patient.to_string()).filter(|p| !p.is_empty()),
            study: Path::new(image).parent().map(|p| p.to_string_lossy().into_owned()),
            view: Some(view).filter(|v| !v.is_empty()),
            label: None,
            split: split_name(split),
            ..Entry::default()
        });
        Ok(())
    })?;
    found.leave_out_long(long);
    Ok(found)
}
