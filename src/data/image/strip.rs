//! PNG and JPEG files without anything but their pixels: texts, comments, Exif, profiles, previews and what stands
//! behind the end may name patients. The pixels' own data stays as it is, so that they are decoded to the same bytes;
//! of Exif only the orientation stays, where it turns the image.

use flate2::Crc;

use super::{exif, jpeg, png};

/// The file without its metadata, and the ending of its kind; `None` where it is neither a whole PNG nor a whole JPEG.
pub(in crate::data) fn without_metadata(bytes: &[u8]) -> Option<(Vec<u8>, &'static str)> {
    if bytes.starts_with(png::SIGNATURE) {
        Some((png_without(bytes)?, "png"))
    } else if bytes.starts_with(jpeg::SIGNATURE) {
        Some((jpeg_without(bytes)?, "jpg"))
    } else {
        None
    }
}

/// Chunks that pixels are made of (PNG, third edition, 11.2 and 11.3.1).
const PIXELS: [&[u8]; 4] = [b"IHDR", b"PLTE", b"tRNS", b"IDAT"];

fn png_without(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = png::SIGNATURE.to_vec();
    let (mut rest, mut turned, mut begun) = (&bytes[png::SIGNATURE.len()..], false, false);
    loop {
        let (length, _) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let kind = rest.get(4..8)?;
        let chunk = rest.get(..length.checked_add(12)?)?;
        rest = &rest[chunk.len()..];
        match kind {
            b"IEND" => {
                out.extend(png_chunk(b"IEND", &[]));
                return Some(out);
            }
            // As the decoder: the first one, before the pixels.
            b"eXIf" if !turned && !begun => {
                turned = true;
                let orientation = exif::orientation(&chunk[8..8 + length]);
                if orientation != 1 {
                    out.extend(png_chunk(b"eXIf", &exif::only(orientation)));
                }
            }
            kind if PIXELS.contains(&kind) => {
                begun |= kind == b"IDAT";
                out.extend(chunk);
            }
            _ => {}
        }
    }
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

fn jpeg_without(bytes: &[u8]) -> Option<Vec<u8>> {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 2);
    let mut orientation = 1;
    loop {
        // Fill bytes may stand before a mark.
        while bytes.get(at)? == &0xff && bytes.get(at + 1)? == &0xff {
            at += 1;
        }
        if bytes.get(at)? != &0xff {
            return None;
        }
        let marker = *bytes.get(at + 1)?;
        at += 2;
        match marker {
            END => break,
            // Marks without a segment say nothing here.
            0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let segment = bytes.get(at..at + length).filter(|s| s.len() >= 2)?;
        at += length;
        match marker {
            // Frames, tables, restarts, lines, scans (T.81, table B.1); 0xc8 is of extensions.
            0xc0..=0xc7 | 0xc9..=0xcf | 0xda..=0xdd => out.extend([&[0xff, marker], segment].concat()),
            0xe0..=0xef => out.extend(application(marker, &segment[2..], &mut orientation)),
            _ => {}
        }
        if marker == SCAN {
            let ends = |w: &[u8]| w[0] == 0xff && !matches!(w[1], 0x00 | 0xd0..=0xd7 | 0xff);
            let length = bytes[at..].windows(2).position(ends)?;
            out.extend_from_slice(&bytes[at..at + length]);
            at += length;
        }
    }
    let turn =
        if orientation == 1 { Vec::new() } else { app(0xe1, &[b"Exif\0\0", &exif::only(orientation)[..]].concat()) };
    Some([&[0xff, 0xd8][..], &turn, &out, &[0xff, END]].concat())
}

/// What of an application's segment decides what the pixels are: whose colours they are, and which way up they stand.
fn application(marker: u8, data: &[u8], orientation: &mut u16) -> Vec<u8> {
    match (marker, data) {
        // Version 1.1, no unit, square pixels, no preview.
        (0xe0, [b'J', b'F', b'I', b'F', 0, ..]) => app(0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"),
        // Motion JPEG: the standard's own tables.
        (0xe0, [b'A', b'V', b'I', b'1', 0, ..]) => app(0xe0, b"AVI1\0"),
        (0xe1, [b'E', b'x', b'i', b'f', 0, 0, exif @ ..]) => {
            *orientation = exif::orientation(exif);
            Vec::new()
        }
        (0xee, [b'A', b'd', b'o', b'b', b'e', 0, _, _, _, _, _, transform, ..]) => {
            app(0xee, &[b"Adobe\0\x64\0\0\0\0", &[*transform][..]].concat())
        }
        _ => Vec::new(),
    }
}

fn app(marker: u8, data: &[u8]) -> Vec<u8> {
    [&[0xff, marker], &(data.len() as u16 + 2).to_be_bytes()[..], data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::{self, Picture};

    const SECRET: &[u8] = b"MILLER^JOHN";

    fn holds_secret(bytes: &[u8]) -> bool {
        bytes.windows(SECRET.len()).any(|w| w == SECRET)
    }

    fn picture(channels: usize) -> Picture {
        let bytes = (0..37 * 21 * channels).map(|i| (i * 7 % 251) as u8).collect();
        Picture { width: 37, height: 21, channels, bytes }
    }

    /// Exif with an orientation and a name.
    fn exif_block(orientation: u16) -> Vec<u8> {
        [&exif::only(orientation)[..], SECRET].concat()
    }

    #[test]
    fn of_a_png_only_pixels_and_the_way_up_stay() {
        for (channels, orientation, late) in [(1, 1, false), (3, 6, false), (1, 8, true)] {
            let plain = image::png(&picture(channels)).unwrap();
            // Signature and IHDR have 33 bytes, IEND 12.
            let (head, body) = plain.split_at(33);
            let (body, end) = body.split_at(body.len() - 12);
            let text = png_chunk(b"tEXt", &[b"Patient\0", SECRET].concat());
            let others = [png_chunk(b"tIME", &[7; 7]), png_chunk(b"zZzZ", SECRET)].concat();
            let exif = png_chunk(b"eXIf", &exif_block(orientation));
            let (early, after) = if late { (Vec::new(), exif) } else { (exif, Vec::new()) };
            let dressed = [head, &early, &text, body, &after, &others, end, SECRET].concat();
            assert!(holds_secret(&dressed));
            let (bare, ending) = without_metadata(&dressed).unwrap();
            assert!(!holds_secret(&bare) && ending == "png");
            assert_eq!(image::decode(&bare, 0).unwrap(), image::decode(&dressed, 0).unwrap(), "{channels} {late}");
            let turned = image::decode(&bare, 0).unwrap().width == 21;
            assert_eq!(turned, orientation != 1 && !late);
            assert_eq!(without_metadata(&plain).unwrap().0, plain, "nothing else is touched");
            for cut in [dressed.len() - 30, 40, 10] {
                assert!(without_metadata(&dressed[..cut]).is_none());
            }
        }
    }

    #[test]
    fn of_a_jpeg_only_pixels_and_the_way_up_stay() {
        for (channels, orientation) in [(1, 1), (3, 6), (3, 1), (1, 3)] {
            let plain = image::reduced(&picture(channels), None).unwrap();
            let exif = app(0xe1, &[b"Exif\0\0", &exif_block(orientation)[..]].concat());
            let comment = app(0xfe, SECRET);
            let others = [app(0xe2, SECRET), app(0xed, SECRET), app(0xef, SECRET)].concat();
            let preview = app(0xe0, &[b"JFIF\0\x01\x01\0\0\x01\0\x01\x03\x01", SECRET].concat());
            let dressed = [&plain[..2], &preview, &exif, &comment, &others, &plain[2..], SECRET].concat();
            assert!(holds_secret(&dressed));
            let (bare, ending) = without_metadata(&dressed).unwrap();
            assert!(!holds_secret(&bare) && ending == "jpg");
            assert_eq!(image::decode(&bare, 0).unwrap(), image::decode(&dressed, 0).unwrap());
            assert_eq!(image::decode(&bare, 0).unwrap().width == 21, orientation == 6);
            for cut in [dressed.len() / 2, 40, 3] {
                assert!(without_metadata(&dressed[..cut]).is_none());
            }
        }
        // Colours that are not YCbCr, as Adobe says.
        let rgb = image::reduced(&picture(3), None).unwrap();
        let adobe = app(0xee, b"Adobe\0\x64MILLER");
        let adobe = [&adobe[..adobe.len() - 2], &[0, 0][..]].concat();
        let dressed = [&rgb[..2], &adobe, &rgb[2..]].concat();
        let bare = without_metadata(&dressed).unwrap().0;
        assert_eq!(image::decode(&bare, 0).unwrap(), image::decode(&dressed, 0).unwrap());
        assert!(!bare.windows(4).any(|w| w == b"MILL"));
    }
}
