//! Run-length coded pixels (PS3.5 annex G): for each sample of a pixel its bytes from the highest on, each coded for
//! itself.

use anyhow::{Context, Result, ensure};

use super::super::budget::afford;
use super::values::{Decoded, Frame};

/// `allocated`: bits of a value.
pub(super) fn decode(bytes: &[u8], frame: &Frame, allocated: usize) -> Result<Decoded> {
    let word = |i: usize| -> Result<usize> {
        let b = bytes.get(4 * i..4 * i + 4).context("its header is cut")?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let each = allocated / 8;
    let (count, pixels) = (word(0)?, frame.rows * frame.columns);
    ensure!(each > 0 && count == each * frame.samples, "it has {count} segments, not {}", each * frame.samples);
    // Two bytes give 128 at most.
    ensure!(bytes.len().saturating_mul(64) >= pixels * count, "{} bytes cannot hold its pixels", bytes.len());
    afford((4 * frame.count() + pixels) as u64)?;
    let mut values = vec![0i32; frame.count()];
    for segment in 0..count {
        let start = word(1 + segment)?;
        let end = if segment + 1 < count { word(2 + segment)? } else { bytes.len() };
        let packed = bytes.get(start..end).context("its header names bytes that are not there")?;
        let (sample, shift) = (segment / each, 8 * (each - 1 - segment % each));
        let plane = unpack_bits(packed, pixels)?;
        for (value, byte) in values[sample..].iter_mut().step_by(frame.samples).zip(plane) {
            *value |= (u32::from(byte) << shift) as i32;
        }
    }
    let bits = frame.bits_stored.min(allocated as u32);
    Ok(Decoded { size: (frame.columns, frame.rows), samples: frame.samples, bits, values, rgb: false })
}

fn unpack_bits(packed: &[u8], wanted: usize) -> Result<Vec<u8>> {
    let mut plane = Vec::with_capacity(wanted);
    let mut rest = packed;
    while plane.len() < wanted {
        let (&control, after) = rest.split_first().context("it ends in the middle of its pixels")?;
        let count = match control {
            0..=127 => usize::from(control) + 1,
            128 => 0,
            129.. => 257 - usize::from(control),
        };
        let used = if control < 128 { count } else { usize::from(count > 0) };
        let bytes = after.get(..used).context("it ends in the middle of its pixels")?;
        // What goes on behind the last pixel is not wanted.
        let count = count.min(wanted - plane.len());
        if control < 128 {
            plane.extend_from_slice(&bytes[..count]);
        } else {
            plane.extend(std::iter::repeat_n(bytes.first().copied().unwrap_or_default(), count));
        }
        rest = &after[used..];
    }
    Ok(plane)
}
