//! Open-i, the Indiana University chest X-rays: NLMCXR_reports.tgz (or unpacked) and NLMCXR_png/.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;

use super::entry::{Entry, Found, first_there, with_headings};
use crate::data::bounded::Bounded;
use crate::data::sections::Section;

/// Largest report; the longest of the collection has 12 KB.
const MAX_REPORT: u64 = 1 << 20;
/// Most that the archive may unpack to; the collection's has 20 MB.
const MAX_ARCHIVE: u64 = 1 << 30;
/// Elements and texts of a report.
const MAX_NODES: u32 = 1 << 16;

pub(super) fn read(root: &Path) -> Result<Found> {
    let (folder, archive) = match root.is_file() {
        true => (root.parent().unwrap_or(Path::new("")), root.to_path_buf()),
        false => (root, root.join("NLMCXR_reports.tgz")),
    };
    let mut entries = Vec::new();
    let mut take = |name: &str, xml: &str| -> Result<()> {
        entries.extend(study(folder, xml).with_context(|| format!("report {name}"))?);
        Ok(())
    };
    if archive.is_file() {
        let place = || archive.display().to_string();
        let packed = GzDecoder::new(File::open(&archive).with_context(place)?);
        let mut tar = tar::Archive::new(Bounded::new(packed, MAX_ARCHIVE));
        // As they stand: a member that is another's long name would be read whole, whatever its length.
        for member in tar.entries().with_context(place)?.raw(true) {
            let mut member = member.with_context(|| format!("{}: is broken or truncated", archive.display()))?;
            let name = member.path().map(|p| p.display().to_string()).unwrap_or_default();
            if member.header().entry_type().is_file() && name.ends_with(".xml") {
                ensure!(member.size() <= MAX_REPORT, "{}: {name} has {} bytes", archive.display(), member.size());
                let mut xml = String::new();
                member.read_to_string(&mut xml).with_context(|| format!("{}: {name} is broken", archive.display()))?;
                take(&name, &xml)?;
            }
        }
    } else {
        let folders = ["ecgen-radiology", "NLMCXR_reports/ecgen-radiology", ""].map(|f| folder.join(f));
        let files = folders.iter().map(|f| xml_files(f)).find(|files| !files.is_empty());
        let hint = "holds neither NLMCXR_reports.tgz nor ecgen-radiology/*.xml; is this the data set's folder?";
        for path in files.with_context(|| format!("{}: {hint}", folder.display()))? {
            let name = path.display().to_string();
            let (mut xml, file) = (String::new(), File::open(&path).with_context(|| name.clone())?);
            file.take(MAX_REPORT + 1).read_to_string(&mut xml).with_context(|| name.clone())?;
            ensure!(xml.len() as u64 <= MAX_REPORT, "{name}: has more than {MAX_REPORT} bytes");
            take(&name, &xml)?;
        }
    }
    Ok(entries.into())
}

fn xml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "xml")).collect();
    files.sort();
    files
}

/// One entry an image of the study.
fn study(folder: &Path, xml: &str) -> Result<Vec<Entry>> {
    // Entities of its own, which may unfold without end, are refused.
    let bounds = roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
    let document = crate::error::caught(|| Ok(roxmltree::Document::parse_with_options(xml, bounds)?));
    let document = document.context("is not XML")?;
    let all = || document.descendants().filter(|n| n.is_element());
    let section = |label: &str| {
        let texts = all().filter(|n| n.has_tag_name("AbstractText") && n.attribute("Label") == Some(label));
        let texts: Vec<&str> = texts.filter_map(|n| n.text()).map(str::trim).filter(|t| !t.is_empty()).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    };
    let report = with_headings(&[
        (Section::Indication, section("INDICATION")),
        (Section::Comparison, section("COMPARISON")),
        (Section::Findings, section("FINDINGS")),
        (Section::Impression, section("IMPRESSION")),
    ]);
    let uid = all().find(|n| n.has_tag_name("uId")).and_then(|n| n.attribute("id")).map(str::to_string);
    let major = all().find(|n| n.has_tag_name("major")).and_then(|n| n.text()).map(str::trim);
    let label = major.and_then(|m| m.split('/').next()).filter(|l| !l.is_empty()).map(str::to_string);
    let images = all().filter(|n| n.has_tag_name("parentImage")).filter_map(|n| n.attribute("id"));
    // An id is a file name, and may come from anywhere.
    let images = images.filter(|id| !id.contains(['/', '\\']) && *id != "..");
    let entry = |id: &str| Entry {
        image: first_there(["NLMCXR_png", "images", ""].map(|f| folder.join(f).join(format!("{id}.png"))).to_vec()),
        report: report.clone(),
        // The collection has one study a patient.
        patient: uid.clone(),
        study: uid.clone(),
        label: label.clone(),
        ..Entry::default()
    };
    Ok(images.map(entry).collect())
}
