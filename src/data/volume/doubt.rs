//! Whether values are Hounsfield units at all: CT holds air near −1000 and soft tissue near 0.

use std::sync::{Mutex, PoisonError};

/// Says something about volumes once in a process: thousands of files may have the same fault.
pub(in crate::data) fn told_once(doubt: &'static str, tell: impl FnOnce()) {
    static TOLD: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if !told.contains(&doubt) {
        told.push(doubt);
        drop(told);
        tell();
    }
}

/// Counts over a sample of voxels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    all: u64,
    /// Below −1500: no tissue, and not air.
    below: u64,
    /// Below −500: lungs, air.
    air: u64,
    /// −300 … 300
    soft: u64,
    /// 700 … 1400: bone, and soft tissue as it is stored before its 1024 are taken off.
    dense: u64,
    /// −2 … 2
    tiny: u64,
}

/// Every so many voxels one is looked at.
const STEP: usize = 13;
/// Fewer say nothing.
const LEAST: u64 = 500;

impl Seen {
    pub fn add(&mut self, values: &[f32]) {
        for &v in values.iter().step_by(STEP) {
            self.all += 1;
            self.below += u64::from(v < -1500.0);
            self.air += u64::from(v < -500.0);
            self.soft += u64::from((-300.0..=300.0).contains(&v));
            self.dense += u64::from((700.0..=1400.0).contains(&v));
            self.tiny += u64::from((-2.0..=2.0).contains(&v));
        }
    }

    /// What is wrong, if something is. Padding around the scanned circle (−3024 on some scanners, a fifth of a slice)
    /// is no reason.
    pub fn doubt(&self) -> Option<&'static str> {
        let more = |part: u64, percent: u64| part * 100 > self.all * percent;
        if self.all < LEAST {
            None
        } else if !more(self.soft, 2) && more(self.below, 5) {
            Some("looks as if it were rescaled twice: air below -1500, and no soft tissue near 0")
        } else if self.air == 0 && more(self.dense, 15) {
            Some("looks as if it were not rescaled: nothing below -500, and much near 1024")
        } else if self.tiny == self.all {
            Some("holds values from -2 to 2 only; Hounsfield units divided by 1000 are windowed as [-1.35, 0.15]")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chest: air around and in the lungs, soft tissue, some bone; in Hounsfield units.
    fn chest() -> Vec<f32> {
        (0..40_000)
            .map(|i| [-1000.0, -850.0, 40.0, -90.0, 60.0, -1000.0, 30.0, 700.0][i % 8] + (i % 7) as f32)
            .collect()
    }

    fn doubt(change: impl Fn(f32) -> f32) -> Option<&'static str> {
        let mut seen = Seen::default();
        seen.add(&chest().into_iter().map(change).collect::<Vec<_>>());
        seen.doubt()
    }

    #[test]
    fn what_is_rescaled_twice_or_not_at_all_is_told() {
        assert_eq!(doubt(|v| v), None);
        assert!(doubt(|v| v - 1024.0).unwrap().contains("twice"));
        assert!(doubt(|v| v + 1024.0).unwrap().contains("not rescaled"));
        assert!(doubt(|v| v / 1000.0).unwrap().contains("1000"));
        let with_padding = |v: f32| if v < -990.0 { -3024.0 } else { v };
        assert_eq!(doubt(with_padding), None, "padding around the circle");
        assert_eq!(doubt(|v| v.max(-100.0)), None, "clipped to soft tissue");
    }
}
