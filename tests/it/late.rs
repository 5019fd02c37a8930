//! Late interaction: vectors of tokens and patches, an index of them in 8 bits, and what is found in it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use reportclip::data::ImageSource;
use reportclip::model::{Builder, ClipModel};
use reportclip::session::Session;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::common::{assert_close, golden, load_golden, tensors};
use crate::encoders;
use crate::runs::{Place, json, text};

const EMBED: [&str; 10] = [
    "embed",
    "--late",
    "--model",
    "run/model",
    "--data",
    "phantom/manifest.csv",
    "--batch-size",
    "8",
    "--shard-rows",
    "16",
];

fn trained() -> Place {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    place
}

fn ok(place: &Place, args: &[&str]) -> String {
    let output = place.run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn embed(place: &Place, more: &[&str]) -> String {
    ok(place, &[&EMBED[..], more].concat())
}

/// What stands for the text is the same with tokens, in every tower.
#[test]
fn features_of_texts_are_the_same_with_tokens() {
    for name in encoders::CASES {
        let case = encoders::case(name);
        let model = ClipModel::new(&case.loaded.config, &Builder::eval(&case.loaded.params)).unwrap();
        let ids = case.expected["input_ids"].to_dtype(candle_core::DType::U32).unwrap();
        let (texts, whole) = (ids.dim(0).unwrap(), model.text_features(&ids).unwrap());
        let (all, segments) = model.text_features_with_tokens(&ids).unwrap();
        assert_eq!(all.tensor().dims(), [texts + segments.rows(), case.loaded.config.embed_dim], "{name}");
        assert_eq!(segments.items(), texts, "{name}");
        assert_close(name, &all.tensor().narrow(0, 0, texts).unwrap(), whole.tensor(), 1e-4, 1e-5);
    }
}

/// Rows of tokens, in order, against transformers (scripts/golden/late.py): within 1e-4 and 1e-5.
#[test]
fn features_of_tokens_are_those_of_transformers() {
    let golden_rows = tensors(&golden("late.safetensors"));
    let models: Vec<&str> = golden_rows.keys().filter_map(|name| name.strip_prefix("tokens.")).collect();
    assert_eq!(models.len(), 4);
    for model_name in models {
        let expected = &golden_rows[&format!("tokens.{model_name}")];
        let known = tensors(&golden(&format!("{model_name}/expected.safetensors")));
        let loaded = match model_name.strip_prefix("encoders/") {
            Some(case) => encoders::case(encoders::CASES.into_iter().find(|name| *name == case).unwrap()).loaded,
            None => load_golden(model_name),
        };
        let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
        let ids = known["input_ids"].to_dtype(candle_core::DType::U32).unwrap();
        let (all, segments) = model.text_features_with_tokens(&ids).unwrap();
        let tokens = all.tensor().narrow(0, ids.dim(0).unwrap(), segments.rows()).unwrap();
        assert_close(model_name, &tokens, expected, 1e-4, 1e-5);
    }
}

fn shards(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    files
}

/// Of each row of an index the vectors that its codes stand for, read as anybody would read them.
fn kept(folder: &Path, codes: &str, offsets: &str) -> Vec<Vec<Vec<f32>>> {
    let mut rows = Vec::new();
    for path in shards(folder) {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (codes, offsets) = (file.tensor(codes).unwrap(), file.tensor(offsets).unwrap());
        assert_eq!((codes.dtype(), offsets.dtype()), (Dtype::I8, Dtype::I64));
        let vector = |codes: &[u8]| -> Vec<f32> {
            let codes: Vec<f32> = codes.iter().map(|&code| f32::from(code as i8)).collect();
            assert!(codes.iter().any(|code| code.abs() == 127.0));
            let length = codes.iter().map(|x| x * x).sum::<f32>().sqrt();
            codes.iter().map(|x| x / length).collect()
        };
        let vectors: Vec<Vec<f32>> = codes.data().chunks(codes.shape()[1]).map(vector).collect();
        let offsets: Vec<usize> =
            offsets.data().as_chunks::<8>().0.iter().map(|&eight| u64::from_le_bytes(eight) as usize).collect();
        assert_eq!((offsets[0], offsets[offsets.len() - 1]), (0, vectors.len()));
        rows.extend(offsets.windows(2).map(|two| vectors[two[0]..two[1]].to_vec()));
    }
    rows
}

fn max_sim(query: &[f32], row: &[Vec<f32>]) -> f64 {
    let width = row[0].len();
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    query.chunks(width).map(|q| row.iter().map(|v| cosine(q, v)).fold(f64::MIN, f64::max)).sum()
}

/// Scores by row, as `search --late` gives them.
fn scores(place: &Place, index: &str, query: &[&str]) -> (String, Vec<f64>) {
    let args = ["search", "--index", index, "--late", "--json", "-k", "1000"];
    of_found(&json(ok(place, &[&args[..], query].concat()).as_bytes()))
}

fn of_found(found: &Value) -> (String, Vec<f64>) {
    let hits = found["hits"].as_array().unwrap();
    assert_eq!(hits.len() as u64, found["gallery"].as_u64().unwrap());
    let score = |hit: &Value| hit["score"].as_f64().unwrap();
    assert!(hits.is_sorted_by(|a, b| score(a) >= score(b)) && hits[0]["rank"] == 1);
    let mut by_row = vec![f64::NAN; hits.len()];
    for hit in hits {
        assert!(hit["changed"].is_null() && hit["line"].as_u64() == Some(hit["row"].as_u64().unwrap() + 2), "{hit}");
        by_row[hit["row"].as_u64().unwrap() as usize] = score(hit);
    }
    (found["searched"].as_str().unwrap().into(), by_row)
}

fn assert_scores(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() < 1e-4, "{what}, row {row}: {a}, not {b}");
    }
}

