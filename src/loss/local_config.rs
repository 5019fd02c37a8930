//! How sentences are held against patches, as a config says it and a model folder keeps it.

use serde::{Deserialize, Serialize};

use crate::words::words;

words!(
    /// How a sentence is compared with an image's patches.
    LocalForm {
        /// With their sum by attention, longer patches counting more (after GLoRIA, ICCV 2021; docs/local-alignment.md
        /// tells what differs).
        Attention = "attention",
        /// The same of patches of length 1 (after RadZero's map, arXiv 2504.07416).
        Map = "map",
    }
);

/// The section `loss.local`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalConfig {
    /// How a sentence is compared with patches.
    pub form: LocalForm,
    /// What similarities are divided by.
    pub temperature: f64,
    /// What cosines are divided by before the softmax over patches.
    pub attention_temperature: f64,
}
