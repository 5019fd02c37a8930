//! JPEG 2000 pixels (ITU-T T.800). The decoder makes room for whatever the code stream's header claims, so all that it
//! goes by is read here first.

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::super::budget::afford;
use super::values::{Decoded, Frame};

/// Bytes of a value: the decoder's of a tile and of the image, and ours.
const BYTES_A_VALUE: u64 = 16;
/// Bytes that the decoder keeps of a code block, its nodes of two trees included.
const BYTES_A_BLOCK: u64 = 400;
/// Bytes that it keeps of a tile before it decodes the first.
const BYTES_A_TILE: u64 = 16 << 10;
/// Packets of a code stream, each a pass of the decoder's loop.
const MOST_PACKETS: u64 = 1 << 22;
/// Second bytes of the markers whose segments the decoder reads by their length. In those of others it looks for the
/// next that it knows, and would obey what was passed over here. The size (51) comes first and once.
const KNOWN: [u8; 20] = [
    0x50, 0x52, 0x53, 0x55, 0x57, 0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f, 0x60, 0x61, 0x63, 0x64, 0x74, 0x75, 0x77, 0x78,
    0x90,
];

pub(super) fn decode(bytes: &[u8], frame: &Frame) -> Result<Decoded> {
    // Boxes around it may hold palettes of their own, which DICOM forbids and nobody reads here.
    let stream = code_stream(bytes).context("has no code stream")?;
    let header = Header::read(stream)?;
    ensure!(
        (header.width, header.height) == (frame.columns as u64, frame.rows as u64),
        "its header says {} × {}",
        header.width,
        header.height
    );
    header.check()?;
    let image = jpeg2k::Image::from_bytes(stream).map_err(|e| anyhow!("{e}"))?;
    let planes = image.components();
    let size = (image.width() as usize, image.height() as usize);
    let pixels = size.0 * size.1;
    ensure!(!planes.is_empty() && planes.iter().all(|p| p.data().len() == pixels), "its planes differ in size");
    let mut values = Vec::with_capacity(pixels * planes.len());
    (0..pixels).for_each(|i| values.extend(planes.iter().map(|p| p.data()[i])));
    // The code stream may say that values have no sign where the file says that they have one, or the reverse: the file
    // counts, as in pydicom's `_apply_sign_correction`.
    let bits = planes[0].precision();
    // The decoder turns the colour transform of the code stream back.
    let rgb = planes.len() == 3 && frame.photometric != "YBR_FULL";
    Ok(Decoded { size, samples: planes.len(), bits, values, rgb })
}

/// The bytes of the code stream, which may lie in boxes.
fn code_stream(bytes: &[u8]) -> Option<&[u8]> {
    const STREAM: &[u8] = &[0xff, 0x4f, 0xff, 0x51];
    if bytes.starts_with(STREAM) {
        return Some(bytes);
    }
    let mut rest = bytes;
    loop {
        let kind = rest.get(4..8)?;
        let (len, head) = match word(rest, 0)? {
            0 => (rest.len() as u64, 8),
            1 => (word(rest, 8)? << 32 | word(rest, 12)?, 16),
            len => (len, 8),
        };
        let content = rest.get(head..usize::try_from(len).ok()?.min(rest.len()))?;
        if kind == b"jp2c" {
            return content.starts_with(STREAM).then_some(content);
        }
        rest = rest.get(usize::try_from(len).ok()?.max(head)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]).into())
}

/// What the marker segments claim, each at its worst over all tiles and components.
#[derive(Debug)]
struct Header {
    width: u64,
    height: u64,
    tile: (u64, u64),
    tiles: u64,
    components: u64,
    levels: u32,
    layers: u64,
    /// Sides of code blocks and precincts, as powers of two.
    block: (u32, u32),
    precinct: (u32, u32),
}

impl Header {
    fn read(stream: &[u8]) -> Result<Self> {
        let mut header = Self::size(stream.get(4..).context("its header is cut")?)?;
        let mut at = 2;
        let mut tile_ends = None;
        while let Some(&[0xff, marker, high, low]) = stream.get(at..at + 4) {
            let len = usize::from(u16::from_be_bytes([high, low]));
            match marker {
                // A tile's data begin: on to the next tile.
                0x93 => match tile_ends.take() {
                    Some(end) => {
                        // Else the decoder goes on right behind the mark, and not where the tile is said to end.
                        ensure!(end >= at + 2, "a tile ends before its data");
                        at = end;
                        continue;
                    }
                    None => break,
                },
                0xd9 => break,
                _ => {
                    let known = if at == 2 { marker == 0x51 } else { KNOWN.contains(&marker) };
                    ensure!(known, "marker ff{marker:02x} at byte {at} is none that stands there");
                }
            }
            ensure!(len >= 2, "a segment has {len} bytes");
            let segment = stream.get(at + 4..at + 2 + len).context("a segment is cut")?;
            match marker {
                0x52 => header.coding(segment, 5, true)?,
                0x53 => header.coding(segment, if header.components < 257 { 2 } else { 3 }, false)?,
                0x90 => {
                    let len = word(segment, 2).context("a tile's header is cut")?;
                    // 0 stands for all that is left.
                    tile_ends = (len > 0).then_some(at + len as usize);
                }
                _ => {}
            }
            at += 2 + len;
        }
        ensure!(header.block.0 < u32::MAX, "does not say how it is coded");
        Ok(header)
    }

