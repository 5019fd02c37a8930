//! Small files that claim much: refused by their header, in one line, before anything is allocated; and what of a file
//! may stand in a message.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::{Compression, Crc};
use reportclip::data::{Columns, Manifest, dicom, image};

use crate::common::golden;

fn chunk(kind: &[u8], data: &[u8]) -> Vec<u8> {
    let named = [kind, data].concat();
    let mut crc = Crc::new();
    crc.update(&named);
    [&(data.len() as u32).to_be_bytes()[..], &named, &crc.sum().to_be_bytes()].concat()
}

/// A PNG whose pixels are `pixels`, whatever the header says.
fn png(side: u32, depth: u8, colour: u8, more: &[u8], pixels: &[u8]) -> Vec<u8> {
    let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(pixels).unwrap();
    let data = chunk(b"IDAT", &packed.finish().unwrap());
    [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &header)[..], more, &data, &chunk(b"IEND", &[])].concat()
}

fn element(tag: (u16, u16), kind: &[u8; 2], value: &[u8]) -> Vec<u8> {
    let head = [tag.0.to_le_bytes(), tag.1.to_le_bytes(), *kind].concat();
    let padded = if value.len() % 2 == 1 { [value, &[0]].concat() } else { value.to_vec() };
    let len = padded.len() as u32;
    let long = matches!(kind, b"OB" | b"OW" | b"SQ" | b"UT" | b"UN");
    let len = if long { [&[0, 0], &len.to_le_bytes()[..]].concat() } else { (len as u16).to_le_bytes().to_vec() };
    [head, len, padded].concat()
}

fn dicom_file(syntax: &str, body: &[u8]) -> Vec<u8> {
    let meta = element((2, 0x10), b"UI", syntax.as_bytes());
    [&[0; 128][..], b"DICM", &meta, body].concat()
}

const EXPLICIT: &str = "1.2.840.10008.1.2.1";

fn shape(rows: u16, columns: u16, samples: u16, photometric: &str) -> Vec<u8> {
    let number = |tag: u16, n: u16| element((0x28, tag), b"US", &n.to_le_bytes());
    let photometric = element((0x28, 4), b"CS", photometric.as_bytes());
    let bits = [number(0x100, 8), number(0x101, 8), number(0x102, 7), number(0x103, 0)].concat();
    [number(2, samples), photometric, number(0x10, rows), number(0x11, columns), bits].concat()
}

