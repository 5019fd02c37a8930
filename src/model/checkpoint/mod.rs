//! Models on disk: which layouts of whole models there are, how each is read strictly, and how it is written back. What
//! is published of each tower stands in the towers' folders. A new layout of a whole model is a file beside
//! `open_clip.rs`.

mod bag_pooling;
mod builtin;
mod checksums;
mod files;
mod layout;
mod load;
mod open_clip;
mod pair;
mod pickle;
mod source;
mod state_dict;
mod tensor_file;
mod torch;
mod transformers;

pub use super::format::Pooling;
pub use bag_pooling::with_bag_pooling;
pub use builtin::builtin;
pub use checksums::{
    BESIDE, Listing, Verification, check_checksums, check_listed, model_digest, spare_models, verify_checksums,
    write_checksums,
};
pub use files::{Ignored, Mapped};
pub use layout::{Family, Layout};
pub use load::{Inspection, LoadOptions, Loaded, inspect, load, load_pair, random};
pub use pair::{PairOptions, is_tower, open_tower};
pub use source::{read_safetensors, save_safetensors, save_safetensors_noting};
pub use transformers::{FreshClip, FreshTower, fresh_clip};
