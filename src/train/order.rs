//! In which order training rows are drawn, as the config says.

use crate::config::Config;
use crate::data::{Row, RowOdds, Sampler, Sampling, StepShape, Views};

/// The order in which `rows` are drawn, of which the first `sources[0]` come from the first of data.train and so on.
pub(super) fn sampler(config: &Config, rows: &[Row], sources: &[usize]) -> Sampler {
    let data = &config.data;
    let sampling = Sampling {
        weights: data.weights.clone(),
        one_view: data.views == Views::One,
        class_balanced: data.sampling == RowOdds::ClassBalanced,
        no_duplicate_reports: data.no_duplicate_reports,
        length_buckets: data.length_buckets,
        shuffle_buffer: data.shuffle_buffer,
    };
    let step = StepShape { batch_size: config.train.batch_size, batches: config.train.accum_freq };
    Sampler::new(config.seed, rows, sources, sampling, step)
}
