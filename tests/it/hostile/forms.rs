//! What a kind of file is made of: where its lengths and types stand, and which checksums must fit for a change to get
//! past them.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::mutate::{self, Random};
use serde_json::Value;

/// How files of a kind are changed.
#[derive(Clone, Copy)]
pub enum Form {
    /// Any bytes; `usize` is the number of bytes at the start, and at the end, that matter most.
    Bytes(usize),
    /// Lines of text.
    Text,
    /// A JSON document.
    Json,
    /// A line of JSON each.
    JsonLines,
    /// PNG: chunks keep their CRCs, pixels are packed again.
    Png,
    /// JPEG: at markers.
    Jpeg,
    /// DICOM: at value representations; deflated ones are unpacked first.
    Dicom,
    /// Tar: headers keep their sums.
    Tar,
    /// Zip without compression, as PyTorch writes it: members keep their CRCs.
    Zip,
    /// Safetensors: the header is JSON, its length fits.
    Tensors,
}

/// A changed copy of `seed`. `other` is another file of the kind.
pub fn mutate(random: &mut Random, form: Form, seed: &[u8], other: &[u8]) -> Vec<u8> {
    // Now and then without regard for what the file is.
    if random.one_in(6) {
        return mutate::bytes(random, seed.to_vec(), &[], other);
    }
    match form {
        Form::Bytes(edge) => {
            let spots: Vec<usize> =
                (0..edge.min(seed.len())).chain(seed.len().saturating_sub(edge)..seed.len()).collect();
            mutate::bytes(random, seed.to_vec(), &spots, other)
        }
        Form::Text => mutate::text(random, seed, other),
        Form::Json if random.one_in(4) => mutate::text(random, seed, other),
        Form::Json => json(random, seed),
        Form::JsonLines => json_lines(random, seed, other),
        Form::Png => png(random, seed, other),
        Form::Jpeg => mutate::bytes(random, seed.to_vec(), &pairs(seed, |a, b| a == 0xff && b > 0xbf), other),
        Form::Dicom => dicom(random, seed, other),
        Form::Tar => tar(random, seed, other),
        Form::Zip => zip(random, seed, other),
        Form::Tensors => tensors(random, seed),
    }
}

fn json(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(seed) {
        Ok(mut document) => {
            mutate::json(random, &mut document);
            document.to_string().into_bytes()
        }
        Err(_) => mutate::bytes(random, seed.to_vec(), &[], seed),
    }
}

fn json_lines(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    if random.one_in(3) {
        return mutate::text(random, seed, other);
    }
    let mut lines: Vec<Vec<u8>> = seed.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    let at = random.below(lines.len());
    lines[at] = json(random, &lines[at]);
    lines.join(&b'\n')
}

/// Offsets where two bytes in a row are of a certain sort.
fn pairs(bytes: &[u8], is: impl Fn(u8, u8) -> bool) -> Vec<usize> {
    bytes.windows(2).enumerate().filter(|(_, w)| is(w[0], w[1])).map(|(i, _)| i).collect()
}

const PNG: usize = 8;

/// Chunks (type and data) of a PNG file.
fn chunks(png: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut rest = png.get(PNG..).unwrap_or_default();
    while let Some(head) = rest.first_chunk::<4>() {
        let end = 8 + u32::from_be_bytes(*head) as usize;
        let Some(chunk) = rest.get(4..end) else { break };
        chunks.push(chunk.to_vec());
        rest = rest.get(end + 4..).unwrap_or_default();
    }
    chunks
}

fn png(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut all = chunks(seed);
    let theirs = chunks(other);
    if all.is_empty() || theirs.is_empty() {
        return mutate::bytes(random, seed.to_vec(), &[], other);
    }
    for _ in 0..random.pick(&[1, 1, 1, 2]) {
        let at = random.below(all.len());
        match random.below(8) {
            0 => drop(all.remove(at)),
            1 => all.insert(at, theirs[random.below(theirs.len())].clone()),
            2 => {
                let last = all.len() - 1;
                all.swap(at, last);
            }
            3 => {
                // A palette or transparency that does not fit.
                let length = random.pick(&[0, 1, 4, 300, 769]);
                let mut chunk = random.pick(&[b"PLTE", b"tRNS", b"zTXt", b"iCCP", b"acTL"]).to_vec();
                chunk.extend((0..length).map(|_| random.next() as u8));
                all.insert(at.max(1), chunk);
            }
            4 => {
                if let Some(pixels) = inflate(&all, flate2::read::ZlibDecoder::new) {
                    let changed = mutate::bytes(random, pixels, &[0], &[0, 1, 2, 3, 4, 5]);
                    let mut packed = flate2::write::ZlibEncoder::new(b"IDAT".to_vec(), flate2::Compression::fast());
                    drop(packed.write_all(&changed));
                    all.retain(|c| !c.starts_with(b"IDAT"));
                    all.insert(all.len().saturating_sub(1), packed.finish().unwrap_or_default());
                }
            }
            _ => {
                let kind: Vec<u8> = all[at][..4].to_vec();
                let donor = random.below(theirs.len());
                let data = mutate::bytes(random, all[at][4..].to_vec(), &[0], &theirs[donor][4..]);
                all[at] = [kind, data].concat();
            }
        }
        if all.is_empty() {
            break;
        }
    }
    let mut png = seed[..PNG].to_vec();
    for chunk in &all {
        let length = chunk.len().saturating_sub(4) as u32;
        png.extend(length.to_be_bytes().iter().chain(chunk).chain(&crc(chunk).to_be_bytes()));
    }
    png
}

