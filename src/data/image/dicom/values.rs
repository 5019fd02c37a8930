//! What decoders give, and a frame made of it.

/// Pixel values of one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Rows of pixels.
    pub rows: usize,
    /// Pixels of a row.
    pub columns: usize,
    /// 1, or 3 side by side.
    pub samples: usize,
    /// Bits that a value may take.
    pub bits_stored: u32,
    /// Whether values have a sign.
    pub signed: bool,
    /// MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB, YBR_FULL, …
    pub photometric: String,
    /// rows × columns × samples values.
    pub values: Vec<i32>,
}

impl Frame {
    /// Values of the picture.
    pub(super) fn count(&self) -> usize {
        self.rows * self.columns * self.samples
    }

    /// Bytes that its values take, with what is made of them until they are shown: what a decoder takes beside its
    /// result comes on top.
    pub(super) fn need(&self, planar: bool) -> u64 {
        let pixels = (self.rows * self.columns) as u64;
        match &self.photometric[..] {
            // Halved colours or planes, and pixels made of them; or tables' entries made of numbers.
            "YBR_FULL_422" | "PALETTE COLOR" => pixels * (8 + 12),
            _ if self.samples == 3 && planar => pixels * 2 * 12,
            _ if self.samples == 3 => pixels * (12 + 3),
            // Values, their copy in order, and the picture.
            _ => pixels * (4 + 4 + 1),
        }
    }
}

/// What a decoder gave.
pub(super) struct Decoded {
    pub size: (usize, usize),
    pub samples: usize,
    /// Bits of a value that count. Whether they stand for a number with a sign the file says, not the decoder.
    pub bits: u32,
    /// Values of a pixel side by side.
    pub values: Vec<i32>,
    /// Colours were turned into RGB on the way.
    pub rgb: bool,
}
