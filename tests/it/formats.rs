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

/// Several images a row, as `datasets` and pyarrow write them; a row without one is told, an item without one is read
/// as none.
#[test]
fn parquet_lists_of_images_are_bags() {
    for name in ["lists-datasets", "lists-binary"] {
        let manifest = open(&golden(&format!("datasets/{name}.parquet"))).unwrap();
        assert_eq!(manifest.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2, 5, 6], "{name}");
        assert_eq!(manifest.problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [3, 4], "{name}");
        let expected: [&[Option<u8>]; 4] = [
            &[Some(0), Some(1)],
            &[Some(20)],
            &[Some(80), Some(81), Some(82), None, Some(84)],
            &[Some(100), Some(101), Some(102)],
        ];
        // Not in their order, as training reads them.
        for (row, shades) in manifest.rows.iter().zip(expected).rev() {
            let (source, place) = (row.image(), row.place());
            let read: Vec<Option<u8>> =
                source.images().iter().map(|image| image.read().ok().map(|picture| picture.bytes[5])).collect();
            assert_eq!(read, shades, "{place}");
            let none = source.images().iter().find_map(|image| image.read().err());
            assert!(none.is_none_or(|error| format!("{error:#}").contains("the row has no image")), "{place}");
        }
    }
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

/// Columns of one file as other writers than `datasets` make them: (schema of the column, physical values, levels).
struct TypedColumn {
    schema: &'static str,
    values: TypedValues,
    definition: Option<Vec<i16>>,
    repetition: Option<Vec<i16>>,
}

