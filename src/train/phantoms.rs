//! Phantoms that training draws for itself, as data.phantom says.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};

use super::{stop, teacher};
use crate::config::Config;
use crate::data::Row;
use crate::data::synth::{self, Language, SynthOptions};
use crate::track::Note;

/// The demo's data, where the config asks for it and it is not there.
pub(super) fn draw(config: &Config, notes: &mut Vec<Note>) -> Result<()> {
    let Some(manifest) = config.data.train.first().filter(|path| !path.exists()) else { return Ok(()) };
    let Some(patients) = config.data.phantom else { return Ok(()) };
    // A name that is wrong is told before anything is drawn.
    teacher::check_name(config)?;
    stop::listen()?;
    let folder = manifest.parent().unwrap_or(Path::new("."));
    // Always the same set: figures of runs with other seeds then differ by the run alone.
    let size = config.model.image_size.unwrap_or(64).clamp(16, 2048) as u32;
    let options =
        SynthOptions { patients, seed: 0, size, language: Language::English, noise: 0.0, normal: synth::NORMAL };
    let place = || format!("data.phantom: {}", folder.display());
    let drawn = synth::write_once(folder, &options, &stop::asked).with_context(place)?;
    // Another process may have drawn it meanwhile.
    let (Some(studies), folder) = (drawn, folder.display()) else { return Ok(()) };
    notes.push(Note::choice(format!("drew {studies} phantom studies into {folder}, as data.phantom says")));
    Ok(())
}

/// A warning where data.phantom asks for another set than the one that is there, which nothing draws over.
pub(super) fn check<'a>(config: &Config, rows: impl Iterator<Item = &'a Row>, notes: &mut Vec<Note>) {
    let ([manifest], [], Some(wanted)) = (&config.data.train[..], &config.data.val[..], config.data.phantom) else {
        return;
    };
    let (found, file) = (rows.filter_map(Row::patient_id).collect::<HashSet<_>>().len(), manifest.display());
    if found != wanted {
        notes.push(Note::warning(format!(
            "data.phantom is {wanted}, but {file} was there already and has {found} patients: training on these; for \
             others remove its folder or name another file with data.train"
        )));
    }
}
