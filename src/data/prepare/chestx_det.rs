//! ChestX-Det (github.com/Deepwise-AILab/ChestX-Det-Dataset): ChestX_Det_train.json and ChestX_Det_test.json, images in
//! train/ and test/ (or train_data/, test_data/). A row a finding, whose report is its name: the manifest is its own
//! table of places. Images without a finding are left out.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::entry::{Entry, Found, NO_NAME, first_there};
use crate::fs::read_up_to;
use crate::json::MAX_BYTES;

/// An image of the data set; the lists have an item a finding.
#[derive(Deserialize)]
struct Image {
    file_name: String,
    #[serde(default)]
    syms: Vec<String>,
    /// x and y of the upper left and of the lower right corner.
    #[serde(default)]
    boxes: Vec<[f64; 4]>,
    /// Corners.
    #[serde(default)]
    polygons: Vec<Vec<(f64, f64)>>,
}

pub(super) fn read(root: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut there = false;
    for split in ["train", "test"] {
        let path = root.join(format!("ChestX_Det_{split}.json"));
        if !path.is_file() {
            continue;
        }
        there = true;
        let place = || path.display().to_string();
        let images: Vec<Image> = serde_json::from_slice(&read_up_to(&path, MAX_BYTES)?).with_context(place)?;
        for (number, image) in (1..).zip(images) {
            take(root, split, image, &mut found).with_context(|| format!("{}: image {number}", place()))?;
        }
    }
    ensure!(
        there,
        "{}: holds neither ChestX_Det_train.json nor ChestX_Det_test.json; is this the data set's folder?",
        root.display()
    );
    Ok(found)
}

/// An entry for each finding.
fn take(root: &Path, split: &str, image: Image, found: &mut Found) -> Result<()> {
    let name = image.file_name.as_str();
    if name.is_empty() || name.contains(['/', '\\']) || name == ".." {
        found.leave_out(NO_NAME);
        return Ok(());
    }
    if image.syms.is_empty() {
        found.leave_out("without a finding");
    }
    ensure!(
        image.boxes.len() == image.syms.len() && [0, image.syms.len()].contains(&image.polygons.len()),
        "has {} findings, {} boxes and {} polygons",
        image.syms.len(),
        image.boxes.len(),
        image.polygons.len()
    );
    let folders = [split.to_string(), format!("{split}_data"), format!("{split}_data/{split}"), String::new()];
    let file = first_there(folders.map(|folder| root.join(folder).join(name)).to_vec());
    for (i, (finding, [left, top, right, bottom])) in image.syms.iter().zip(&image.boxes).enumerate() {
        let corners = image.polygons.get(i).filter(|corners| corners.len() > 2);
        if corners.is_none() && !(right > left && bottom > top) {
            found.leave_out("whose box is empty");
            continue;
        }
        let corners = corners.map(|c| c.iter().map(|(x, y)| format!("{x} {y}")).collect::<Vec<_>>().join(" "));
        found.entries.push(Entry {
            image: file.clone(),
            report: finding.clone(),
            label: Some(finding.clone()),
            split: Some(split.to_string()),
            more: vec![
                ("x", left.to_string()),
                ("y", top.to_string()),
                ("width", (right - left).to_string()),
                ("height", (bottom - top).to_string()),
                ("polygon", corners.unwrap_or_default()),
                // All images of the data set.
                ("image_width", "1024".into()),
                ("image_height", "1024".into()),
            ],
            ..Entry::default()
        });
    }
    Ok(())
}
