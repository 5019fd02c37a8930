//! Image towers: pixels in, one state an image out.

mod clip_vit;

pub(super) use clip_vit::ClipVit;