enum TypedValues {
    Bytes(Vec<Vec<u8>>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Double(Vec<f64>),
    Fixed(Vec<Vec<u8>>),
}

fn bytes(values: &[&[u8]]) -> TypedValues {
    TypedValues::Bytes(values.iter().map(|v| v.to_vec()).collect())
}

fn required(schema: &'static str, values: TypedValues) -> TypedColumn {
    TypedColumn { schema, values, definition: None, repetition: None }
}

/// Writes a file with one row group; `huggingface` is what `datasets` keeps in the footer.
fn write_parquet(path: &Path, columns: &[TypedColumn], huggingface: &str) {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType};
    use parquet::data_type::{Int32Type, Int64Type};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let fields: String = columns.iter().map(|c| c.schema).collect();
    let schema = parquet::schema::parser::parse_message_type(&format!("message m {{ {fields} }}")).unwrap();
    let pairs = vec![KeyValue::new("huggingface".to_string(), huggingface.to_string())];
    let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema.into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let mut open = group.next_column().unwrap().unwrap();
        let (definition, repetition) = (column.definition.as_deref(), column.repetition.as_deref());
        match &column.values {
            TypedValues::Bytes(values) => {
                let values: Vec<ByteArray> = values.iter().map(|v| v.clone().into()).collect();
                open.typed::<ByteArrayType>().write_batch(&values, definition, repetition)
            }
            TypedValues::Fixed(values) => {
                let values: Vec<FixedLenByteArray> = values.iter().map(|v| ByteArray::from(v.clone()).into()).collect();
                open.typed::<FixedLenByteArrayType>().write_batch(&values, definition, repetition)
            }
            TypedValues::Int32(values) => open.typed::<Int32Type>().write_batch(values, definition, repetition),
            TypedValues::Int64(values) => open.typed::<Int64Type>().write_batch(values, definition, repetition),
            TypedValues::Double(values) => open.typed::<DoubleType>().write_batch(values, definition, repetition),
        }
        .unwrap();
        open.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

/// Lists of labels, classes by number, numbers, dates and decimals: what a Parquet column may be, read as text.
#[test]
fn parquet_columns_of_every_kind_are_texts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.parquet");
    let columns = [
        required("required binary image;", bytes(&[b"one", b"two", b"three"])),
        required("required binary report (UTF8);", bytes(&[b"r1", b" r2 ", b"r3"])),
        TypedColumn {
            schema: "optional group label (LIST) { repeated group list { optional int64 element; } }",
            values: TypedValues::Int64(vec![1, 0, 2, 7]),
            definition: Some(vec![3, 3, 0, 3, 2, 3]),
            repetition: Some(vec![0, 1, 0, 0, 1, 1]),
        },
        required("required int64 patient_id (DECIMAL(18, 0));", TypedValues::Int64(vec![12, -1, 9_000_000_000])),
        required("required int32 study_id (DATE);", TypedValues::Int32(vec![0, 19_782, -1])),
        required("required int32 split (UINT_32);", TypedValues::Int32(vec![1, -1, 3])),
        required("required double score;", TypedValues::Double(vec![1.0, 0.25, 1e300])),
        required(
            "required fixed_len_byte_array (3) price (DECIMAL(6, 2));",
            TypedValues::Fixed(vec![vec![0, 0, 5], vec![0xff, 0xff, 0xff], vec![1, 0, 0]]),
        ),
        required("required int64 at (TIMESTAMP(MILLIS, true));", TypedValues::Int64(vec![0, 1, 86_400_000])),
    ];
    let classes =
        r#"{"info":{"features":{"label":{"feature":{"names":["a","b","c"],"_type":"ClassLabel"},"_type":"List"}}}}"#;
    write_parquet(&path, &columns, classes);
    let extra = ["score", "price", "at", "nowhere"].map(str::to_string).to_vec();
    let manifest = Manifest::open(&path, &Columns { extra, ..Columns::default() }, None).unwrap();
    let rows: Vec<Vec<Option<&str>>> = manifest
        .rows
        .iter()
        .map(|r| {
            let named = [Some(r.report()), r.label(), r.patient_id(), r.study_id(), r.split()];
            named.into_iter().chain((0..4).map(|i| r.extra(i))).collect()
        })
        .collect();
    let expected: [[&str; 9]; 3] = [
        ["r1", "b;a", "12", "1970-01-01", "1", "1.0", "0.05", "1970-01-01T00:00:00Z", ""],
        ["r2", "", "-1", "2024-02-29", "4294967295", "0.25", "-0.01", "1970-01-01T00:00:00.001Z", ""],
        ["r3", "c", "9000000000", "1969-12-31", "3", "1e300", "655.36", "1970-01-02T00:00:00Z", ""],
    ];
    let expected = expected.map(|row| row.map(|text| (!text.is_empty()).then_some(text)).to_vec());
    assert_eq!(rows, expected);
    assert_eq!(manifest.rows[2].image().bytes().unwrap(), b"three");
    assert_eq!(manifest.rows[0].labels().collect::<Vec<_>>(), ["b", "a"]);
}

/// What cannot be read says so before anything is read.
#[test]
fn parquet_columns_that_are_no_text_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let report = || required("required binary report (UTF8);", bytes(&[b"r"]));
    let image = || required("required binary image;", bytes(&[b"i"]));
    let label = required("required int32 label (TIME(MILLIS, true));", TypedValues::Int32(vec![1]));
    let cases = [
        (vec![required("required int32 image;", TypedValues::Int32(vec![1])), report()], "column \"image\" is INT32"),
        (vec![required("required binary pixels;", bytes(&[b"i"])), report()], "there is no column \"image\""),
        (vec![image(), report(), label], "column \"label\": holds times of day"),
    ];
    for (columns, wanted) in cases {
        let path = dir.path().join("a.parquet");
        write_parquet(&path, &columns, "{}");
        let line = reportclip::error::one_line(&open(&path).map(|m| m.rows.len()).unwrap_err());
        assert!(line.contains(wanted) && !line.contains('\n'), "{line}");
    }
}

