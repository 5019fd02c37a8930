//! The differentiable operations that models and losses are made of, and the tape that towers are differentiated on.
//! Code above trusts that every one of them has a right gradient: candle's own fused `LayerNorm`, `softmax_last_dim` and
//! others cut the graph without a word.
//!
//! Owns every kernel and every `unsafe` but the memory map of weights (model/checkpoint), and how each operation runs on
//! a device: a fused kernel on the CPU, composed candle operations elsewhere. Knows no model.

mod activation;
mod adamw;
mod alloc;
mod attention;
mod contrastive;
mod cpu;
mod gemm;
mod gradient;
mod layer_norm;
mod linear;
pub mod reference;
mod rows;
mod segments;
mod simd;
mod softmax;
mod tape;

pub use activation::Activation;
pub use adamw::{AdamwStep, adamw_step};
pub use alloc::{Allocator, keep_freed_memory, peak_rss_mib, physical_memory_mib};
pub use attention::Attention;
pub use contrastive::{Contrastive, ContrastiveOutput, contrastive};
pub use gradient::{Gradient, RowGradient, squared_sum};
pub use layer_norm::layer_norm;
pub use linear::{activated_linear_residual, linear, linear_no_bias, linear_residual};
pub use rows::{add_embedding, embedding, prepend, select_rows};
pub use segments::Segments;
pub use tape::{Tape, Value, recomputed};