#[test]
fn an_index_of_patches_and_tokens_answers_by_max_sim() {
    let place = trained();
    // A row of two images.
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let mut lines: Vec<&str> = manifest.lines().collect();
    let (first, second) = (lines[1].split_once(',').unwrap(), lines[2].split_once(',').unwrap().0);
    let bag = format!("{};{second},{}", first.0, first.1);
    lines[1] = &bag;
    fs::write(place.path("phantom/manifest.csv"), lines.join("\n")).unwrap();
    let rows = lines.len() - 1;
    let told = embed(&place, &["--out", "index/"]);
    assert!(told.ends_with(&format!("in {} shards, with patches and tokens\n", rows.div_ceil(16))), "{told}");

    // The rows' own vectors are those of a plain index.
    ok(&place, &["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "all.safetensors"]);
    let whole = tensors(&place.path("all.safetensors"));
    let mut at = 0;
    for path in shards(&place.path("index")) {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (images, texts) = (file.tensor("image_embeds").unwrap(), file.tensor("text_embeds").unwrap());
        let count = images.shape()[0];
        for (name, part) in [("image_embeds", images), ("text_embeds", texts)] {
            let numbers: Vec<f32> = part.data().as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
            let part = Tensor::from_vec(numbers, part.shape(), &candle_core::Device::Cpu).unwrap();
            assert_close(name, &part, &whole[name].narrow(0, at, count).unwrap(), 1e-4, 1e-5);
        }
        at += count;
    }
    assert_eq!(at, rows);

    let patches = kept(&place.path("index"), "image_patches", "image_patch_offsets");
    let tokens = kept(&place.path("index"), "text_tokens", "text_token_offsets");
    assert!(patches.len() == rows && tokens.len() == rows);
    // 32 pixels in patches of 16.
    assert!(patches[0].len() == 8 && patches[1..].iter().all(|row| row.len() == 4));
    let session = Session::open(place.path("run/model").to_str().unwrap(), "cpu").unwrap();
    let encoder = session.encoder(4).unwrap();
    // Begin and end are left out.
    let own = |row: usize| {
        let record = lines[row + 1];
        let report = if record.contains('"') { record.split('"').nth(1) } else { record.split(',').nth(1) };
        session.folder.tokenizer.encode(report.unwrap()).unwrap().len() - 2
    };
    assert!((0..rows).all(|row| tokens[row].len() == own(row)));

    // A word that may be padding elsewhere, and nothing.
    let (ends, mut lengths) = (["! nodule !", ""], Vec::new());
    assert_eq!(session.folder.tokenizer.marks().unwrap(), (1, 1));
    encoder.texts_with_tokens(&ends, &mut |vectors| lengths.push(vectors.len())).unwrap();
    let all = session.folder.tokenizer.encode(ends[0]).unwrap().len();
    assert_eq!(lengths[0], lengths[1] * (all - 2));

    let asked = ["left pleural effusion", "nodule"];
    let mut queries = Vec::new();
    encoder.texts_with_tokens(&asked, &mut |vectors| queries.push(vectors.to_vec())).unwrap();
    let image = place.path("phantom").join(second);
    encoder
        .images_with_patches(&[ImageSource::from(image.clone())], &mut |vectors| queries.push(vectors.to_vec()))
        .unwrap();
    let expected = |query: usize, rows: &[Vec<Vec<f32>>]| -> Vec<f64> {
        rows.iter().map(|row| max_sim(&queries[query], row)).collect()
    };
    let image = image.to_str().unwrap();
    for (query, args, rows, searched) in [
        (0, ["--text", asked[0]], &patches, "image_patches"),
        (1, ["--text", asked[1]], &patches, "image_patches"),
        (2, ["--image", image], &tokens, "text_tokens"),
    ] {
        let (told, found) = scores(&place, "index", &args);
        assert_eq!(told, searched);
        assert_scores(searched, &found, &expected(query, rows));
    }
    // A file of queries, each where it looks.
    fs::write(place.path("q.csv"), format!("text,image\n{},\n,{image}\n{},\n", asked[0], asked[1])).unwrap();
    let args = ["search", "--index", "index", "--late", "--queries", "q.csv", "--json", "-k", "1000"];
    let stdout = ok(&place, &args);
    let found: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (query, rows, found) in [(0, &patches, &found[0]), (2, &tokens, &found[1]), (1, &patches, &found[2])] {
        assert_scores("a file of queries", &of_found(found).1, &expected(query, rows));
    }
    // Images alone, among which an image is looked for; without --late the index is a plain one.
    let out = ["--out", "images/", "--images", image];
    ok(&place, &[&["embed", "--late", "--model", "run/model"], &out[..]].concat());
    let found = json(ok(&place, &["search", "--index", "images", "--late", "--image", image, "--json"]).as_bytes());
    let score = found["hits"][0]["score"].as_f64().unwrap();
    assert!(found["searched"] == "image_patches" && (score - 4.0).abs() < 0.01, "{found}");
    let found = json(ok(&place, &["search", "--index", "index", "--text", "x", "--json"]).as_bytes());
    assert_eq!(found["searched"], "image_embeds");
}

#[test]
fn shards_are_kept_made_anew_and_refused_as_others_are() {
    let place = trained();
    let args = ["--out", "index/"];
    embed(&place, &args);
    let files = shards(&place.path("index"));
    let bytes: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(files.len() > 2);
    let search = ["search", "--index", "index", "--late", "--text", "x"];
    let mended = |what: &str, kept: usize| {
        let told = embed(&place, &args);
        assert!(told.contains(&format!(", {kept} of them kept, with patches and tokens")), "{what}: {told}");
        assert!(shards(&place.path("index")).iter().zip(&bytes).all(|(path, bytes)| fs::read(path).unwrap() == *bytes));
        ok(&place, &search);
    };
    mended("nothing", files.len());
    fs::remove_file(&files[1]).unwrap();
    assert!(place.errors(&search, 1)[0].contains("shard-00001.safetensors"));
    mended("gone", files.len() - 1);
    // Codes are the last tensor, or near it.
    let mut other = bytes[1].clone();
    let at = other.len() - 21;
    other[at] ^= 1;
    fs::write(&files[1], &other).unwrap();
    assert!(place.errors(&search, 1)[0].contains("not as `reportclip embed` wrote it"));
    mended("changed", files.len() - 1);
    fs::write(&files[1], &bytes[1][..bytes[1].len() - 8]).unwrap();
    let errors = place.errors(&search, 1);
    assert!(errors.len() == 1 && errors[0].contains("shard-00001.safetensors"), "{errors:?}");
    mended("cut off", files.len() - 1);
    // A list that tells of patches where there are none.
    ok(&place, &["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "plain/"]);
    let list = place.path("plain/index.json");
    let mut value = json(&fs::read(&list).unwrap());
    value["late"] = true.into();
    value.as_object_mut().unwrap().remove("digest");
    fs::write(&list, value.to_string()).unwrap();
    let errors = place.errors(&["search", "--index", "plain", "--late", "--text", "x"], 1);
    assert!(errors.len() == 1 && errors[0].contains("safetensors: has no image_patches, which --late"), "{errors:?}");
}

#[test]
fn what_does_not_go_together_is_told_in_one_line() {
    let place = trained();
    embed(&place, &["--out", "index/"]);
    ok(&place, &["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "plain/"]);
    ok(&place, &["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "all.safetensors"]);
    let image = fs::read_dir(place.path("phantom/images")).unwrap().next().unwrap().unwrap().path();
    let image = image.to_str().unwrap();
    fs::write(place.path("q.csv"), format!("text,image\nnodule,{image}\n")).unwrap();
    let vectors = Tensor::ones((1, 16), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    vectors.write_npy(place.path("q.npy")).unwrap();
    let search = |index: &'static str| ["search", "--late", "--index", index];
    for (args, code, why) in [
        ([&search("plain")[..], &["--text", "x"]].concat(), 1, "plain: holds no patches and tokens"),
        ([&search("all.safetensors")[..], &["--text", "x"]].concat(), 1, "all.safetensors: holds no patches"),
        ([&search("index")[..], &["--text", "x", "--image", image]].concat(), 2, "a text and an image together"),
        ([&search("index")[..], &["--queries", "q.csv"]].concat(), 2, "a text and an image together"),
        ([&search("index")[..], &["--queries", "q.npy"]].concat(), 2, "--queries q.npy holds a vector a query"),
        (
            [&search("index")[..], &["--text", "x", "--image", image, "--weights", "1,1"]].concat(),
            2,
            "'--late' cannot be used with '--weights",
        ),
        (
            [&search("index")[..], &["--text", "x", "--approximate"]].concat(),
            2,
            "'--late' cannot be used with '--approximate'",
        ),
        ([&EMBED[..], &["--out", "a/", "--format", "npy"]].concat(), 2, "kept as safetensors, not as npy"),
        ([&EMBED[..], &["--out", "a/", "--format", "parquet"]].concat(), 2, "kept as safetensors, not as parquet"),
        ([&EMBED[..8], &["--out", "a.safetensors"]].concat(), 2, "--format, --shard-rows and --late are of folders"),
        ([&EMBED[..], &["--out", "plain/"]].concat(), 1, "whose model or options were others"),
    ] {
        let errors = place.errors(&args, code);
        assert!(errors.len() == 1 && errors[0].contains(why), "{args:?}: {errors:?}");
    }
    assert!(!place.path("a").exists());
}
