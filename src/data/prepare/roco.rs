//! ROCO: train/radiology/captions.txt with images/, and the same under validation and test; ROCOv2: train_captions.csv
//! with train/, valid_captions.csv, test_captions.csv.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::entry::{Entry, Found, NO_NAME, split_name};
use super::sheet;
use crate::fs::read_up_to;

/// Longest captions.txt, bytes.
const MAX_CAPTIONS: u64 = 256 << 20;

pub(super) fn read(root: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut add = |split: &str, id: &str, caption: &str, image: PathBuf| {
        if id.contains(['/', '\\']) || id.is_empty() {
            found.leave_out(NO_NAME);
            return;
        }
        found.entries.push(Entry {
            image,
            report: caption.trim().to_string(),
            // A figure of an article: nobody says whose.
            study: Some(id.to_string()),
            split: split_name(split),
            ..Entry::default()
        });
    };
    let mut long = 0;
    for split in ["train", "valid", "test"] {
        if let Some(path) = sheet::find(root, &format!("{split}_captions.csv")) {
            long += sheet::each(&path, ["ID", "Caption"], |[id, caption]| {
                add(split, id, caption, root.join(split).join(format!("{id}.jpg")));
                Ok(())
            })?;
        }
    }
    for split in ["train", "validation", "test"] {
        let folders = ["data", ""].map(|f| root.join(f).join(split).join("radiology"));
        for folder in folders.iter().filter(|f| f.join("captions.txt").is_file()) {
            let path = folder.join("captions.txt");
            let text = String::from_utf8(read_up_to(&path, MAX_CAPTIONS)?)
                .with_context(|| format!("{}: is not UTF-8", path.display()))?;
            for (id, caption) in text.lines().filter_map(|line| line.split_once('\t')) {
                add(split, id.trim(), caption, folder.join("images").join(format!("{}.jpg", id.trim())));
            }
        }
    }
    found.leave_out_long(long);
    ensure!(
        !found.entries.is_empty(),
        "{}: holds neither train_captions.csv (ROCOv2) nor train/radiology/captions.txt (ROCO)",
        root.display()
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_without_bound_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("train/radiology");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::File::create(folder.join("captions.txt")).unwrap().set_len(1 << 40).unwrap();
        let error = format!("{:#}", read(dir.path()).unwrap_err());
        assert!(error.contains("captions.txt: has 1099511627776 bytes; allowed are 268435456"), "{error}");
    }
}
