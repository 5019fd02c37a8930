//! What towers are made of.

pub mod attention_pool;
pub mod bag_pool;
pub mod conv_norm;
pub mod drawn;
pub mod interpolate;
pub mod linear;
pub mod lora;
pub mod noise;
pub mod norm;
pub mod projection;
pub mod transformer;
