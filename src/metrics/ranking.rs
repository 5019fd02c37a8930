//! How well a ranking gathers what is alike: precision@k and mean average precision.

use serde::{Deserialize, Serialize};

use super::classification::average_precision;

/// Figures of rankings; higher is better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// Share of the first item that is of the query's kind.
    #[serde(rename = "precision@1")]
    pub precision_at_1: f64,
    /// Of the first 5.
    #[serde(rename = "precision@5")]
    pub precision_at_5: f64,
    /// Of the first 10.
    #[serde(rename = "precision@10")]
    pub precision_at_10: f64,
    /// Mean of average precision.
    pub map: f64,
}

impl Ranking {
    /// Figures of one query: `scores` of the gallery, and which of it is of the query's kind. `None` where nothing is.
    /// Equal scores: precision counts those against the query, average precision as one threshold.
    pub fn of_query(scores: &[f64], alike: &[bool]) -> Option<Self> {
        if !alike.contains(&true) {
            return None;
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(alike[a].cmp(&alike[b])));
        let precision = |k: usize| {
            let first = &order[..k.min(order.len())];
            first.iter().filter(|&&i| alike[i]).count() as f64 / first.len() as f64
        };
        let map = average_precision(scores, alike);
        Some(Self { precision_at_1: precision(1), precision_at_5: precision(5), precision_at_10: precision(10), map })
    }

    /// Name and value of each.
    pub fn figures(&self) -> [(&'static str, f64); 4] {
        [
            ("precision@1", self.precision_at_1),
            ("precision@5", self.precision_at_5),
            ("precision@10", self.precision_at_10),
            ("map", self.map),
        ]
    }

    /// The mean over queries; all NaN without any.
    pub fn mean(queries: &[Self]) -> Self {
        let mean = |pick: fn(&Self) -> f64| queries.iter().map(pick).sum::<f64>() / queries.len() as f64;
        Self {
            precision_at_1: mean(|q| q.precision_at_1),
            precision_at_5: mean(|q| q.precision_at_5),
            precision_at_10: mean(|q| q.precision_at_10),
            map: mean(|q| q.map),
        }
    }
}
