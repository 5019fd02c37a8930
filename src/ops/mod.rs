//! The differentiable operations that models and losses are made of, and the tape that towers are differentiated on.
//! Code above trusts that every one of them has a right gradient: candle's own fused `LayerNorm`, `softmax_last_dim`
//! and others cut the graph without a word.
//!
//! Owns every kernel and every `unsafe` but the memory map of weights (model/checkpoint), and how each operation runs
//! on a device: a fused kernel on the CPU and, for most, on a GPU; composed candle operations elsewhere. Knows no
//! model.

mod activation;
mod activation_bf16;
mod adamw;
mod alloc;
mod attention;
mod contrastive;
mod conv;
mod cpu;
mod cuda;
mod gemm;
mod gradient;
mod layer_norm;
mod linear;
mod linear_bf16;
mod local_similarity;
mod maps;
mod moment;
mod narrow;
mod operand;
mod patchify;
mod position_bias;
mod products;
pub mod profile;
pub mod reference;
mod relevance;
mod response_norm;
mod rotary;
mod round;
mod rows;
mod scale;
mod segment_pool;
mod segments;
mod signals;
mod simd;
#[cfg(test)]
mod skipped;
mod softmax;
mod spec;
mod squares;
mod sum;
mod tape;
#[cfg(test)]
mod tests;

pub use activation::gated;
pub use adamw::{adamw_step, measured_adamw_step};
pub use alloc::{Allocator, is_poisoned, keep_freed_memory, online_cores, peak_rss_mib, physical_memory_mib};
pub use contrastive::contrastive;
pub use conv::Conv2d;
pub use cuda::{GpuMemory, Uploaded, Uploader, gpu_count, gpu_memory, open_gpu, pixels, use_tensor_cores};
pub use gemm::{Bf16Kernel, Bf16Support, MatmulKernel, bf16_support};
pub use gradient::{Gradient, RowGradient};
pub use layer_norm::{layer_norm, layer_norm_operand};
pub use linear::{activated_linear_residual, feed_forward, linear, linear_no_bias, linear_operand, linear_residual};
pub use local_similarity::local_similarity;
pub use maps::{avg_pool, depthwise_conv, max_pool, mean_rows};
pub use patchify::patchify;
pub use position_bias::PositionBias;
pub use products::{products, products_on_all};
pub use relevance::{Relevance, roll_out};
pub use response_norm::response_norm;
pub use rows::{add_embedding, concat_rows, embedding, prepend, select_rows};
pub use scale::{add, multiply, scale_rows};
pub use segment_pool::{l2_normalize, max_rows, softmax_pool, softmax_shares};
pub use segments::Segments;
pub use signals::{survive_file_size_limit, with_nohup_kept};
pub use spec::{Activation, AdamwStep, Attention, Contrastive, ContrastiveOutput, LocalSimilarity, Maps, Rotary};
pub use squares::{SquaredSum, squared_sum};
pub use tape::{Tape, Value, recomputed};
