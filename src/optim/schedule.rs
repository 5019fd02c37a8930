//! The learning rate as a pure function of the step.

use crate::words::words;

words!(
    /// Shape of the learning rate after warm-up.
    ScheduleKind {
        /// Half a cosine down to min_lr_ratio.
        Cosine = "cosine",
        /// A line down to min_lr_ratio.
        Linear = "linear",
        /// Flat.
        Constant = "constant",
    }
);

/// A rise from 0 over `warmup` steps, then the chosen shape down to `min_ratio` at `total`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// Steps of the rise.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// Share of the full rate at the end of cosine and linear.
    pub min_ratio: f64,
}

impl Schedule {
    /// Share of the full rate at step number `step`, from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / length).min(1.0);
        let shape = match self.kind {
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.min_ratio + (1.0 - self.min_ratio) * shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points() {
        let s = |kind| Schedule { kind, warmup: 10, total: 110, min_ratio: 0.1 };
        let cosine = s(ScheduleKind::Cosine);
        assert_eq!(cosine.factor(0), 0.1);
        assert_eq!(cosine.factor(9), 1.0);
        assert_eq!(cosine.factor(10), 1.0);
        assert!((cosine.factor(60) - 0.55).abs() < 1e-12);
        assert!((cosine.factor(110) - 0.1).abs() < 1e-12);
        assert!((s(ScheduleKind::Linear).factor(35) - 0.775).abs() < 1e-12);
        assert_eq!(s(ScheduleKind::Constant).factor(1000), 1.0);
        let none = Schedule { kind: ScheduleKind::Cosine, warmup: 0, total: 0, min_ratio: 0.0 };
        assert_eq!(none.factor(0), 1.0);
    }
}
