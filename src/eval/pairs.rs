//! The distinct images and reports of a split and who belongs to whom.

use std::collections::{BTreeMap, HashMap};

use super::halves::Halves;
use crate::data::{ImageSource, Row};

/// The images of a split, each once, in the order of their first rows.
pub(super) struct DistinctImages {
    pub sources: Vec<ImageSource>,
    /// The first row of each.
    pub first_rows: Vec<usize>,
    /// The image of each row.
    pub of_row: Vec<usize>,
    /// Number of each one's patient; of its first row unless every row names a patient.
    pub groups: Vec<usize>,
}

impl DistinctImages {
    pub fn of(rows: &[Row]) -> Self {
        let mut numbers: HashMap<ImageSource, usize> = HashMap::new();
        let (mut sources, mut first_rows, mut of_row) = (Vec::new(), Vec::new(), Vec::new());
        for (i, row) in rows.iter().enumerate() {
            let number = *numbers.entry(row.image()).or_insert_with_key(|image| {
                sources.push(image.clone());
                first_rows.push(i);
                sources.len() - 1
            });
            of_row.push(number);
        }
        // A shared image counts for the patient of its first row.
        let groups = groups(patients(rows).as_deref(), &first_rows);
        Self { sources, first_rows, of_row, groups }
    }
}

/// Number of each row's patient, in the order of their first rows; `None` unless every row names one.
fn patients(rows: &[Row]) -> Option<Vec<usize>> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let number = |row| {
        let next = numbers.len();
        Some(*numbers.entry(Row::patient_id(row)?).or_insert(next))
    };
    rows.iter().map(number).collect()
}

/// Whose each row is, for what must be held against somebody else's, as the number of the first that is of the same: of
/// its patient's, where none is named its study's, and where neither is those with this report, which two views of a
/// study often have.
pub(super) fn cases<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<usize> {
    let mut first: HashMap<_, usize> = HashMap::new();
    let case = |row: &'a Row| {
        let names = [row.patient_id(), row.study_id(), Some(row.report())];
        (0..).zip(names).find_map(|(kind, name): (u8, _)| Some((kind, name?)))
    };
    rows.enumerate().map(|(number, row)| *first.entry(case(row)).or_insert(number)).collect()
}

/// The patient of each item's first row, or that row: an image and the report beside it are one case.
fn groups(patients: Option<&[usize]>, first_rows: &[usize]) -> Vec<usize> {
    first_rows.iter().map(|&row| patients.map_or(row, |p| p[row])).collect()
}

/// An image and a report of one row, by their numbers among the distinct ones.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub image: usize,
    pub text: usize,
}

/// The distinct images and reports of a split and who belongs to whom.
pub(super) struct Pairs<'a> {
    pub rows: &'a [Row],
    pub images: DistinctImages,
    pub texts: Vec<&'a str>,
    /// The pair of each row.
    pub of_row: Vec<Pair>,
    pub texts_of_image: Vec<Vec<usize>>,
    pub images_of_text: Vec<Vec<usize>>,
    pub text_groups: Vec<usize>,
    /// The first row of each report.
    pub first_rows_of_texts: Vec<usize>,
    /// Labels of the first row of each; `None` unless all of these have one.
    pub image_labels: Option<Vec<&'a str>>,
    pub text_labels: Option<Vec<&'a str>>,
}

impl<'a> Pairs<'a> {
    pub fn new(rows: &'a [Row]) -> Self {
        let images = DistinctImages::of(rows);
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let (mut texts, mut first_rows, mut of_row) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (row, &image)) in rows.iter().zip(&images.of_row).enumerate() {
            let text = *numbers.entry(row.report()).or_insert_with_key(|text| {
                texts.push(*text);
                first_rows.push(i);
                texts.len() - 1
            });
            of_row.push(Pair { image, text });
        }
        let labels = |first_rows: &[usize]| first_rows.iter().map(|&row| rows[row].label()).collect();
        let mut pairs = Self {
            rows,
            texts_of_image: vec![Vec::new(); images.sources.len()],
            images_of_text: vec![Vec::new(); texts.len()],
            text_groups: groups(patients(rows).as_deref(), &first_rows),
            image_labels: labels(&images.first_rows),
            text_labels: labels(&first_rows),
            first_rows_of_texts: first_rows,
            of_row,
            images,
            texts,
        };
        pairs.join_all();
        pairs
    }

    /// Of the patients of images and reports.
    pub fn halves(&self) -> Halves {
        Halves::of(self.images.groups.iter().chain(&self.text_groups).copied())
    }

    /// A row's image and report belong together, and so does every view of a study with every report of it.
    fn join_all(&mut self) {
        let mut studies: BTreeMap<&str, Vec<Pair>> = BTreeMap::new();
        for (row, pair) in self.rows.iter().zip(self.of_row.clone()) {
            self.join(pair);
            if let Some(study) = row.study_id() {
                studies.entry(study).or_default().push(pair);
            }
        }
        for study in studies.values().filter(|pairs| pairs.len() > 1) {
            for &Pair { image, .. } in study {
                study.iter().for_each(|&Pair { text, .. }| self.join(Pair { image, text }));
            }
        }
    }

    fn join(&mut self, Pair { image, text }: Pair) {
        if !self.texts_of_image[image].contains(&text) {
            self.texts_of_image[image].push(text);
            self.images_of_text[text].push(image);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest};

    fn rows(text: &str) -> (tempfile::TempDir, Vec<Row>) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let path = dir.path().join("m.csv");
        std::fs::write(&path, text).unwrap();
        let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
        (dir, rows)
    }

    #[test]
    fn every_view_of_a_study_fits_every_report_of_it() {
        let (_dir, rows) =
            rows("image,report,study_id\na,findings,1\nb,impression,1\nc,impression,2\nd,other,\nd,more,\n");
        let pairs = Pairs::new(&rows);
        let sorted = |lists: &[Vec<usize>]| {
            lists.iter().map(|l| l.iter().copied().collect::<std::collections::BTreeSet<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(sorted(&pairs.texts_of_image), [[0, 1].into(), [0, 1].into(), [1].into(), [2, 3].into()]);
        assert_eq!(sorted(&pairs.images_of_text), [[0, 1].into(), [0, 1, 2].into(), [3].into(), [3].into()]);
    }

    #[test]
    fn a_shared_image_or_report_counts_for_its_first_patient() {
        let (_dir, all) = rows("image,report,patient_id\na,one,9\nb,two,8\na,two,8\nc,one,7\n");
        let pairs = Pairs::new(&all);
        assert_eq!(pairs.images.first_rows, [0, 1, 3]);
        assert_eq!((pairs.images.groups, pairs.text_groups), (vec![0, 1, 2], vec![0, 1]));
        // Where one row names none, patients cannot be told apart: each image and each report stands for itself.
        let (_dir, all) = rows("image,report,patient_id\na,one,9\nb,two,9\na,two,\nc,one,9\n");
        let pairs = Pairs::new(&all);
        assert_eq!((pairs.images.groups, pairs.text_groups), (vec![0, 1, 3], vec![0, 1]));
        // The image and the report of a row are resampled together, in whichever direction.
        let (_dir, all) = rows("image,report\na,one\na,two\nb,three\n");
        let pairs = Pairs::new(&all);
        assert_eq!((pairs.images.groups, pairs.text_groups), (vec![0, 2], vec![0, 1, 2]));
    }
}
