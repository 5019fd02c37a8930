//! What the text tower makes of reports before it is trained: by that, reports may be alike.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::Device;

use crate::config::Config;
use crate::data::Row;
use crate::dist::Single;
use crate::model::{Builder, ClipModel, Params};
use crate::seed::name_index;
use crate::session::{Encoder, ModelFolder, Products};

/// Vectors of distinct reports, each of length 1.
pub(super) struct FrozenTexts {
    /// Where each report's vector is, by the report's number.
    places: BTreeMap<u64, usize>,
    numbers: Vec<f32>,
    width: usize,
}

impl FrozenTexts {
    /// Of the reports of `rows`, each encoded once. Ranks prepare in turn, so that each encodes them all.
    ///
    /// # Errors
    /// Whatever tokenizer or model report.
    pub fn of<'a>(
        config: &Config,
        (folder, params, products): (&ModelFolder, &Params, &Products),
        rows: impl Iterator<Item = &'a Row>,
    ) -> Result<Self> {
        let weights = Builder::eval(params).products(products.dtype);
        let encoder = Encoder {
            world: &Single,
            model: ClipModel::new(&folder.config, &weights)?,
            preprocess: &folder.preprocess,
            tokenizer: &folder.tokenizer,
            bags: folder.bags.evenly(),
            device: params.iter().next().map_or(&Device::Cpu, |param| param.var.device()),
            batch_size: config.eval.batch_size,
            workers: config.data.workers,
            frozen: None,
        };
        let (mut places, mut texts) = (BTreeMap::new(), Vec::new());
        for row in rows {
            places.entry(name_index(row.report())).or_insert_with(|| {
                texts.push(row.report());
                texts.len() - 1
            });
        }
        let embeddings = encoder.texts(&texts)?;
        Ok(Self { places, width: embeddings.dim(1)?, numbers: embeddings.flatten_all()?.to_vec1()? })
    }

    /// The vector of a report; nothing of one that was not encoded.
    pub fn get(&self, report: &str) -> &[f32] {
        let place = self.places.get(&name_index(report));
        place.map_or(&[], |place| &self.numbers[place * self.width..(place + 1) * self.width])
    }
}

impl std::fmt::Debug for FrozenTexts {
    /// Ranks compare what they know as text, and these vectors are what all of them gathered.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrozenTexts({} reports)", self.places.len())
    }
}
