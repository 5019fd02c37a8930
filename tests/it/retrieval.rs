//! Retrieval figures and chance levels against plain numpy. Golden cases: scripts/golden/retrieval.py.
#![allow(clippy::unwrap_used)]

use crate::common;
use reportclip::metrics::{Query, rank_of_best, retrieval, summarise};
use serde_json::Value;

#[test]
fn figures_and_chance_equal_the_reference() {
    let file: Value = serde_json::from_slice(&std::fs::read(common::golden("retrieval.json")).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let matrix = |key: &str| -> Vec<Vec<f32>> {
            let rows = case[key].as_array().unwrap();
            rows.iter().map(|r| r.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()).collect()
        };
        let (similarity, relevance) = (matrix("similarity"), matrix("relevance"));
        check(case, "i2t", &similarity, &relevance);
        check(case, "t2i", &transpose(&similarity), &transpose(&relevance));
    }
}

fn check(case: &Value, direction: &str, similarity: &[Vec<f32>], relevance: &[Vec<f32>]) {
    let name = format!("{} {direction}", case["name"]);
    let queries: Vec<Query> = similarity
        .iter()
        .zip(relevance)
        .map(|(scores, relevant)| {
            let relevant: Vec<usize> = (0..scores.len()).filter(|&i| relevant[i] > 0.0).collect();
            Query { rank: rank_of_best(scores, &relevant), relevant: relevant.len() }
        })
        .collect();
    let ranks: Vec<u64> = queries.iter().map(|q| q.rank as u64).collect();
    let expected = &case[direction];
    let expected_ranks: Vec<u64> = expected["ranks"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    assert_eq!(ranks, expected_ranks, "{name}");
    let chance = retrieval::chance(&queries, similarity[0].len());
    for (figures, expected) in [(summarise(&queries), expected), (chance, &case[&format!("chance_{direction}")])] {
        for (figure, ours) in figures.figures() {
            // The reference gives no median for chance; a unit test covers it.
            let Some(value) = expected[figure].as_f64() else { continue };
            assert!((ours - value).abs() < 1e-9, "{name} {figure}: {ours}, expected {value}");
        }
    }
}

fn transpose(m: &[Vec<f32>]) -> Vec<Vec<f32>> {
    (0..m[0].len()).map(|j| m.iter().map(|row| row[j]).collect()).collect()
}
