//! From gradients to new weights: groups, schedule, clipping, AdamW.

mod adamw;
mod config;
mod ema;
mod schedule;

pub use adamw::{AdamW, AdamWOptions, Gradients};
pub use config::OptimConfig;
pub use ema::Ema;
pub use schedule::{Schedule, ScheduleKind};
