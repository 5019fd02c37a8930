//! Whoever stands on both sides of a split makes figures too good. Messages say how many, not who.

use rayon::prelude::*;

use crate::data::fingerprint::{PerceptualHash, near_duplicates};
use crate::data::leaks::{Side, shared};
use crate::data::{ImageSource, Row, distinct_images};
use crate::error::ProblemList;
use crate::track::Note;

/// Patients, studies and images on both sides are problems; images that look alike, where there are at most
/// `near_duplicates` images, are notes.
pub(super) fn check(
    file: &str,
    train: &[Row],
    others: &[Row],
    near_duplicates: usize,
    problems: &mut ProblemList,
    notes: &mut Vec<Note>,
) {
    if others.is_empty() {
        return;
    }
    let sides = (Side { rows: train, name: "training" }, Side { rows: others, name: "another split" });
    if let Some(line) = shared(sides.0, sides.1) {
        problems.push(format!("{file}: {line}"));
        return;
    }
    let all: Vec<Row> = train.iter().chain(others).cloned().collect();
    let across = |&(a, b): &(usize, usize)| (a < train.len()) != (b < train.len());
    // One that both sides name was told above.
    let images = distinct_images(&all);
    if images.len() > near_duplicates {
        if near_duplicates > 0 {
            notes.push(Note::choice(format!(
                "near-duplicate images across splits were not looked for among {} images; `reportclip data lint` does \
                 (data.near_duplicates is {near_duplicates})",
                images.len()
            )));
        }
        return;
    }
    let hash = |(_, image): &(usize, ImageSource)| {
        image.read().ok().and_then(|picture| PerceptualHash::of(&picture).ok().flatten())
    };
    let hashes: Vec<Option<PerceptualHash>> = images.par_iter().map(hash).collect();
    let near = self::near_duplicates(&hashes).into_iter().map(|(a, b)| (images[a].0, images[b].0));
    let near: Vec<(usize, usize)> = near.filter(across).collect();
    if let Some(&(a, b)) = near.first() {
        notes.push(Note::warning(format!(
            "{} images in training look nearly the same as one in another split, the first {} as {}; figures may \
             be too good",
            near.len(),
            all[a].place(),
            all[b].place()
        )));
    }
}
