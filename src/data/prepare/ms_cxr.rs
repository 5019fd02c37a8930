//! MS-CXR (physionet.org/content/ms-cxr): MS_CXR_Local_Alignment_*.csv beside the folder files/ of MIMIC-CXR-JPG. A row
//! a box, whose report is what is said of it: the manifest is its own table of places.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::entry::{Entry, Found, NO_NAME, first_there, split_name};
use super::sheet;

pub(super) fn read(root: &Path) -> Result<Found> {
    let path = table(root).with_context(|| {
        format!("{}: holds no MS_CXR_Local_Alignment_*.csv; is this the data set's folder?", root.display())
    })?;
    let mut found = Found::default();
    let columns = ["path", "label_text", "category_name", "x", "y", "w", "h", "image_width", "image_height", "split?"];
    let long = sheet::each(&path, columns, |[image, sentence, label, x, y, w, h, width, height, split]| {
        // files/p10/p10000032/s50414267/<dicom_id>.jpg
        let parts: Vec<&str> = image.split('/').collect();
        let is_name = |part: &&str| !["", ".."].contains(part) && !part.contains('\\');
        let numbers = parts.get(2).zip(parts.get(3)).filter(|_| parts.len() == 5 && parts.iter().all(is_name));
        let Some((patient, study)) = numbers else {
            found.leave_out(NO_NAME);
            return Ok(());
        };
        let number = |text: &str| text.trim_start_matches(['p', 's']).to_string();
        let more = [("x", x), ("y", y), ("width", w), ("height", h), ("image_width", width), ("image_height", height)];
        found.entries.push(Entry {
            image: first_there([root.to_path_buf(), root.join("mimic-cxr-jpg")].map(|f| f.join(image)).to_vec()),
            report: sentence.to_string(),
            patient: Some(number(patient)),
            study: Some(number(study)),
            label: Some(label.to_string()).filter(|label| !label.is_empty()),
            split: split_name(split),
            more: more.map(|(name, value)| (name, value.to_string())).to_vec(),
            ..Entry::default()
        });
        Ok(())
    })?;
    found.leave_out_long(long);
    Ok(found)
}

/// The newest table in the folder.
fn table(root: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(root).ok()?.flatten().map(|entry| entry.path());
    let is_table = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("MS_CXR_Local_Alignment") && name.ends_with(".csv")
    };
    names.filter(is_table).max()
}
