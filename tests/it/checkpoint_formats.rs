//! Every published form of the weights, and broken or hostile ones. Fixtures: scripts/golden/clip.py.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::fs;
use std::path::Path;

use crate::common::{assert_close, golden, load_golden, open};
use candle_core::{Device, Tensor};
use reportclip::error::one_line;
use reportclip::model::checkpoint::{LoadOptions, inspect, load, save_safetensors};

fn message(folder: &Path) -> String {
    one_line(&load(&open(folder), &LoadOptions::default(), &Device::Cpu).err().expect("must not load"))
}

/// A copy of a fixture to break.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
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
    // By its own name alone.
    let told = message(dir.path());
    assert!(told.contains("not a whole safetensors file") && !told.contains("config.json"), "{told}");
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

#[test]
fn hostile_files_of_other_layouts_are_one_clear_line() {
    // A header that claims 2^63 bytes.
    let dir = copy("encoders/siglip");
    let mut bytes = u64::MAX.wrapping_shr(1).to_le_bytes().to_vec();
    bytes.extend_from_slice(b"{}");
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    assert!(message(dir.path()).contains("not a whole safetensors file"), "{}", message(dir.path()));
    // A repository's config may not lead out of the folder.
    let dir = copy("encoders/oc_timm_bert");
    let path = dir.path().join("open_clip_config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"text_config\"", "\"../../etc\"")).unwrap();
    assert!(message(dir.path()).contains("its heads are not known"), "{}", message(dir.path()));
    // A tensor of the wrong shape, and a config of another model.
    let dir = copy("encoders/oc_vit");
    let path = dir.path().join("open_clip_config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"width\": 20", "\"width\": 24")).unwrap();
    let text = message(dir.path());
    assert!(text.contains("visual.class_embedding has shape [20], open_clip_config.json asks for [24]"), "{text}");
    let dir = copy("encoders/siglip");
    let path = dir.path().join("config.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"siglip\"", "\"perceiver\"")).unwrap();
    assert!(message(dir.path()).contains("model_type is \"perceiver\"; this version loads"), "{}", message(dir.path()));
}

#[test]
fn an_inspection_tells_all_problems_and_loads_nothing() {
    let whole = inspect(&open(&golden("encoders/oc_timm_bert"))).unwrap();
    assert!(whole.problems.is_empty(), "{:?}", whole.problems);
    assert_eq!(whole.mapped.len(), whole.specs.len());
    assert!(whole.mapped.iter().any(|m| m.change == "part of it"));
    let dir = copy("encoders/oc_vit");
    let path = dir.path().join("open_clip_config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"width\": 20", "\"width\": 24")).unwrap();
    assert!(inspect(&open(dir.path())).unwrap().problems.len() > 20);
}
