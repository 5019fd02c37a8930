//! From gradients to new weights: groups, schedule, clipping, AdamW.

mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWOptions, Gradients};
pub use schedule::Schedule;
