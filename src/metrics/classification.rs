//! Classification: accuracy and F1 of classes, AUROC and average precision of scores. As scikit-learn 1.9 defines them.

/// Share of rows whose prediction is the target; NaN without rows.
pub fn accuracy(targets: &[usize], predicted: &[usize]) -> f64 {
    let right = targets.iter().zip(predicted).filter(|(t, p)| t == p).count();
    right as f64 / targets.len() as f64
}

/// Rows of each target (first index) that were predicted as each class (second).
pub fn confusion(targets: &[usize], predicted: &[usize], classes: usize) -> Vec<Vec<usize>> {
    let mut counts = vec![vec![0; classes]; classes];
    targets.iter().zip(predicted).for_each(|(&t, &p)| counts[t][p] += 1);
    counts
}

/// Mean over classes of F1, for classes that are a target or a prediction of any row; a class that is never both has 0.
pub fn macro_f1(targets: &[usize], predicted: &[usize], classes: usize) -> f64 {
    let counts = confusion(targets, predicted, classes);
    mean((0..classes).filter_map(|k| {
        let of_target: usize = counts[k].iter().sum();
        let of_prediction: usize = counts.iter().map(|row| row[k]).sum();
        (of_target + of_prediction > 0).then(|| 2.0 * counts[k][k] as f64 / (of_target + of_prediction) as f64)
    }))
}

/// Mean over the classes that are a target of the share of their rows that is found: 1 / classes is chance.
pub fn balanced_accuracy(targets: &[usize], predicted: &[usize], classes: usize) -> f64 {
    let counts = confusion(targets, predicted, classes);
    mean((0..classes).filter_map(|k| {
        let of_target: usize = counts[k].iter().sum();
        (of_target > 0).then(|| counts[k][k] as f64 / of_target as f64)
    }))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// Scores from the highest to the lowest, equal ones together: (positives, negatives) of each.
fn ties(scores: &[f64], positive: &[bool]) -> Vec<(f64, usize, usize)> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut groups: Vec<(f64, usize, usize)> = Vec::new();
    for i in order {
        let (p, n) = if positive[i] { (1, 0) } else { (0, 1) };
        match groups.last_mut() {
            Some(last) if last.0 == scores[i] => (last.1, last.2) = (last.1 + p, last.2 + n),
            _ => groups.push((scores[i], p, n)),
        }
    }
    groups
}

/// Area under the ROC curve: how often a positive scores above a negative, ties half. NaN without both kinds.
pub fn auroc(scores: &[f64], positive: &[bool]) -> f64 {
    let (mut above, mut wins, mut negatives) = (0.0, 0.0, 0.0);
    for (_, p, n) in ties(scores, positive) {
        let (p, n) = (p as f64, n as f64);
        wins += n * (above + 0.5 * p);
        above += p;
        negatives += n;
    }
    wins / (above * negatives)
}

/// Average precision: the sum over thresholds of precision times the recall gained. NaN without positives; by chance it
/// is the share of positives.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> f64 {
    let all = positive.iter().filter(|p| **p).count() as f64;
    let (mut found, mut taken, mut sum) = (0.0, 0.0, 0.0);
    for (_, p, n) in ties(scores, positive) {
        found += p as f64;
        taken += (p + n) as f64;
        sum += found / taken * p as f64 / all;
    }
    if all == 0.0 { f64::NAN } else { sum }
}

/// F1 of "score at or above the threshold"; 0 where nothing is positive or predicted.
pub fn f1_at(scores: &[f64], positive: &[bool], threshold: f64) -> f64 {
    let found = |want: bool| scores.iter().zip(positive).filter(|(s, p)| **s >= threshold && **p == want).count();
    let (hits, false_alarms) = (found(true) as f64, found(false) as f64);
    let all = positive.iter().filter(|p| **p).count() as f64;
    if hits == 0.0 { 0.0 } else { 2.0 * hits / (hits + false_alarms + all) }
}

/// The threshold with the highest F1, the highest of several; `None` without positives.
pub fn best_threshold(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let all = positive.iter().filter(|p| **p).count() as f64;
    let (mut hits, mut taken) = (0.0, 0.0);
    let mut best = None;
    for (score, p, n) in ties(scores, positive) {
        hits += p as f64;
        taken += (p + n) as f64;
        let f1 = 2.0 * hits / (taken + all);
        if hits > 0.0 && best.is_none_or(|(highest, _)| f1 > highest) {
            best = Some((f1, score));
        }
    }
    best.map(|(_, threshold)| threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_half_and_thresholds_are_scores() {
        assert_eq!(auroc(&[0.5; 4], &[true, false, true, false]), 0.5);
        assert_eq!(auroc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), 0.75);
        assert!((average_precision(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]) - 0.833_333_333).abs() < 1e-8);
        assert!(auroc(&[0.1], &[true]).is_nan() && average_precision(&[0.1], &[false]).is_nan());
        let (scores, positive) = ([0.9, 0.8, 0.7, 0.1], [true, true, false, true]);
        let threshold = best_threshold(&scores, &positive).unwrap();
        assert_eq!((threshold, f1_at(&scores, &positive, threshold)), (0.1, 6.0 / 7.0));
        assert_eq!(best_threshold(&scores, &[false; 4]), None);
    }
}
