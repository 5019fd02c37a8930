//! Answers of classifiers that are counted many times, each time with other weights of patients: figures of resamples
//! without sorting anew.

use super::calibration::{BINS, argmax, bin_of, negative_log_likelihood, softmax};

/// What a classifier says of rows, and what is so.
#[derive(Clone, Debug)]
pub struct Counted {
    classes: usize,
    rows: Vec<CountedRow>,
    /// For each class the rows by rising probability, with whether one is as probable as the one before it.
    orders: Vec<Vec<(usize, bool)>>,
}

#[derive(Clone, Copy, Debug)]
struct CountedRow {
    target: usize,
    right: bool,
    nll: f64,
    confidence: f64,
    bin: usize,
    /// Number of the patient.
    group: usize,
}

impl Counted {
    /// Names of [`Self::figures`].
    pub const NAMES: [&'static str; 5] = ["accuracy", "balanced_accuracy", "auroc_macro", "nll", "ece"];
    /// Most that each of [`Self::figures`] can be; the least is 0.
    pub const MOST: [f64; 5] = [1.0, 1.0, 1.0, f64::INFINITY, 1.0];

    /// Of rows of logits with their targets and patients; at least one.
    pub fn of(logits: &[Vec<f64>], targets: &[usize], groups: &[usize]) -> Self {
        let classes = logits[0].len();
        let probabilities: Vec<Vec<f64>> = logits.iter().map(|z| softmax(z, 1.0)).collect();
        let row = |i: usize| {
            let (best, target) = (argmax(&logits[i]), targets[i]);
            let confidence = probabilities[i][best];
            let nll = negative_log_likelihood(&logits[i], target, 1.0);
            CountedRow {
                target,
                right: best == target,
                nll,
                confidence,
                bin: bin_of(confidence, BINS),
                group: groups[i],
            }
        };
        let order = |k: usize| {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| probabilities[a][k].total_cmp(&probabilities[b][k]));
            let tied = |place: usize| place > 0 && probabilities[order[place]][k] == probabilities[order[place - 1]][k];
            let ties: Vec<bool> = (0..order.len()).map(tied).collect();
            order.into_iter().zip(ties).collect()
        };
        Self { classes, rows: (0..logits.len()).map(row).collect(), orders: (0..classes).map(order).collect() }
    }

    /// Of all rows, patient i counting `times[i]` times; NaN where a figure does not exist.
    pub fn figures(&self, times: &[f64]) -> [f64; 5] {
        let weight = |row: &CountedRow| times[row.group];
        let all: f64 = self.rows.iter().map(weight).sum();
        let mean = |value: &dyn Fn(&CountedRow) -> f64| {
            self.rows.iter().map(|row| weight(row) * value(row)).sum::<f64>() / all
        };
        let (mut found, mut of_class) = (vec![0.0; self.classes], vec![0.0; self.classes]);
        let mut gaps = [0.0f64; BINS];
        for row in &self.rows {
            of_class[row.target] += weight(row);
            found[row.target] += if row.right { weight(row) } else { 0.0 };
            gaps[row.bin] += weight(row) * (row.confidence - f64::from(u8::from(row.right)));
        }
        let shares = found.iter().zip(&of_class).filter(|(_, n)| **n > 0.0).map(|(found, n)| found / n);
        let aurocs = (0..self.classes).map(|k| self.auroc(k, times)).filter(|area| !area.is_nan());
        [
            mean(&|row| f64::from(u8::from(row.right))),
            mean_of(shares),
            mean_of(aurocs),
            mean(&|row| row.nll),
            gaps.iter().map(|gap| gap.abs()).sum::<f64>() / all,
        ]
    }

    /// Of class `k` against the others.
    fn auroc(&self, k: usize, times: &[f64]) -> f64 {
        let (mut wins, mut positives, mut negatives) = (0.0, 0.0, 0.0);
        // Those that are as probable as the row.
        let (mut tied_positives, mut tied_negatives) = (0.0, 0.0);
        let mut level = |positives_here: &mut f64, negatives_here: &mut f64| {
            wins += *positives_here * (negatives + *negatives_here / 2.0);
            positives += *positives_here;
            negatives += *negatives_here;
            (*positives_here, *negatives_here) = (0.0, 0.0);
        };
        for &(row, tied) in &self.orders[k] {
            if !tied {
                level(&mut tied_positives, &mut tied_negatives);
            }
            let row = &self.rows[row];
            *(if row.target == k { &mut tied_positives } else { &mut tied_negatives }) += times[row.group];
        }
        level(&mut tied_positives, &mut tied_negatives);
        wins / (positives * negatives)
    }
}

fn mean_of(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::metrics::calibration::{Answer, equal_width, expected_error};
    use crate::metrics::classification as metric;
    use crate::seed::{Purpose, stream};

    /// Weights that are whole numbers are rows that stand there as often, by the metrics that everything else uses.
    #[test]
    fn weights_are_repetitions() {
        let mut rng = stream(1, Purpose::Outcomes, 0);
        let mut draw = |below: f64| (rng.random::<f64>() * below).floor();
        // Few values, so that many are tied.
        let logits: Vec<Vec<f64>> = (0..90).map(|_| (0..3).map(|_| draw(3.0)).collect()).collect();
        let targets: Vec<usize> = (0..90).map(|_| draw(3.0) as usize).collect();
        let groups: Vec<usize> = (0..90).map(|i| i / 4).collect();
        let counted = Counted::of(&logits, &targets, &groups);
        let patients = groups[89] + 1;
        for times in [vec![1.0; patients], (0..patients).map(|_| draw(4.0)).collect::<Vec<f64>>()] {
            let rows: Vec<usize> = (0..90).flat_map(|i| std::iter::repeat_n(i, times[groups[i]] as usize)).collect();
            let of_rows = |value: &dyn Fn(usize) -> f64| rows.iter().map(|&i| value(i)).collect::<Vec<f64>>();
            let drawn: Vec<usize> = rows.iter().map(|&i| targets[i]).collect();
            let predicted: Vec<usize> = rows.iter().map(|&i| argmax(&logits[i])).collect();
            let auroc = |k: usize| {
                let positive: Vec<bool> = drawn.iter().map(|&t| t == k).collect();
                metric::auroc(&of_rows(&|i| softmax(&logits[i], 1.0)[k]), &positive)
            };
            let answer = |i: usize| {
                let best = argmax(&logits[i]);
                Answer { confidence: softmax(&logits[i], 1.0)[best], right: best == targets[i] }
            };
            let answers: Vec<Answer> = rows.iter().map(|&i| answer(i)).collect();
            let nll = of_rows(&|i| negative_log_likelihood(&logits[i], targets[i], 1.0));
            let expected = [
                metric::accuracy(&drawn, &predicted),
                metric::balanced_accuracy(&drawn, &predicted, 3),
                (0..3).map(auroc).sum::<f64>() / 3.0,
                nll.iter().sum::<f64>() / nll.len() as f64,
                expected_error(&equal_width(&answers, BINS)),
            ];
            let found = counted.figures(&times);
            let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-12, "{found:?} {expected:?}");
        }
    }
}
