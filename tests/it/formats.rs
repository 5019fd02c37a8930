//! Parquet and tar shards against what `datasets` and `webdataset` wrote (scripts/golden/dataset_formats.py), and
//! hostile files.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use crate::common::golden;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use reportclip::data::{Columns, Manifest, dicom, image, sections};
use serde_json::Value;

fn open(path: &Path) -> anyhow::Result<Manifest> {
    Manifest::open(path, &Columns::default(), None)
}

fn expected() -> Vec<Value> {
    let golden: Value = serde_json::from_slice(&std::fs::read(golden("datasets/golden.json")).unwrap()).unwrap();
    golden["rows"].as_array().unwrap().clone()
}

#[test]
fn parquet_of_hugging_face_datasets() {
    let manifest = open(&golden("datasets/train-*.parquet")).unwrap();
    let expected = expected();
    assert_eq!((manifest.rows.len(), manifest.problems.len()), (30, 0));
    // Not in their order, as training reads them.
    for i in (0..30).rev().chain([13, 2, 27]) {
        let (row, wanted) = (&manifest.rows[i], &expected[i]);
        assert_eq!(row.report(), wanted["report"]);
        assert_eq!(row.patient_id(), wanted["patient_id"].as_str());
        assert_eq!(row.study_id(), wanted["study_id"].as_str());
        assert_eq!(row.label(), wanted["label"].as_str());
        assert_eq!(row.split(), Some("train"), "as the file is called");
        let pixels: Vec<u64> = row.image().read().unwrap().bytes.iter().map(|&b| b.into()).collect();
        assert_eq!(serde_json::json!(pixels), wanted["pixels"]);
    }
    // A folder of them is the same.
    let dir = tempfile::tempdir().unwrap();
    for name in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"] {
        std::fs::copy(golden(&format!("datasets/{name}")), dir.path().join(name)).unwrap();
    }
    assert_eq!(open(dir.path()).unwrap().rows.len(), 30);
}

#[test]
fn shards_of_webdataset() {
    let manifest = open(&golden("datasets/shard-{000000..000000}.tar")).unwrap();
    assert_eq!((manifest.rows.len(), manifest.problems.len()), (8, 0));
    for (i, (row, wanted)) in manifest.rows.iter().zip(expected()).enumerate().rev() {
        assert_eq!(row.report(), wanted["report"]);
        assert_eq!(row.label(), (i % 2 == 0).then_some("effusion"));
        let pixels: Vec<u64> = row.image().read().unwrap().bytes.iter().map(|&b| b.into()).collect();
        assert_eq!(serde_json::json!(pixels), wanted["pixels"]);
    }
}

#[test]
fn several_sources_are_one_manifest() {
    let sources = [golden("datasets/shard-000000.tar"), golden("datasets/train-00001-of-00002.parquet")];
    let (all, counts) = Manifest::open_all(&sources, &Columns::default(), None).unwrap();
    assert_eq!((all.rows.len(), counts), (18, vec![8, 10]));
    assert_eq!((all.rows[3].origin().number, all.rows[9].origin().number), (0, 1));
}

#[test]
fn what_is_cut_or_hostile_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |name: &str, bytes: &[u8], wanted: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path).map(|m| m.rows.len()).unwrap_err();
        let line = reportclip::error::one_line(&error);
        assert!(line.contains(wanted) && !line.contains('\n'), "{line}");
    };
    let tar = std::fs::read(golden("datasets/shard-000000.tar")).unwrap();
    let parquet = std::fs::read(golden("datasets/train-00001-of-00002.parquet")).unwrap();
    fails("cut.tar", &tar[..1540], "is truncated: sample 1 ends");
    fails("zip.tar", &[0x1f, 0x8b, 8, 0], "is compressed");
    fails("empty.tar", &[0; 1024], "holds no samples");
    fails("cut.parquet", &parquet[..parquet.len() / 2], "cannot be read as Parquet");
    fails("lfs.parquet", b"version https://git-lfs.github.com/spec/v1\n", "cannot be read as Parquet");
    // A member that would leave the archive, a sample without an image, one without a text.
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("a.png", &b"x"[..]),
        ("b.txt", b"text"),
        ("c.png", b"x"),
        ("c.txt", b"fine"),
        ("d.png", b"x"),
        ("d.json", b"[1]"),
        ("e.png", b"x"),
        ("e.txt", b"\xb0\xa1"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..11].copy_from_slice(b"../../f.png");
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    let path = dir.path().join("odd.tar");
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let manifest = open(&path).unwrap();
    assert_eq!(manifest.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [3]);
    let reasons: Vec<&str> = manifest.problems.iter().map(|p| p.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "the report is empty",
            "has no image (.jpg, .png or .dcm)",
            ".json: not a JSON object (column 0)",
            ".txt: is not UTF-8",
            "a member's name leads out of the archive"
        ]
    );
}