/// Pixels in one fragment.
fn encapsulated(fragment: &[u8]) -> Vec<u8> {
    let item = |bytes: &[u8]| [&[0xfe, 0xff, 0, 0xe0][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff";
    [&pixels[..], &item(&[]), &item(fragment), &[0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]].concat()
}

/// The beginning of a JPEG 2000 code stream: its size, its tiles, how many layers, how precincts are cut.
fn jpeg_2000(side: u32, tile: u32, layers: u16, precincts: Option<u8>) -> Vec<u8> {
    let sizes = [side, side, 0, 0, tile, tile, 0, 0].map(u32::to_be_bytes).concat();
    let siz = [&[0, 0][..], &sizes, &[0, 1, 7, 1, 1]].concat();
    let style = u8::from(precincts.is_some());
    let mut cod = [&[style, 0][..], &layers.to_be_bytes(), &[0, 5, 4, 4, 0, 1]].concat();
    cod.extend(precincts.into_iter().cycle().take(6 * usize::from(style)));
    let segment =
        |marker: u8, content: &[u8]| [&[0xff, marker][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat();
    [&[0xff, 0x4f][..], &segment(0x51, &siz), &segment(0x52, &cod), &[0xff, 0xd9]].concat()
}

/// A code stream with `content` in one more segment of its main header.
fn with_segment(stream: &[u8], marker: u8, content: &[u8]) -> Vec<u8> {
    let (head, end) = stream.split_at(stream.len() - 2);
    [head, &[0xff, marker], &(content.len() as u16 + 2).to_be_bytes(), content, end].concat()
}

/// A gray JPEG of 8 × 8 with its claim of a size changed.
fn jpeg(side: u16) -> Vec<u8> {
    let mut bytes = std::fs::read(golden("jpeg/noise_444.jpg")).unwrap();
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[side.to_be_bytes(), side.to_be_bytes()].concat());
    bytes
}

/// Each with its name and what its error must say.
fn bombs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let wide = shape(20_000, 20_000, 1, "MONOCHROME2");
    let stream = |stream: Vec<u8>, side: u16| {
        let body = [shape(side, side, 1, "MONOCHROME2"), encapsulated(&stream)].concat();
        dicom_file("1.2.840.10008.1.2.4.90", &body)
    };
    let lie = [&[8, 0, 5, 0][..], b"UT\0\0\xfe\xff\xff\xff", &[b'x'; 100]].concat();
    let unknown = [&[9, 0, 5, 0][..], b"UN\0\0\xfe\xff\xff\x7f", &[b'x'; 100]].concat();
    let level = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff";
    let mut deflated = DeflateEncoder::new(Vec::new(), Compression::fast());
    (0..600).for_each(|_| deflated.write_all(&vec![0; 1 << 20]).unwrap());
    let deflated = [dicom_file("1.2.840.10008.1.2.1.99", &[]), deflated.finish().unwrap()].concat();
    let rle = |side: u16| {
        let header = [&1u32.to_le_bytes()[..], &64u32.to_le_bytes(), &[0; 56]].concat();
        let fragment = [header, vec![0x81; 2000]].concat();
        let body = [shape(side, side, 1, "MONOCHROME2"), encapsulated(&fragment)].concat();
        dicom_file("1.2.840.10008.1.2.5", &body)
    };
    let (fair, dear) = (jpeg_2000(1_000, 1_000, 1, None), jpeg_2000(1_000, 1_000, 65_535, Some(0x55)));
    let at = dear.windows(2).position(|w| w == [0xff, 0x52]).unwrap();
    let (size, coding) = (&dear[6..at], &dear[at..dear.len() - 2]);
    // A tile of no data, of which the decoder reads on behind its mark.
    let tile = [&with_segment(&fair, 0x90, &[0, 0, 0, 0, 0, 12, 0, 0])[..fair.len() + 10], &[0xff, 0x93]].concat();
    let pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff";
    vec![
        ("a.png", png(30_000, 16, 6, &[], &[0; 100]), "takes 6883 MiB to decode; allowed are 512"),
        ("b.png", png(24_000, 8, 0, &[], &[0; 100]), "takes 566 MiB"),
        ("c.jpg", jpeg(30_000), "to decode; allowed are 512 (data.max_image_mib"),
        ("d.jpg", jpeg(5_000), "claims 5000 × 5000 pixels, which its"),
        ("e.dcm", dicom_file(EXPLICIT, &lie), "4294967294 bytes are claimed at byte"),
        ("f.dcm", dicom_file(EXPLICIT, &unknown), "2147483646 bytes are claimed at byte"),
        ("g.dcm", dicom_file(EXPLICIT, &level.repeat(8000)), "nests its sequences more than 16 deep"),
        ("h.dcm", dicom_file(EXPLICIT, &wide), "takes 3434 MiB to decode"),
        ("i.dcm", stream(jpeg_2000(7_000, 7_000, 1, None), 7_000), "to decode; allowed are 512"),
        ("j.dcm", stream(jpeg_2000(5_000, 1, 1, None), 5_000), "packets; allowed are"),
        ("k.dcm", stream(jpeg_2000(4_000, 4_000, 1, Some(0x00)), 4_000), "packets; allowed are"),
        ("l.dcm", stream(jpeg_2000(1_000, 1_000, 65_535, Some(0x55)), 1_000), "packets; allowed are"),
        ("m.dcm", stream(jpeg_2000(20_000, 20_000, 1, None), 100), "its header says 20000 × 20000"),
        ("n.dcm", deflated, "inflates to more than 512 MiB"),
        ("o.dcm", rle(7_000), "bytes cannot hold its pixels"),
        ("p.dcm", dicom_file(EXPLICIT, &pixels.repeat(25_000)), "a fragment does not say its length"),
        ("q.dcm", stream(with_segment(&fair, 0x30, coding), 1_000), "marker ff30 at byte"),
        ("r.dcm", stream(with_segment(&fair, 0x51, size), 1_000), "marker ff51 at byte"),
        ("s.dcm", stream([&tile, coding].concat(), 1_000), "a tile ends before its data"),
    ]
}

#[test]
fn small_files_that_claim_much_are_one_line() {
    for (name, bytes, wanted) in bombs() {
        let error = reportclip::error::one_line(&image::decode(&bytes, 0).unwrap_err());
        assert!(error.contains(wanted) && error.chars().count() < 500, "{name}: {error}");
    }
}

/// Runs the program where it may take 1.5 GiB of addresses.
fn run(folder: &Path, args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_reportclip");
    let limited = "ulimit -v 1572864; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, program]).args(args).current_dir(folder).env("RAYON_NUM_THREADS", "1");
    command.output().unwrap()
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The same through commands, which must find memory for whatever they take.
#[test]
fn commands_refuse_them_without_taking_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = "image,report\n".to_string();
    let bombs = bombs();
    for (name, bytes, _) in &bombs {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        manifest += &format!("{name},a finding\n");
    }
    std::fs::write(dir.path().join("all.csv"), manifest).unwrap();
    let lint = run(dir.path(), &["data", "lint", "all.csv"]);
    let told = String::from_utf8_lossy(&lint.stdout).into_owned();
    assert_eq!(lint.status.code(), Some(1), "{told}{}", talk(&lint));
    assert!(told.contains(&format!("{} unreadable_image", bombs.len())), "{told}");
    // What a machine can bear is for its user to say.
    std::fs::write(dir.path().join("fair.png"), png(5_000, 8, 0, &[], &vec![0; 5_001 * 5_000])).unwrap();
    std::fs::write(dir.path().join("fair.csv"), "image,report\nfair.png,a finding of some length\n").unwrap();
    let lint = |more: &[&str]| run(dir.path(), &[&["data", "lint", "fair.csv"], more].concat());
    let unreadable = |output: &Output| String::from_utf8_lossy(&output.stdout).contains("unreadable_image");
    assert!(!unreadable(&lint(&[])), "{}", talk(&lint(&[])));
    assert!(unreadable(&lint(&["--max-image-mib", "16"])));
}

/// A palette whose length is no multiple of three made the decoder panic.
#[test]
fn a_broken_palette_is_an_error_of_the_file() {
    let bytes = png(8, 8, 3, &chunk(b"PLTE", b"abcd"), &[0; 72]);
    drop(image::decode(&bytes, 0));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), bytes).unwrap();
    std::fs::write(dir.path().join("a.csv"), "image,report\na.png,a finding\n").unwrap();
    for args in [&["data", "lint", "a.csv"][..], &["data", "prepare", "folder", ".", "--out", "out", "--size", "64"]] {
        let output = run(dir.path(), args);
        let told = talk(&output);
        assert!(matches!(output.status.code(), Some(0..=2)) && !told.contains("a bug in"), "{args:?}: {told}");
    }
}

