//! Every published form of the weights, and broken or hostile ones. Fixtures: scripts/golden/clip.py.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use common::{assert_close, golden, load_golden, open};
use reportclip::error::one_line;
use reportclip::model::checkpoint::{LoadOptions, load, save_safetensors};

fn message(folder: &Path) -> String {
    one_line(&load(&open(folder), &LoadOptions::default(), &Device::Cpu).err().expect("must not load"))
}

/// A copy of a fixture to break.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

#[test]
fn all_forms_hold_the_same_weights() {
    let reference = load_golden("clip/quick_gelu_legacy_eos");
    for (form, tolerance) in [("sharded", 0.0), ("torch_bin", 0.0), ("old_position_ids", 0.0), ("torch_bin_f16", 1e-3)]
    {
        let loaded = load_golden(&format!("clip_formats/{form}"));
        for param in reference.params.iter() {
            let name = &param.spec.name;
            let ours = loaded.params.get(name).unwrap();
            assert_close(&format!("{form} {name}"), &ours.var, &param.var, tolerance, 0.0);
        }
        let ignored: Vec<&str> = loaded.ignored.iter().map(|i| i.name.as_str()).collect();
        match form {
            "old_position_ids" => assert_eq!(ignored.len(), 2, "{ignored:?}"),
            _ => assert!(ignored.is_empty(), "{form}: {ignored:?}"),
        }
    }
}

#[test]
fn a_pickle_is_never_executed() {
    let marker = Path::new("/tmp/reportclip-pickle-executed");
    let _ = fs::remove_file(marker);
    let text = message(&golden("clip_formats/pickle_exec"));
    assert!(text.contains("pytorch_model.bin"), "{text}");
    assert!(!marker.exists(), "the pickle was executed");
}

#[test]
fn missing_unknown_and_misshapen_tensors_are_all_named() {
    let dir = copy("clip/quick_gelu_legacy_eos");
    let path = dir.path().join("model.safetensors");
    let mut tensors: Vec<(String, Tensor)> = common::tensors(&path).into_iter().collect();
    tensors.retain(|(name, _)| name != "logit_scale");
    for (name, tensor) in &mut tensors {
        match name.as_str() {
            "text_projection.weight" => *tensor = tensor.narrow(0, 0, 5).unwrap().contiguous().unwrap(),
            "visual_projection.weight" => *name = "visual_projektion.weight".into(),
            _ => {}
        }
    }
    save_safetensors(&path, &tensors).unwrap();
    let text = message(dir.path());
    assert!(text.contains("tensor logit_scale [] is missing"), "{text}");
    assert!(text.contains("text_projection.weight has shape [5, 16], config.json asks for [12, 16]"), "{text}");
    assert!(text.contains("and 1 more of this kind"), "{text}");
}

#[test]
fn broken_files_are_one_clear_line() {
    let cases: [(&str, &[u8], &str); 5] = [
        ("model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "not a whole safetensors file"),
        ("model.safetensors", b"", "not a whole safetensors file"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("config.json", b"{", "not JSON"),
        ("config.json", br#"{"model_type": "blip"}"#, "model_type is \"blip\""),
    ];
    for (file, bytes, expected) in cases {
        let dir = copy("clip/quick_gelu_legacy_eos");
        fs::write(dir.path().join(file), bytes).unwrap();
        let text = message(dir.path());
        assert!(text.contains(expected) && text.contains(file), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
    // Cut in the middle of a tensor.
    let dir = copy("clip/quick_gelu_legacy_eos");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
    assert!(message(dir.path()).contains("not a whole safetensors file"));
}

#[test]
fn hostile_configs_are_refused_before_memory_is_taken() {
    for (key, value) in [("hidden_size", "100000000000"), ("num_hidden_layers", "-3"), ("patch_size", "0")] {
        let dir = copy("clip/quick_gelu_legacy_eos");
        let path = dir.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["vision_config"][key] = serde_json::from_str(value).unwrap();
        fs::write(&path, config.to_string()).unwrap();
        let text = message(dir.path());
        assert!(text.contains(&format!("vision_config.{key} is {value}")), "{text}");
    }
}

#[test]
fn an_index_cannot_leave_the_folder() {
    let dir = copy("clip_formats/sharded");
    let path = dir.path().join("model.safetensors.index.json");
    fs::write(&path, br#"{"weight_map": {"logit_scale": "../../../etc/passwd"}}"#).unwrap();
    let text = message(dir.path());
    assert!(text.contains("../../../etc/passwd"), "{text}");
    assert!(text.contains("file name"), "{text}");
}

#[test]
fn longer_contexts_are_interpolated_only_when_asked() {
    let options = LoadOptions { context_length: Some(31), ..LoadOptions::default() };
    let loaded = load(&open(&golden("clip/odd_widths")), &options, &Device::Cpu).unwrap();
    let name = "text_model.embeddings.position_embedding.weight";
    let long: Vec<Vec<f32>> = loaded.params.get(name).unwrap().var.to_vec2().unwrap();
    let short: Vec<Vec<f32>> = load_golden("clip/odd_widths").params.get(name).unwrap().var.to_vec2().unwrap();
    assert_eq!((long.len(), short.len()), (31, 16));
    assert_eq!((&long[0], &long[30]), (&short[0], &short[15]), "both ends stay");
    assert!((long[1][0] - (short[0][0] + short[1][0]) / 2.0).abs() < 1e-6, "31 points halve 16");
    assert_eq!(loaded.config.text.context_length(), 31);
}
