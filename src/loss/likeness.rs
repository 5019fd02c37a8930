//! Which rows are alike, for objectives with several positives.

use std::collections::{HashMap, HashSet};

use super::false_negatives::SAME;
use super::vectors::Vectors;
use crate::seed::name_index;
use crate::words::words;

words!(
    /// Which pairs are alike.
    Positives {
        /// Those with the same report.
        Report = "report",
        /// Those of one study.
        Study = "study",
        /// Those with the same label.
        Label = "label",
        /// By the cosine of their sets of labels.
        LabelSimilarity = "label_similarity",
        /// By the cosine of what the text tower made of their reports before training, from a threshold on.
        ReportSimilarity = "report_similarity",
    }
);

/// What of a row says which others it is like.
#[derive(Clone, Debug, Default)]
pub struct RowFacts<'a> {
    /// What the text tower reads of it.
    pub report: &'a str,
    /// Its study, where it is named.
    pub study: Option<&'a str>,
    /// The label column as it stands.
    pub label: Option<&'a str>,
    /// The same as a list.
    pub labels: Vec<&'a str>,
    /// What the run's own text tower made of its report before training, of length 1; empty where nobody asks.
    pub features: &'a [f32],
}

/// How rows come into a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawing {
    /// Equal reports may have unequal features: a sentence or a chunk is drawn of each, or the text tower has dropout.
    pub texts_vary: bool,
    /// Of each study one row is drawn.
    pub one_view: bool,
}

/// How alike rows are, by their number.
#[derive(Clone, Debug, PartialEq)]
pub enum Likeness {
    /// Rows with one key are alike.
    Keys(Vec<u64>),
    /// By the cosine of their sets.
    Sets(Vec<Vec<u32>>),
    /// By the cosine of their vectors of so many numbers, one after the other, from a threshold on.
    Vectors {
        /// One a row, each of length 1.
        vectors: Vectors,
        /// Below it rows are not alike.
        threshold: f64,
    },
}

impl Likeness {
    /// Of `rows`. One without a study or a label is like no other. `threshold` is for the similarity of reports.
    pub fn of(by: Positives, rows: &[RowFacts], threshold: f64) -> Self {
        let keys = |key: fn(&RowFacts<'_>) -> Option<u64>| {
            Self::Keys(rows.iter().enumerate().map(|(i, row)| key(row).unwrap_or(!(i as u64))).collect())
        };
        // Numbers of rows without a key have the highest bit.
        match by {
            Positives::Report => keys(|row| Some(name_index(row.report) >> 1)),
            Positives::Study => keys(|row| Some(name_index(row.study?) >> 1)),
            Positives::Label => keys(|row| Some(name_index(row.label?) >> 1)),
            Positives::ReportSimilarity => Self::Vectors {
                vectors: Vectors::new(
                    rows.iter().flat_map(|row| row.features.iter().copied()).collect(),
                    rows.first().map_or(0, |row| row.features.len()),
                ),
                threshold,
            },
            Positives::LabelSimilarity => {
                let mut numbers: HashMap<&str, u32> = HashMap::new();
                let mut number = |label| {
                    let next = numbers.len() as u32;
                    *numbers.entry(label).or_insert(next)
                };
                let mut sets: Vec<Vec<u32>> =
                    rows.iter().map(|row| row.labels.iter().map(|label| number(*label)).collect()).collect();
                for set in &mut sets {
                    set.sort_unstable();
                    set.dedup();
                }
                Self::Sets(sets)
            }
        }
    }