    /// The segment SIZ, from its length on.
    fn size(segment: &[u8]) -> Result<Self> {
        let at = |i: usize| word(segment, i).context("its header is cut");
        let ((right, bottom), (left, top)) = ((at(4)?, at(8)?), (at(12)?, at(16)?));
        let ((tile_width, tile_height), (tile_left, tile_top)) = ((at(20)?, at(24)?), (at(28)?, at(32)?));
        ensure!(right > left && bottom > top && tile_width > 0 && tile_height > 0, "has no pixels");
        ensure!(tile_left <= left && tile_top <= top, "its tiles begin within the image");
        let components = segment.get(36..38).context("its header is cut")?;
        let components = u64::from(u16::from_be_bytes([components[0], components[1]]));
        ensure!((1..=4).contains(&components), "has {components} components; allowed are 1 to 4");
        let listed = segment.get(38..38 + 3 * components as usize).context("its header is cut")?;
        ensure!(listed.chunks_exact(3).all(|c| c[1..] == [1, 1]), "its planes differ in size");
        let (width, height) = (right - left, bottom - top);
        let tiles = (right - tile_left).div_ceil(tile_width) * (bottom - tile_top).div_ceil(tile_height);
        let tile = (tile_width.min(width), tile_height.min(height));
        let unknown = (u32::MAX, u32::MAX);
        Ok(Self { width, height, tile, tiles, components, levels: 0, layers: 1, block: unknown, precinct: (15, 15) })
    }

    /// COD, or COC for one component; the sides of what is coded together stand from byte `at` on.
    fn coding(&mut self, segment: &[u8], at: usize, all: bool) -> Result<()> {
        let style = *segment.get(if all { 0 } else { at - 1 }).context("a segment is cut")?;
        let &[levels, across, down, ..] = segment.get(at..).unwrap_or_default() else { bail!("a segment is cut") };
        ensure!(levels <= 32 && across <= 8 && down <= 8, "its code blocks are out of bounds");
        if all {
            let layers = segment.get(2..4).context("a segment is cut")?;
            self.layers = self.layers.max(u16::from_be_bytes([layers[0], layers[1]]).into());
        }
        self.levels = self.levels.max(levels.into());
        self.block = (self.block.0.min(u32::from(across) + 2), self.block.1.min(u32::from(down) + 2));
        if style & 1 == 1 {
            let listed = segment.get(at + 5..).unwrap_or_default();
            for side in listed.iter().take(usize::from(levels) + 1) {
                let (across, down) = (u32::from(side & 15), u32::from(side >> 4));
                self.precinct = (self.precinct.0.min(across), self.precinct.1.min(down));
            }
        }
        Ok(())
    }

    /// # Errors
    /// Decoding takes more bytes than one image may, or goes through more packets than any image has.
    fn check(&self) -> Result<()> {
        let (mut blocks, mut precincts) = (0u64, 0u64);
        for level in 0..=self.levels {
            // Sides of a resolution; its bands are half as long, so are their precincts.
            let side = |side: u64| side.div_ceil(1 << level.min(31)) + 1;
            let (width, height) = (side(self.tile.0), side(self.tile.1));
            let count = |log: (u32, u32)| (width.div_ceil(1 << log.0) + 1) * (height.div_ceil(1 << log.1) + 1);
            let whole = count(self.precinct);
            let within = (self.precinct.0.saturating_sub(1), self.precinct.1.saturating_sub(1));
            blocks += count((self.block.0.min(within.0), self.block.1.min(within.1))).max(whole * 3);
            precincts += whole;
        }
        let packets = precincts.saturating_mul(self.components).saturating_mul(self.layers).saturating_mul(self.tiles);
        ensure!(packets <= MOST_PACKETS, "has {packets} packets; allowed are {MOST_PACKETS}");
        let values = self.width.saturating_mul(self.height).saturating_mul(self.components);
        let need = values.saturating_mul(BYTES_A_VALUE).saturating_add(blocks * self.components * BYTES_A_BLOCK);
        afford(need.saturating_add(self.tiles.saturating_mul(BYTES_A_TILE)))
    }
}
