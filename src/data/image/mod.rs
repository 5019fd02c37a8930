//! Image files to a model's input: decoding (PNG, JPEG, DICOM), augmentation, resizing, normalising.

pub mod augment;
mod budget;
mod decode;
pub mod dicom;
mod encode;
mod exif;
mod jpeg;
mod jpeg_header;
mod picture;
mod png;
pub mod preprocess;
mod processors;
mod resize;
mod strip;

pub use budget::{DEFAULT_MAX_IMAGE_MIB, set_max_image_mib};
pub(in crate::data) use budget::{afford, is_over_limit, most as most_bytes, over_limit};
pub(crate) use decode::{NO_ZEROTH, counts_from_zero};
pub(in crate::data) use decode::{begins_as_one, is_lfs_pointer, read_mask};
pub use decode::{decode, read};
pub(crate) use decode::{file_bytes, frame_of};
pub(in crate::data) use decode::{file_len, read_unnamed};
pub use encode::{gray_of_side, reduced, thumbnail};
pub use picture::Picture;
pub use png::encode as png;
pub(in crate::data) use resize::cell_means;
#[cfg(test)]
pub(in crate::data) use resize::{Filter, resize};
pub(in crate::data) use strip::without_metadata;