fn inflate<'a, R: Read>(chunks: &[Vec<u8>], open: impl Fn(std::io::Cursor<Vec<u8>>) -> R + 'a) -> Option<Vec<u8>> {
    let packed: Vec<u8> = chunks.iter().filter_map(|c| c.strip_prefix(b"IDAT")).flatten().copied().collect();
    let mut bytes = Vec::new();
    open(std::io::Cursor::new(packed)).take(1 << 20).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The transfer syntax that deflates everything behind the meta group.
const DEFLATED: &[u8] = b"1.2.840.10008.1.2.1.99";

fn dicom(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let deflated = seed.windows(DEFLATED.len()).position(|w| w == DEFLATED);
    // The group's length (0002,0000) says where the rest starts.
    let start = seed.get(140..144).map_or(0, |b| 144 + u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    if let (Some(_), Some(packed)) = (deflated, seed.get(start..)) {
        let mut plain = Vec::new();
        if flate2::read::DeflateDecoder::new(packed).take(1 << 20).read_to_end(&mut plain).is_ok() {
            let changed = elements(random, &plain, other);
            let mut out = flate2::write::DeflateEncoder::new(seed[..start].to_vec(), flate2::Compression::fast());
            drop(out.write_all(&changed));
            return out.finish().unwrap_or_default();
        }
    }
    elements(random, seed, other)
}

fn elements(random: &mut Random, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let upper = |b: u8| b.is_ascii_uppercase();
    let mut spots = pairs(bytes, |a, b| upper(a) && upper(b));
    // Tags of the picture's description, whatever the transfer syntax, and of items.
    spots.extend(pairs(bytes, |a, b| (a, b) == (0x28, 0) || (a, b) == (0xfe, 0xff)));
    if random.one_in(6) {
        // Sequences within sequences.
        let depth = random.pick(&[3, 70, 4000]);
        let open = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff".repeat(depth);
        let at = spots.get(random.below(spots.len())).map_or(0, |at| at.saturating_sub(4));
        return [&bytes[..at], &open, &bytes[at..]].concat();
    }
    mutate::bytes(random, bytes.to_vec(), &spots, other)
}

const BLOCK: usize = 512;

fn tar(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let magic = |i: &usize| seed.get(i + 257..i + 262) == Some(b"ustar");
    let headers: Vec<usize> = (0..seed.len()).step_by(BLOCK).filter(magic).collect();
    let mut spots = headers.clone();
    // Sizes and types.
    spots.extend(headers.iter().flat_map(|h| [h + 124, h + 156]));
    let mut bytes = mutate::bytes(random, seed.to_vec(), &spots, other);
    for header in headers {
        let Some(block) = bytes.get_mut(header..header + BLOCK) else {
            break;
        };
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// Members (name, bytes) of a zip without compression, by its central directory.
fn members(zip: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let number = |at: usize, width: usize| -> Option<usize> {
        Some(zip.get(at..at + width)?.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))
    };
    let end = zip.windows(4).rposition(|w| w == b"PK\x05\x06")?;
    let mut at = number(end + 16, 4)?;
    let mut members = Vec::new();
    for _ in 0..number(end + 10, 2)? {
        let (size, name, local) = (number(at + 24, 4)?, number(at + 28, 2)?, number(at + 42, 4)?);
        let data = local + 30 + number(local + 26, 2)? + number(local + 28, 2)?;
        members.push((zip.get(at + 46..at + 46 + name)?.to_vec(), zip.get(data..data + size)?.to_vec()));
        at += 46 + name + number(at + 30, 2)? + number(at + 32, 2)?;
    }
    Some(members)
}

fn zip(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let (Some(mut all), Some(theirs)) = (members(seed), members(other)) else {
        return mutate::bytes(random, seed.to_vec(), &[], other);
    };
    // The pickle most of the time: the others are numbers.
    let pickle = all.iter().position(|(name, _)| name.ends_with(b".pkl")).unwrap_or(0);
    let at = if random.one_in(5) { random.below(all.len()) } else { pickle };
    match random.below(8) {
        0 => drop(all.remove(at)),
        1 => all.push(theirs[random.below(theirs.len())].clone()),
        2 => all[at].1 = pickle_of(random),
        _ => {
            let donor = theirs[random.below(theirs.len())].1.clone();
            // Opcodes: memo, tuples, marks, builds.
            let spots = pairs(&all[at].1, |a, b| b"qhtR\x85\x86\x87(}])sueb".contains(&a) || b == b'X');
            all[at].1 = mutate::bytes(random, std::mem::take(&mut all[at].1), &spots, &donor);
        }
    }
    write_zip(&all)
}

/// A short pickle of opcodes that state dicts use, in any order.
fn pickle_of(random: &mut Random) -> Vec<u8> {
    const CODES: [&[u8]; 20] = [
        b"}",
        b"]",
        b")",
        b"(",
        b"t",
        b"\x85",
        b"\x86",
        b"\x87",
        b"s",
        b"u",
        b"e",
        b"a",
        b"R",
        b"Q",
        b"K\x05",
        b"M\xff\xff",
        b"X\x03\0\0\0abc",
        b"q\0",
        b"h\0",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
    ];
    let mut pickle = b"\x80\x02".to_vec();
    for _ in 0..random.below(40) {
        let code = random.pick(&CODES);
        pickle.extend(code.repeat(random.pick(&[1, 1, 1, 2, 1000])));
    }
    pickle.push(b'.');
    pickle
}

fn write_zip(members: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let (mut zip, mut directory): (Vec<u8>, Vec<u8>) = Default::default();
    for (name, data) in members {
        let offset = (zip.len() as u32).to_le_bytes();
        let size = (data.len() as u32).to_le_bytes();
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc(data).to_le_bytes().iter().chain(&size).chain(&size));
        common.extend((name.len() as u16).to_le_bytes().iter().chain(&[0, 0]));
        zip.extend(b"PK\x03\x04".iter().chain(&common).chain(name).chain(data));
        directory.extend(b"PK\x01\x02\x14\x00".iter().chain(&common).chain(&[0; 10]).chain(&offset).chain(name));
    }
    let count = (members.len() as u16).to_le_bytes();
    let (size, start) = ((directory.len() as u32).to_le_bytes(), (zip.len() as u32).to_le_bytes());
    zip.extend(directory);
    zip.extend(b"PK\x05\x06\0\0\0\0".iter().chain(&count).chain(&count).chain(&size).chain(&start).chain(&[0, 0]));
    zip
}

/// Lets the list of checksums beside a file, where there is one, fit the file again.
pub fn mend_checksums(file: &Path) {
    let (list, name) = (file.with_file_name("SHA256SUMS"), file.file_name().unwrap().to_str().unwrap());
    let Ok(lines) = fs::read_to_string(&list) else { return };
    let digits: String = Sha256::digest(fs::read(file).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    let mended = lines.lines().map(|line| match line.split_once("  ") {
        Some((_, of)) if of == name => format!("{digits}  {name}\n"),
        _ => format!("{line}\n"),
    });
    fs::write(list, mended.collect::<String>()).unwrap();
}

fn tensors(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    let length = seed.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b) as usize);
    let Some((header, data)) = seed.get(8..).and_then(|rest| rest.split_at_checked(length)) else {
        return mutate::bytes(random, seed.to_vec(), &[], seed);
    };
    if random.one_in(4) {
        // Numbers only: NaN, infinities, other scales.
        let mut data = data.to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(data.len() / 4) * 4;
            let end = (at + 4 * random.pick(&[1, 64, 1 << 20])).min(data.len());
            let value = random.pick(&[f32::NAN, f32::INFINITY, f32::MAX, -f32::MAX, 0.0, 1e-40]);
            data[at..end].chunks_exact_mut(4).for_each(|n| n.copy_from_slice(&value.to_le_bytes()));
        }
        return [&seed[..8 + length], &data].concat();
    }
    let header = if random.one_in(5) { mutate::text(random, header, header) } else { json(random, header) };
    [&(header.len() as u64).to_le_bytes(), &header[..], data].concat()
}

