//! A model opened for use: weights, tokenizer, preprocessing, what of a report it reads, device. Evaluation, search,
//! export and training all start here. Owns no figure and writes nothing.

mod again;
mod content;
mod cut;
mod encode;
mod folder;
mod fresh;
mod frozen;
mod inspect;
mod late;
mod open;
mod opened;
mod precision;
mod processor;
mod rows;

pub use content::model_content;
pub use cut::{Tokenized, tell_cut, warn_cut};
pub use encode::{Embeddings, Encoder, UnreadableImage};
pub use folder::{BAGS_FILE, LOCAL_FILE, ModelFolder, REPORT_FILE};
pub use frozen::{Frozen, image_features_change};
pub use inspect::{Fetched, Inspected, TokenizerSummary, fetch, inspect, verify};
pub use late::Keep;
pub use open::{bag_policy_of, open_model, policy_of};
pub use opened::Session;
pub use precision::{PrecisionRequest, Products};
pub use processor::open_tokenizer;
pub use rows::RowSource;
