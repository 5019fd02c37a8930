//! What training takes from the data, by its content, so that a run goes on with nothing else than it was started with.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::prepare::Prepared;
use super::stop;
use crate::config::Config;
use crate::data::{ImageFiles, Row, Views};
use crate::digest::{ContentHash, Depth, hex, of_bytes};
use crate::fs::{bytes_of, open_plain, replace_file};

/// File of a run folder that keeps it.
const FILE: &str = "data.json";

/// Of all training and validation pairs, and of those of the split `test`, each kind of thing on its own, so that what
/// has changed has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DataFingerprint {
    /// Training and validation pairs.
    pairs: (usize, usize),
    kinds: Vec<Kind>,
    /// SHA-256 over the content of the training images, in the order of their rows.
    pub train_images: String,
    /// SHA-256 over the model that is learnt from; no part of [`Self::hex`], which runs that are older have without it.
    /// What `teacher` held in older runs depended on the program's version.
    #[serde(default, rename = "teacher_content", skip_serializing_if = "Option::is_none")]
    teacher: Option<String>,
}

/// One kind of thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kind {
    name: String,
    /// SHA-256 over all rows.
    sha256: String,
    /// Two digits a row, to count rows that changed. A whole digest would tell patients' numbers to whoever tries all
    /// of them; one of 256 values fits too many. Empty for what is not of rows.
    #[serde(default)]
    rows: String,
}

impl Kind {
    fn of_rows(name: &str, fields: impl Iterator<Item = Vec<u8>>) -> Self {
        let (mut all, mut rows) = (ContentHash::default(), Vec::new());
        for field in fields {
            let mut one = ContentHash::default();
            one.field(&field);
            rows.push(one.bytes()[0]);
            all.field(&field);
        }
        Self { name: name.into(), sha256: all.hex(), rows: hex(&rows) }
    }

    fn of(name: &str, fields: &[String]) -> Self {
        let mut all = ContentHash::default();
        fields.iter().for_each(|field| all.field(field));
        Self { name: name.into(), sha256: all.hex(), rows: String::new() }
    }

    /// What is not as it was in `before`, in words.
    fn change(&self, before: &Self) -> Option<String> {
        if self.sha256 == before.sha256 {
            return None;
        }
        let (now, was) = (self.rows.as_bytes().chunks(2), before.rows.as_bytes().chunks(2));
        let (total, differ) = (now.len(), now.zip(was).filter(|(a, b)| a != b).count());
        // Two things in 256 share their digits by chance.
        let count = format!(" changed in at least {} of {total} rows", differ.max(1));
        Some(self.name.clone() + if total > 0 { &count } else { " changed" })
    }
}

/// What the images hold, each read once. Tells of it where that takes a while; `None` if somebody asks to stop.
fn image_contents(rows: &[&Row]) -> Option<Vec<[u8; 32]>> {
    /// Fewer and smaller ones are read within seconds.
    const TOLD: (usize, u64) = (2000, 1 << 30);
    let files = ImageFiles::of(rows);
    let (count, bytes) = (files.count(), files.bytes());
    let depth = Depth::of(bytes);
    if count > TOLD.0 || bytes > TOLD.1 {
        let what = if depth == Depth::Whole { "" } else { "parts of " };
        let size = bytes as f64 / f64::from(1 << 30);
        tracing::info!("reading {what}{count} images once, to know them again: {size:.1} GiB");
    }
    files.contents(depth, &stop::asked)
}

/// Of which source and of which file the training rows are, as far as the order in which they are drawn depends on it.
fn division(config: &Config, prepared: &Prepared) -> Vec<String> {
    let data = &config.data;
    let mut division = Vec::new();
    if !data.weights.is_empty() || data.views == Views::One {
        division.extend(prepared.sources.iter().map(usize::to_string));
    }
    if data.shuffle_buffer > 0 {
        let same_file = |a: &Row, b: &Row| a.origin().number == b.origin().number;
        division.extend(prepared.train.rows.chunk_by(same_file).map(|file| format!("file of {}", file.len())));
    }
    division
}

/// Of where rows stand in their manifests: by that, those that were left out are known.
pub(super) fn row_places(prepared: &Prepared) -> String {
    let mut all = ContentHash::default();
    for row in prepared.train.rows.iter().chain(&prepared.val) {
        all.field(format!("{}:{}", row.origin().number, row.line));
    }
    all.hex()
}

