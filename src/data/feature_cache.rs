//! What the frozen layers make of each training image, kept on disk so that it is worked out once.
//!
//! The file: a header that names what the numbers were made of, a checksum a row or 0 where it is not there (u32), the
//! rows as f32 or bf16; all little-endian. It grows by whole rows, so an interrupted run goes on where it was. Nobody
//! would see from a loss that numbers were damaged, so each row is held against its checksum when it is read.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use crc::{CRC_32_ISCSI, Crc, Table};
use half::bf16;

use super::config::FeaturePrecision;

/// Bytes that name the kind of file.
const MAGIC: usize = 8;
const KEY_BYTES: usize = 64;
const HEADER: u64 = (MAGIC + KEY_BYTES + 16) as u64;
/// Bytes of a checksum.
const SUM: usize = 4;

/// An open cache. Threads read it at the same time: each names the place in the file that it reads, and none waits for
/// another.
#[derive(Debug)]
pub struct FeatureCache {
    file: File,
    path: PathBuf,
    /// Of each row; 0 of one that is not there.
    sums: Vec<AtomicU32>,
    numbers: Numbers,
}

/// What a row is.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Numbers a row.
    pub width: usize,
    /// How they lie on the disk.
    pub precision: FeaturePrecision,
}

impl Numbers {
    /// Bytes of a row.
    pub fn bytes(self) -> usize {
        let each = match self.precision {
            FeaturePrecision::F32 => 4,
            FeaturePrecision::Bf16 => 2,
        };
        each * self.width
    }

    fn magic(self) -> &'static [u8; MAGIC] {
        match self.precision {
            FeaturePrecision::F32 => b"rc-feat2",
            FeaturePrecision::Bf16 => b"rc-fea2b",
        }
    }

    fn written(self, row: &[f32]) -> Vec<u8> {
        match self.precision {
            FeaturePrecision::F32 => row.iter().flat_map(|v| v.to_le_bytes()).collect(),
            FeaturePrecision::Bf16 => row.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        }
    }

    fn append(self, bytes: &[u8], numbers: &mut Vec<f32>) {
        match self.precision {
            FeaturePrecision::F32 => numbers.extend(bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four))),
            FeaturePrecision::Bf16 => {
                numbers.extend(bytes.as_chunks().0.iter().map(|&two| bf16::from_le_bytes(two).to_f32()))
            }
        }
    }
}

