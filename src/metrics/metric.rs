//! The figures by which validations are compared.

use crate::words::words;

words!(
    /// A figure that says which of two models is better.
    Metric {
        /// Mean of recall@1, @5 and @10 of both directions.
        MeanRecall = "mean_recall",
        /// The objective's own loss, without smoothing.
        Loss = "loss",
        /// Mean over classes of the zero-shot AUROC.
        Auroc = "auroc",
        /// Mean over classes of the share of its images that zero-shot classification finds.
        BalancedAccuracy = "balanced_accuracy",
    }
);

impl Metric {
    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        match self {
            Self::MeanRecall | Self::Auroc | Self::BalancedAccuracy => true,
            Self::Loss => false,
        }
    }

    /// Whether `value` is better than `other`; what does not exist (NaN) is never better, and always worse.
    pub fn is_better(self, value: f64, other: f64) -> bool {
        if value.is_nan() || other.is_nan() {
            return !value.is_nan();
        }
        if self.higher_is_better() { value > other } else { value < other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_fall_and_figures_rise() {
        assert!(Metric::Loss.is_better(1.0, 2.0) && !Metric::Loss.is_better(2.0, 1.0));
        assert!(Metric::Auroc.is_better(0.8, 0.7) && !Metric::Auroc.is_better(0.7, 0.7));
        for metric in [Metric::Loss, Metric::MeanRecall] {
            assert!(metric.is_better(0.5, f64::NAN) && !metric.is_better(f64::NAN, 0.5));
            assert!(!metric.is_better(f64::NAN, f64::NAN));
        }
    }
}
