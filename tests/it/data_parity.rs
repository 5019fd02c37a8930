//! Preprocessing and tokenizing against transformers. Fixtures: scripts/golden/preprocess.py, tokenizer.py.
#![allow(clippy::unwrap_used)]

use crate::common::{assert_close, golden, numbers, tensors};
use reportclip::data::{Preprocess, ReportTokenizer, TokenizerKind, image};
use serde_json::Value;

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The torchvision processor is transformers' default.
#[test]
fn pixels_agree_with_transformers_within_1_of_255() {
    let expected = tensors(&golden("preprocess/expected_fast.safetensors"));
    assert_eq!(expected.len(), 44);
    let mut failures = Vec::new();
    for (key, pixels) in &expected {
        let (config, file) = key.split_once('/').unwrap();
        let preprocess = json(&golden(&format!("preprocess/preprocessor_{config}.json")));
        let preprocess = Preprocess::from_json(&preprocess, None).unwrap();
        let picture = image::read(&golden(&format!("preprocess/{file}"))).unwrap();
        let ours = preprocess.resize_and_crop(&picture, None).unwrap();
        let (_, height, width) = pixels.dims3().unwrap();
        assert_eq!((ours.height as usize, ours.width as usize), (height, width), "{key}");
        let planes: Vec<f64> = (0..3).flat_map(|c| ours.colour(c).map(f64::from)).collect();
        let worst = planes.iter().zip(numbers(pixels)).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        // Colour JPEGs differ from Pillow's before any resizing.
        let allowed = if file == "rgb.jpg" { 2.0 } else { 1.0 };
        if worst > allowed {
            failures.push(format!("{key}: {worst}"));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// Fixtures: scripts/golden/jpeg.py. Most that any value differs by, of 255: chroma is brought to full size with other
/// roundings than libjpeg-turbo's, and noise is the worst there is for that.
#[test]
fn jpegs_are_within_a_stated_difference_of_pillow() {
    let cases = [
        ("gray", 1),
        ("gray_progressive", 1),
        ("smooth_420", 3),
        ("noise_444", 3),
        ("noise_422", 3),
        ("noise_420", 3),
        ("noise_420_progressive", 3),
        ("cmyk", 1),
    ];
    for (name, allowed) in cases {
        let read = |ending: &str| image::read(&golden(&format!("jpeg/{name}.{ending}"))).unwrap();
        let (ours, pillow) = (read("jpg"), read("png"));
        assert_eq!((ours.width, ours.height, ours.channels), (pillow.width, pillow.height, pillow.channels), "{name}");
        let worst = ours.bytes.iter().zip(&pillow.bytes).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= allowed, "{name}: differs by {worst}, allowed is {allowed}");
    }
}

#[test]
fn normalised_values_agree() {
    let expected = tensors(&golden("preprocess/expected_normalised.safetensors"));
    let preprocess = Preprocess::from_json(&json(&golden("preprocess/preprocessor_a.json")), None).unwrap();
    for (key, values) in &expected {
        let picture = image::read(&golden(&format!("preprocess/{}", key.split_once('/').unwrap().1))).unwrap();
        let ours = preprocess.apply(&picture, None).unwrap();
        let ours = candle_core::Tensor::from_vec(ours, values.dims(), &candle_core::Device::Cpu).unwrap();
        // In units of 1/255 as above, over the smallest standard deviation.
        let allowed = if key.ends_with("rgb.jpg") { 2.0 } else { 1.0 };
        assert_close(key, &ours, values, 0.0, allowed / 255.0 / 0.2613 + 1e-5);
    }
}

#[test]
fn a_written_preprocessor_config_reads_back() {
    for config in ["a", "b", "c", "d"] {
        let read =
            Preprocess::from_json(&json(&golden(&format!("preprocess/preprocessor_{config}.json"))), None).unwrap();
        assert_eq!(Preprocess::from_json(&read.to_json(), None).unwrap(), read, "{config}");
    }
}

#[test]
fn broken_images_are_named() {
    let jpeg = std::fs::read(golden("preprocess/rgb.jpg")).unwrap();
    let png = std::fs::read(golden("preprocess/rgb.png")).unwrap();
    let mut huge = png.clone();
    // Width and height of the IHDR chunk; its checksum is wrong then too, which must not matter for memory.
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let cases: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("text", b"hello".to_vec()),
        ("truncated png", png[..png.len() / 2].to_vec()),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\n".to_vec()),
        ("huge", huge),
    ];
    for (name, bytes) in cases {
        assert!(image::decode(&bytes, 0).is_err(), "{name}");
    }
    let e = image::decode(&jpeg[..jpeg.len() / 3], 0).map(drop).expect_err("a truncated JPEG is no image");
    assert!(reportclip::error::one_line(&e).starts_with("is truncated"), "{e:#}");
    assert!(image::decode(&jpeg, 0).is_ok());
}

#[test]
fn token_ids_equal_transformers() {
    let cases = json(&golden("tokenizer/expected.json"));
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 30);
    for variant in ["full", "bpe_only"] {
        let tokenizer =
            ReportTokenizer::from_folder(&golden(&format!("tokenizer/{variant}")), TokenizerKind::clip(24)).unwrap();
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let list =
                |key: &str| -> Vec<u64> { case[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect() };
            let length: u64 = list("attention_mask").iter().sum();
            let ours: Vec<u64> = tokenizer.encode(text).unwrap().iter().map(|&id| u64::from(id)).collect();
            assert_eq!(ours, list("input_ids")[..length as usize], "{variant}: {text:?}");
        }
        // Padding: to the longest text of the batch, with the reference's pad token.
        let (ids, tokens) = tokenizer.encode_batch(["The heart is normal in size.", "Normal."]).unwrap();
        assert_eq!(ids[2 * tokens - 1], 693, "{variant}");
    }
}

