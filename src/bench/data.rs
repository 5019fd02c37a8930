//! Image files to model input, and texts to token ids, on one thread.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::Spread;
use crate::data::{Preprocess, ReportTokenizer, TokenizerKind, image};
use crate::fs::read_up_to;

/// Longest file of texts, bytes.
const MAX_TEXTS: u64 = 256 << 20;

/// What is measured.
#[derive(Clone, Debug)]
pub struct DataBench {
    /// Image files.
    pub images: Vec<PathBuf>,
    /// Side of the model's images.
    pub image_size: usize,
    /// Texts, and what makes token ids of them.
    pub texts: Option<(Vec<String>, ReportTokenizer)>,
    /// How often each is done, after once for nothing.
    pub rounds: usize,
}

impl DataBench {
    /// The PNG and JPEG files of the folder `images`; `texts` are a file with one a line and a folder with a tokenizer.
    ///
    /// # Errors
    /// No image in the folder; a text file or a tokenizer that cannot be read.
    pub fn open(images: &Path, texts: Option<(&Path, &Path)>, image_size: usize, rounds: usize) -> Result<Self> {
        let place = || images.display().to_string();
        let entries = std::fs::read_dir(images).with_context(place)?;
        let mut files = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>().with_context(place)?;
        let known = |path: &PathBuf| {
            let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
            matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
        };
        files.retain(known);
        files.sort();
        ensure!(!files.is_empty(), "{}: holds no PNG or JPEG file", images.display());
        let read = |(path, tokenizer): (&Path, &Path)| -> Result<(Vec<String>, ReportTokenizer)> {
            let text = String::from_utf8(read_up_to(path, MAX_TEXTS)?)
                .with_context(|| format!("{}: is not UTF-8", path.display()))?;
            let tokenizer = ReportTokenizer::from_folder(tokenizer, TokenizerKind::clip(77))?;
            Ok((text.lines().map(str::to_string).collect(), tokenizer))
        };
        Ok(Self { images: files, image_size, texts: texts.map(read).transpose()?, rounds })
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct DataFigures {
    /// Images of a round.
    pub images: usize,
    /// Files to `pixel_values`, images a second on one core.
    pub images_per_s: Spread,
    /// Share of that time for reading and decoding.
    pub decode_share: f64,
    /// Share for resizing and cropping.
    pub resize_share: f64,
    /// Texts to token ids, a second on one core; absent without a tokenizer.
    pub texts_per_s: Option<Spread>,
}

/// Runs it.
///
/// # Errors
/// No image, or one that cannot be read.
pub fn data(bench: &DataBench) -> Result<DataFigures> {
    ensure!(!bench.images.is_empty() && bench.rounds > 0, "there is nothing to measure: images and rounds start at 1");
    let preprocess = Preprocess::clip(bench.image_size);
    let (mut rates, mut seconds) = (Vec::new(), [0.0; 3]);
    let mut values = Vec::new();
    for round in 0..=bench.rounds {
        let mut parts = [0.0; 3];
        for (i, path) in bench.images.iter().enumerate() {
            // The file may be called after a patient.
            let place = || format!("image {} in the order of names", i + 1);
            let started = Instant::now();
            let picture = image::file_bytes(path).and_then(|bytes| image::decode(&bytes, 0)).with_context(place)?;
            let decoded = Instant::now();
            let prepared = preprocess.prepare(&picture, None).with_context(place)?;
            let resized = Instant::now();
            values.resize(prepared.len(), 0.0);
            prepared.write(&mut values);
            let times = [decoded - started, resized - decoded, resized.elapsed()];
            parts.iter_mut().zip(times).for_each(|(sum, time)| *sum += time.as_secs_f64());
        }
        if round > 0 {
            rates.push(bench.images.len() as f64 / parts.iter().sum::<f64>());
            seconds.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        }
    }
    let total: f64 = seconds.iter().sum();
    let texts_per_s = bench.texts.as_ref().map(|(texts, tokenizer)| tokenize(texts, tokenizer, bench.rounds));
    Ok(DataFigures {
        images: bench.images.len(),
        images_per_s: Spread::of(&rates),
        decode_share: seconds[0] / total,
        resize_share: seconds[1] / total,
        texts_per_s: texts_per_s.transpose()?,
    })
}

fn tokenize(texts: &[String], tokenizer: &ReportTokenizer, rounds: usize) -> Result<Spread> {
    ensure!(!texts.is_empty(), "there is no text");
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let started = Instant::now();
        tokenizer.encode_batch(texts.iter().map(String::as_str))?;
        rates.push(texts.len() as f64 / started.elapsed().as_secs_f64());
    }
    Ok(Spread::of(&rates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_bound_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (image, texts) = (dir.path().join("Miller.png"), dir.path().join("texts.txt"));
        for path in [&image, &texts] {
            std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
        }
        let bench = DataBench::open(dir.path(), None, 32, 1).unwrap();
        let error = format!("{:#}", data(&bench).unwrap_err());
        assert!(error.starts_with("image 1 in the order of names: has 1099511627776 bytes; allowed"), "{error}");
        let error = format!("{:#}", DataBench::open(dir.path(), Some((&texts, dir.path())), 32, 1).unwrap_err());
        assert!(error.contains("texts.txt: has 1099511627776 bytes"), "{error}");
    }
}