/// The first page of the reports claims more than it holds.
#[test]
fn a_parquet_page_that_claims_too_much_is_one_line() {
    let name = "datasets/train-00001-of-00002.parquet";
    let file = std::fs::File::open(golden(name)).unwrap();
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    let group = metadata.row_group(0);
    let report = group.columns().iter().find(|c| c.column_path().string() == "report").unwrap();
    let start = report.data_page_offset() as usize;
    let mut bytes = bytes_of(name);
    // Field 1, the kind of page: 0. Field 2: bytes unpacked, in two bytes here, of which the first has its highest bit
    // set, and twice the number because the lowest bit is the sign.
    assert_eq!(bytes[start..start + 3], [0x15, 0, 0x15]);
    assert!(bytes[start + 3] & 0x80 != 0 && bytes[start + 4] & 0x80 == 0);
    bytes[start + 3..start + 5].copy_from_slice(&[0xfe, 0x7e]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lie.parquet");
    std::fs::write(&path, bytes).unwrap();
    let line = reportclip::error::one_line(&open(&path).map(|m| m.rows.len()).unwrap_err());
    assert!(line.contains("column \"report\"") && !line.contains('\n'), "{line}");
    assert!(line.contains("a page claims 8127 bytes and holds"), "{line}");
}

/// 60,000 × 60,000 pixels in a header of a few bytes.
#[test]
fn an_image_may_not_claim_the_memory() {
    let mut png = png_header(60_000, 60_000);
    // An image chunk without anything in it: what the header claims is looked at where it begins.
    png.extend([0, 0, 0, 0]);
    png.extend(b"IDAT");
    png.extend(0x35af_061e_u32.to_be_bytes());
    let error = format!("{:#}", image::decode(&png, 0).unwrap_err());
    assert!(error.contains("60000 × 60000 pixels"), "{error}");
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

const DICOM: [&str; 9] =
    ["ct_signed", "voi_lut", "modality_lut", "palette", "rle_16", "jls_12", "j2k_12", "ljpeg_16", "padding"];

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
        let mut bytes = bytes_of(&format!("dicom/{}.dcm", DICOM[kind]));
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

/// A new format is its own file or folder and a line of the table: whoever else names formats would have to learn it.
#[test]
fn formats_are_named_in_their_own_files_and_the_table_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table = source.join("data/table/formats");
    // A format's own file or folder implements the trait.
    let is_format = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\nimpl Format for "));
    let mut formats = Vec::new();
    for entry in std::fs::read_dir(&table).unwrap() {
        let path = entry.unwrap().path();
        if is_format(&path) || is_format(&path.join("mod.rs")) {
            formats.push(path.file_stem().unwrap().to_str().unwrap().to_string());
        }
    }
    formats.sort();
    assert_eq!(formats, ["csv", "jsonl", "parquet", "webdataset"]);
    // What people and modules call them; "csv" is also what prepared data sets lie in, so its module's path is looked
    // for.
    let modules = "formats::(csv|jsonl)|super::(csv|jsonl)|mod (csv|jsonl);";
    let names = format!(r"JSONL|ndjson|\bTSV\b|tar shards?|[Pp]arquet|[Ww]eb[Dd]ataset|{modules}");
    let names = regex::Regex::new(&names).unwrap();
    let mut places = std::collections::BTreeMap::new();
    for path in walk(&source) {
        let relative = path.strip_prefix(&source).unwrap().to_str().unwrap().to_string();
        let own = |format: &String| {
            relative == format!("data/table/formats/{format}.rs")
                || relative.starts_with(&format!("data/table/formats/{format}/"))
        };
        // Shards of vectors are no manifests; which they are stands in search alone.
        if formats.iter().any(own) || relative.starts_with("search/") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap().lines();
        let count = code.filter(|line| !line.trim_start().starts_with("//") && names.is_match(line)).count();
        if count > 0 {
            places.insert(relative, count);
        }
    }
    let expected = [
        // The option that says how large shards are, in one example and four lines, a hint at it and two refusals; an
        // example for vectors.
        ("cli/data/prepare.rs", 5),
        ("cli/embed.rs", 1),
        ("data/prepare/options.rs", 2),
        ("data/prepare/write.rs", 1),
        // The table: a line each that the file is there, one with all of them, what `data prepare` writes shards with.
        ("data/table/formats/mod.rs", 6),
        // The sink of metrics.jsonl, which is no manifest.
        ("track/mod.rs", 1),
    ];
    assert_eq!(places, expected.map(|(file, count)| (file.to_string(), count)).into());
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}
