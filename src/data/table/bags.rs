//! Rows with several images: what their text names, and rows of one study as one.

use std::collections::HashMap;
use std::path::Path;

use super::columns::BagColumns;
use super::fields::{Field, Fields, IMAGE_SEPARATOR, ProblemKind, Unusable, packed_name};
use crate::data::config::OnBadImage;
use crate::data::image;
use crate::data::volume::{is_volume, no_series};

/// Endings of image files in a folder; files of a series often have none.
const IMAGES: [&str; 6] = ["png", "jpg", "jpeg", "dcm", "dicom", "ima"];

/// Rows as read, those of a study as one.
#[derive(Default)]
pub(super) struct Studies {
    /// Line of the first row of each, and its fields or what is wrong with it.
    studies: Vec<(u64, Result<Fields, Unusable>)>,
    /// Of each patient and study. Numbers of studies may be a patient's own: first, second.
    numbers: HashMap<(Option<String>, String), usize>,
}

impl Studies {
    /// Adds a row; `packed` if its image is within the file that it comes from. Returns the line of its study's first.
    pub fn add(&mut self, line: u64, mut fields: Fields, packed: bool) -> u64 {
        let image = &mut fields[Field::Image as usize];
        if let Some(name) = image.as_mut().filter(|name| packed && !name.contains(IMAGE_SEPARATOR)) {
            *name = packed_name(name, line, 0);
        }
        let next = self.studies.len();
        let patient = fields[Field::Patient as usize].clone();
        let study = fields[Field::Study as usize].clone().map(|study| (patient, study));
        let number = study.map_or(next, |study| *self.numbers.entry(study).or_insert(next));
        match self.studies.get_mut(number) {
            None => {
                self.studies.push((line, Ok(fields)));
                line
            }
            Some((first, whole)) => {
                let first = *first;
                if let Ok(all) = whole
                    && let Err(reason) = join(all, fields, (first, line))
                {
                    *whole = Err(reason.into());
                }
                first
            }
        }
    }

    /// All of them, in the order of their first rows.
    pub fn finish(self) -> Vec<(u64, Result<Fields, Unusable>)> {
        self.studies
    }
}

