//! The differentiable operations that models and losses are made of. Code above trusts that every one of them has a
//! right gradient: candle's own fused `LayerNorm`, `softmax_last_dim` and others cut the graph without a word.
//!
//! Owns every `CustomOp` and every `unsafe` but the memory map of weights (model/checkpoint), and how each runs on a device: a fused kernel on the CPU,
//! composed candle operations elsewhere. Knows no model.

mod activation;
mod adamw;
mod alloc;
mod attention;
mod cpu;
mod layer_norm;
mod linear;
mod normalize;
mod product;
pub mod reference;
mod simd;
mod softmax;

pub use activation::{gelu, quick_gelu};
pub use adamw::{AdamwStep, adamw_step};
pub use alloc::{keep_freed_memory, peak_rss_mib, physical_memory_mib};
pub use attention::attention;
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_no_bias};
pub use normalize::{l2_normalize, squared_sum};
pub use softmax::softmax;