    /// How alike the rows of a batch are, (rows · rows); 1 on the diagonal.
    pub fn table(&self, rows: &[u32]) -> Vec<f64> {
        let of_pairs = |likeness: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            let pairs = (0..rows.len() * rows.len()).map(|at| (at / rows.len(), at % rows.len()));
            pairs.map(|(i, j)| if i == j { 1.0 } else { likeness(i, j) }).collect()
        };
        let row = |i: usize| rows[i] as usize;
        match self {
            Self::Keys(keys) => of_pairs(&|i, j| f64::from(u8::from(keys[row(i)] == keys[row(j)]))),
            Self::Sets(sets) => of_pairs(&|i, j| {
                let (a, b) = (&sets[row(i)], &sets[row(j)]);
                let shared = a.iter().filter(|label| b.contains(label)).count() as f64;
                if shared > 0.0 { shared / ((a.len() * b.len()) as f64).sqrt() } else { 0.0 }
            }),
            Self::Vectors { vectors, threshold } => {
                let cosines = vectors.products(rows, (vectors, rows));
                // Where a product stands may decide its last bit: one of the two counts for both.
                let cosine = |i: usize, j: usize| f64::from(cosines[i.min(j) * rows.len() + i.max(j)]);
                // What falls short by rounding counts: equal vectors are alike by 1, whatever the threshold.
                of_pairs(&|i, j| match cosine(i, j) {
                    same if same >= SAME => 1.0,
                    alike if alike >= *threshold - (1.0 - SAME) => alike.max(0.0),
                    _ => 0.0,
                })
            }
        }
    }

    /// Rows and groups, in words.
    fn described(&self, by: Positives) -> String {
        let rows = match self {
            Self::Keys(keys) => keys.len(),
            Self::Sets(sets) => sets.len(),
            Self::Vectors { vectors, .. } => vectors.rows(),
        };
        let groups = format!("{rows} training rows in {} groups by {}", self.groups(), by.word());
        let Self::Vectors { threshold, .. } = self else { return groups };
        let (alike, looked) = (self.alike(false), self.sample().len());
        let pairs = looked * looked.saturating_sub(1) / 2;
        let of = if looked < rows { format!(" of {looked} rows looked at") } else { String::new() };
        format!("{groups}; {alike} of the {pairs} pairs{of} are alike from {threshold} on")
    }

    /// Up to 2,000 rows of vectors, which are held against each other.
    fn sample(&self) -> Vec<u32> {
        const LOOKED_AT: usize = 2000;
        let Self::Vectors { vectors, .. } = self else { return Vec::new() };
        (0..vectors.rows() as u32).step_by(vectors.rows().div_ceil(LOOKED_AT).max(1)).collect()
    }

    /// How many pairs of the sample are alike, or only of those with unequal vectors.
    fn alike(&self, unequal: bool) -> usize {
        let (Self::Vectors { vectors, .. }, rows) = (self, self.sample()) else { return 0 };
        let table = self.table(&rows);
        let differ = |i: usize, j: usize| vectors.row(rows[i] as usize) != vectors.row(rows[j] as usize);
        let pairs = (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        pairs.filter(|&(i, j)| table[i * rows.len() + j] > 0.0 && (!unequal || differ(i, j))).count()
    }

    /// How many groups of rows with one key, or one set, or one vector, there are.
    fn groups(&self) -> usize {
        match self {
            Self::Vectors { vectors, .. } => {
                let bits = |row| vectors.row(row).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                (0..vectors.rows()).map(bits).collect::<HashSet<_>>().len()
            }
            Self::Keys(keys) => keys.iter().collect::<HashSet<_>>().len(),
            Self::Sets(sets) => sets.iter().collect::<HashSet<_>>().len(),
        }
    }

    /// Whether two rows are alike whose text features, or sets, differ.
    ///
    /// Alike rows with equal text features change nothing. Their similarities with any image are equal, so that sharing
    /// an image's target among them leaves its loss; and from their side, one target each or shares of all sum to the
    /// same over the group, as do the gradients on the one report that they have. All that whatever the smoothing. Of
    /// sets it holds only where alike rows have equal ones: else an image may get more or less than one share in all.
    fn joins_unequal_texts(&self, rows: &[RowFacts], texts_vary: bool) -> bool {
        let mut report_of: HashMap<u64, &str> = HashMap::new();
        let mut join =
            |key: u64, report| report_of.insert(key, report).is_some_and(|before| texts_vary || before != report);
        match self {
            // Unlike reports have unlike vectors, and those may be alike enough.
            Self::Vectors { .. } => self.alike(!texts_vary) > 0,
            Self::Keys(keys) => keys.iter().zip(rows).any(|(&key, row)| join(key, row.report)),
            Self::Sets(sets) => {
                let mut set_of: HashMap<u32, &Vec<u32>> = HashMap::new();
                sets.iter().zip(rows).any(|(set, row)| {
                    set.iter().any(|&label| {
                        let unequal_sets = set_of.insert(label, set).is_some_and(|before| before != set);
                        unequal_sets || join(u64::from(label), row.report)
                    })
                })
            }
        }
    }
}

