//! What is worked out on an opened model, from logits to search, as the library does it and as users run it.
#![allow(clippy::unwrap_used)]

use std::fs;

use candle_core::{DType, Device, Tensor};
use reportclip::data::{
    BagPolicy, ImageSource, Picture, Preprocess, ReportPolicy, ReportTokenizer, TokenizerKind, bpe, image,
};
use reportclip::eval::explain;
use reportclip::model::LOGIT_SCALE_INIT;
use reportclip::model::checkpoint::{FreshClip, FreshTower, LoadOptions, Loaded, fresh_clip, load, random};
use reportclip::model::freeze::{FreezeConfig, FreezeDepth};
use reportclip::ops::reference::l2_normalize;
use reportclip::session::{Encoder, Frozen, ModelFolder, Session};
use serde_json::Value;

use crate::bags::nifti_of;
use crate::common::{golden, open, tensors};
use crate::runs::{Place, json, text};

pub fn tokenizer() -> ReportTokenizer {
    let files = bpe::train(["left pleural effusion", "no effusion"].into_iter(), 600).unwrap();
    ReportTokenizer::from_files(files, TokenizerKind::clip(16)).unwrap()
}

fn session(loaded: Loaded, tokenizer: ReportTokenizer) -> Session {
    let folder = ModelFolder {
        preprocess: Preprocess::clip(loaded.config.vision.image_size()),
        config: loaded.config,
        layout: loaded.layout,
        tokenizer,
        report: ReportPolicy::default(),
        bags: BagPolicy::default(),
        local: None,
        origin: String::new(),
        summary: String::new(),
    };
    Session { params: loaded.params, folder, device: Device::Cpu, products: DType::F32, notes: Vec::new() }
}

/// A tiny CLIP with a bias, as SigLIP has it.
fn with_bias() -> Session {
    tiny(Some(-10.0))
}

/// A tiny CLIP with random weights.
pub fn tiny(bias: Option<f64>) -> Session {
    let tokenizer = tokenizer();
    let tower = FreshTower { width: 16, layers: 1, heads: 2 };
    let numbers = FreshClip {
        vision: tower,
        image_size: 32,
        patch_size: 16,
        text: tower,
        vocab_size: tokenizer.vocab_size(),
        context_length: 16,
        end_id: tokenizer.end_id().unwrap(),
        embed_dim: 16,
        logit_bias: false,
    };
    let (mut config, layout) = fresh_clip(&numbers, &serde_json::json!({})).unwrap();
    config.logit_bias_init = bias;
    let params = random(&config, 1, &Device::Cpu).unwrap();
    let loaded = Loaded { config, params, layout, ignored: Vec::new(), fresh: Vec::new() };
    session(loaded, tokenizer)
}

/// The published programs' loss of a batch comes out of our logits only with the bias in them.
#[test]
fn logits_of_a_siglip_have_its_bias() {
    for name in ["siglip", "oc_siglip", "siglip2"] {
        let folder = golden(&format!("encoders/{name}"));
        let expected = tensors(&folder.join("expected.safetensors"));
        let size = expected["pixel_values"].dim(3).unwrap();
        let options = LoadOptions { native_size: Some(size), ..LoadOptions::default() };
        let loaded = load(&open(&folder), &options, &Device::Cpu).unwrap();
        let session = session(loaded, tokenizer());
        let embeds = |what: &str| l2_normalize(&expected[what]).unwrap();
        let logits = session.logits_per_image(&embeds("image_features"), &embeds("text_features")).unwrap();
        let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
        let loss = |(i, row): (usize, &Vec<f32>)| -> f64 {
            // −ln σ(±logit), own partner + and all others −
            row.iter().enumerate().map(|(k, z)| (if i == k { -z } else { *z }).exp().ln_1p() as f64).sum()
        };
        let ours = logits.iter().enumerate().map(loss).sum::<f64>() / logits.len() as f64;
        let theirs = f64::from(expected["loss"].to_scalar::<f32>().unwrap());
        assert!((ours - theirs).abs() < 1e-4 * theirs.abs(), "{name}: {ours} instead of {theirs}");
    }
}

