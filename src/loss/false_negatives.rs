//! What becomes of negatives that are alike what is right.

use candle_core::{Result, bail};

use crate::words::words;

words!(
    /// What becomes of other rows' reports that are alike a row's own by `loss.positives`.
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
const SAME: f64 = 1.0 - 1e-6;

impl FalseNegatives {
    /// How much each pair of a batch counts, (batch · batch), by how alike its rows are. Remove: 1 − likeness; soften:
    /// 1 − likeness · (1 − 1 / n), where a row has n others that are alike.
    ///
    /// # Errors
    /// It is not known how alike they are.
    pub(super) fn weights(self, likeness: &[f64], batch: usize) -> Result<Vec<f64>> {
        if self != Self::Keep && likeness.len() != batch * batch {
            bail!("{} numbers of likeness for {batch} pairs", likeness.len());
        }
        let mut weights = Vec::with_capacity(batch * batch);
        for row in 0..batch {
            let of_row = likeness.get(row * batch..(row + 1) * batch).unwrap_or_default();
            let others = of_row.iter().enumerate().filter(|(k, l)| *k != row && **l > 0.0).count();
            let kept = match self {
                Self::Keep | Self::Positive => 1.0,
                Self::Remove => 0.0,
                Self::Soften => 1.0 / others.max(1) as f64,
            };
            let of_pair = |k: usize| {
                let likeness = of_row.get(k).copied().filter(|_| k != row).unwrap_or_default();
                let likeness = if likeness >= SAME { 1.0 } else { likeness };
                1.0 - likeness * (1.0 - kept)
            };
            weights.extend((0..batch).map(of_pair));
        }
        Ok(weights)
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
    }
}
