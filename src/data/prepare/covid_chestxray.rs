//! covid-chestxray-dataset (github.com/ieee8023/covid-chestxray-dataset), cloned: metadata.csv and images/. Rows with
//! clinical notes are used; each has its own licence, which the manifest keeps.
//!
//! It has no official split. Notes are shared by the images of a patient, some by several patients, and some pictures
//! stand under two patients: what shares any of these is dealt to one split.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::entry::{Entry, Found, NO_NAME, first_there};
use super::sheet;
use crate::data::fingerprint::{PerceptualHash, near_duplicates};
use crate::data::image;
use crate::data::split::{Joined, deal};

/// Shortest note, characters: below, it is a word or two.
const SHORTEST: usize = 10;
const TOO_SHORT: &str = "whose note is shorter than 10 characters";
/// Shares of the splits.
const SHARES: [(&str, f64); 3] = [("train", 0.7), ("val", 0.15), ("test", 0.15)];

pub(super) fn read(root: &Path) -> Result<Found> {
    let path = sheet::required(root, "metadata.csv")?;
    let mut found = Found::default();
    let columns = [
        "patientid",
        "sex?",
        "finding?",
        "view?",
        "modality?",
        "folder?",
        "filename",
        "doi?",
        "url?",
        "license?",
        "clinical_notes",
    ];
    let long = sheet::each(&path, columns, |row| {
        let [patient, sex, finding, view, modality, folder, file, doi, url, license, notes] = row;
        let report = notes.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '\\']) && name != "..";
        // volumes/ holds whole CT scans, which are no images.
        let why = if !is_name(file) {
            Some(NO_NAME)
        } else if !["", "images"].contains(&folder) {
            Some("of another folder than images")
        } else if report.is_empty() {
            Some("without a note")
        } else if report.chars().count() < SHORTEST {
            Some(TOO_SHORT)
        } else {
            None
        };
        if let Some(why) = why {
            found.leave_out(why);
            return Ok(());
        }
        let some = |text: &str| Some(text.to_string()).filter(|t| !t.is_empty());
        // "Pneumonia/Viral/COVID-19"; "todo" and "Unknown" are none.
        let label = finding.rsplit('/').next().filter(|l| !["todo", "Unknown"].contains(l)).and_then(some);
        found.entries.push(Entry {
            image: first_there(vec![root.join("images").join(file), root.join(file)]),
            report,
            patient: some(patient),
            view: some(view),
            label,
            more: vec![
                ("modality", modality.to_string()),
                ("sex", sex.to_string()),
                ("license", license.to_string()),
                ("source_url", url.to_string()),
                ("doi", doi.to_string()),
            ],
            ..Entry::default()
        });
        Ok(())
    })?;
    found.leave_out_long(long);
    deal_out(&mut found.entries);
    Ok(found)
}

/// Gives each entry a split, the same every time.
fn deal_out(entries: &mut [Entry]) {
    let mut joined = Joined::new(entries.len());
    let mut first: HashMap<(&str, String), usize> = HashMap::new();
    for (i, entry) in entries.iter().enumerate() {
        // A note that differs in letters' case or marks only is the same note.
        let letters = entry.report.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect::<String>();
        let keys = [("note", Some(letters)), ("patient", entry.patient.clone())];
        for (what, key) in keys.into_iter().filter_map(|(what, key)| Some((what, key?))) {
            joined.join(i, *first.entry((what, key)).or_insert(i));
        }
    }
    tracing::info!("looking at {} images for pictures that stand under two patients", entries.len());
    // What cannot be read is told, or left out, when the manifest is written.
    let hash = |entry: &Entry| PerceptualHash::of(&image::read(&entry.image).ok()?).ok().flatten();
    let hashes: Vec<Option<PerceptualHash>> = entries.par_iter().map(hash).collect();
    near_duplicates(&hashes).into_iter().for_each(|(a, b)| joined.join(a, b));
    let labels: Vec<&str> = entries.iter().map(|e| e.label.as_deref().unwrap_or_default()).collect();
    let shares = SHARES.map(|(name, share)| (name.to_string(), share));
    let splits = deal(&joined.groups(), &labels, &shares, 0);
    entries.iter_mut().zip(splits).for_each(|(entry, split)| entry.split = Some(SHARES[split].0.to_string()));
}