/// Adds a row to its study's: its image, and what the study lacks.
fn join(all: &mut Fields, row: Fields, (first, line): (u64, u64)) -> Result<(), String> {
    for (i, (all, row)) in all.iter_mut().zip(row).enumerate() {
        let Some(row) = row else { continue };
        match all {
            None => *all = Some(row),
            Some(names) if i == Field::Image as usize => {
                names.push(IMAGE_SEPARATOR);
                names.push_str(&row);
            }
            Some(known) if *known != row && i == Field::Report as usize => {
                return Err(format!(
                    "its study has another report on line {line}; data.bag.by = \"study_id\" takes one"
                ));
            }
            Some(known) if *known != row && i == Field::Split as usize => {
                return Err(format!("its study is in another split on line {line} than on line {first}"));
            }
            Some(known) if *known != row && i == Field::Label as usize => {
                return Err(format!("its study has another label on line {line} than on line {first}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// What of a row's image was looked for and found.
pub(super) enum Found {
    /// The one file that it names.
    Here,
    /// These files or volumes.
    Several(Vec<String>),
}

/// Looks for what `text`, a row's, names below `root`; adds to `missing` how many images of bags are left out.
pub(super) fn find(root: &Path, text: &str, bag: &BagColumns) -> Result<(Found, usize), Unusable> {
    let one = |name: &str| lost(root, name);
    let names = match text.contains(IMAGE_SEPARATOR) {
        true => text.split(IMAGE_SEPARATOR).map(str::to_string).collect(),
        false => match one(text) {
            Ok(Kind::File) => return Ok((Found::Here, 0)),
            Ok(Kind::Folder) => vec![text.to_string()],
            Err(lost) => match several(text, &bag.separator) {
                Some(names) => names,
                None => return Err(or_list(text, lost)),
            },
        },
    };
    let (mut found, mut missing) = (Vec::new(), None);
    let mut left_out = 0;
    for name in &names {
        // A row of a gathered study may name several itself.
        let inner = if one(name).is_err() { several(name, &bag.separator) } else { None };
        for name in inner.as_deref().unwrap_or(std::slice::from_ref(name)) {
            let files = match one(name) {
                Ok(Kind::File) => Ok(vec![name.clone()]),
                // A series is one volume.
                Ok(Kind::Folder) if is_volume(&root.join(name)) => Ok(vec![name.clone()]),
                Ok(Kind::Folder) => files_of(root, name),
                Err(lost) => Err(or_list(name, lost)),
            };
            match files {
                Ok(files) => found.extend(files),
                Err(lost) if bag.on_bad == OnBadImage::Row => return Err(lost),
                Err(lost) => {
                    left_out += 1;
                    missing.get_or_insert(lost);
                }
            }
        }
    }
    match missing {
        Some(lost) if found.is_empty() => Err(lost),
        _ if found.is_empty() => Err(Unusable::new(ProblemKind::NoImage, "names no image")),
        _ => Ok((Found::Several(found), left_out)),
    }
}

/// What names these images in a row, as [`find`] reads it.
pub fn names_text(names: &[String], separator: &str) -> String {
    match names {
        [one] => one.clone(),
        several if separator.is_empty() || several.iter().any(|name| name.contains(separator)) => {
            serde_json::Value::from(several).to_string()
        }
        several => several.join(separator),
    }
}

/// The names that a text names: a JSON list of them, or some with the separator between; `None` if it is one name.
fn several(text: &str, separator: &str) -> Option<Vec<String>> {
    if text.starts_with('[')
        && let Ok(names) = serde_json::from_str::<Vec<String>>(text)
    {
        return Some(names);
    }
    if separator.is_empty() || !text.contains(separator) {
        return None;
    }
    Some(text.split(separator).map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect())
}

/// Why what begins as a JSON list names nothing; names may begin so too.
fn or_list(text: &str, lost: Unusable) -> Unusable {
    let inner = text.strip_prefix('[').map(str::trim_start);
    // `[old]` is one name.
    let is_list = |inner: &str| inner.ends_with(']') && inner.contains(['"', '\'', ',', ';']);
    if !inner.is_some_and(|inner| is_list(inner) || inner.starts_with(['"', '\''])) {
        return lost;
    }
    let reason = "image: begins as a list and is no JSON list of names; allowed is one such as [\"a.png\", \"b.png\"]";
    Unusable::new(ProblemKind::BrokenList, reason)
}

enum Kind {
    File,
    Folder,
}

/// Messages say where the image was looked for, and not what it is called: that may be a patient's name.
fn lost(root: &Path, name: &str) -> Result<Kind, Unusable> {
    match std::fs::metadata(image::frame_of(&root.join(name)).0) {
        Ok(meta) if meta.is_file() => Ok(Kind::File),
        Ok(meta) if meta.is_dir() => Ok(Kind::Folder),
        Ok(_) => Err("image: is not a file".to_string().into()),
        Err(_) if image::counts_from_zero(&root.join(name)) => {
            Err(Unusable::new(ProblemKind::MissingImage, format!("image: {}", image::NO_ZEROTH)))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
            let reason = if Path::new(name).is_absolute() {
                "image: there is no such file; its path in the manifest is absolute".to_string()
            } else {
                format!("image: there is no such file below {}; check data.image_root (--image-root)", root.display())
            };
            Err(Unusable::new(ProblemKind::MissingImage, reason))
        }
        Err(e) => Err(format!("image: {e}").into()),
    }
}

/// The images of a folder, by name.
fn files_of(root: &Path, name: &str) -> Result<Vec<String>, Unusable> {
    let read = |e: std::io::Error| Unusable::from(format!("image: the folder cannot be read: {e}"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(name)).map_err(read)? {
        let entry = entry.map_err(read)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let ending = Path::new(&file).extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let is_image = ending.is_none_or(|ending| IMAGES.contains(&ending.as_str())) && !file.starts_with('.');
        if is_image && entry.path().is_file() {
            found.push(Path::new(name).join(file).to_string_lossy().into_owned());
        }
    }
    if found.is_empty() {
        return Err(format!("image: {}", no_series(&root.join(name))).into());
    }
    found.sort_unstable();
    Ok(found)
}
