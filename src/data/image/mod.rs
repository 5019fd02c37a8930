//! Image files to a model's input: decoding (PNG, JPEG, DICOM), augmentation, resizing, normalising.

pub mod augment;
mod decode;
pub mod dicom;
mod encode;
mod picture;
pub mod preprocess;
mod processors;

pub use decode::{decode, read};
pub(in crate::data) use decode::{file_bytes, frame_of, is_lfs_pointer};
pub use encode::{gray_of_side, png, reduced, thumbnail};
pub use picture::Picture;
