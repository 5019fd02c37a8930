//! Image towers: pixels in, one state an image out. A folder a tower; [`super::towers`] lists them.

pub mod convnext;
pub mod efficientnet;
pub mod resnet;
pub mod swin;
pub mod tower;
pub mod vit;