impl FeatureCache {
    /// Opens the file, or makes it where there is none or one of another `key` (64 hexadecimal digits), `rows` or
    /// `numbers`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path, key: &str, rows: usize, numbers: Numbers) -> Result<Self> {
        ensure!(key.len() == KEY_BYTES, "a key has {KEY_BYTES} characters");
        let place = || path.display().to_string();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(place)?;
        }
        // They are of patients' images: their owner alone may read them.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).with_context(place)?;
        let mut header = numbers.magic().to_vec();
        header.extend(key.as_bytes());
        header.extend((rows as u64).to_le_bytes());
        header.extend((numbers.width as u64).to_le_bytes());
        let length = HEADER + (rows * (SUM + numbers.bytes())) as u64;
        let mut found = vec![0; header.len()];
        let same = file.metadata()?.len() == length && file.read_exact_at(&mut found, 0).is_ok() && found == header;
        let mut sums = vec![0; SUM * rows];
        if same {
            file.read_exact_at(&mut sums, HEADER).with_context(place)?;
        } else {
            file.set_len(0).with_context(place)?;
            file.set_len(length).with_context(place)?;
            file.write_all_at(&header, 0).with_context(place)?;
        }
        let sums = sums.as_chunks().0.iter().map(|&four| AtomicU32::new(u32::from_le_bytes(four))).collect();
        Ok(Self { file, path: path.into(), sums, numbers })
    }

    /// The rows that are not there yet.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.sums.len()).filter(|&row| self.sum(row) == 0).collect()
    }

    /// Stores rows: number and `width` numbers of each. They count as there only once they are on the disk.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write<'a>(&self, rows: impl Iterator<Item = (usize, &'a [f32])>) -> Result<()> {
        let count = self.sums.len();
        let mut sums = Vec::new();
        for (row, numbers) in rows {
            let has_all = numbers.len() == self.numbers.width;
            ensure!(row < count && has_all, "row {row} of {count}, {} numbers", numbers.len());
            let bytes = self.numbers.written(numbers);
            self.file.write_all_at(&bytes, self.start(row))?;
            sums.push((row, checksum(row, &bytes)));
        }
        self.file.sync_data()?;
        for (row, sum) in sums {
            self.file.write_all_at(&sum.to_le_bytes(), HEADER + (SUM * row) as u64)?;
            self.sums[row].store(sum, Ordering::Release);
        }
        Ok(())
    }

    /// Appends a row to `numbers`; says whether it is there.
    ///
    /// # Errors
    /// The file cannot be read, or the row is not as it was written.
    pub fn read(&self, row: usize, numbers: &mut Vec<f32>) -> Result<bool> {
        let sum = self.sum(row);
        if sum == 0 {
            return Ok(false);
        }
        let mut bytes = vec![0; self.numbers.bytes()];
        self.file.read_exact_at(&mut bytes, self.start(row)).with_context(|| self.place())?;
        ensure!(
            checksum(row, &bytes) == sum,
            "{}: is damaged: entry {row} is not as it was written; delete the file, and it is made anew",
            self.place()
        );
        self.numbers.append(&bytes, numbers);
        Ok(true)
    }

    /// What messages about it begin with.
    pub fn place(&self) -> String {
        format!("data.feature_cache: {}", self.path.display())
    }

    /// The checksum of a row; 0 where it is not there.
    fn sum(&self, row: usize) -> u32 {
        self.sums.get(row).map_or(0, |sum| sum.load(Ordering::Acquire))
    }

    fn start(&self, row: usize) -> u64 {
        HEADER + (SUM * self.sums.len() + row * self.numbers.bytes()) as u64
    }
}

