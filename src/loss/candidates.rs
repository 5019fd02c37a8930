//! The contrastive loss where candidates count differently: some are left out, some count in part, some stand beside
//! the batch. What `loss.false_negatives`, `loss.debias` and `data.negation` come down to.

use candle_core::{D, DType, Result, Tensor, bail};

use super::objective::{Inputs, Opposed, Term};
use crate::ops::reference::l2_normalize;

/// Rows with their candidates, of which one or more are right.
pub(super) struct Candidates {
    /// (rows · candidates) how often each stands in the sum; 0 is not at all.
    pub weights: Vec<f64>,
    /// (rows · candidates) what each is of a row's target; each row sums to 1.
    pub hard: Vec<f64>,
    /// How many of a row's candidates are of the batch; the others are known to be wrong.
    pub of_batch: usize,
}

/// What is taken off for false negatives that nobody knows of.
#[derive(Clone, Copy)]
pub(super) struct Debias<'a> {
    /// The share of negatives that are positives.
    pub share: f64,
    /// `logit_scale.exp()`, a scalar.
    pub scale: &'a Tensor,
}

/// Cosines of images with reports, and with opposites beyond them, times the scale; (batch, batch + opposites).
pub(super) fn similarities(inputs: &Inputs) -> Result<Tensor> {
    let text = inputs.reports()?;
    let all = match inputs.opposed {
        Some(Opposed { features, of }) => {
            if features.dim(0)? != of.len() {
                bail!("{} features of {} opposites", features.dim(0)?, of.len());
            }
            Tensor::cat(&[text, features], 0)?
        }
        None => text.clone(),
    };
    l2_normalize(inputs.image)?.matmul(&l2_normalize(&all)?.t()?)?.broadcast_mul(inputs.scale)
}

/// `of_batch`, (batch · batch), with a column for each opposite: `own` for the row that it belongs to, 0 for the
/// others.
///
/// What is the opposite of one report may be true of another's image, so that each image sees its own alone.
pub(super) fn with_opposites(of_batch: &[f64], inputs: &Inputs, own: f64) -> Vec<f64> {
    let Some(Opposed { of, .. }) = inputs.opposed else { return of_batch.to_vec() };
    let batch = of_batch.len().isqrt();
    let row = |i: usize| {
        let opposites = of.iter().map(move |&row| if row == i { own } else { 0.0 });
        of_batch[i * batch..(i + 1) * batch].iter().copied().chain(opposites)
    };
    (0..batch).flat_map(row).collect()
}

