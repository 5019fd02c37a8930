//! The compressions of Parquet. What a page claims to hold is never taken on trust: memory grows with what comes out.

use std::io::Read;

use parquet::basic::Compression;

/// A byte of Snappy gives 64 / 3 at most, one of LZ4 255.
const MOST_SNAPPY: usize = 22;
const MOST_LZ4: usize = 255;
/// Reserved at once for compressions without a bound.
const FIRST: usize = 4;

/// Appends what `packed` holds, which must be `claimed` bytes, to `bytes`.
///
/// # Errors
/// It holds something else; in words.
pub(super) fn unpack(codec: Compression, packed: &[u8], claimed: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
    match codec {
        Compression::UNCOMPRESSED => {
            matches(packed.len(), claimed)?;
            bytes.extend_from_slice(packed);
            Ok(())
        }
        Compression::SNAPPY => {
            matches(snap::raw::decompress_len(packed).map_err(in_words)?, claimed)?;
            let place = room(packed, claimed, MOST_SNAPPY, bytes)?;
            let len = snap::raw::Decoder::new().decompress(packed, place).map_err(in_words)?;
            matches(len, claimed)
        }
        Compression::GZIP(_) => stream(flate2::read::MultiGzDecoder::new(packed), packed, claimed, bytes),
        Compression::BROTLI(_) => stream(brotli_decompressor::Decompressor::new(packed, 4096), packed, claimed, bytes),
        Compression::ZSTD(_) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(in_words)?;
            stream(decoder, packed, claimed, bytes)
        }
        Compression::LZ4_RAW => lz4_block(packed, claimed, bytes),
        Compression::LZ4 => {
            // Three things go by this name: Hadoop's blocks, LZ4's own frames, and bare blocks.
            let before = bytes.len();
            hadoop(packed, claimed, bytes)
                .or_else(|_| {
                    bytes.truncate(before);
                    stream(lz4_flex::frame::FrameDecoder::new(packed), packed, claimed, bytes)
                })
                .or_else(|_| {
                    bytes.truncate(before);
                    lz4_block(packed, claimed, bytes)
                })
        }
        other => Err(format!("is compressed as {other}, which cannot be read")),
    }
}

fn matches(len: usize, claimed: usize) -> Result<(), String> {
    if len == claimed { Ok(()) } else { Err(format!("a page claims {claimed} bytes and holds {len}")) }
}

fn in_words(error: impl std::fmt::Display) -> String {
    format!("a page cannot be unpacked: {error}")
}

/// `claimed` more bytes, if so many can come of `packed` where one gives at most `most`.
fn room<'a>(packed: &[u8], claimed: usize, most: usize, bytes: &'a mut Vec<u8>) -> Result<&'a mut [u8], String> {
    if claimed / most > packed.len() {
        return Err(format!("a page claims {claimed} bytes, which {} packed ones cannot hold", packed.len()));
    }
    let start = bytes.len();
    bytes.resize(start + claimed, 0);
    Ok(&mut bytes[start..])
}

fn stream(source: impl Read, packed: &[u8], claimed: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
    let start = bytes.len();
    bytes.reserve(claimed.min(packed.len().saturating_mul(FIRST)));
    // One more than claimed, to see whether there is more.
    source.take(claimed as u64 + 1).read_to_end(bytes).map_err(in_words)?;
    match bytes.len() - start {
        len if len > claimed => Err(format!("a page claims {claimed} bytes and holds more")),
        len => matches(len, claimed),
    }
}

fn lz4_block(packed: &[u8], claimed: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
    let place = room(packed, claimed, MOST_LZ4, bytes)?;
    matches(lz4_flex::block::decompress_into(packed, place).map_err(in_words)?, claimed)
}

/// Blocks with both their lengths before each.
fn hadoop(mut packed: &[u8], claimed: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
    let short = || "a page ends within a block".to_string();
    let mut len = 0usize;
    while let Some((head, rest)) = packed.split_first_chunk::<8>() {
        let number = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]) as usize;
        let (unpacked, size) = (number(0), number(4));
        let block = rest.get(..size).ok_or_else(short)?;
        len = len.saturating_add(unpacked);
        if len > claimed {
            return matches(len, claimed);
        }
        lz4_block(block, unpacked, bytes)?;
        packed = &rest[size..];
    }
    if packed.is_empty() { matches(len, claimed) } else { Err(short()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(codec: &str, bytes: &[u8]) -> (Compression, Vec<u8>) {
        let block = || lz4_flex::block::compress(bytes);
        match codec {
            "none" => (Compression::UNCOMPRESSED, bytes.to_vec()),
            "snappy" => (Compression::SNAPPY, snap::raw::Encoder::new().compress_vec(bytes).unwrap()),
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, bytes).unwrap();
                (Compression::GZIP(Default::default()), encoder.finish().unwrap())
            }
            "zstd" => {
                let level = ruzstd::encoding::CompressionLevel::Fastest;
                (Compression::ZSTD(Default::default()), ruzstd::encoding::compress_to_vec(bytes, level))
            }
            "lz4 raw" => (Compression::LZ4_RAW, block()),
            "lz4 bare" => (Compression::LZ4, block()),
            _ => {
                let (a, b) = bytes.split_at(bytes.len() / 2);
                let parts = [a, b].map(|part| {
                    let block = lz4_flex::block::compress(part);
                    let sizes = [part.len() as u32, block.len() as u32].map(u32::to_be_bytes).concat();
                    [sizes, block].concat()
                });
                (Compression::LZ4, parts.concat())
            }
        }
    }

    const CODECS: [&str; 7] = ["none", "snappy", "gzip", "zstd", "lz4 raw", "lz4 bare", "lz4 hadoop"];

    #[test]
    fn what_was_packed_comes_back() {
        let texts = [
            vec![],
            b"a".to_vec(),
            vec![7; 100_000],
            (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect(),
        ];
        for codec in CODECS {
            for text in &texts {
                let (compression, packed) = packed(codec, text);
                let mut bytes = b"levels".to_vec();
                unpack(compression, &packed, text.len(), &mut bytes).unwrap_or_else(|e| panic!("{codec}: {e}"));
                assert_eq!(bytes, [b"levels", &text[..]].concat(), "{codec}");
            }
        }
    }

    #[test]
    fn a_claim_that_is_not_kept_is_an_error_and_no_allocation() {
        for codec in CODECS {
            let (compression, packed) = packed(codec, &[7; 1000]);
            for claimed in [0, 999, 1001, 1 << 30] {
                let mut bytes = Vec::new();
                let error = unpack(compression, &packed, claimed, &mut bytes).unwrap_err();
                assert!(!error.contains('\n') && bytes.capacity() < 1 << 20, "{codec}: {error}");
            }
        }
    }
}
