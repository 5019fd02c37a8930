//! Images of a PACS over DICOMweb: QIDO-RS finds them, WADO-RS fetches each when it is needed. Nothing but GET is ever
//! asked for, nothing is kept on disk, and no message holds the number of a study or an instance: these lead to
//! patients.

mod multipart;
mod query;
mod server;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};

use super::image::{dicom, most_bytes};
use super::table::{ImageSource, PackedImages};
use query::{Instance, StudyQuery, instances_of, is_uid, studies_of};
use server::Server;

/// As the server has them, whatever the transfer syntax: what is shown goes by what is stored.
const STORED: &str = "multipart/related; type=\"application/dicom\"; transfer-syntax=*";
/// Images of all studies together.
const MOST_IMAGES: usize = 1 << 20;
/// Bytes of an answer beside the instance in it.
const AROUND: u64 = 64 << 10;

/// Images of studies on one server.
#[derive(Clone, Debug)]
pub struct PacsImages {
    pacs: Arc<Pacs>,
}

/// A server, and the instances of it that were asked for.
#[derive(Debug)]
struct Pacs {
    server: Server,
    instances: Vec<Instance>,
}

/// Studies of a server, by their UIDs, by a query, or both.
#[derive(Debug)]
pub struct PacsStudies {
    server: Server,
    studies: Vec<String>,
    query: Option<StudyQuery>,
}

impl PacsStudies {
    /// The server at `address`; `query` as QIDO-RS has it, `PatientID=…&StudyDate=20250101-20250131`. Nothing is asked.
    ///
    /// # Errors
    /// No address, credentials in the environment that cannot be used, neither studies nor a query, or wrong ones: none
    /// is repeated.
    pub fn new(address: &str, studies: &[String], query: Option<&str>) -> Result<Self> {
        ensure!(!studies.is_empty() || query.is_some(), "--dicomweb: which images? name --study UID or --query");
        for (number, study) in studies.iter().enumerate() {
            ensure!(is_uid(study), "--study: number {} is no UID; allowed are digits and points", number + 1);
        }
        let query = query.map(|query| query.parse().map_err(|why: String| anyhow!("--query: {why}"))).transpose()?;
        Ok(Self { server: Server::new(address)?, studies: studies.to_vec(), query })
    }

    /// Asks what images these studies have: in the order of the UIDs, of those of the query behind them, then of series
    /// and instance number. What has no picture (reports, presentation states, waveforms) is left out.
    ///
    /// # Errors
    /// No answer or a refusal; a study that is not there; no image at all.
    pub fn find(self) -> Result<PacsImages> {
        let Self { server, mut studies, query } = self;
        if let Some(query) = query {
            studies.extend(studies_of(&server, &query)?);
        }
        ensure!(!studies.is_empty(), "{}: no study is what --query asks for", server.shown);
        // Named twice, or named and found: an image is a row once.
        let mut seen = HashSet::new();
        studies.retain(|study| seen.insert(study.clone()));
        let (mut instances, mut without) = (Vec::new(), 0);
        for (number, study) in studies.iter().enumerate() {
            let place = || format!("study {} of {}", number + 1, studies.len());
            let found = instances_of(&server, study).with_context(place)?;
            let (images, others): (Vec<_>, Vec<_>) = found.into_iter().partition(Instance::has_picture);
            ensure!(!images.is_empty() || !others.is_empty(), "{}: {}: is not there", server.shown, place());
            without += others.len();
            instances.extend(images);
            check_count(instances.len()).with_context(|| server.shown.clone())?;
        }
        if without > 0 {
            tracing::info!("left out of these studies, for they have no picture: {without}");
        }
        ensure!(!instances.is_empty(), "{}: these studies have no image", server.shown);
        Ok(PacsImages { pacs: Arc::new(Pacs { server, instances }) })
    }
}

/// Refuses more than are held in memory: some 300 bytes each.
fn check_count(images: usize) -> Result<()> {
    ensure!(
        images <= MOST_IMAGES,
        "these studies have more than {MOST_IMAGES} images; take fewer at a time by --study or a narrower --query"
    );
    Ok(())
}