/// Whatever nests or calls itself is bounded: every decoder gets by with an eighth of what Rust gives a thread.
#[test]
fn decoders_need_little_stack() {
    let mut files: Vec<(String, Vec<u8>)> =
        bombs().into_iter().filter(|b| b.0 != "n.dcm").map(|(name, bytes, _)| (name.to_string(), bytes)).collect();
    for folder in ["dicom", "jpeg"] {
        for entry in std::fs::read_dir(golden(folder)).unwrap() {
            let path = entry.unwrap().path();
            files.push((path.display().to_string(), std::fs::read(path).unwrap()));
        }
    }
    assert!(files.len() > 60, "{}", files.len());
    let decode = move || files.iter().filter(|(_, bytes)| image::decode(bytes, 0).is_ok()).count();
    let decoded = std::thread::Builder::new().stack_size(256 << 10).spawn(decode).unwrap().join().unwrap();
    assert!(decoded > 50, "{decoded}");
}

#[test]
fn colours_that_cannot_be_are_refused_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let pixels = |len: usize| element((0x7fe0, 0x10), b"OW", &vec![0x33; len]);
    let tables = |i: u16| {
        let descriptor = [256u16, 0, 16].map(u16::to_le_bytes).concat();
        [element((0x28, 0x1101 + i), b"US", &descriptor), element((0x28, 0x1201 + i), b"OW", &[7; 512])].concat()
    };
    let palette = |samples: u16| {
        let tables = [tables(0), tables(1), tables(2)].concat();
        [shape(16, 16, samples, "PALETTE COLOR"), tables, pixels(256 * usize::from(samples))].concat()
    };
    let path = dir.path().join("odd.dcm");
    for (body, wanted) in [
        ([shape(15, 15, 3, "YBR_FULL_422"), pixels(450)].concat(), "says YBR_FULL_422 and has 15 columns"),
        (palette(3), "says PALETTE COLOR and has 3 values a pixel, not 1"),
        ([shape(4, 4, 1, &"\u{1b}[31m".repeat(9)), pixels(16)].concat(), "has photometric interpretation \\u{1b}[31m"),
    ] {
        std::fs::write(&path, dicom_file(EXPLICIT, &body)).unwrap();
        let error = format!("{:#}", image::read(&path).unwrap_err());
        assert!(error.contains("odd.dcm: ") && error.contains(wanted), "{error}");
    }
    assert!(dicom::decode(&dicom_file(EXPLICIT, &palette(1)), 0).is_ok());
    let even = [shape(2, 4, 3, "YBR_FULL_422"), pixels(16)].concat();
    assert!(dicom::decode(&dicom_file(EXPLICIT, &even), 0).is_ok());
}

