//! Retrieval: recall@k, ranks, mean reciprocal rank, and what chance would give for each.

use serde::{Deserialize, Serialize};

/// The cut-offs of recall@k.
pub const RECALL_AT: [usize; 3] = [1, 5, 10];

/// One query's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Rank of the best right item, from 1.
    pub rank: usize,
    /// How many right items the gallery holds for this query, from 1.
    pub relevant: usize,
}

/// Figures over many queries. Higher is better for recall and mrr, lower for ranks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Share of queries with a right item among the first.
    #[serde(rename = "recall@1")]
    pub recall_at_1: f64,
    /// Among the first 5.
    #[serde(rename = "recall@5")]
    pub recall_at_5: f64,
    /// Among the first 10.
    #[serde(rename = "recall@10")]
    pub recall_at_10: f64,
    /// Mean rank of the best right item.
    pub mean_rank: f64,
    /// Median of the same; the mean of the middle two where the number is even.
    pub median_rank: f64,
    /// Mean of 1 / rank.
    pub mrr: f64,
}

impl Retrieval {
    /// Name and value of each figure, in the order of the fields.
    pub fn figures(&self) -> [(&'static str, f64); 6] {
        [
            ("recall@1", self.recall_at_1),
            ("recall@5", self.recall_at_5),
            ("recall@10", self.recall_at_10),
            ("mean_rank", self.mean_rank),
            ("median_rank", self.median_rank),
            ("mrr", self.mrr),
        ]
    }

    /// The inverse of [`Self::figures`].
    pub fn from_figures(f: [f64; 6]) -> Self {
        Self { recall_at_1: f[0], recall_at_5: f[1], recall_at_10: f[2], mean_rank: f[3], median_rank: f[4], mrr: f[5] }
    }
}

/// Rank, from 1, of the best of the `relevant` items (their positions in `scores`). Ties count against the query: a
/// model that gives everything one score finds nothing. A score that is not a number ranks last.
pub fn rank_of_best(scores: &[f32], relevant: &[usize]) -> usize {
    let best = relevant.iter().map(|&i| scores[i]).fold(f32::NEG_INFINITY, f32::max);
    let not_worse = |s: f32| s >= best || s.is_nan();
    let ahead = scores.iter().filter(|s| not_worse(**s)).count();
    let own = relevant.iter().filter(|&&i| not_worse(scores[i])).count();
    1 + ahead - own
}

/// The figures of `queries`; all 0 where there are none.
pub fn summarise(queries: &[Query]) -> Retrieval {
    let n = queries.len().max(1) as f64;
    let recall = |k: usize| queries.iter().filter(|q| q.rank <= k).count() as f64 / n;
    let mut ranks: Vec<usize> = queries.iter().map(|q| q.rank).collect();
    ranks.sort_unstable();
    let middle = ranks.len() / 2;
    let median = match ranks.len() {
        0 => 0.0,
        even if even % 2 == 0 => (ranks[middle - 1] + ranks[middle]) as f64 / 2.0,
        _ => ranks[middle] as f64,
    };
    Retrieval::from_figures([
        recall(RECALL_AT[0]),
        recall(RECALL_AT[1]),
        recall(RECALL_AT[2]),
        ranks.iter().sum::<usize>() as f64 / n,
        median,
        queries.iter().map(|q| 1.0 / q.rank as f64).sum::<f64>() / n,
    ])
}

/// What a random order of the gallery would give on average for the same queries, exactly. With r right items among G,
/// P(rank > k) = C(G − r, k) / C(G, k).
pub fn chance(queries: &[Query], gallery: usize) -> Retrieval {
    let n = queries.len().max(1) as f64;
    // Share of queries whose best right item is behind place k, for k = 0 … G, averaged over queries.
    let mut behind = vec![0.0; gallery + 1];
    let mut counts = std::collections::BTreeMap::new();
    for q in queries {
        *counts.entry(q.relevant).or_insert(0usize) += 1;
    }
    for (&relevant, &times) in &counts {
        let mut p = 1.0;
        for (k, share) in behind.iter_mut().enumerate() {
            *share += p * times as f64 / n;
            let left = gallery - k;
            p *= if left > 0 { (left as f64 - relevant as f64).max(0.0) / left as f64 } else { 0.0 };
        }
    }
    let recall = |k: usize| 1.0 - behind[k.min(gallery)];
    let mean_rank = behind[..gallery].iter().sum();
    let mrr = (1..=gallery).map(|k| (behind[k - 1] - behind[k]) / k as f64).sum();
    // The shares are sums of rounded products: half is taken with a little room.
    let median = (1..=gallery).find(|&k| behind[k] <= 0.5 + 1e-9).unwrap_or(0) as f64;
    Retrieval::from_figures([recall(RECALL_AT[0]), recall(RECALL_AT[1]), recall(RECALL_AT[2]), mean_rank, median, mrr])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapsed_model_finds_nothing() {
        assert_eq!(rank_of_best(&[0.5; 10], &[3]), 10);
        assert_eq!(rank_of_best(&[f32::NAN; 4], &[0]), 4);
        assert_eq!(rank_of_best(&[0.1, 0.9, 0.9, 0.2], &[1, 2]), 1);
    }

    #[test]
    fn chance_of_single_targets_is_k_over_g() {
        let queries = [Query { rank: 1, relevant: 1 }; 3];
        let c = chance(&queries, 54);
        assert!((c.recall_at_1 - 1.0 / 54.0).abs() < 1e-12);
        assert!((c.recall_at_10 - 10.0 / 54.0).abs() < 1e-12);
        assert!((c.mean_rank - 27.5).abs() < 1e-9);
        assert_eq!(c.median_rank, 27.0);
        assert_eq!(chance(&queries, 3).recall_at_5, 1.0);
    }
}