impl PacsImages {
    /// Of each image where it is to be had; messages call it by its number, from 1.
    pub fn sources(&self) -> Vec<ImageSource> {
        let images: Arc<dyn PackedImages> = self.pacs.clone();
        let name = PathBuf::from(&self.pacs.server.shown);
        ImageSource::packed(name, images, 1..=self.pacs.instances.len() as u64)
    }

    /// SOP Instance UID of each: identifiers, for results that are meant to hold them.
    pub fn uids(&self) -> impl Iterator<Item = &str> {
        self.pacs.instances.iter().map(|instance| instance.sop.as_str())
    }
}

impl Pacs {
    /// An instance's DICOM file.
    fn fetch(&self, instance: &Instance) -> Result<Vec<u8>> {
        let reply = self.server.get(&instance.path(), STORED)?;
        let kind = reply.header("content-type").unwrap_or_default().to_string();
        let most = most_bytes();
        if let Some(length) = reply.content_length() {
            ensure!(length <= most + AROUND, "has {length} bytes; allowed are {most} (--max-image-mib)");
        }
        let body = reply.bytes(most + AROUND).map_err(|why| anyhow!("{}: {why}", self.server.shown))?;
        let file = multipart::dicom_of(&kind, body)?;
        ensure!(
            is_instance(&file, &instance.sop)?,
            "{}: the server gives another instance than the one that was asked for",
            self.server.shown
        );
        Ok(file)
    }
}

impl PackedImages for Pacs {
    fn image(&self, line: u64, _: u32) -> Result<Vec<u8>> {
        let place = usize::try_from(line).ok().and_then(|line| line.checked_sub(1));
        self.fetch(place.and_then(|place| self.instances.get(place)).context("an image of none")?)
    }
}

/// Whether a DICOM file is the instance `uid`: an image of somebody else would be found under this one's name.
fn is_instance(file: &[u8], uid: &str) -> Result<bool> {
    /// SOP Instance UID (0008,0018), little endian, with four bytes of its kind and length behind it.
    const TAG: &[u8] = b"\x08\x00\x18\x00";
    if dicom::instance_of(file)?.as_deref() == Some(uid) {
        return Ok(true);
    }
    // Whoever renamed it may have left the head as it was.
    let start = &file[..file.len().min(64 << 10)];
    let mut places = start.windows(TAG.len()).enumerate().filter(|(_, window)| *window == TAG).map(|(at, _)| at + 4);
    Ok(places.any(|at| value_at(start, at) == Some(uid.as_bytes())))
}

/// The value behind an element's tag, little endian, without its padding: of explicit kind, or implicit.
fn value_at(file: &[u8], at: usize) -> Option<&[u8]> {
    let length = match file.get(at..at + 4)? {
        [b'U', b'I', low, high] => u32::from(u16::from_le_bytes([*low, *high])),
        &[a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => return None,
    };
    let value = file.get(at + 4..)?.get(..usize::try_from(length).ok()?)?;
    let end = value.iter().rposition(|byte| !matches!(byte, 0 | b' ')).map_or(0, |last| last + 1);
    Some(&value[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_bounded_in_all() {
        assert!(check_count(MOST_IMAGES).is_ok());
        let told = check_count(MOST_IMAGES + 1).unwrap_err().to_string();
        assert!(told.contains("more than 1048576 images") && told.contains("--query"), "{told}");
    }

    #[test]
    fn a_value_is_whole_and_without_its_padding() {
        let explicit = b"UI\x06\x001.2.3\0rest";
        let implicit = b"\x06\0\0\x001.2.30rest";
        assert_eq!(value_at(explicit, 0), Some(&b"1.2.3"[..]));
        assert_eq!(value_at(implicit, 0), Some(&b"1.2.30"[..]), "not the one that it begins with");
        for cut in [&explicit[..9], b"UI", b"UI\xff\xff1", b""] {
            assert_eq!(value_at(cut, 0), None);
        }
    }
}