/// 60,000 × 60,000 pixels in a header of a few bytes.
#[test]
fn an_image_may_not_claim_the_memory() {
    let mut png = Vec::new();
    let mut encoder = png_header(60_000, 60_000);
    png.append(&mut encoder);
    let error = format!("{:#}", image::decode(&png, 0).unwrap_err());
    assert!(error.contains("imit") || error.contains("large") || error.contains("decoded"), "{error}");
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 0, 0, 0, 0]);
    let mut crc = 0xffff_ffffu32;
    for &byte in &chunk {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.extend(13u32.to_be_bytes());
    png.extend(&chunk);
    png.extend((!crc).to_be_bytes());
    png
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    /// Whatever stands in a manifest: rows, problems or one line, no panic; lines are where they are said to be.
    #[test]
    fn any_text_is_a_manifest_or_an_error(
        text in "(image|report|split|\"|'|,|;|\t|\\\\|\r|\n|[{}:a-c]|右){0,60}",
        json in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(if json { "a.jsonl" } else { "a.csv" });
        std::fs::write(&path, format!("image,report\n{text}")).unwrap();
        if let Ok(manifest) = open(&path) {
            let lines = text.matches('\n').count() as u64 + 2;
            prop_assert!(manifest.problems.iter().all(|p| (1..=lines).contains(&p.line)));
        }
    }

    #[test]
    fn any_bytes_are_a_manifest_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.csv", "a.jsonl", "a.tar", "a.parquet"] {
            let path = dir.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            drop(open(&path));
        }
    }

    /// A shard with some bytes changed.
    #[test]
    fn broken_shards_do_not_panic(changes in proptest::collection::vec((0usize..20_000, any::<u8>()), 1..8)) {
        let mut bytes = bytes_of("datasets/shard-000000.tar");
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(manifest) = open(&path) {
            manifest.rows.iter().for_each(|r| drop(r.image().read()));
        }
    }

    /// A Parquet file with some bytes changed, its footer among them.
    #[test]
    fn broken_parquet_does_not_panic(changes in proptest::collection::vec((0usize..20_000, any::<u8>()), 1..8)) {
        let mut bytes = bytes_of("datasets/train-00001-of-00002.parquet");
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(manifest) = open(&path) {
            manifest.rows.iter().for_each(|r| drop(r.image().read()));
        }
    }

    /// DICOM files of every kind with some bytes changed: a picture or an error, in bounded memory, without a panic.
    #[test]
    fn broken_dicom_does_not_panic(
        kind in 0usize..9,
        changes in proptest::collection::vec((0usize..4000, any::<u8>()), 1..6),
    ) {
        let names =
            ["ct_signed", "voi_lut", "modality_lut", "palette", "rle_16", "jls_12", "j2k_12", "ljpeg_16", "padding"];
        let mut bytes = bytes_of(&format!("dicom/{}.dcm", names[kind]));
        for (at, byte) in changes {
            // Past the preamble and the meta group, most of the time.
            let len = bytes.len();
            bytes[(at + 132) % len] = byte;
        }
        drop(dicom::decode(&bytes, 0));
    }

    #[test]
    fn any_text_has_sections(text in "(FINDINGS|Impression|检查所见|:|：|【|】|\n|\\.|_|X|\\[|\\*|[a-z]| |。){0,80}") {
        let parts = sections::parse(&text);
        prop_assert!(parts.iter().all(|(_, part)| text.contains(part) && !part.trim().is_empty()));
        prop_assert!(sections::sentences(&text).iter().all(|s| text.contains(s)));
        let without = sections::without_blanks(&text);
        prop_assert!(without.len() <= text.len());
    }
}
