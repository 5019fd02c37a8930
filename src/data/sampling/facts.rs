//! What of a row decides when it is drawn.

use std::collections::HashMap;
use std::sync::Arc;

use crate::data::Row;
use crate::seed::name_index;

/// What is known of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowFacts {
    /// Which of `data.train` it comes from.
    pub source: u32,
    /// Which file.
    pub file: u32,
    /// Rows with the same number are views of one study.
    pub study: u32,
    pub class: u32,
    /// Of the report.
    pub hash: u64,
    pub length: u32,
}

/// What is known of `rows`, of which the first `sources[0]` come from the first source and so on.
pub(super) fn facts(rows: &[Row], sources: &[usize]) -> Vec<RowFacts> {
    let mut files: Vec<usize> = Vec::new();
    let mut studies = HashMap::new();
    let mut classes = HashMap::new();
    let mut ends: Vec<usize> = Vec::new();
    for &count in sources {
        ends.push(ends.last().unwrap_or(&0) + count);
    }
    let mut number = |i: usize, row: &Row| {
        let address = Arc::as_ptr(row.origin()) as usize;
        if files.last() != Some(&address) {
            files.push(address);
        }
        let next = studies.len() as u32;
        // A row without a study is one of its own.
        let study = match row.study_id() {
            Some(id) => *studies.entry((name_index(id), 0)).or_insert(next),
            None => *studies.entry((i as u64, 1)).or_insert(next),
        };
        let next = classes.len() as u32;
        RowFacts {
            source: ends.partition_point(|&end| end <= i) as u32,
            file: files.len() as u32 - 1,
            study,
            class: *classes.entry(row.label().map(str::to_string)).or_insert(next),
            hash: name_index(row.report()),
            length: row.report().len() as u32,
        }
    };
    rows.iter().enumerate().map(|(i, row)| number(i, row)).collect()
}
