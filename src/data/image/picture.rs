//! Pixels in memory, and how many an image may claim.

use anyhow::{Result, ensure};

/// No radiograph or slide thumbnail is wider; a header that claims more is broken or hostile.
pub(super) const MAX_SIDE: u32 = 30_000;

/// Pixels of one image, row after row. A radiograph stays gray: a third of the work of resizing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 1 for gray, 3 for red, green and blue side by side.
    pub channels: usize,
    /// height × width × channels numbers.
    pub bytes: Vec<u8>,
}

impl Picture {
    /// Values of one of the three colours, which in a gray image are the same.
    pub fn colour(&self, channel: usize) -> impl Iterator<Item = u8> + '_ {
        let offset = channel.min(self.channels - 1);
        self.bytes.iter().skip(offset).step_by(self.channels).copied()
    }
}

/// Refuses a header that claims more than any image has, before room is made for it.
pub(super) fn bounded(width: u32, height: u32) -> Result<()> {
    ensure!(width > 0 && height > 0, "is {width} × {height} pixels");
    ensure!(width.max(height) <= MAX_SIDE, "claims {width} × {height} pixels; allowed are {MAX_SIDE} a side");
    Ok(())
}
