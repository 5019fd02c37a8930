//! TensorBoard event files: TFRecords of `Event` messages (tensorboard/compat/proto/event.proto and summary.proto),
//! written by hand, for a dozen fields need no compiler of schemas.
//!
//! When a run goes on, the file is made anew from metrics.jsonl, which was cut to the checkpoint: one file, no step
//! twice.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

use super::event::{Event, Sink};
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
        sink.write(0, Message::default().bytes(3, b"brain.Event:2"))?;
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

    fn write(&mut self, step: u64, message: Message) -> Result<()> {
        let event = Message::default().double(1, now()).number(2, step).append(message);
        let length = (event.0.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event.0);
        record.extend(masked_crc(&event.0).to_le_bytes());
        self.file.write_all(&record).and_then(|()| self.file.flush()).with_context(|| self.path.display().to_string())
    }

    fn summary(&mut self, step: u64, value: Message) -> Result<()> {
        self.write(step, Message::default().message(5, &Message::default().message(1, &value)))
    }

    /// Every number inside `value`, under the names of the objects that it stands in.
    fn scalars(&mut self, step: u64, prefix: &str, value: &Value) -> Result<()> {
        match value {
            Value::Object(fields) => {
                let told = |key: &str| matches!(key, "kind" | "step" | "best");
                fields
                    .iter()
                    .filter(|(key, _)| !told(key))
                    .try_for_each(|(key, value)| self.scalars(step, &format!("{prefix}/{key}"), value))
            }
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN) as f32;
                self.summary(step, Message::default().bytes(1, prefix.as_bytes()).float(2, number))
            }
            _ => Ok(()),
        }
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
                let tag = Message::default().bytes(1, b"train/samples_per_s");
                self.summary(*step, tag.float(2, *samples_per_s as f32))
            }
            Event::Note(note) if note.level == Level::Warning => self.summary(0, text("warning", &note.text)),
            _ => Ok(()),
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

/// A message of protocol buffers, field after field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    fn doubles(self, field: u64, values: &[f64]) -> Self {
        self.bytes(field, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    fn append(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// A text for the text plugin: a tensor of one string.
fn text(tag: &str, value: &str) -> Message {
    const STRING: u64 = 7;
    let shape = Message::default().message(2, &Message::default().number(1, 1));
    let tensor = Message::default().number(1, STRING).message(2, &shape).bytes(8, value.as_bytes());
    let plugin = Message::default().message(1, &Message::default().bytes(1, b"text"));
    Message::default().bytes(1, format!("{tag}/text_summary").as_bytes()).message(9, &plugin).message(8, &tensor)
}

fn histogram(tag: &str, values: &[f64]) -> Message {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max).max(low + 1e-9);
    let mut counts = vec![0.0; BUCKETS];
    for v in values {
        counts[(((v - low) / (high - low) * BUCKETS as f64) as usize).min(BUCKETS - 1)] += 1.0;
    }
    let limits: Vec<f64> = (1..=BUCKETS).map(|i| low + (high - low) * i as f64 / BUCKETS as f64).collect();
    let histogram = Message::default()
        .double(1, low)
        .double(2, high)
        .double(3, values.len() as f64)
        .double(4, values.iter().sum())
        .double(5, values.iter().map(|v| v * v).sum())
        .doubles(6, &limits)
        .doubles(7, &counts);
    Message::default().bytes(1, tag.as_bytes()).message(5, &histogram)
}

/// Eight pixels a similarity, the lowest black.
fn heat_map(tag: &str, rows: &[Vec<f32>]) -> Result<Message> {
    const SIDE: usize = 8;
    let low = rows.iter().flatten().copied().fold(f32::INFINITY, f32::min);
    let high = rows.iter().flatten().copied().fold(f32::NEG_INFINITY, f32::max).max(low + 1e-9);
    let side = (rows.len() * SIDE) as u32;
    let gray = image::GrayImage::from_fn(side, side, |x, y| {
        let v = rows[y as usize / SIDE][x as usize / SIDE];
        image::Luma([(255.0 * (v - low) / (high - low)) as u8])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    gray.write_to(&mut png, image::ImageFormat::Png).context("a heat map")?;
    let picture = Message::default()
        .number(1, u64::from(side))
        .number(2, u64::from(side))
        .number(3, 1)
        .bytes(4, &png.into_inner());
    Ok(Message::default().bytes(1, tag.as_bytes()).message(4, &picture))
}

/// CRC-32C (Castagnoli), turned and shifted as TFRecord wants it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82F6_3B78 } else { c >> 1 })
    });
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        // RFC 3720, B.4: 32 bytes of zeros give 0x8A9136AA.
        let unmasked = masked_crc(&[0; 32]).wrapping_sub(0xA282_EAD8).rotate_left(15);
        assert_eq!(unmasked, 0x8A91_36AA);
        assert_eq!(Message::default().number(2, 300).0, [0x10, 0xAC, 0x02]);
    }
}
