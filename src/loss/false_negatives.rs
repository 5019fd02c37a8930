//! What becomes of negatives that are alike what is right.

use candle_core::{Result, bail};

use crate::words::words;

words!(
    /// What becomes of what is alike a row's own by `loss.positives`: other rows' reports, or the sentences of these.
    FalseNegatives {
        /// They are negatives, as all others.
        Keep = "keep",
        /// They are left out.
        Remove = "remove",
        /// All of a row's together count as one.
        Soften = "soften",
        /// They are positives.
        Positive = "positive",
    }
);

/// From here on rows are the same: a cosine of equal reports may fall short of 1 by rounding.
pub(super) const SAME: f64 = 1.0 - 1e-6;

impl FalseNegatives {
    /// How much each pair of a batch counts, (batch · batch), by how alike its rows are.
    ///
    /// # Errors
    /// It is not known how alike they are.
    pub(super) fn weights(self, likeness: &[f64], batch: usize) -> Result<Vec<f64>> {
        if self == Self::Keep {
            return Ok(vec![1.0; batch * batch]);
        }
        if likeness.len() != batch * batch {
            bail!("{} numbers of likeness for {batch} pairs", likeness.len());
        }
        let own: Vec<bool> = (0..batch * batch).map(|i| i / batch == i % batch).collect();
        Ok(self.of_rows(likeness, &own, batch))
    }

    /// How much each candidate of each row counts, (rows · candidates), by how alike it is to what is the row's `own`,
    /// which counts 1. Remove: 1 − likeness; soften: 1 − likeness · (1 − 1 / n), where a row has n others that are
    /// alike.
    pub(super) fn of_rows(self, likeness: &[f64], own: &[bool], candidates: usize) -> Vec<f64> {
        let rows = likeness.chunks_exact(candidates).zip(own.chunks_exact(candidates));
        let of_row = |(likeness, own): (&[f64], &[bool])| {
            let others = likeness.iter().zip(own).filter(|(l, own)| !**own && **l > 0.0).count();
            let kept = match self {
                Self::Keep | Self::Positive => 1.0,
                Self::Remove => 0.0,
                Self::Soften => 1.0 / others.max(1) as f64,
            };
            let of_one = |(likeness, own): (&f64, &bool)| {
                let likeness = if *likeness >= SAME { 1.0 } else { *likeness };
                if *own { 1.0 } else { 1.0 - likeness * (1.0 - kept) }
            };
            likeness.iter().zip(own).map(of_one).collect::<Vec<_>>()
        };
        rows.flat_map(of_row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_rows_count_less() {
        // Rows 0, 1 and 2 are alike, 3 is like nothing.
        let likeness = [1., 1., 1., 0., 1., 1., 1., 0., 1., 1., 1., 0., 0., 0., 0., 1.];
        assert_eq!(FalseNegatives::Keep.weights(&[], 4).unwrap(), [1.0; 16]);
        let removed = FalseNegatives::Remove.weights(&likeness, 4).unwrap();
        assert!(FalseNegatives::Remove.weights(&[], 4).is_err());
        assert_eq!((&removed[..4], &removed[12..]), (&[1., 0., 0., 1.][..], &[1.; 4][..]));
        assert_eq!(FalseNegatives::Soften.weights(&likeness, 4).unwrap()[..4], [1., 0.5, 0.5, 1.]);
        let rounded = [1.0, 1.0 - 1e-7, 1.0 - 1e-7, 1.0];
        assert_eq!(FalseNegatives::Remove.weights(&rounded, 2).unwrap(), [1., 0., 0., 1.]);
        // A row may own several.
        let own = [true, true, false, false, false];
        assert_eq!(FalseNegatives::Soften.of_rows(&[1., 1., 1., 0.5, 0.], &own, 5), [1., 1., 0.5, 0.75, 1.]);
    }
}
