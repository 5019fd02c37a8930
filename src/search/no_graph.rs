//! What stands for graphs of neighbours in a program without them.

use std::path::Path;

use anyhow::{Result, bail};

use super::gallery::Gallery;

/// Whether this program has graphs.
pub const HAS_GRAPHS: bool = false;
/// How graphs are made.
pub(super) const HOW: &str = "not at all";
const WHY: &str = "this program was built without graphs of neighbours; leave --approximate out, or build it with \
                   `cargo build --release --features approximate`";

/// None.
pub(super) struct Graph {
    pub rows: usize,
}

impl Graph {
    /// # Errors
    /// Always.
    pub fn available() -> Result<()> {
        bail!(WHY)
    }

    /// # Errors
    /// Always.
    pub fn view(_path: &Path, _rows: (usize, usize), _gallery: &Gallery) -> Result<Self> {
        bail!(WHY)
    }

    /// # Errors
    /// Always.
    pub fn make(_path: &Path, _rows: (usize, usize), _gallery: &Gallery) -> Result<Self> {
        bail!(WHY)
    }

    /// # Errors
    /// Always.
    pub fn near(&self, _query: &[f32], _most: usize) -> Result<Vec<(f32, usize)>> {
        bail!(WHY)
    }
}