/// Likeness of training rows for objectives whose negatives they may not be, and a line that tells of it.
/// `of_sentences`: these are sentences alone, which equal reports share, so that "report" is no way out.
///
/// # Errors
/// No two rows are alike.
pub fn likeness_of_negatives(
    (by, threshold): (Positives, f64),
    rows: &[RowFacts],
    of_sentences: bool,
) -> Result<(Likeness, String), String> {
    let joins = |likeness: &Likeness| match likeness {
        Likeness::Sets(sets) => {
            let mut known = HashSet::new();
            sets.iter().any(|set| !set.iter().all(|label| known.insert(label)))
        }
        // Equal ones are alike, wherever they are.
        Likeness::Vectors { .. } => likeness.groups() < rows.len() || likeness.alike(false) > 0,
        Likeness::Keys(keys) => likeness.groups() < keys.len(),
    };
    let likeness = Likeness::of(by, rows, threshold);
    if joins(&likeness) {
        let note = likeness.described(by);
        return Ok((likeness, note));
    }
    let would = |other| !(of_sentences && other == Positives::Report) && joins(&Likeness::of(other, rows, threshold));
    let hint = hint(by, would, "set loss.false_negatives = \"keep\"");
    Err(format!("loss.positives: no two rows are alike by {:?}; {hint}", by.word()))
}

/// Which values other than `by` would do with this data, or what to take instead. Nothing is encoded for a hint.
fn hint(by: Positives, would: impl Fn(Positives) -> bool, instead: &str) -> String {
    let others = Positives::WORDS.iter().filter_map(|word| Positives::find(word));
    let others = others.filter(|&other| other != Positives::ReportSimilarity && would(other));
    let others: Vec<String> = others.map(|other| format!("{:?}", other.word())).collect();
    match others.as_slice() {
        [] if by == Positives::ReportSimilarity => format!("no other would with this data: {instead}"),
        [] => format!("no other would with this data (\"report_similarity\" was not tried): {instead}"),
        others => format!("what would with this data: {}", others.join(", ")),
    }
}