#[test]
fn an_explained_logit_is_the_models_own() {
    let session = with_bias();
    let bytes = (0..40 * 32 * 3).map(|i| (i % 251) as u8).collect();
    let picture = Picture { width: 40, height: 32, channels: 3, bytes };
    let text = "left pleural effusion";
    let explanation = explain(&session, &picture, text).unwrap();
    let encoder = session.encoder(1).unwrap();
    let pixels = session.folder.preprocess.apply(&picture, None).unwrap();
    let pixels = Tensor::from_vec(pixels, (1, 3, 32, 32), &Device::Cpu).unwrap();
    let image = encoder.model.image_embeds(&pixels).unwrap();
    let logits = session.logits_per_image(&image, &encoder.texts(&[text]).unwrap()).unwrap();
    let logit = f64::from(logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
    assert!((explanation.logit - logit).abs() < 1e-4, "{} instead of {logit}", explanation.logit);
    let without_bias = explanation.cosine * f64::from(LOGIT_SCALE_INIT as f32).exp();
    assert!((explanation.logit - without_bias + 10.0).abs() < 1e-4, "{}", explanation.logit);
}

/// What frozen layers make of a list is worked out once: the next time no file is opened, and what lies above may have
/// moved. A bag of more images than go through the tower at once is among them.
#[test]
fn a_list_that_comes_again_passes_frozen_layers_once() {
    for depth in [FreezeDepth::All, FreezeDepth::Blocks(1)] {
        let dir = tempfile::tempdir().unwrap();
        let picture = |shade: u8| {
            let path = dir.path().join(format!("{shade}.png"));
            let bytes = (0..40 * 32).map(|i| (i as u8).wrapping_mul(shade)).collect();
            fs::write(&path, image::png(&Picture { width: 40, height: 32, channels: 1, bytes }).unwrap()).unwrap();
            ImageSource::from(path)
        };
        let volume = dir.path().join("ct.nii");
        nifti_of(&volume, 5, |i| ((i % 24) * (i / 480 + 2) * 9) as i16);
        let images: Vec<ImageSource> = [1, 3, 7].map(picture).into_iter().chain([volume.into()]).collect();
        let texts = ["left effusion", "no effusion", "effusion"];
        let mut session = tiny(None);
        let config = FreezeConfig { image: depth, text: FreezeDepth::All, ..FreezeConfig::NONE };
        let frozen = Frozen::apply(config, 0.0, &mut session.params);
        let numbers = |rows: Tensor| rows.to_vec2::<f32>().unwrap();
        let encode = |session: &Session, frozen| {
            let encoder = Encoder { frozen, ..session.encoder(2).unwrap() };
            (numbers(encoder.images(&images).unwrap()), numbers(encoder.texts(&texts).unwrap()))
        };
        let expected = encode(&session, None);
        assert_eq!(encode(&session, Some(&frozen)), expected, "{depth:?}");
        let of_moved = |session: &mut Session| {
            for name in ["visual_projection.weight", "text_projection.weight"] {
                let param = session.params.iter().find(|param| param.spec.name == name).unwrap();
                let weight = param.var.as_tensor();
                // Another direction of each row, not its length alone.
                let moved = weight + weight.flatten_all().unwrap().flip(&[0]).unwrap().reshape(weight.shape()).unwrap();
                param.var.set(&moved.unwrap()).unwrap();
            }
            encode(session, None)
        };
        let moved = of_moved(&mut session);
        assert_ne!(moved, expected);
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(encode(&session, Some(&frozen)), moved, "{depth:?}: kept, under what is trained now");
        let others = Encoder { frozen: Some(&frozen), ..session.encoder(2).unwrap() };
        assert!(others.images(&images[..3]).is_err(), "another list is read");
    }
}

/// Rows keep their names when a manifest is sorted anew, and get nobody else's when it is edited.
#[test]
fn search_never_names_another_rows_report() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    let manifest = place.path("phantom/manifest.csv");
    let before = fs::read_to_string(&manifest).unwrap();
    let embed =
        ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--keep-names", "--out", "all.safetensors"];
    let output = place.run(&embed);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let search = |index: &str| -> Vec<Value> {
        let output = place.run(&["search", "--index", index, "--text", "left effusion", "-k", "1000", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let mut hits = json(&output.stdout)["hits"].as_array().unwrap().clone();
        hits.sort_by_key(|hit| hit["row"].as_u64());
        hits
    };
    // Where a row stands now is told as well, and is all that another order changes.
    let elsewhere = |hits: &[Value]| -> Vec<Value> {
        let without = |hit: &Value| {
            let mut hit = hit.clone();
            assert!(hit.as_object_mut().unwrap().remove("line").unwrap().as_u64().unwrap() > 1);
            hit
        };
        hits.iter().map(without).collect()
    };
    let named = search("all.safetensors");
    assert!(named.len() > 10 && named.iter().all(|hit| hit["text"].is_string() && hit["changed"].is_null()));

    // Another order: every row is still called what it was.
    let lines: Vec<&str> = before.lines().collect();
    let sorted: Vec<&str> = lines[..1].iter().chain(lines[1..].iter().rev()).copied().collect();
    fs::write(&manifest, sorted.join("\n")).unwrap();
    let hits = search("all.safetensors");
    assert_eq!(elsewhere(&hits), elsewhere(&named));
    assert_eq!((&named[0]["line"], hits[0]["line"].as_u64()), (&2.into(), Some(lines.len() as u64)));

    // The first row is gone, so that every number means another row, and the second has another report.
    let report = named[1]["text"].as_str().unwrap().lines().next().unwrap();
    let edited = [&lines[..1], &lines[2..]].concat().join("\n").replacen(report, "Something else.", 1);
    fs::write(&manifest, edited).unwrap();
    let hits = search("all.safetensors");
    for row in [0, 1] {
        assert_eq!(hits[row]["changed"], true, "{}", hits[row]);
        assert!(hits[row]["text"].is_null() && hits[row]["image"].is_string(), "{}", hits[row]);
    }
    assert_eq!(elsewhere(&hits[2..]), elsewhere(&named[2..]));
    let output = place.run(&["search", "--index", "all.safetensors", "--text", "left effusion", "-k", "1000"]);
    assert_eq!(text(&output.stdout).matches("(changed or gone since the index was made)").count(), 2);

    // An index of an older version does not know what its rows are.
    let bytes = fs::read(place.path("all.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut source: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["reportclip"]).unwrap();
    source.as_object_mut().unwrap().remove("rows").unwrap();
    let metadata = [("reportclip".to_string(), source.to_string())].into();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    safetensors::serialize_to_file(all.iter(), Some(metadata), &place.path("old.safetensors")).unwrap();
    let hits = search("old.safetensors");
    assert!(hits.len() == named.len() && hits.iter().all(|hit| hit["text"].is_null() && hit["image"].is_null()));
}

/// A line of a text file that was edited is not shown for the one that was embedded.
#[test]
fn search_never_shows_another_line() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    fs::write(place.path("lines.txt"), "no effusion\nleft effusion\n").unwrap();
    let embed = ["embed", "--model", "run/model", "--texts", "lines.txt", "--out", "lines.safetensors"];
    assert!(place.run(&embed).status.success());
    fs::write(place.path("lines.txt"), "fracture\nno effusion\n").unwrap();
    let output = place.run(&["search", "--index", "lines.safetensors", "--text", "left effusion", "--json"]);
    let hits = json(&output.stdout)["hits"].clone();
    let hit = |row: u64| hits.as_array().unwrap().iter().find(|hit| hit["row"] == row).unwrap().clone();
    assert_eq!(hit(0)["text"], "no effusion");
    assert!(hit(1)["text"].is_null() && hit(1)["changed"] == true, "{}", hit(1));
}

/// What is fitted on one split is not judged on another where somebody stands in both.
#[test]
fn figures_across_a_leak_are_refused() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    let classes = "normal = [\"Normal.\"]\n\"pleural effusion\" = [\"Effusion.\"]\n";
    fs::write(place.path("classes.toml"), classes).unwrap();
    let rows = |split: &str, patient: usize, image: &str, label: &str| {
        format!("{image},\"FINDINGS: {label} {split} {patient}.\",{patient},{split},{label}\n")
    };
    let images: Vec<String> = fs::read_dir(place.path("phantom/images"))
        .unwrap()
        .map(|e| format!("images/{}", e.unwrap().file_name().to_str().unwrap()))
        .collect();
    let write = |patient_of_test: usize, image_of_test: &str| {
        let mut text = "image,report,patient_id,split,label\n".to_string();
        for (i, split) in ["train", "train", "val", "val", "test"].iter().enumerate() {
            text += &rows(split, i, &images[i], if i % 2 == 0 { "normal" } else { "pleural effusion" });
        }
        text += &rows("test", patient_of_test, image_of_test, "pleural effusion");
        fs::write(place.path("phantom/own.csv"), text).unwrap();
    };
    let data = ["--model", "run/model", "--data", "phantom/own.csv", "--split", "test", "--bootstrap", "0"];
    let zero_shot = [&["zero-shot", "--prompts", "classes.toml"][..], &data].concat();
    let probe = [&["eval", "--linear-probe", "val"][..], &data].concat();
    let refused = |words: &str| {
        for command in [&zero_shot, &probe] {
            let errors = place.errors(command, 1);
            assert!(errors.len() == 1 && errors[0].contains(words), "{command:?}: {errors:?}");
            assert!(errors[0].contains("phantom/own.csv") && errors[0].contains("data split"), "{errors:?}");
        }
    };
    write(3, &images[6]);
    refused("1 patients stand in split val and in ");
    write(7, &images[3]);
    refused("1 images stand in split val and in ");
    fs::copy(place.path("phantom").join(&images[3]), place.path("phantom/images/copy.png")).unwrap();
    write(7, "images/copy.png");
    refused("1 images stand in split val and in ");
    // Fitted on training, the copied image of validation is no leak; and without one, all is judged.
    let of_train = [&["eval", "--linear-probe", "train"][..], &data].concat();
    assert!(place.run(&of_train).status.success());
    write(7, &images[6]);
    for command in [&zero_shot, &probe] {
        let output = place.run(command);
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    }
    // Training itself watches validation against test as well.
    write(3, &images[6]);
    let train = ["train", "tiny.toml", "--set", "data.train=phantom/own.csv", "--set", "train.batch_size=2"];
    let errors = place.errors(&[&train[..], &["--set", "train.max_steps=1", "--out", "leaky"]].concat(), 2);
    assert!(errors.iter().any(|e| e.contains("1 patients stand in validation and in another split")), "{errors:?}");
}
