//! What is wrong, or may be, with a manifest, its images and its reports.
//!
//! Findings name rows by line; reports, patients and file names appear nowhere.

mod finding;
mod identifiers;
mod images;
mod kind;
mod page;
mod reports;
mod rows;
mod volumes;

use anyhow::Result;
use rayon::prelude::*;

pub use finding::{Finding, Histogram, Level, LintOptions, LintReport};
pub use identifiers::{Identifier, identifiers};
pub use kind::FindingKind;
pub use page::page;

use super::bag::volume_of;
use super::{Manifest, Row, distinct_images};
use images::InspectedImages;
use volumes::InspectedVolumes;

/// Looks at everything. `progress` hears of images done and in all.
///
/// # Errors
/// The tokenizer fails. Whatever is wrong with the data is a finding.
pub fn lint(
    manifest: &Manifest,
    name: &str,
    options: &LintOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<LintReport> {
    let rows = &manifest.rows;
    // Volumes are no images for the checks of these.
    let (volumes, images): (Vec<_>, Vec<_>) =
        distinct_images(rows).into_par_iter().partition(|(_, one)| volume_of(one).is_some());
    let (image_count, volume_count) = (images.len(), volumes.len());
    let (before, after) = (images.len().min(options.max_images), volumes.len().min(options.max_images));
    let images = InspectedImages::open(images, options.max_images, &|done, of| progress(done, of + after));
    let volumes =
        InspectedVolumes::open(&volumes, options.max_images, &|done, of| progress(before + done, before + of));
    let mut findings = Vec::new();
    findings.extend(rows::unusable(&manifest.problems));
    images.findings(rows, &mut findings);
    volumes.findings(rows, &mut findings);
    rows::leaks(rows, &images, &mut findings);
    rows::classes(rows, &mut findings);
    rows::studies(rows, &mut findings);
    reports::findings(rows, options, &mut findings)?;
    findings.sort_by_key(|f| f.level);
    let mut histograms = Vec::new();
    rows::histograms(rows, &mut histograms);
    reports::histograms(rows, options.tokenizer, &mut histograms)?;
    images.histograms(&mut histograms);
    volumes.histograms(&mut histograms);
    let bag_sizes = volumes.sizes(rows);
    histograms.extend(bag_sizes.clone());
    let distinct =
        |key: fn(&Row) -> Option<&str>| rows.iter().filter_map(key).collect::<std::collections::HashSet<_>>();
    Ok(LintReport {
        manifest: name.to_string(),
        rows: rows.len(),
        images: image_count,
        volumes: volume_count,
        reports: distinct(|r| Some(r.report())).len(),
        patients: distinct(Row::patient_id).len(),
        images_looked_at: images.count(),
        volumes_looked_at: volumes.count(),
        findings,
        histograms,
        bag_sizes,
    })
}
