//! TensorBoard event files: TFRecords of `Event` messages.
//!
//! When a run goes on, the file is made anew from metrics.jsonl, which was cut to the checkpoint: one file, no step
//! twice.

mod proto;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use crc::{CRC_32_ISCSI, Crc};
use prost::Message;
use serde_json::Value;

use super::event::{Event, Sink};
use super::figures::figures;
use super::note::Level;

/// Draws scalars, the heat map of similarities as image, their histograms, and the config as text.
pub struct TensorboardSink {
    path: PathBuf,
    file: BufWriter<File>,
}

/// Buckets of a histogram.
const BUCKETS: usize = 30;

impl TensorboardSink {
    /// Makes the file of a run folder, with what metrics.jsonl holds so far.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(folder: &Path) -> Result<Self> {
        for old in fs::read_dir(folder).into_iter().flatten().flatten() {
            if old.file_name().to_string_lossy().starts_with("events.out.tfevents.") {
                fs::remove_file(old.path()).with_context(|| old.path().display().to_string())?;
            }
        }
        // TensorBoard knows its files by this name; the number is meant to be the time of the start.
        let path = folder.join(format!("events.out.tfevents.{}.reportclip", now() as u64));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut sink = Self { path, file: BufWriter::new(file) };
        let version = Some("brain.Event:2".to_string());
        sink.write(proto::Event { wall_time: now(), file_version: version, ..Default::default() })?;
        let config = fs::read_to_string(folder.join("config.toml")).unwrap_or_default();
        sink.summary(0, text("config", &format!("```\n{config}\n```")))?;
        let metrics = fs::read(folder.join("metrics.jsonl")).unwrap_or_default();
        for line in metrics.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice::<Value>(l).ok()) {
            let step = line["step"].as_u64().unwrap_or(0);
            match line["kind"].as_str() {
                Some("step") => sink.scalars(step, "train", &line)?,
                Some("eval") => sink.scalars(step, "val", &line["val"])?,
                _ => {}
            }
        }
        Ok(sink)
    }

    fn write(&mut self, event: proto::Event) -> Result<()> {
        let record = record(&event.encode_to_vec());
        self.file.write_all(&record).and_then(|()| self.file.flush()).with_context(|| self.path.display().to_string())
    }

    fn summary(&mut self, step: u64, value: proto::Value) -> Result<()> {
        let summary = Some(proto::Summary { value: vec![value] });
        self.write(proto::Event { wall_time: now(), step: step as i64, file_version: None, summary })
    }

    fn scalars(&mut self, step: u64, prefix: &str, value: &Value) -> Result<()> {
        figures(prefix, value).into_iter().try_for_each(|(tag, value)| self.summary(step, scalar(&tag, value)))
    }

    fn similarities(&mut self, step: u64, rows: &[Vec<f32>]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let own: Vec<f64> = rows.iter().enumerate().map(|(i, row)| f64::from(row[i])).collect();
        let others: Vec<f64> = rows
            .iter()
            .enumerate()
            .flat_map(|(i, row)| row.iter().enumerate().filter(move |(k, _)| *k != i).map(|(_, v)| f64::from(*v)))
            .collect();
        self.summary(step, histogram("val/similarity_own_pairs", &own))?;
        self.summary(step, histogram("val/similarity_other_pairs", &others))?;
        self.summary(step, heat_map("val/sim_i2t", rows)?)
    }
}

impl Sink for TensorboardSink {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Step(record) => self.scalars(record.step, "train", &serde_json::to_value(record)?),
            Event::Eval { step, figures, similarities, .. } => {
                self.scalars(*step, "val", figures)?;
                self.similarities(*step, similarities)
            }
            Event::Timing { step, samples_per_s, .. } => {
                self.summary(*step, scalar("train/samples_per_s", *samples_per_s))
            }
            Event::Note(note) if note.level == Level::Warning => self.summary(0, text("warning", &note.text)),
            _ => Ok(()),
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

fn scalar(tag: &str, value: f64) -> proto::Value {
    proto::Value { tag: tag.into(), simple_value: Some(value as f32), ..Default::default() }
}

/// A text for the text plugin: a tensor of one string.
fn text(tag: &str, value: &str) -> proto::Value {
    const STRING: i32 = 7;
    let tensor_shape = Some(proto::TensorShape { dim: vec![proto::Dim { size: 1 }] });
    let plugin_data = Some(proto::PluginData { plugin_name: "text".into() });
    proto::Value {
        tag: format!("{tag}/text_summary"),
        metadata: Some(proto::SummaryMetadata { plugin_data }),
        tensor: Some(proto::Tensor { dtype: STRING, tensor_shape, string_val: vec![value.into()] }),
        ..Default::default()
    }
}

fn histogram(tag: &str, values: &[f64]) -> proto::Value {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max).max(low + 1e-9);
    let mut counts = vec![0.0; BUCKETS];
    for v in values {
        counts[(((v - low) / (high - low) * BUCKETS as f64) as usize).min(BUCKETS - 1)] += 1.0;
    }
    let histogram = proto::Histogram {
        min: low,
        max: high,
        num: values.len() as f64,
        sum: values.iter().sum(),
        sum_squares: values.iter().map(|v| v * v).sum(),
        bucket_limit: (1..=BUCKETS).map(|i| low + (high - low) * i as f64 / BUCKETS as f64).collect(),
        bucket: counts,
    };
    proto::Value { tag: tag.into(), histo: Some(histogram), ..Default::default() }
}

/// Eight pixels a similarity, the lowest black.
fn heat_map(tag: &str, rows: &[Vec<f32>]) -> Result<proto::Value> {
    const SIDE: usize = 8;
    let low = rows.iter().flatten().copied().fold(f32::INFINITY, f32::min);
    let high = rows.iter().flatten().copied().fold(f32::NEG_INFINITY, f32::max).max(low + 1e-9);
    let side = rows.len() * SIDE;
    let gray = |i: usize| (255.0 * (rows[i / side / SIDE][i % side / SIDE] - low) / (high - low)) as u8;
    let pixels: Vec<u8> = (0..side * side).map(gray).collect();
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, side as u32, side as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header()?.write_image_data(&pixels).context("a heat map")?;
    let (height, width) = (side as i32, side as i32);
    let image = proto::Image { height, width, colorspace: 1, encoded_image_string: png };
    Ok(proto::Value { tag: tag.into(), image: Some(image), ..Default::default() })
}

/// A TFRecord: length, its checksum, content, its checksum.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length, &masked_crc(&length).to_le_bytes()[..], content, &masked_crc(content).to_le_bytes()].concat()
}

/// CRC-32C, turned and shifted as TFRecord wants it.
fn masked_crc(bytes: &[u8]) -> u32 {
    const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CASTAGNOLI.checksum(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_tensorboard_writes() {
        // TensorBoard 2.21's own RecordWriter of Event(wall_time=1, step=300, summary with one Value(tag="a",
        // simple_value=0)).
        let summary = Some(proto::Summary { value: vec![scalar("a", 0.0)] });
        let event = proto::Event { wall_time: 1.0, step: 300, file_version: None, summary };
        let hex: String = record(&event.encode_to_vec()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "1800000000000000a37f4b2209000000000000f03f10ac022a0a0a080a0161150000000068137b0c");
    }
}
