//! Images that are the same or nearly so: a digest of the file, and a perceptual hash.
//!
//! The hash says of each of the 143 lowest frequencies of a 32 × 32 reduction whether it is above their median: more
//! than the usual 63, because radiographs of one view look alike in those. Of 40 phantoms, reduced and saved as JPEG,
//! at most 10 bits change, and the closest two are 16 apart. When it was chosen, other hashes were tried on phantoms
//! and on 263 chest images: with 63 bits 4 change and the closest are 4 apart; difference hashes of 256 bits change in
//! up to 30 with the closest 36 apart.

use std::collections::{HashMap, HashSet};
use std::f32::consts::PI;

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::ImageSource;
use super::image::{self, Picture};

/// Half a SHA-256: equal for equal files.
pub type FileDigest = [u8; 16];

/// Bits in which two hashes may differ and still be of near duplicates.
pub const NEAR: u32 = 10;
/// Words of a hash: one more than bits that may differ, so that near duplicates agree in one of them.
const WORDS: usize = NEAR as usize + 1;

/// Digest of an image file; of the frame too, where a file holds several.
pub fn digest(image: &ImageSource, bytes: &[u8]) -> FileDigest {
    let mut hash = Sha256::new();
    hash.update(bytes);
    if let ImageSource::File(_) = image {
        hash.update(image::frame_of(image.file()).1.to_le_bytes());
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

/// Perceptual hash of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PerceptualHash([u16; WORDS]);

impl PerceptualHash {
    /// Of a picture; `None` for one with so little in it that a hash would say nothing.
    ///
    /// # Errors
    /// It has no pixels.
    pub fn of(picture: &Picture) -> Result<Option<Self>> {
        const SIDE: usize = 32;
        const LOW: usize = 12;
        let gray: Vec<u8> = match picture.channels {
            1 => picture.bytes.clone(),
            _ => {
                let mean = |p: &[u8]| (p.iter().map(|&c| u32::from(c)).sum::<u32>() / 3) as u8;
                picture.bytes.chunks_exact(3).map(mean).collect()
            }
        };
        let full = Picture { width: picture.width, height: picture.height, channels: 1, bytes: gray };
        // Not rounded to bytes: rounding alone turns bits over.
        let cells = image::cell_means(&full, SIDE as u32)?;
        let (low, high) = cells.iter().fold((f32::MAX, f32::MIN), |(low, high), &c| (low.min(c), high.max(c)));
        if high - low < 8.0 {
            return Ok(None);
        }
        // The cosine transform, as far as it is wanted.
        let wave = |u: usize, x: usize| (PI * (2 * x + 1) as f32 * u as f32 / (2 * SIDE) as f32).cos();
        let waves: Vec<f32> = (0..LOW * SIDE).map(|i| wave(i / SIDE, i % SIDE)).collect();
        let mut rows = [[0f32; LOW]; SIDE];
        for (row, cells) in rows.iter_mut().zip(cells.chunks_exact(SIDE)) {
            for (sum, wave) in row.iter_mut().zip(waves.chunks_exact(SIDE)) {
                *sum = wave.iter().zip(cells).map(|(w, c)| w * c).sum();
            }
        }
        let frequency = |v: usize, u: usize| (0..SIDE).map(|y| waves[v * SIDE + y] * rows[y][u]).sum::<f32>();
        let all: Vec<f32> = (1..LOW * LOW).map(|i| frequency(i / LOW, i % LOW)).collect();
        let mut sorted = all.clone();
        sorted.sort_by(f32::total_cmp);
        let median = sorted[sorted.len() / 2];
        let mut words = [0; WORDS];
        for (i, value) in all.iter().enumerate() {
            words[i % WORDS] |= u16::from(*value > median) << (i / WORDS);
        }
        Ok(Some(Self(words)))
    }

    /// Bits that differ.
    pub fn distance(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

/// Pairs of items, by their place, whose hashes differ in at most [`NEAR`] bits, first before second. Two such hashes
/// agree in one of their words at least, so only those that share a word are compared. A word that thousands share is
/// passed over: of such pairs some may be missed.
pub fn near_duplicates(hashes: &[Option<PerceptualHash>]) -> Vec<(usize, usize)> {
    const CROWD: usize = 2000;
    let mut pairs = HashSet::new();
    for word in 0..WORDS {
        let mut buckets: HashMap<u16, Vec<u32>> = HashMap::new();
        for (i, hash) in hashes.iter().enumerate() {
            if let Some(hash) = hash {
                buckets.entry(hash.0[word]).or_default().push(i as u32);
            }
        }
        for bucket in buckets.values().filter(|b| (2..=CROWD).contains(&b.len())) {
            for (n, &a) in bucket.iter().enumerate() {
                for &b in &bucket[n + 1..] {
                    if let (Some(x), Some(y)) = (&hashes[a as usize], &hashes[b as usize])
                        && x.distance(y) <= NEAR
                    {
                        pairs.insert((a as usize, b as usize));
                    }
                }
            }
        }
    }
    let mut pairs: Vec<(usize, usize)> = pairs.into_iter().collect();
    pairs.sort_unstable();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::Filter;
    use crate::data::synth::{self, Language, SynthOptions};

    #[test]
    fn re_encoded_images_are_near_and_studies_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let options = SynthOptions {
            patients: 40,
            seed: 0,
            size: 128,
            language: Language::English,
            noise: 0.0,
            normal: synth::NORMAL,
        };
        synth::write(dir.path(), &options).unwrap();
        let mut hashes = Vec::new();
        let mut changed = 0;
        let mut files: Vec<_> =
            std::fs::read_dir(dir.path().join("images")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for path in files {
            let picture = image::read(&path).unwrap();
            let hash = PerceptualHash::of(&picture).unwrap().unwrap();
            let jpeg = image::thumbnail(&image::resize(&picture, (100, 100), Filter::Bilinear).unwrap(), 100).unwrap();
            let again = PerceptualHash::of(&image::decode(&jpeg, 0).unwrap()).unwrap().unwrap();
            changed = changed.max(hash.distance(&again));
            hashes.push(hash);
        }
        let closest = |i: usize| hashes[i + 1..].iter().map(|h| hashes[i].distance(h)).min().unwrap_or(256);
        let apart = (0..hashes.len()).map(closest).min().unwrap();
        assert!(changed <= NEAR && apart > NEAR, "re-encoding changes {changed} bits, studies are {apart} apart");
    }

    #[test]
    fn near_pairs_are_found_whatever_bits_differ() {
        use rand::RngExt;
        let mut rng = crate::seed::stream(0, crate::seed::Purpose::Init, 0);
        let mut hashes: Vec<Option<PerceptualHash>> = Vec::new();
        for _ in 0..300 {
            hashes.push(Some(PerceptualHash(std::array::from_fn(|_| rng.random()))));
        }
        let mut wanted = Vec::new();
        for i in 0..100 {
            let mut twin = hashes[i].unwrap();
            for _ in 0..NEAR {
                twin.0[rng.random_range(0..WORDS)] ^= 1 << rng.random_range(0..16);
            }
            wanted.push((i, hashes.len()));
            hashes.push(Some(twin));
        }
        hashes.push(None);
        assert_eq!(near_duplicates(&hashes), wanted);
    }
}