/// Fixtures: scripts/golden/image_processors.py. Transparency under open_clip is dropped after resizing rather than
/// laid on white before: that is left out, as are images that the class itself refuses.
#[test]
fn every_image_processor_agrees_within_1_of_255() {
    let expected = tensors(&golden("image_processors/expected_pixels.safetensors"));
    let mut failures = Vec::new();
    let mut compared = 0;
    for (key, pixels) in &expected {
        let (config, file) = key.split_once('/').unwrap();
        if config.contains("oblong") || (config.starts_with("open_clip") && file == "rgba.png") {
            continue; // Models take squares.
        }
        let preprocess = match config.strip_prefix("open_clip_") {
            Some(_) => {
                let config = json(&golden(&format!("image_processors/{config}.json")));
                Preprocess::from_open_clip(&serde_json::json!({"preprocess_cfg": config}))
            }
            None => {
                let config = json(&golden(&format!("image_processors/preprocessor_{config}.json")));
                Preprocess::from_json(&config, None)
            }
        };
        let preprocess = preprocess.unwrap_or_else(|e| panic!("{config}: {e:#}"));
        let picture = image::read(&golden(&format!("preprocess/{file}"))).unwrap();
        let ours = preprocess.resize_and_crop(&picture, None).unwrap();
        let (_, height, width) = pixels.dims3().unwrap();
        if (ours.height as usize, ours.width as usize) != (height, width) {
            failures.push(format!("{key}: {}x{} for {height}x{width}", ours.height, ours.width));
            continue;
        }
        let planes: Vec<f64> = (0..3).flat_map(|c| ours.colour(c).map(f64::from)).collect();
        let worst = planes.iter().zip(numbers(pixels)).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        if worst > 1.0 {
            failures.push(format!("{key}: {worst}"));
        }
        compared += 1;
    }
    assert!(failures.is_empty(), "{failures:?}");
    assert!(compared > 80, "{compared}");
}

/// Fixtures: scripts/golden/tokenizers_families.py.
#[test]
fn token_ids_of_every_family_equal_transformers() {
    let families = [
        ("bert_uncased", "bert"),
        ("bert_cased", "bert"),
        ("bert_chinese", "bert"),
        ("bert_fast", "bert"),
        ("bert_vocab_only", "bert"),
        ("bert_keep_accents", "bert"),
        ("distilbert", "distilbert"),
        ("roberta_bpe", "roberta"),
        ("xlmr", "xlm-roberta"),
        ("siglip", "siglip"),
        ("siglip2", "siglip2"),
    ];
    for (family, model_type) in families {
        let folder = golden(&format!("tokenizer_families/{family}"));
        let full_length = family.starts_with("siglip");
        let kind = TokenizerKind { model_type: model_type.into(), context_length: 24, full_length };
        let tokenizer = ReportTokenizer::from_folder(&folder, kind).unwrap();
        let (cases, golden) = (json(&folder.join("expected.json")), json(&folder.join("golden.json")));
        assert_eq!(u64::from(tokenizer.pad_id()), golden["pad_id"].as_u64().unwrap(), "{family}");
        let mut differing = Vec::new();
        for (row, case) in cases.as_array().unwrap().iter().enumerate() {
            let expected: Vec<u64> =
                case["input_ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
            let text = case["text"].as_str().unwrap();
            let ours: Vec<u64> = tokenizer.encode(text).unwrap().iter().map(|&id| u64::from(id)).collect();
            if ours != expected {
                differing.push(row);
            }
        }
        // SigLIP's slow tokenizer puts no space before text that follows a special token written out in it.
        let known: &[usize] = if family == "siglip" { &[42] } else { &[] };
        assert_eq!(differing, known, "{family}");
        let (ids, tokens) = tokenizer.encode_batch(["normal", "no effusion is seen"]).unwrap();
        assert_eq!(ids.len(), 2 * tokens);
        assert_eq!(tokens == 24, full_length, "{family}");
    }
}
