//! Which way up a camera held an image: Exif's orientation (CIPA DC-008, 4.6.4.1.6), as Pillow's `exif_transpose` obeys
//! it.

use super::picture::Picture;

const ORIENTATION: u16 = 274;

/// 1 (upright) to 8 of a block of Exif; 1 where it says nothing.
pub(super) fn orientation(exif: &[u8]) -> u16 {
    find(exif).filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

/// A block of Exif that says nothing but the orientation.
pub(super) fn only(orientation: u16) -> [u8; 26] {
    let mut block = *b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0";
    block[18..20].copy_from_slice(&orientation.to_be_bytes());
    block
}

/// The first directory of a TIFF file holds it.
fn find(exif: &[u8]) -> Option<u16> {
    let little = match exif.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let two = |at: usize| -> Option<u16> {
        let bytes = [*exif.get(at)?, *exif.get(at + 1)?];
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let (first, second) = (usize::from(two(4)?), usize::from(two(6)?));
    let directory = if little { second << 16 | first } else { first << 16 | second };
    let entries = (0..usize::from(two(directory)?)).map(|i| directory + 2 + 12 * i);
    // Tag, type, count and the value itself.
    entries.take_while(|at| at + 12 <= exif.len()).find(|&at| two(at) == Some(ORIENTATION)).and_then(|at| two(at + 8))
}

/// The image turned and mirrored so that it stands upright.
pub(super) fn upright(image: Picture, orientation: u16) -> Picture {
    let (w, h) = (image.width as usize, image.height as usize);
    let from = |x: usize, y: usize| match orientation {
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        _ => (w - 1 - y, x),
    };
    let (width, height) = match orientation {
        2..=4 => (w, h),
        5..=8 => (h, w),
        _ => return image,
    };
    let mut bytes = Vec::with_capacity(image.bytes.len());
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let (from_x, from_y) = from(x, y);
        let at = (from_y * w + from_x) * image.channels;
        bytes.extend_from_slice(&image.bytes[at..at + image.channels]);
    }
    Picture { width: width as u32, height: height as u32, channels: image.channels, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Pillow 13's `ImageOps.exif_transpose` gives for [[1, 2, 3], [4, 5, 6]].
    const PILLOW: [(u32, [u8; 6]); 8] = [
        (3, [1, 2, 3, 4, 5, 6]),
        (3, [3, 2, 1, 6, 5, 4]),
        (3, [6, 5, 4, 3, 2, 1]),
        (3, [4, 5, 6, 1, 2, 3]),
        (2, [1, 4, 2, 5, 3, 6]),
        (2, [4, 1, 5, 2, 6, 3]),
        (2, [6, 3, 5, 2, 4, 1]),
        (2, [3, 6, 2, 5, 1, 4]),
    ];

    #[test]
    fn all_orientations_are_turned_as_pillow_turns_them() {
        for (i, (width, bytes)) in PILLOW.iter().enumerate() {
            for channels in [1, 3] {
                let repeat = |bytes: &[u8]| -> Vec<u8> { bytes.iter().flat_map(|&b| vec![b; channels]).collect() };
                let image = Picture { width: 3, height: 2, channels, bytes: repeat(&[1, 2, 3, 4, 5, 6]) };
                let turned = upright(image, i as u16 + 1);
                assert_eq!((turned.width, turned.bytes), (*width, repeat(bytes)), "orientation {}", i + 1);
            }
        }
    }

    #[test]
    fn both_byte_orders_are_read_and_broken_blocks_say_nothing() {
        let little = b"II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\x01\0\0\0\0\0\0\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0";
        assert_eq!((orientation(little), orientation(big)), (6, 8));
        for cut in 0..little.len() - 4 {
            assert_eq!(orientation(&little[..cut]), 1, "{cut} bytes");
        }
        let beyond = b"II*\0\xff\xff\xff\xff\x02\0";
        assert_eq!(orientation(beyond), 1);
    }
}