/// The same files from the same seed, and checksums that fit.
#[test]
fn changes_are_seeded_and_get_behind_checksums() {
    let read = |name: &str| fs::read(crate::common::golden(name)).unwrap();
    let png = read("preprocess/rgb.png");
    let changed = |case: u64| mutate(&mut Random::new(3, "png", case), Form::Png, &png, &png);
    assert!((0..50).all(|case| changed(case) == changed(case)) && changed(1) != changed(2));
    let fits = |png: &[u8]| {
        let mut rest = &png[PNG.min(png.len())..];
        while let Some(head) = rest.first_chunk::<4>() {
            let end = 8 + u32::from_be_bytes(*head) as usize;
            let (Some(chunk), Some(sum)) = (rest.get(4..end), rest.get(end..end + 4)) else {
                return false;
            };
            if crc(chunk).to_be_bytes() != sum {
                return false;
            }
            rest = &rest[end + 4..];
        }
        true
    };
    let fitting = (0..200).filter(|&case| fits(&changed(case))).count();
    assert!((150..200).contains(&fitting), "{fitting} of 200 have sums that fit");
    let archive = read("clip_formats/torch_bin/pytorch_model.bin");
    let whole = members(&archive).unwrap();
    assert!(whole.len() > 10 && members(&write_zip(&whole)).unwrap() == whole);
}