impl Candidates {
    /// `-Σₖ pₖ (zₖ − ln Σ w exp z)`, mean over the rows of `logits`, with `p = (1 − ε) hard + ε w / Σ w`: what hardly
    /// stands in the sum hardly draws.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn loss(&self, logits: &Tensor, eps: f64, debias: Option<Debias>) -> Result<Term> {
        let (rows, candidates) = logits.dims2()?;
        if self.weights.len() != rows * candidates || self.hard.len() != rows * candidates {
            bail!("{} weights for {rows} rows of {candidates} candidates", self.weights.len());
        }
        let numbers = |values: Vec<f64>| -> Result<Tensor> {
            Tensor::from_vec(values, (rows, candidates), logits.device())?.to_dtype(logits.dtype())
        };
        let sums = self.log_sums(logits, debias)?; // (rows, 1)
        let missed = sums.broadcast_sub(logits)?;
        let of_targets =
            |targets: Vec<f64>| -> Result<Tensor> { (&missed * numbers(targets)?)?.sum_all()? / rows as f64 };
        let smoothed = self.smoothed(candidates, eps);
        let (floor, chance) = self.bounds(&smoothed, candidates);
        let z: Vec<Vec<f64>> = logits.detach().to_dtype(DType::F64)?.to_vec2()?;
        let right = z.iter().enumerate().filter(|(i, row)| self.is_right(*i, row)).count();
        Ok(Term {
            hard: of_targets(self.hard.clone())?.detach().to_dtype(DType::F64)?.to_scalar()?,
            loss: of_targets(smoothed)?,
            floor: floor / rows as f64,
            chance: chance / rows as f64,
            accuracy: right as f64 / rows as f64,
        })
    }

    /// ln Σ w exp z of each row, (rows, 1).
    fn log_sums(&self, logits: &Tensor, debias: Option<Debias>) -> Result<Tensor> {
        let (rows, candidates) = logits.dims2()?;
        let numbers = |values: Vec<f64>, width: usize| -> Result<Tensor> {
            Tensor::from_vec(values, (rows, width), logits.device())?.to_dtype(logits.dtype())
        };
        // Nothing that stands in no sum may overflow it.
        let hidden = self.weights.iter().map(|w| if *w > 0.0 { 0.0 } else { -1e9 }).collect();
        let shown = (logits + numbers(hidden, candidates)?)?;
        let most = shown.detach().max_keepdim(D::Minus1)?;
        let exps = (shown.broadcast_sub(&most)?.exp()? * numbers(self.weights.clone(), candidates)?)?;
        let Some(Debias { share, scale }) = debias else {
            return exps.sum_keepdim(D::Minus1)?.log()?.broadcast_add(&most);
        };
        // Chuang et al. 2020 (arXiv 2007.00224), equation 7: of N negatives, N τ are worth the positive itself.
        let masks = |pick: &dyn Fn(usize, usize) -> bool| -> Vec<f64> {
            (0..rows * candidates).map(|i| f64::from(u8::from(pick(i / candidates, i % candidates)))).collect()
        };
        let sum = |mask: Vec<f64>| -> Result<Tensor> { (&exps * numbers(mask, candidates)?)?.sum_keepdim(D::Minus1) };
        let own = sum(masks(&|row, k| k == row))?;
        let negative = sum(masks(&|row, k| k != row && k < self.of_batch))?;
        let beyond = sum(masks(&|_, k| k >= self.of_batch))?;
        let counts: Vec<f64> = (0..rows)
            .map(|i| (0..self.of_batch).filter(|&k| k != i).map(|k| self.weights[i * candidates + k]).sum())
            .collect();
        let counts = numbers(counts, 1)?;
        let least = (most.broadcast_add(scale)?.neg()?.exp()? * &counts)?;
        let negative = ((negative - ((&own * counts)? * share)?)? / (1.0 - share))?.maximum(&least)?;
        ((own + negative)? + beyond)?.log()?.broadcast_add(&most)
    }

    /// Targets with ε of each row over all that count there, by how often they do.
    fn smoothed(&self, candidates: usize, eps: f64) -> Vec<f64> {
        let rows = self.weights.chunks_exact(candidates).zip(self.hard.chunks_exact(candidates));
        let of_row = |(weights, hard): (&[f64], &[f64])| {
            let sum: f64 = weights.iter().sum();
            weights.iter().zip(hard).map(|(w, p)| (1.0 - eps) * p + eps * w / sum).collect::<Vec<_>>()
        };
        rows.flat_map(of_row).collect()
    }

    /// Sums over rows: the least that the loss can be, where `w q = p`; and what it is where all are equally likely.
    fn bounds(&self, smoothed: &[f64], candidates: usize) -> (f64, f64) {
        let least = |(w, p): (&f64, &f64)| if *p > 0.0 { -p * (p / w).ln() } else { 0.0 };
        let floor = self.weights.iter().zip(smoothed).map(least).sum();
        let chance = self.weights.chunks_exact(candidates).map(|row| row.iter().sum::<f64>().ln()).sum();
        (floor, chance)
    }

    /// Whether the one highest logit that counts in row `i` is of its target.
    fn is_right(&self, i: usize, logits: &[f64]) -> bool {
        let at = i * logits.len();
        let counted = || logits.iter().enumerate().filter(|(k, _)| self.weights[at + k] > 0.0);
        let highest = counted().map(|(_, z)| *z).fold(f64::NEG_INFINITY, f64::max);
        counted().all(|(k, z)| *z < highest || self.hard[at + k] > 0.0)
    }
}
