//! Volumes: CT and MR as files of many slices, each read as a picture.
//!
//! Owns the readers of volumes, their orientation, resampling and windows. Which slices of a volume are read is the
//! caller's choice. But for percentiles, no volume is in memory as a whole: planes are read one after another, of
//! NIfTI, NumPy and series of files only those that the slices asked for are made of; of what is compressed, all, for
//! its checksum. Of a DICOM file of many frames those that are asked for are read, where they can be read alone.

mod bytes;
mod cut;
#[cfg(test)]
mod damage_tests;
mod doubt;
mod fault;
mod geometry;
mod held;
mod inspect;
mod nifti;
mod npy;
mod numbers;
mod open;
mod planes;
mod policy;
#[cfg(test)]
mod reading_tests;
mod scan;
mod series;
#[cfg(test)]
mod series_tests;
#[cfg(test)]
mod tests;
mod window;

pub(in crate::data) use doubt::told_once;
pub use fault::Fault;
pub use held::HeldVolume;
pub use inspect::{Inspected, inspect};
pub use open::is_volume;
pub(in crate::data) use open::{is_of_voxels, no_series};
pub use policy::{Axis, Orientation, VolumePolicy, evenly_spaced};
pub use scan::Scan;
pub use window::{Range, Window};
