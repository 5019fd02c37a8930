//! WebDataset shards: tar files in which members with one name and different endings are a sample.
//!
//! The shard is indexed once and its images are then read where they lie, so the order of training does not depend on
//! the order of the shard.

mod members;
mod write;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

pub use write::{Sample as ShardSample, ShardWriter, keys as shard_keys};

use self::members::Allowance;
use super::json::{object, object_fields};
use super::text::MOST_LINE;
use crate::data::image::most_bytes;
use crate::data::table::columns::Columns;
use crate::data::table::fields::{Field, Fields, IMAGE_SEPARATOR, Take, Unusable, filled, packed_name};
use crate::data::table::format::{Format, InFolder, PackedImages, Table};
use crate::error::shown;

/// Largest text; no report is longer.
const MAX_TEXT: u64 = 16 << 20;
/// Endings of images, as far as they can be decoded.
const IMAGES: [&str; 5] = ["jpg", "jpeg", "png", "dcm", "dicom"];
/// Endings of reports.
const TEXTS: [&str; 4] = ["txt", "text", "caption", "report"];

/// The format.
pub(super) struct WebDataset;

impl Format for WebDataset {
    fn names(&self) -> &'static [&'static str] {
        &["tar shards"]
    }

    fn claims(&self, ending: &str, _: &[u8]) -> bool {
        ending == "tar"
    }

    fn in_folder(&self) -> InFolder {
        InFolder { manifests: &[], parts: Some("tar") }
    }

    fn open(&self, path: &Path, columns: &Columns) -> Result<Box<dyn Table>> {
        Ok(Box::new(open(path, columns)?))
    }
}

/// An open shard.
struct TarTable {
    images: Arc<TarImages>,
    samples: Vec<Sample>,
}

impl Table for TarTable {
    fn images(&self) -> Option<Arc<dyn PackedImages>> {
        Some(Arc::clone(&self.images) as Arc<dyn PackedImages>)
    }

    fn read(self: Box<Self>, _: &Columns, take: &mut Take) -> Result<()> {
        self.samples.into_iter().for_each(|(line, fields)| take(line, fields));
        Ok(())
    }
}

/// Where the images of a shard are.
#[derive(Debug)]
struct TarImages {
    path: PathBuf,
    /// Sample by sample, image by image.
    places: Vec<Vec<Place>>,
}

/// Bytes of the file.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    offset: u64,
    len: u64,
}

impl TarImages {
    fn place(&self, line: u64, part: u32) -> Option<Place> {
        self.places.get(usize::try_from(line.checked_sub(1)?).ok()?)?.get(part as usize).copied()
    }
}

impl PackedImages for TarImages {
    fn image(&self, line: u64, part: u32) -> Result<Vec<u8>> {
        let Place { offset, len } = self.place(line, part).context("there is no such sample")?;
        let most = most_bytes();
        ensure!(len <= most, "the image has {len} bytes; allowed are {most} (data.max_image_mib, --max-image-mib)");
        let mut bytes = vec![0; len as usize];
        // A file of its own each time: threads read at places of their own.
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes).context("the shard is shorter than when it was opened")?;
        Ok(bytes)
    }

    fn image_len(&self, line: u64, part: u32) -> Option<u64> {
        self.place(line, part).map(|place| place.len)
    }
}

/// Sample number and its texts, or what is wrong with it.
type Sample = (u64, Result<Fields, Unusable>);

#[derive(Default)]
struct Open {
    key: String,
    image: Place,
    /// Those that have a number, with number and name, where the sample has several.
    numbered: Vec<(u32, String, Place)>,
    fields: Fields,
    problem: Option<String>,
}

