//! Text towers: token ids in, one state a text out. A folder a tower; [`super::towers`] lists them.

pub mod bert;
pub mod clip;
pub mod modernbert;
mod pool;
pub mod tower;