/// Likeness of training rows for objectives whose positives they are, and a line that tells of it.
///
/// # Errors
/// It would change nothing, with what would.
pub fn likeness_of_training(
    (by, threshold): (Positives, f64),
    rows: &[RowFacts],
    drawing: Drawing,
) -> Result<(Likeness, String), String> {
    let helps = |by: Positives, likeness: &Likeness| {
        !(by == Positives::Study && drawing.one_view) && likeness.joins_unequal_texts(rows, drawing.texts_vary)
    };
    let likeness = Likeness::of(by, rows, threshold);
    if helps(by, &likeness) {
        let note = likeness.described(by);
        return Ok((likeness, note));
    }
    let hint = hint(by, |other| helps(other, &Likeness::of(other, rows, threshold)), "take loss.kind = \"clip\"");
    Err(format!(
        "loss.positives: {:?} changes nothing: no batch has two rows that are alike and whose texts differ, and alike \
         rows with one text have the loss and the gradient of plain pairs; {hint}",
        by.word()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<'a>(rows: &[(&'a str, Option<&'a str>, Option<&'a str>)]) -> Vec<RowFacts<'a>> {
        let facts = |&(report, study, label): &(&'a str, Option<&'a str>, Option<&'a str>)| {
            let labels = label.into_iter().flat_map(|l| l.split(';')).collect();
            RowFacts { report, study, label, labels, features: &[] }
        };
        rows.iter().map(facts).collect()
    }

    #[test]
    fn likeness_is_symmetric_and_one_on_the_diagonal() {
        let rows =
            rows(&[("r", None, Some("a;b")), ("s", Some("1"), Some("b")), ("t", Some("1"), None), ("r", None, None)]);
        let half = 1.0 / 2f64.sqrt();
        #[rustfmt::skip]
        assert_eq!(Likeness::of(Positives::LabelSimilarity, &rows, 0.0).table(&[0, 1, 2, 3]), [
            1.0, half, 0.0, 0.0,
            half, 1.0, 0.0, 0.0,
            0.0, 0.0, 1.0, 0.0,
            0.0, 0.0, 0.0, 1.0,
        ]);
        let study = Likeness::of(Positives::Study, &rows, 0.0);
        assert_eq!(study.table(&[2, 0, 1]), [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(Likeness::of(Positives::Report, &rows, 0.0).table(&[0, 3]), [1.0; 4]);
        assert_eq!(Likeness::of(Positives::Label, &rows, 0.0).table(&[2, 3]), [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn reports_are_alike_from_a_threshold_on() {
        let vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]];
        let row = |features| RowFacts { features, ..RowFacts::default() };
        let rows: Vec<RowFacts> = vectors.iter().map(|v| row(v.as_slice())).collect();
        let table = |threshold| Likeness::of(Positives::ReportSimilarity, &rows, threshold).table(&[0, 1, 2]);
        let near = |table: Vec<f64>, expected: [f64; 9]| {
            assert!(table.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{table:?}");
        };
        near(table(0.7), [1.0, 0.8, 0.0, 0.8, 1.0, 0.0, 0.0, 0.0, 1.0]);
        near(table(0.5), [1.0, 0.8, 0.0, 0.8, 1.0, 0.6, 0.0, 0.6, 1.0]);
        // The product of equal vectors may fall short of 1, and of a threshold, by rounding.
        let short = [[1.0 - 2e-7, 0.0], [1.0 - 2e-7, 0.0], [0.8, 0.6]];
        let rows: Vec<RowFacts> = short.iter().map(|v| row(v.as_slice())).collect();
        let likeness = |threshold| Likeness::of(Positives::ReportSimilarity, &rows, threshold);
        assert_eq!(likeness(1.0).table(&[0, 1, 2]), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        near(likeness(0.8).table(&[0, 1, 2]), [1.0, 1.0, 0.8, 1.0, 1.0, 0.8, 0.8, 0.8, 1.0]);
    }

    #[test]
    fn it_is_told_how_many_reports_a_threshold_makes_alike() {
        let vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]];
        let row = |features| RowFacts { features, ..RowFacts::default() };
        let rows: Vec<RowFacts> = vectors.iter().map(|v| row(v.as_slice())).collect();
        let by = Positives::ReportSimilarity;
        let negatives = |threshold| likeness_of_negatives((by, threshold), &rows, false).map(|(_, note)| note);
        let training = |threshold, rows: &[RowFacts], drawing| {
            likeness_of_training((by, threshold), rows, drawing).map(|(_, note)| note)
        };
        let told = "3 training rows in 3 groups by report_similarity; 2 of the 3 pairs are alike from 0.5 on";
        assert_eq!(negatives(0.5).unwrap(), told);
        assert_eq!(training(0.5, &rows, Drawing::default()).unwrap(), told);
        assert!(negatives(0.7).unwrap().ends_with("1 of the 3 pairs are alike from 0.7 on"));
        assert!(negatives(0.9).unwrap_err().contains("no two rows are alike by \"report_similarity\""));
        assert!(training(0.9, &rows, Drawing::default()).unwrap_err().contains("changes nothing"));
        // Equal ones are no news to positives, unless another part of each is read.
        let equal = [rows[0].clone(), rows[0].clone(), rows[2].clone()];
        assert!(training(0.9, &equal, Drawing::default()).is_err());
        assert!(training(0.9, &equal, Drawing { texts_vary: true, one_view: false }).is_ok());
        assert!(likeness_of_negatives((by, 0.9), &equal, false).is_ok());
    }

    #[test]
    fn negatives_need_two_rows_that_are_alike() {
        let told = |by, rows: &[RowFacts]| likeness_of_negatives((by, 0.9), rows, false);
        let table = rows(&[("r", Some("1"), Some("a;b")), ("r", Some("2"), Some("b")), ("s", None, None)]);
        // Equal reports change this loss, though not that over positives.
        assert_eq!(told(Positives::Report, &table).unwrap().1, "3 training rows in 2 groups by report");
        assert!(told(Positives::LabelSimilarity, &table).is_ok());
        assert_eq!(
            told(Positives::Study, &table).unwrap_err(),
            "loss.positives: no two rows are alike by \"study\"; what would with this data: \"report\", \
             \"label_similarity\""
        );
        let of_sentences = likeness_of_negatives((Positives::Study, 0.9), &table, true).unwrap_err();
        assert!(of_sentences.ends_with("what would with this data: \"label_similarity\""), "{of_sentences}");
        let error = told(Positives::Label, &rows(&[("r", None, None), ("s", None, None)])).unwrap_err();
        let told = "no other would with this data (\"report_similarity\" was not tried): set loss.false_negatives = ";
        assert!(error.contains(told), "{error}");
    }

    #[test]
    fn what_changes_nothing_is_refused_with_what_would() {
        let told = |by, rows: &[RowFacts], drawing| likeness_of_training((by, 0.0), rows, drawing);
        let plain = Drawing::default();
        let table = rows(&[("r", Some("1"), Some("x")), ("r", Some("1"), Some("y")), ("s", Some("2"), Some("x"))]);
        assert_eq!(told(Positives::Label, &table, plain).unwrap().1, "3 training rows in 2 groups by label");
        for by in [Positives::Report, Positives::Study] {
            let error = told(by, &table, plain).unwrap_err();
            assert!(error.starts_with(&format!("loss.positives: {:?} changes nothing: ", by.word())), "{error}");
            assert!(error.ends_with("what would with this data: \"label\", \"label_similarity\""), "{error}");
        }
        // A sentence drawn of each report makes equal reports unequal; one view a study leaves none alike.
        let drawn = Drawing { texts_vary: true, one_view: false };
        assert!(told(Positives::Report, &table, drawn).is_ok() && told(Positives::Study, &table, drawn).is_ok());
        assert!(told(Positives::Study, &table, Drawing { one_view: true, ..drawn }).is_err());
        // Unequal sets share out the images of one report unequally; equal ones do not.
        let sets = |[second, third]: [_; 2]| {
            rows(&[("r", None, Some("a;b")), ("r", None, Some(second)), ("r", None, Some(third))])
        };
        assert!(told(Positives::LabelSimilarity, &sets(["a", "b"]), plain).is_ok());
        assert!(told(Positives::LabelSimilarity, &sets(["b;a", "a;b"]), plain).is_err());
        let studies = rows(&[("findings", Some("1"), None), ("impression", Some("1"), None)]);
        assert!(told(Positives::Study, &studies, plain).is_ok());
        let error = told(Positives::Label, &studies, plain).unwrap_err();
        assert!(error.ends_with("what would with this data: \"study\""), "{error}");
        let error = told(Positives::Study, &studies, Drawing { one_view: true, ..plain }).unwrap_err();
        assert!(error.ends_with("(\"report_similarity\" was not tried): take loss.kind = \"clip\""), "{error}");
    }
}