/// Indexes a shard and reads its texts.
///
/// # Errors
/// Not a tar file, or truncated.
fn open(path: &Path, columns: &Columns) -> Result<TarTable> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut magic = [0; 2];
    if file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b] {
        bail!("is compressed, so samples cannot be found in it; unpack it with `gunzip`");
    }
    file.seek(SeekFrom::Start(0))?;
    let (mut places, mut samples) = (Vec::<Vec<Place>>::new(), Vec::new());
    let mut open = Open::default();
    let allowed = Allowance::default();
    let mut archive = allowed.archive(file.try_clone()?);
    for entry in allowed.members(&mut archive)? {
        let mut entry = entry.with_context(|| format!("is broken or truncated after sample {}", samples.len()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        ensure!(
            offset.checked_add(size).is_some_and(|end| end <= len),
            "is truncated: sample {} ends {size} bytes after byte {offset}, the file has {len}",
            samples.len() + 1
        );
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((key, ending)) = key_and_ending(&name) else { continue };
        let (key, ending) = (key.to_string(), ending.to_lowercase());
        let ending = ending.as_str();
        if key != open.key {
            close(&mut open, &mut places, &mut samples);
            open.key = key;
        }
        if name.split(['/', '\\']).any(|part| part == "..") || name.starts_with('/') {
            open.problem = Some("a member's name leads out of the archive".into());
        } else if IMAGES.contains(&ending) {
            open.image = Place { offset, len: size };
            open.fields[Field::Image as usize] = Some(name.clone());
        } else if let Some(number) = numbered_image(ending) {
            open.numbered.push((number, name.clone(), Place { offset, len: size }));
        } else if ending == "json" || ending == "cls" || TEXTS.contains(&ending) || ending == columns.report {
            let most = if ending == "json" { MOST_LINE } else { MAX_TEXT };
            if size > most {
                open.problem = Some(format!("its .{} has {size} bytes; allowed are {most}", shown(ending)));
                continue;
            }
            let mut bytes = Vec::new();
            allowed.content(size);
            entry.read_to_end(&mut bytes).with_context(|| format!("sample {}", samples.len() + 1))?;
            if let Err(reason) = take_text(&mut open.fields, ending, &bytes, columns) {
                open.problem = Some(format!(".{}: {reason}", shown(ending)));
            }
        }
    }
    close(&mut open, &mut places, &mut samples);
    ensure!(!samples.is_empty(), "holds no samples");
    Ok(TarTable { images: Arc::new(TarImages { path: path.to_path_buf(), places }), samples })
}

/// The name up to the first dot of its last part, and what follows in lower case.
fn key_and_ending(name: &str) -> Option<(&str, &str)> {
    let start = name.rfind('/').map_or(0, |i| i + 1);
    let dot = start + name[start..].find('.')?;
    // Files of the Finder and of shards' own index are no samples.
    (dot > start).then(|| (&name[..dot], &name[dot + 1..]))
}

/// The number of an image among several of a sample: 3 of `3.png`.
fn numbered_image(ending: &str) -> Option<u32> {
    let (number, ending) = ending.split_once('.')?;
    number.parse().ok().filter(|_| IMAGES.contains(&ending))
}

fn close(open: &mut Open, places: &mut Vec<Vec<Place>>, samples: &mut Vec<Sample>) {
    let mut open = std::mem::take(open);
    if open.key.is_empty() {
        return;
    }
    let image = &mut open.fields[Field::Image as usize];
    if image.is_none() && !open.numbered.is_empty() {
        open.numbered.sort_by_key(|(number, ..)| *number);
        let line = places.len() as u64 + 1;
        let names = open.numbered.iter().zip(0..).map(|((_, name, _), part)| packed_name(name, line, part));
        *image = Some(names.collect::<Vec<_>>().join(IMAGE_SEPARATOR.encode_utf8(&mut [0; 4])));
        places.push(open.numbered.into_iter().map(|(.., place)| place).collect());
    } else {
        places.push(vec![open.image]);
    }
    let missing = open.fields[Field::Image as usize].is_none().then(|| "has no image (.jpg, .png or .dcm)".to_string());
    let fields = match open.problem.or(missing) {
        Some(problem) => Err(problem.into()),
        None => Ok(open.fields),
    };
    samples.push((places.len() as u64, fields));
}

fn take_text(fields: &mut Fields, ending: &str, bytes: &[u8], columns: &Columns) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_string())?;
    match ending {
        "json" => {
            let found = object_fields(&object(text)?, columns)?;
            for (i, (field, found)) in fields.iter_mut().zip(found).enumerate() {
                // The image is a member, whatever the JSON calls it.
                if i != Field::Image as usize && found.is_some() {
                    *field = found;
                }
            }
        }
        "cls" => fields[Field::Label as usize] = filled(text),
        _ => fields[Field::Report as usize] = filled(text),
    }
    Ok(())
}
