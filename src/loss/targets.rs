//! What is known of rows, as far as an objective asks for it.

use super::likeness::Likeness;
use super::teacher_rows::TeacherRows;

/// What is known of all rows of a data set, by their number.
#[derive(Clone, Debug, Default)]
pub struct RowTargets {
    /// Class of each row; empty where nobody asks.
    pub classes: Vec<Option<usize>>,
    /// Whether each row has each finding; empty where nobody asks.
    pub findings: Vec<Vec<Option<bool>>>,
    /// How alike two rows are.
    pub likeness: Option<Likeness>,
    /// What another model makes of them.
    pub teacher: Option<TeacherRows>,
}

impl RowTargets {
    /// Of a batch made of `rows`.
    pub fn of(&self, rows: &[u32]) -> PairTargets {
        PairTargets {
            classes: rows.iter().filter_map(|&r| self.classes.get(r as usize).copied()).collect(),
            findings: rows.iter().filter_map(|&r| self.findings.get(r as usize).cloned()).collect(),
            likeness: self.likeness.as_ref().map_or(Vec::new(), |likeness| likeness.table(rows)),
            teacher: self.teacher.as_ref().map_or(Vec::new(), |teacher| teacher.logits(rows)),
        }
    }
}

/// What is known of the pairs of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairTargets {
    /// Class of each image; `None` takes no part.
    pub classes: Vec<Option<usize>>,
    /// Whether each image has each finding; `None` takes no part.
    pub findings: Vec<Vec<Option<bool>>>,
    /// (batch · batch) how alike two pairs are, from 0; symmetric, above 0 on the diagonal.
    pub likeness: Vec<f64>,
    /// (images · reports) logits of another model.
    pub teacher: Vec<f64>,
}