impl DataFingerprint {
    /// Reads every image once; `None` if somebody asks to stop.
    pub(super) fn of(config: &Config, prepared: &Prepared) -> Option<Self> {
        let (train, val, test) = (&prepared.train.rows, &prepared.val, &prepared.test);
        let all: Vec<&Row> = train.iter().chain(val).chain(test).collect();
        let contents = image_contents(&all)?;
        let (rows, held_out) = all.split_at(train.len() + val.len());
        let (contents, of_held_out) = contents.split_at(rows.len());
        let text = |text: Option<&str>| text.map_or_else(|| vec![0], |text| [&[1], text.as_bytes()].concat());
        let of = |name: &str, pick: &dyn Fn(&Row) -> Vec<u8>| Kind::of_rows(name, rows.iter().map(|row| pick(row)));
        let name = |row: &Row| row.file_names().collect::<Vec<_>>().join("\n").into_bytes();
        let extra: usize = prepared.prompts.as_ref().map_or(0, |p| p.classes.len());
        let others = |row: &Row| (0..extra).flat_map(|i| text(row.extra(i)).into_iter().chain([b'\n'])).collect();
        let mut train_images = ContentHash::default();
        contents[..train.len()].iter().for_each(|content| train_images.field(content));
        let folder = &prepared.folder;
        let prompts: Vec<String> = prepared.prompts.iter().map(|prompts| format!("{prompts:?}")).collect();
        let mut tokenizer = vec![folder.tokenizer.class().to_string(), folder.tokenizer.context_length().to_string()];
        tokenizer.extend(folder.tokenizer.files().iter().map(|(_, bytes)| of_bytes(bytes)));
        let judged = held_out.iter().zip(of_held_out).map(|(row, content)| {
            let mut all = ContentHash::default();
            let texts = [text(row.patient_id()), text(row.label()), others(row)];
            [&content[..], row.report().as_bytes()].iter().for_each(|field| all.field(field));
            texts.iter().for_each(|field| all.field(field));
            all.bytes().to_vec()
        });
        let kinds = vec![
            of("file names of images", &name),
            Kind::of_rows("images", contents.iter().map(|content| content.to_vec())),
            of("reports", &|row| row.report().as_bytes().to_vec()),
            of("splits", &|row| text(row.split())),
            of("patients", &|row| text(row.patient_id())),
            of("studies", &|row| text(row.study_id())),
            of("labels", &|row| text(row.label())),
            of("findings", &others),
            Kind::of("the prompts", &prompts),
            Kind::of("the tokenizer", &tokenizer),
            Kind::of("the preprocessing of images", &[folder.preprocess.to_json().to_string()]),
            Kind::of("how rows are divided over data.train", &division(config, prepared)),
            Kind::of_rows("pairs of the split test", judged),
        ];
        let teacher = prepared.supervision.teacher_content().map(str::to_string);
        Some(Self { pairs: (train.len(), val.len()), kinds, train_images: train_images.hex(), teacher })
    }

    /// One digest of all.
    pub(super) fn hex(&self) -> String {
        let mut all = ContentHash::default();
        all.field(format!("{:?}", self.pairs));
        for kind in &self.kinds {
            all.field(&kind.name);
            all.field(&kind.sha256);
        }
        all.hex()
    }

    /// Keeps it in the run folder.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn write(&self, run: &Path) -> Result<()> {
        replace_file(&run.join(FILE), &serde_json::to_vec(self)?)
    }

    /// The one that the run was started with, where its folder still says.
    pub(super) fn read(run: &Path) -> Option<Self> {
        /// Thirty digits a row of data.
        const MOST: u64 = 4 << 30;
        let file = open_plain(&run.join(FILE)).ok()?;
        serde_json::from_slice(&bytes_of(file, MOST).ok()?).ok()
    }

    /// Whether the run in this folder noted what the model that is learnt from holds.
    pub(super) fn knows_teacher(run: &Path) -> bool {
        Self::read(run).is_some_and(|data| data.teacher.is_some())
    }

    /// Whether the model that is learnt from is the one that the run in this folder began with. Runs of earlier
    /// versions do not say.
    ///
    /// # Errors
    /// It is another under the same name.
    pub(super) fn check_teacher(&self, run: &Path, config: &Config) -> Result<()> {
        let before = Self::read(run).and_then(|data| data.teacher);
        let (Some(name), Some(before)) = (&config.loss.teacher, before) else { return Ok(()) };
        ensure!(
            self.teacher.as_deref() == Some(before.as_str()),
            "cannot resume {}: loss.teacher holds other files than when the run began ({name}); put them back, \
             or start a new run",
            run.display()
        );
        Ok(())
    }

    /// Why a run that was started with `before` is not gone on with.
    pub(super) fn refused(&self, before: Option<&Self>) -> anyhow::Error {
        let kinds = |data: &Self| data.kinds.iter().map(|kind| kind.name.clone()).collect::<Vec<_>>();
        let Some(before) = before.filter(|before| kinds(before) == kinds(self)) else {
            return anyhow!(
                "cannot resume: the run was started by an earlier version, which did not note its data in full; start \
                 a new run"
            );
        };
        let changes = self.changes(before);
        let changes = if changes.is_empty() { String::new() } else { format!(": {}", changes.join(", ")) };
        anyhow!("cannot resume: the pairs are not those that the run was started on{changes}; start a new run")
    }

    fn changes(&self, before: &Self) -> Vec<String> {
        if self.pairs != before.pairs {
            let ((train, val), (trained, validated)) = (self.pairs, before.pairs);
            return vec![format!("{trained} training and {validated} validation pairs are {train} and {val} now")];
        }
        self.kinds.iter().zip(&before.kinds).filter_map(|(now, was)| now.change(was)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_noted_no_data_is_told_from_one_of_other_data() {
        let kinds = |report: &str| vec![Kind::of_rows("reports", [report.as_bytes().to_vec()].into_iter())];
        let [before, now] =
            ["a", "b"].map(|text| DataFingerprint { pairs: (1, 0), kinds: kinds(text), ..DataFingerprint::default() });
        let told = now.refused(Some(&before)).to_string();
        assert!(told.contains("reports changed in at least 1 of 1 rows"), "{told}");
        // That one noted fewer kinds of things is no change of these.
        let fewer = DataFingerprint { kinds: Vec::new(), ..before };
        for before in [None, Some(&fewer)] {
            let told = now.refused(before).to_string();
            assert!(told.contains("an earlier version") && !told.contains("the pairs are not"), "{told}");
        }
    }
}