/// A first line without names may be a row: the patient's.
#[test]
fn the_first_line_of_a_manifest_without_a_header_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let row = "images/1.png,\"Patient PATZZ123 has ZXQV-unique pneumonia\",PATZZ123\n";
    std::fs::write(dir.path().join("a.csv"), row).unwrap();
    for args in [&["data", "lint", "a.csv"][..], &["data", "split", "a.csv", "--out", "b.csv"]] {
        let output = run(dir.path(), args);
        let told = talk(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(!told.contains("PATZZ") && !told.contains("ZXQV") && !told.contains("images/1"), "{told}");
        assert!(told.contains("there is no column \"image\"") && told.contains("3 others"), "{told}");
    }
}

#[test]
fn what_a_header_says_is_cut_and_moves_no_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("image,{}\nx,y\n", "n".repeat(10_000_000));
    let many = format!("image,\u{1b}[2J\u{9b}31m{}\nx,y\n", ",column".repeat(5000));
    for (name, text) in [("long.csv", long), ("many.csv", many)] {
        std::fs::write(dir.path().join(name), text).unwrap();
        let output = run(dir.path(), &["data", "lint", name]);
        let told = talk(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        let moves = |c: char| c.is_control() && c != '\n';
        assert!(told.lines().all(|l| l.chars().count() < 500) && !told.contains(moves), "{told}");
    }
}

#[test]
fn rows_and_lines_without_end_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(17 << 20);
    for (name, text, wanted) in [
        ("a.csv", format!("image,report\na.png,\"{long}\"\n"), "line 2: a row is longer than 16777216 bytes"),
        ("b.jsonl", format!("{{\"image\":\"a.png\",\"report\":\"{long}\"}}\n"), "a line of more than 4194304 bytes"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = reportclip::error::one_line(&Manifest::open(&path, &Columns::default(), None).unwrap_err());
        assert!(error.contains(wanted), "{error}");
    }
    // A megabyte of zeros a kilobyte: one cell without end.
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(b"dicom_id,subject_id,study_id\n\"").unwrap();
    (0..40).for_each(|_| packed.write_all(&vec![b'x'; 1 << 20]).unwrap());
    std::fs::write(dir.path().join("mimic-cxr-2.0.0-metadata.csv.gz"), packed.finish().unwrap()).unwrap();
    let args = ["data", "prepare", "mimic-cxr", ".", "--out", "out", "--size", "32", "--salt", "s"];
    let output = run(dir.path(), &args);
    let told = talk(&output);
    assert!(output.status.code() == Some(1) && told.contains("has a row of more than"), "{told}");
    assert!(told.lines().all(|l| l.chars().count() < 500), "{told}");
}

/// The crate reads names and attributes of members whole.
#[test]
fn names_of_members_without_end_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1200 << 20);
        header.set_cksum();
        std::fs::write(&path, header.as_bytes()).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1201 << 20).unwrap();
        let error = reportclip::error::one_line(&Manifest::open(&path, &Columns::default(), None).unwrap_err());
        assert!(error.contains("name and attributes have more than 65536 bytes"), "{error}");
    }
}

/// Where bytes in a row are overwritten, anywhere in a Parquet file: rows, problems or one line; an abort would end the
/// test.
#[test]
fn overwritten_parquet_is_rows_or_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let mut state = 16u64;
    let mut random = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most
    };
    let cases = std::env::var("REPORTCLIP_PARQUET_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let seeds = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
        .map(|name| std::fs::read(golden(&format!("datasets/{name}"))).unwrap());
    for case in 0..cases {
        let mut bytes = seeds[case % 2].clone();
        let (len, at) = (1 + random(200), random(bytes.len()));
        // Half of them in the footer, which is a tenth of the file.
        let at = if case % 4 < 2 { bytes.len() - 1 - at % 4000.min(bytes.len()) } else { at };
        let end = bytes.len().min(at + len);
        bytes[at..end].iter_mut().for_each(|byte| *byte = random(256) as u8);
        std::fs::write(&path, &bytes).unwrap();
        match Manifest::open(&path, &Columns::default(), None) {
            Ok(manifest) => manifest.rows.iter().for_each(|row| drop(row.image().read())),
            Err(e) => assert!(reportclip::error::one_line(&e).chars().count() < 500, "case {case}"),
        }
    }
}
