//! The sentences of the training rows' reports as token ids, each distinct one once.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;

use crate::data::sections::{Section, parse, sentences};
use crate::data::{ReportTokenizer, Row};

/// Sentences of all rows. Every rank has them, so that a step's are known from the numbers of its rows.
pub(super) struct SentenceTokens {
    /// Ids of each distinct sentence.
    ids: Vec<Vec<u32>>,
    /// Which of them each row's report has, in order, without repetitions.
    of_rows: Vec<Vec<u32>>,
    /// To pad with.
    tokenizer: ReportTokenizer,
}

/// What ranks compare. A tokenizer's maps come in another order in each process.
impl fmt::Debug for SentenceTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentenceTokens").field("ids", &self.ids).field("of_rows", &self.of_rows).finish_non_exhaustive()
    }
}

/// The sentences of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StepSentences {
    /// Their numbers, ascending.
    pub numbers: Vec<u32>,
    /// Which of these each pair's report has, by their places in `numbers`.
    pub of_pairs: Vec<Vec<u32>>,
}

impl SentenceTokens {
    /// Those of what may be read of each report.
    pub fn new(rows: &[Row], tokenizer: &ReportTokenizer) -> Result<Self> {
        let (mut known, mut known_ids) = (HashMap::<&str, u32>::new(), HashMap::<Vec<u32>, u32>::new());
        let mut of_rows = Vec::with_capacity(rows.len());
        for row in rows {
            let mut own = Vec::new();
            for sentence in told(row.report()) {
                let number = match known.get(sentence) {
                    Some(number) => *number,
                    // Texts that the tower sees alike are one, or they would be each other's negatives.
                    None => {
                        let next = known_ids.len() as u32;
                        let number = *known_ids.entry(tokenizer.encode(sentence)?).or_insert(next);
                        known.insert(sentence, number);
                        number
                    }
                };
                if !own.contains(&number) {
                    own.push(number);
                }
            }
            of_rows.push(own);
        }
        let mut ids = vec![Vec::new(); known_ids.len()];
        known_ids.into_iter().for_each(|(of, number)| ids[number as usize] = of);
        Ok(Self::of_ids(ids, of_rows, tokenizer))
    }

    /// Distinct sentences as ids, and which of them each row has.
    pub fn of_ids(ids: Vec<Vec<u32>>, of_rows: Vec<Vec<u32>>, tokenizer: &ReportTokenizer) -> Self {
        Self { ids, of_rows, tokenizer: tokenizer.clone() }
    }

    /// Ids of each distinct one.
    pub fn ids(&self) -> &[Vec<u32>] {
        &self.ids
    }

    /// How many all reports have.
    pub fn in_all(&self) -> usize {
        self.of_rows.iter().map(Vec::len).sum()
    }

    /// What a person should know of them.
    pub fn note(&self) -> String {
        let each = self.in_all() as f64 / self.of_rows.len().max(1) as f64;
        format!("sentences: {} distinct ones in {} reports, {each:.1} each", self.ids.len(), self.of_rows.len())
    }

    /// Those of a step made of these rows.
    pub fn of(&self, rows: &[u32]) -> StepSentences {
        let own = |row: &u32| self.of_rows.get(*row as usize).map_or(&[][..], Vec::as_slice);
        let mut numbers: Vec<u32> = rows.iter().flat_map(own).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let place = |number: &u32| numbers.binary_search(number).ok().map(|place| place as u32);
        let of_pairs = rows.iter().map(|row| own(row).iter().filter_map(place).collect()).collect();
        StepSentences { numbers, of_pairs }
    }

    /// Ids of some, padded, and tokens of each.
    pub fn padded(&self, numbers: &[u32]) -> (Vec<u32>, usize) {
        let ids: Vec<&Vec<u32>> = numbers.iter().map(|&number| &self.ids[number as usize]).collect();
        self.tokenizer.pad(&ids)
    }
}

/// What a report says of its images: sentences of findings and impression, of all sections where it has neither.
fn told(report: &str) -> Vec<&str> {
    let sections = parse(report);
    let is_told = |section: Section| matches!(section, Section::Findings | Section::Impression);
    let all = !sections.iter().any(|(section, _)| is_told(*section));
    let parts = sections.iter().filter(|(section, _)| all || is_told(*section));
    let found: Vec<&str> = parts.flat_map(|(_, text)| sentences(text)).collect();
    // A report of numbers alone is one.
    if found.is_empty() { vec![report] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest, TokenizerKind, bpe};

    #[test]
    fn sentences_that_the_tower_sees_alike_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.csv");
        let reports = "a.png,Heart normal. Left effusion.\nb.png,left effusion.\nc.png,No effusion. heart normal.\n";
        std::fs::write(&path, format!("image,report\n{reports}")).unwrap();
        for name in ["a.png", "b.png", "c.png"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
        let files = bpe::train(["heart normal left effusion no effusion"].into_iter(), 600).unwrap();
        let tokenizer = ReportTokenizer::from_files(files, TokenizerKind::clip(16)).unwrap();
        let tokens = SentenceTokens::new(&rows, &tokenizer).unwrap();
        assert_eq!(tokens.of_rows, [vec![0, 1], vec![1], vec![2, 0]]);
        assert_eq!(tokens.ids[1], tokenizer.encode("LEFT EFFUSION.").unwrap());
        assert_eq!(tokens.ids.len(), 3);
    }

    #[test]
    fn sentences_are_those_of_findings_and_impression() {
        let report = "INDICATION: Cough. Fever.\nFINDINGS: Small effusion. Heart normal.\nIMPRESSION: Small effusion.";
        assert_eq!(told(report), ["Small effusion.", "Heart normal.", "Small effusion."]);
        assert_eq!(told("Clear lungs. No effusion."), ["Clear lungs.", "No effusion."]);
        assert_eq!(told("检查所见：双肺清晰。心影不大。"), ["双肺清晰。", "心影不大。"]);
        assert_eq!(told("12."), ["12."]);
    }
}
