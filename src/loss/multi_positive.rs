//! `multi_positive`: the contrastive loss where several reports of a batch fit an image: those of one study or label,
//! or with labels that are alike.

use candle_core::{Result, bail};

use super::candidates::{Candidates, similarities, with_opposites};
use super::objective::{Direction, Inputs, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use super::soft_targets::SoftTargets;
use crate::metrics::Metric;

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "multi_positive",
    help: "cross-entropy over the batch with all pairs that are alike by loss.positives as positives",
    needs: Needs { reports: true, bias: false, places: false, targets: TargetKind::Likeness },
    takes: Takes { opposites: true, ..Takes::NOTHING },
    label_smoothing: 0.1,
    best_metric: (Metric::Loss, "mean recall would count as wrong what it trains to find, reports of other rows"),
    build: |s| Box::new(MultiPositiveLoss { label_smoothing: s.label_smoothing, direction: s.direction }),
};

/// Cross-entropy of each row of similarities against `(1 − ε) · likeness / Σ likeness + ε / K`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiPositiveLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
}

impl Objective for MultiPositiveLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
        let sims = similarities(inputs)?;
        let batch = sims.dim(0)?;
        let likeness = &inputs.targets.likeness;
        if likeness.len() != batch * batch {
            bail!("{} numbers of likeness for {batch} pairs", likeness.len());
        }
        // Likeness is symmetric, so one table serves both directions.
        let eps = self.label_smoothing;
        let mut hard = Vec::with_capacity(likeness.len());
        for row in likeness.chunks_exact(batch) {
            let all: f64 = row.iter().sum();
            hard.extend(row.iter().map(|l| l / all));
        }
        let soft = SoftTargets {
            smoothed: hard.iter().map(|p| (1.0 - eps) * p + eps / batch as f64).collect(),
            right: likeness.chunks_exact(batch).map(|row| Some(row.iter().map(|l| *l > 0.0).collect())).collect(),
            hard,
            divisor: batch as f64,
        };
        let of_images = || {
            if inputs.opposed.is_none() {
                return soft.loss(&sims);
            }
            let weights = with_opposites(&vec![1.0; batch * batch], inputs, 1.0);
            let candidates = Candidates { weights, hard: with_opposites(&soft.hard, inputs, 0.0), of_batch: batch };
            candidates.loss(&sims, eps, None)
        };
        let of_texts = || soft.loss(&sims.narrow(1, 0, batch)?.t()?.contiguous()?);
        self.direction.mean(of_images, of_texts)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::super::{ClipLoss, Likeness, PairTargets, Positives, RowFacts};
    use super::*;

    /// Loss, and its gradient on images, on each distinct report and on the scale. Row i has report `of_row[i]`.
    fn run(loss: &dyn Objective, of_row: &[u32], likeness: &Likeness) -> (f64, Vec<Vec<f32>>) {
        let numbers = |n: usize, start: f32| -> Vec<f32> { (0..n).map(|i| (start + i as f32 * 0.37).sin()).collect() };
        let cpu = &Device::Cpu;
        let var = |rows: usize, start| {
            Var::from_tensor(&Tensor::from_vec(numbers(4 * rows, start), (rows, 4), cpu).unwrap()).unwrap()
        };
        let (image, reports) = (var(of_row.len(), 0.2), var(3, 1.1));
        let log_scale = Var::new(1.5f32, cpu).unwrap();
        let text = reports.index_select(&Tensor::new(of_row, cpu).unwrap(), 0).unwrap();
        let rows: Vec<u32> = (0..of_row.len() as u32).collect();
        let targets = PairTargets { likeness: likeness.table(&rows), ..PairTargets::default() };
        let inputs = Inputs {
            image: &image,
            text: Some(&text),
            scale: &log_scale.exp().unwrap(),
            bias: None,
            prompts: None,
            local: None,
            opposed: None,
            targets: &targets,
        };
        let term = loss.forward(&inputs).unwrap();
        let grads = term.loss.backward().unwrap();
        let flat = |v: &Var| grads.get(v).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let value = f64::from(term.loss.to_scalar::<f32>().unwrap());
        (value, vec![flat(&image), flat(&reports), flat(&log_scale)])
    }

    fn largest_difference((a, of_a): &(f64, Vec<Vec<f32>>), (b, of_b): &(f64, Vec<Vec<f32>>)) -> f64 {
        let pairs = of_a.iter().flatten().zip(of_b.iter().flatten());
        pairs.fold((a - b).abs(), |worst, (a, b)| worst.max(f64::from((a - b).abs())))
    }

    /// Why equal reports as positives are refused: whatever the smoothing and the direction, they change neither the
    /// loss nor its gradient on images, reports and scale. Alike pairs with unequal reports change both.
    #[test]
    fn alike_pairs_with_equal_reports_are_the_contrastive_loss_itself() {
        let of_row = [0u32, 1, 0, 2, 0, 1];
        let labels = ["a", "b", "a", "b", "a", "b"];
        let facts = of_row.iter().zip(labels).map(|(report, label)| RowFacts {
            report: ["r", "s", "t"][*report as usize],
            label: Some(label),
            ..RowFacts::default()
        });
        let facts: Vec<RowFacts> = facts.collect();
        for label_smoothing in [0.0, 0.1, 0.5] {
            for direction in [Direction::Both, Direction::ImageToText, Direction::TextToImage] {
                let likeness = |by| Likeness::of(by, &facts, 0.0);
                let several = MultiPositiveLoss { label_smoothing, direction };
                let clip = run(&ClipLoss::plain(label_smoothing, direction), &of_row, &likeness(Positives::Report));
                let by_report = run(&several, &of_row, &likeness(Positives::Report));
                assert!(largest_difference(&clip, &by_report) < 1e-5, "{label_smoothing} {direction:?}");
                let by_label = run(&several, &of_row, &likeness(Positives::Label));
                assert!(largest_difference(&clip, &by_label) > 1e-2, "{label_smoothing} {direction:?}");
            }
        }
    }
}
