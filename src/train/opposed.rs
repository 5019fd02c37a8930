//! Features of texts that say the opposite of reports. A batch has them beyond those of its reports, so that the text
//! tower sees both at once; a loss sees those of all ranks.

use std::ops::Range;

use anyhow::Result;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::config::Config;
use crate::data::{Batch, Row, opposites};
use crate::dist::Collective;
use crate::loss::Opposed;
use crate::track::Note;

/// How many of the training reports data.negation can turn, of 2,000 at most.
///
/// # Errors
/// Not one of all.
pub(super) fn told(config: &Config, rows: &[Row]) -> Result<Option<Note>, String> {
    const LOOKED_AT: usize = 2000;
    if config.data.negation <= 0.0 {
        return Ok(None);
    }
    let turns = |row: &Row| !opposites(row.report()).is_empty();
    let sample: Vec<&Row> = rows.iter().step_by(rows.len().div_ceil(LOOKED_AT).max(1)).collect();
    let count = sample.par_iter().filter(|row| turns(row)).count();
    if count == 0 && !rows.par_iter().any(turns) {
        return Err(format!(
            "data.negation: not one of {} training reports has a sentence that can be turned round (docs/negatives.md \
             says which can); leave data.negation at 0",
            rows.len()
        ));
    }
    let looked = if sample.len() < rows.len() { " looked at" } else { "" };
    Ok(Some(Note::choice(format!("negation: {count} of {} training reports{looked} can be turned", sample.len()))))
}

/// Those of a step.
pub(super) struct OpposedFeatures {
    /// (texts, embed_dim)
    pub all: Tensor,
    /// The row of the step whose report each contradicts.
    pub of: Vec<usize>,
    /// Where this rank's stand.
    pub own: Range<usize>,
}

impl OpposedFeatures {
    /// Of `texts`, what the text tower made of each of `batches`, whose rows begin at `start` in the step. `None` where
    /// no rank has any.
    pub fn gather(
        world: &dyn Collective,
        (texts, batches): (&[Tensor], &[Batch]),
        start: usize,
        (width, device): (usize, &Device),
    ) -> Result<Option<Self>> {
        let (mut of, mut parts, mut start) = (Vec::new(), Vec::new(), start);
        for (text, batch) in texts.iter().zip(batches) {
            of.extend(batch.opposed.iter().map(|pair| (start + pair) as u32));
            start += batch.pairs;
            if !batch.opposed.is_empty() {
                parts.push(text.narrow(0, batch.pairs, batch.opposed.len())?);
            }
        }
        let (of, own) = world.gather_numbers(&of)?;
        if of.is_empty() {
            return Ok(None);
        }
        let of = of.into_iter().map(|row| row as usize).collect();
        Ok(Some(Self { all: world.gather_parts(&parts, width, device)?, of, own }))
    }

    /// Where those of each of this rank's `batches` stand.
    pub fn places(&self, batches: &[Batch]) -> Vec<Range<usize>> {
        let mut start = self.own.start;
        let place = |batch: &Batch| {
            let place = start..start + batch.opposed.len();
            start = place.end;
            place
        };
        batches.iter().map(place).collect()
    }

    /// As a loss takes them.
    pub fn as_inputs<'a>(&'a self, features: &'a Tensor) -> Opposed<'a> {
        Opposed { features, of: &self.of }
    }
}

/// Features of the reports alone.
pub(super) fn of_reports(texts: &[Tensor], batches: &[Batch]) -> Result<Vec<Tensor>> {
    texts.iter().zip(batches).map(|(text, batch)| Ok(text.narrow(0, 0, batch.pairs)?)).collect()
}