/// Over a row's number and bytes; never 0.
fn checksum(row: usize, bytes: &[u8]) -> u32 {
    static CASTAGNOLI: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
    let mut digest = CASTAGNOLI.digest();
    digest.update(&(row as u64).to_le_bytes());
    digest.update(bytes);
    digest.finalize().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(width: usize) -> Numbers {
        Numbers { width, precision: FeaturePrecision::F32 }
    }

    #[test]
    fn rows_come_back_and_another_key_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.f32");
        let (key, other) = ("0".repeat(64), "1".repeat(64));
        let cache = FeatureCache::open(&path, &key, 3, f32s(2)).unwrap();
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(cache.missing(), [0, 1, 2]);
        cache.write([(2, [1.5f32, -2.0].as_slice()), (0, [0.1, 7.0].as_slice())].into_iter()).unwrap();
        drop(cache);
        let cache = FeatureCache::open(&path, &key, 3, f32s(2)).unwrap();
        assert_eq!(cache.missing(), [1]);
        let mut numbers = vec![9.0];
        assert!(cache.read(2, &mut numbers).unwrap() && !cache.read(1, &mut numbers).unwrap());
        assert!(cache.read(0, &mut numbers).unwrap() && !cache.read(3, &mut numbers).unwrap());
        assert_eq!(numbers, [9.0, 1.5, -2.0, 0.1, 7.0]);
        drop(cache);
        assert_eq!(FeatureCache::open(&path, &other, 3, f32s(2)).unwrap().missing(), [0, 1, 2]);
        assert_eq!(FeatureCache::open(&path, &other, 4, f32s(2)).unwrap().missing().len(), 4);
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(FeatureCache::open(&path, &other, 4, f32s(2)).unwrap().missing().len(), 4);
    }

    #[test]
    fn bf16_takes_half_the_bytes_and_keeps_the_nearest_number() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("c"), "0".repeat(64));
        let row: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin() * 10f32.powi(i % 7 - 3)).collect();
        let wide = |precision| Numbers { width: 64, precision };
        let length = |precision| {
            let cache = FeatureCache::open(&path, &key, 100, wide(precision)).unwrap();
            assert_eq!(cache.missing().len(), 100, "rows of another precision are none of these");
            cache.write([(3, row.as_slice())].into_iter()).unwrap();
            std::fs::metadata(&path).unwrap().len() - HEADER - 100 * SUM as u64
        };
        assert_eq!((length(FeaturePrecision::F32), length(FeaturePrecision::Bf16)), (25_600, 12_800));
        let cache = FeatureCache::open(&path, &key, 100, wide(FeaturePrecision::Bf16)).unwrap();
        let mut found = Vec::new();
        assert!(cache.read(3, &mut found).unwrap() && cache.missing().len() == 99);
        // Eight bits of each number are kept: half of the last is the most that is lost.
        let lost = row.iter().zip(&found).map(|(a, b)| (a - b).abs() / a.abs().max(1e-30)).fold(0.0, f32::max);
        assert!(lost > 0.0 && lost <= 2f32.powi(-8), "{lost}");
    }

    #[test]
    fn a_damaged_row_is_told_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("c"), "0".repeat(64));
        let cache = FeatureCache::open(&path, &key, 3, f32s(2)).unwrap();
        cache.write([(0, [0.0f32, 0.0].as_slice()), (1, [1.5, 2.5].as_slice())].into_iter()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let rows = HEADER as usize + 3 * SUM;
        for (at, bytes) in [(rows + 8, f32::NAN.to_le_bytes()), (rows + 12, [0; 4]), (HEADER as usize + 4, [9; 4])] {
            let mut damaged = whole.clone();
            damaged[at..at + 4].copy_from_slice(&bytes);
            std::fs::write(&path, damaged).unwrap();
            let cache = FeatureCache::open(&path, &key, 3, f32s(2)).unwrap();
            let mut numbers = Vec::new();
            assert!(cache.read(0, &mut numbers).unwrap() && !cache.read(2, &mut numbers).unwrap());
            let error = cache.read(1, &mut numbers).unwrap_err().to_string();
            let told = error.starts_with("data.feature_cache: ") && error.ends_with("and it is made anew");
            assert!(told && error.contains("c: is damaged: entry 1 "), "{error}");
            assert_eq!(numbers, [0.0, 0.0]);
        }
        // A row in another's place.
        let mut moved = whole.clone();
        moved.copy_within(rows..rows + 8, rows + 8);
        moved.copy_within(HEADER as usize..HEADER as usize + SUM, HEADER as usize + SUM);
        std::fs::write(&path, moved).unwrap();
        assert!(FeatureCache::open(&path, &key, 3, f32s(2)).unwrap().read(1, &mut Vec::new()).is_err());
    }

    /// Readers that shared the file's own position would have to wait for one another.
    #[test]
    fn readers_name_their_place_in_the_file() {
        use std::io::Seek;
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(&dir.path().join("c"), &"0".repeat(64), 64, f32s(3)).unwrap();
        let rows: Vec<[f32; 3]> = (0..64).map(|i| [i as f32, 0.5, -(i as f32)]).collect();
        cache.write(rows.iter().enumerate().map(|(i, row)| (i, row.as_slice()))).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (cache, rows) = (&cache, &rows);
                scope.spawn(move || {
                    for row in (0..64).map(|i| (i * 7 + thread * 13) % 64) {
                        let mut numbers = Vec::new();
                        assert!(cache.read(row, &mut numbers).unwrap());
                        assert_eq!(numbers, rows[row]);
                    }
                });
            }
        });
        assert_eq!((&cache.file).stream_position().unwrap(), 0, "nobody moved it");
    }

    #[test]
    fn a_row_of_another_width_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(&dir.path().join("c"), &"0".repeat(64), 2, f32s(2)).unwrap();
        assert!(cache.write([(0, [1f32].as_slice())].into_iter()).is_err());
        assert!(cache.write([(2, [1f32, 2.0].as_slice())].into_iter()).is_err());
        assert_eq!(cache.missing(), [0, 1]);
    }
}
