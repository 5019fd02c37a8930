//! Splits by patient: whoever stands in one split stands in no other, and labels are spread alike.

use std::collections::{BTreeMap, HashMap};

use rand::RngExt;
use rayon::prelude::*;

use super::fingerprint::digest;
use super::image_files::content_of;
use super::{ImageSource, Row};
use crate::digest::Depth;
use crate::seed::{Purpose, stream};

/// Name and share of each split; shares add up to 1.
pub type Shares = [(String, f64)];

/// What must not be torn apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// All rows of a patient.
    Patient,
    /// All rows of a study.
    Study,
    /// Rows that share their image.
    Image,
}

/// The split of each row, as a place in `shares`. Rows of a unit stay together, and so do rows whose images are the
/// same file or have the same bytes, and with them their units. Groups are dealt out label by label (the rarest label
/// of a group counts) in random order, each to the split that lacks most.
pub fn assign(rows: &[Row], unit: Unit, shares: &Shares, stratify: bool, seed: u64) -> Vec<usize> {
    let labels: Vec<&str> = rows.iter().map(|r| r.label().filter(|_| stratify).unwrap_or_default()).collect();
    deal(&groups(rows, unit), &labels, shares, seed)
}

/// The same of rows with these numbers of groups and labels.
pub(super) fn deal(groups: &[usize], labels: &[&str], shares: &Shares, seed: u64) -> Vec<usize> {
    let mut rows_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    groups.iter().enumerate().for_each(|(row, &group)| rows_of.entry(group).or_default().push(row));
    let mut counts: HashMap<&str, usize> = HashMap::new();
    labels.iter().for_each(|label| *counts.entry(label).or_default() += 1);
    let mut strata: BTreeMap<(usize, &str), Vec<&Vec<usize>>> = BTreeMap::new();
    for members in rows_of.values() {
        let rarest = members.iter().map(|&row| (counts[labels[row]], labels[row])).min().unwrap_or_default();
        strata.entry(rarest).or_default().push(members);
    }
    let mut split_of = vec![0; groups.len()];
    // What earlier strata fell short of is made up by later ones.
    let mut owed = vec![0.0; shares.len()];
    for (number, groups) in strata.values_mut().enumerate() {
        let mut rng = stream(seed, Purpose::Split, number as u64);
        for i in (1..groups.len()).rev() {
            groups.swap(i, rng.random_range(0..=i));
        }
        // Large ones first: small ones then even out.
        groups.sort_by_key(|members| std::cmp::Reverse(members.len()));
        let total: usize = groups.iter().map(|m| m.len()).sum();
        owed.iter_mut().zip(shares).for_each(|(owed, (_, share))| *owed += share * total as f64);
        for members in groups {
            let most = (0..shares.len()).max_by(|&a, &b| owed[a].total_cmp(&owed[b]).then(b.cmp(&a))).unwrap_or(0);
            owed[most] -= members.len() as f64;
            members.iter().for_each(|&row| split_of[row] = most);
        }
    }
    split_of
}

/// A number for each row; rows with one number stay together.
fn groups(rows: &[Row], unit: Unit) -> Vec<usize> {
    let mut joined = Joined::new(rows.len());
    let mut first: HashMap<String, usize> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        let key = match unit {
            Unit::Patient => row.patient_id(),
            Unit::Study => row.study_id(),
            Unit::Image => None,
        };
        if let Some(key) = key {
            joined.join(i, *first.entry(key.to_string()).or_insert(i));
        }
    }
    for (a, b) in same_images(rows) {
        joined.join(a, b);
    }
    joined.groups()
}

/// Pairs of rows that share their image, by name or by content. Only files of one length are read.
pub fn same_images(rows: &[Row]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut first: HashMap<ImageSource, usize> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        for image in row.image().images() {
            let known = *first.entry(image.clone()).or_insert(i);
            if known != i {
                pairs.push((known, i));
            }
        }
    }
    let with_length = |(image, row): (ImageSource, usize)| Some((image.file_len()?, (row, image)));
    let files: Vec<_> = first.into_par_iter().filter_map(with_length).collect();
    let mut by_length: HashMap<u64, Vec<(usize, ImageSource)>> = HashMap::new();
    files.into_iter().for_each(|(length, file)| by_length.entry(length).or_default().push(file));
    let suspects: Vec<(usize, ImageSource)> = by_length.into_values().filter(|f| f.len() > 1).flatten().collect();
    // Frames of a file are told apart.
    let read = |(row, image): (usize, ImageSource)| Some((digest(&image, &content_of(&image, Depth::Whole)?), row));
    let mut digests: Vec<_> = suspects.into_par_iter().filter_map(read).collect();
    digests.sort_unstable();
    pairs.extend(
        digests.chunk_by(|a, b| a.0 == b.0).flat_map(|same| same[1..].iter().map(|other| (same[0].1, other.1))),
    );
    pairs
}

/// Union by smallest member.
pub(super) struct Joined(Vec<usize>);

impl Joined {
    /// Of so many, each alone.
    pub fn new(rows: usize) -> Self {
        Self((0..rows).collect())
    }

    /// A number for each; those that were joined, directly or by others, have the same.
    pub fn groups(mut self) -> Vec<usize> {
        (0..self.0.len()).map(|i| self.root(i)).collect()
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    pub fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest};

    fn rows(text: &str) -> (tempfile::TempDir, Vec<Row>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.csv");
        let lines = text.lines().skip(1);
        for (i, line) in lines.enumerate() {
            let image = line.split(',').next().unwrap();
            // c… files share their bytes.
            let content = if image.starts_with('c') { "same".to_string() } else { format!("{i:04}") };
            std::fs::write(dir.path().join(image), content).unwrap();
        }
        std::fs::write(&path, text).unwrap();
        let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
        (dir, rows)
    }

    fn shares() -> Vec<(String, f64)> {
        [("train", 0.8), ("val", 0.1), ("test", 0.1)].map(|(n, s)| (n.to_string(), s)).to_vec()
    }

    #[test]
    fn patients_stay_whole_and_labels_are_spread() {
        let mut text = "image,report,patient_id,label\n".to_string();
        for i in 0..1000 {
            let label = if (i / 4) % 10 == 0 { "rare" } else { "common" };
            text += &format!("i{i}.png,x,p{},{label}\n", i / 4);
        }
        let (_dir, rows) = rows(&text);
        let split = assign(&rows, Unit::Patient, &shares(), true, 3);
        for patient in split.chunks(4) {
            assert!(patient.iter().all(|s| *s == patient[0]));
        }
        let count =
            |s: usize, label: &str| (0..1000).filter(|&i| split[i] == s && rows[i].label() == Some(label)).count();
        assert_eq!([0, 1, 2].map(|s| count(s, "rare") + count(s, "common")), [800, 100, 100]);
        // 8, 1 and 1 of ten patients, as near as groups of four come.
        assert_eq!([0, 1, 2].map(|s| count(s, "rare")), [80, 12, 8]);
        assert_eq!(split, assign(&rows, Unit::Patient, &shares(), true, 3));
        assert_ne!(split, assign(&rows, Unit::Patient, &shares(), true, 4));
    }

    #[test]
    fn equal_images_bind_patients_together() {
        let mut text = "image,report,patient_id\n".to_string();
        for i in 0..30 {
            text += &format!("{}{i}.png,x,p{i}\n", if i % 10 == 0 { "c" } else { "i" });
        }
        let (_dir, rows) = rows(&text);
        for seed in 0..20 {
            let split = assign(&rows, Unit::Patient, &shares(), false, seed);
            assert!(split[0] == split[10] && split[10] == split[20]);
        }
    }
}
