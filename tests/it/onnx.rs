//! Models as ONNX files: each graph against the model that it was drawn from, and what is written, read back.
//! `scripts/golden/check_onnx.py` does the same with onnxruntime.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use prost::Message;
use reportclip::export::onnx::{attention_mask, quantized, run, write_graph};
use reportclip::export::write_model;
use reportclip::model::checkpoint::save_safetensors;
use reportclip::model::graph::{Graph, Node};
use reportclip::model::{Builder, ClipModel};
use reportclip::session::Session;

use crate::common::{assert_close, commands_of, golden, load_golden, numbers};
use crate::encoders::{CASES, case};

/// What the golden texts are padded with where the tower takes a mask: all of them with one number, found here as the
/// end of the longest run at a row's end.
fn pad_id(ids: &Tensor) -> u32 {
    let rows: Vec<Vec<u32>> = ids.to_vec2().unwrap();
    let run = |row: &Vec<u32>| row.iter().rev().take_while(|id| *id == row.last().unwrap()).count();
    let longest = rows.iter().max_by_key(|row| run(row)).unwrap();
    *longest.last().unwrap()
}

fn inputs(pixels: &Tensor, ids: &Tensor) -> [(&'static str, Tensor); 3] {
    let mask = attention_mask(ids, pad_id(ids)).unwrap();
    [("pixel_values", pixels.clone()), ("input_ids", ids.to_dtype(DType::I64).unwrap()), ("attention_mask", mask)]
}

/// Every input of every operator is a weight, an input, or was made before; nothing is made twice or left unread.
fn check_order(what: &str, graph: &Graph) {
    let mut known: HashSet<&str> = graph.weights.iter().map(|(edge, _)| edge.0.as_str()).collect();
    assert_eq!(known.len(), graph.weights.len(), "{what}: two weights of one name");
    let mut read = HashSet::new();
    assert!(graph.inputs.iter().all(|port| known.insert(&port.name)), "{what}: inputs");
    for node in &graph.nodes {
        for edge in &node.inputs {
            assert!(known.contains(edge.0.as_str()), "{what}: {} reads {} too early", node.op, edge.0);
            read.insert(edge.0.as_str());
        }
        assert!(node.outputs.iter().all(|edge| known.insert(&edge.0)), "{what}: {:?} is there twice", node.outputs);
    }
    read.extend(graph.outputs.iter().map(|port| port.name.as_str()));
    let unread: Vec<_> = known.difference(&read).filter(|name| !name.contains("zero_point")).collect();
    assert!(unread.is_empty(), "{what}: nothing reads {unread:?}");
}

#[test]
fn graphs_of_every_family_give_the_models_features() {
    for name in CASES {
        let case = case(name);
        let (config, params) = (&case.loaded.config, &case.loaded.params);
        let model = ClipModel::new(config, &Builder::eval(params)).unwrap();
        let (pixels, ids) = (&case.expected["pixel_values"], case.expected["input_ids"].to_dtype(DType::U32).unwrap());
        let given = inputs(pixels, &ids);
        let (image, text) = (config.image_graph(params, "i").unwrap(), config.text_graph(params, "t").unwrap());
        check_order(name, &image);
        check_order(name, &text);
        let joint = config.joint_graph(params).unwrap();
        check_order(name, &joint);
        let (images, texts) = (model.image_embeds(pixels).unwrap(), model.text_embeds(&ids).unwrap());
        let logits = images.matmul(&texts.t().unwrap()).unwrap().broadcast_mul(&model.scale().unwrap()).unwrap();
        let logits = model.logit_bias().map_or(logits.clone(), |bias| logits.broadcast_add(bias.tensor()).unwrap());
        let own = [
            ("vision_model", "i", model.image_features(pixels).unwrap().tensor().clone()),
            ("text_model", "t", model.text_features(&ids).unwrap().tensor().clone()),
            ("model", "image_embeds", images),
            ("model", "text_embeds", texts),
            ("model", "logits_per_text", logits.t().unwrap().contiguous().unwrap()),
            ("model", "logits_per_image", logits),
        ];
        let graphs = [("vision_model", &image), ("text_model", &text), ("model", &joint)];
        for (file, graph) in graphs {
            let made = run(graph, &given).unwrap();
            let expected: Vec<_> = own.iter().filter(|(of, ..)| *of == file).collect();
            assert_eq!(made.len(), expected.len(), "{name} {file}");
            for (_, output, expected) in expected {
                assert_close(&format!("{name} {file} {output}"), &made[*output], expected, 1e-5, 1e-7);
            }
        }
        if let Ok(out) = std::env::var("REPORTCLIP_ONNX_OUT") {
            write_for_onnxruntime(&Path::new(&out).join(name), graphs, &given, &own);
        }
    }
}

/// Writes graphs with inputs, the model's own features, and what comes of the graphs in 8 bits here, for
/// scripts/golden/check_onnx.py.
fn write_for_onnxruntime(
    folder: &Path,
    graphs: [(&str, &Graph); 3],
    given: &[(&'static str, Tensor)],
    own: &[(&str, &str, Tensor)],
) {
    std::fs::create_dir_all(folder).unwrap();
    let mut io: Vec<(String, Tensor)> = given.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
    io.extend(own.iter().map(|(file, output, tensor)| (format!("{file}.{output}"), tensor.clone())));
    for (file, graph) in graphs {
        write_graph(graph, &folder.join(format!("{file}.onnx"))).unwrap();
        let int8 = quantized(graph).unwrap();
        write_graph(&int8, &folder.join(format!("{file}_quantized.onnx"))).unwrap();
        let made = run(&int8, given).unwrap().into_iter();
        io.extend(made.map(|(output, x)| (format!("{file}_quantized.{output}"), x.contiguous().unwrap())));
    }
    save_safetensors(&folder.join("io.safetensors"), &io).unwrap();
}

#[test]
fn graphs_in_8_bits_stay_near() {
    for name in CASES {
        let case = case(name);
        let (config, params) = (&case.loaded.config, &case.loaded.params);
        let given = inputs(&case.expected["pixel_values"], &case.expected["input_ids"].to_dtype(DType::U32).unwrap());
        let full = config.joint_graph(params).unwrap();
        let int8 = quantized(&full).unwrap();
        check_order(name, &int8);
        let left = |node: &Node| {
            let weight = node.inputs.get(1).and_then(|edge| int8.weight(edge));
            node.op == "MatMul" && weight.is_some_and(|weight| weight.elem_count() >= 64)
        };
        assert!(!int8.nodes.iter().any(left), "{name}: a product is left in f32");
        assert!(int8.weight_bytes() < full.weight_bytes(), "{name}");
        let (exact, near) = (run(&full, &given).unwrap(), run(&int8, &given).unwrap());
        for output in ["image_embeds", "text_embeds"] {
            let pairs = numbers(&exact[output]).into_iter().zip(numbers(&near[output]));
            let (dot, rows) = (pairs.map(|(a, b)| a * b).sum::<f64>(), exact[output].dim(0).unwrap());
            let cosine = dot / rows as f64;
            assert!(cosine > 0.95 && cosine < 0.999_999_99, "{name}: {output} has a mean cosine of {cosine}");
        }
    }
}

/// A product in 8 bits, worked out by hand in whole numbers.
#[test]
fn a_product_in_8_bits_is_what_onnx_says() {
    let loaded = load_golden("clip/odd_widths");
    let graph = loaded.config.image_graph(&loaded.params, "i").unwrap();
    let int8 = quantized(&graph).unwrap();
    let product = int8.nodes.iter().find(|node| node.op == "MatMulInteger").unwrap();
    let weight = int8.weight(&product.inputs[1]).unwrap();
    let name = product.inputs[1].0.strip_suffix("_quantized").unwrap();
    let full = graph.weights.iter().find(|(edge, _)| edge.0 == name).unwrap().1.contiguous().unwrap();
    let scales = &int8.weights.iter().find(|(edge, _)| edge.0 == format!("{name}_scale")).unwrap().1;
    let (steps, full, scales) = (numbers(weight), numbers(&full), numbers(scales));
    let outer = scales.len();
    for (i, (step, full)) in steps.iter().zip(&full).enumerate() {
        let scale = scales[i % outer];
        let error = (step - 128.0) * scale - full;
        assert!(error.abs() <= 0.500_001 * scale, "number {i}: {full} became {step} steps of {scale}");
    }
    // Each channel uses all of its steps.
    let largest =
        (0..outer).map(|channel| steps.iter().skip(channel).step_by(outer).fold(0f64, |m, s| m.max((s - 128.0).abs())));
    assert!(largest.into_iter().all(|steps| steps == 127.0));
}

/// As much of ONNX's messages as is needed to read a file again.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Model {
        #[prost(int64, tag = "1")]
        pub ir_version: i64,
        #[prost(message, optional, tag = "7")]
        pub graph: Option<Graph>,
        #[prost(message, repeated, tag = "8")]
        pub opset: Vec<Opset>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Opset {
        #[prost(int64, tag = "2")]
        pub version: i64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Graph {
        #[prost(message, repeated, tag = "1")]
        pub node: Vec<Node>,
        #[prost(message, repeated, tag = "5")]
        pub initializer: Vec<Tensor>,
        #[prost(message, repeated, tag = "11")]
        pub input: Vec<Port>,
        #[prost(message, repeated, tag = "12")]
        pub output: Vec<Port>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Node {
        #[prost(string, repeated, tag = "1")]
        pub input: Vec<String>,
        #[prost(string, repeated, tag = "2")]
        pub output: Vec<String>,
        #[prost(string, tag = "4")]
        pub op_type: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Tensor {
        #[prost(int64, repeated, tag = "1")]
        pub dims: Vec<i64>,
        #[prost(int32, tag = "2")]
        pub data_type: i32,
        #[prost(string, tag = "8")]
        pub name: String,
        #[prost(bytes = "vec", tag = "9")]
        pub raw_data: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Port {
        #[prost(string, tag = "1")]
        pub name: String,
    }
}

fn reportclip(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_reportclip")).current_dir(folder).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A tiny CLIP in the folder `model`.
fn tiny_clip(place: &Path) -> Session {
    let session = crate::session::tiny(None);
    std::fs::create_dir(place.join("model")).unwrap();
    write_model(&place.join("model"), &session.folder, &session.params.tensors()).unwrap();
    session
}

fn read(path: &Path) -> proto::Model {
    proto::Model::decode(std::fs::read(path).unwrap().as_slice()).unwrap()
}

#[test]
fn a_folder_has_the_layout_of_transformers_js() {
    let dir = tempfile::tempdir().unwrap();
    let session = tiny_clip(dir.path());
    let (code, out, err) = reportclip(dir.path(), &["export", "onnx", "--model", "model", "--out", "onnx", "--int8"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("onnx/model.onnx") && out.contains("input_ids, pixel_values → logits_per_image"), "{out}");
    let out = dir.path().join("onnx");
    for file in [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "SHA256SUMS",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let graph = session.folder.config.joint_graph(&session.params).unwrap();
    let file = read(&out.join("onnx/model.onnx"));
    assert_eq!((file.ir_version, file.opset[0].version), (8, 17));
    let inside = file.graph.unwrap();
    let names = |ports: &[proto::Port]| ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&inside.output), ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]);
    assert_eq!(
        names(&inside.input).into_iter().collect::<BTreeSet<_>>(),
        ["input_ids", "pixel_values"].map(String::from).into()
    );
    assert_eq!(inside.node.len(), graph.nodes.len());
    for (found, node) in inside.node.iter().zip(&graph.nodes) {
        assert_eq!(found.op_type, node.op);
        assert!(found.input.iter().eq(node.inputs.iter().map(|edge| &edge.0)));
        assert!(found.output.iter().eq(node.outputs.iter().map(|edge| &edge.0)));
    }
    assert_eq!(inside.initializer.len(), graph.weights.len());
    for (found, (edge, tensor)) in inside.initializer.iter().zip(&graph.weights) {
        assert_eq!(
            (&found.name, found.dims.iter().map(|d| *d as usize).collect::<Vec<_>>()),
            (&edge.0, tensor.dims().to_vec())
        );
        let written: Vec<f64> = match found.data_type {
            1 => found.raw_data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
            7 => found.raw_data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            other => panic!("{}: type {other}", edge.0),
        };
        assert_eq!(written, numbers(&tensor.contiguous().unwrap()), "{}", edge.0);
    }
    let int8 = read(&out.join("onnx/vision_model_quantized.onnx")).graph.unwrap();
    assert!(int8.initializer.iter().any(|tensor| tensor.data_type == 2));
    assert_eq!(names(&int8.output), ["image_embeds"]);
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("library_name: transformers.js") && card.contains("not measured"), "{card}");
    // Nothing is written over.
    let (code, _, err) = reportclip(dir.path(), &["export", "onnx", "--model", "model", "--out", "onnx"]);
    assert_eq!(code, 1);
    assert!(err.contains("exists already"), "{err}");
    // Nor is what the model's list of checksums does not know put into its folder, nor a link followed.
    let export = |out: &str| reportclip(dir.path(), &["export", "onnx", "--model", "model", "--out", out]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
    #[cfg(unix)]
    assert!(export("link").2.contains("--out: link: exists already"), "{}", export("link").2);
    let (code, _, err) = export("model/onnx");
    assert!(code == 1 && err.contains("model, which this command reads; name a folder elsewhere"), "{err}");
    assert!(!dir.path().join("model/onnx").exists());
    // What an export that was killed has left is gone after the next one.
    let left = dir.path().join(".third.tmp");
    std::fs::create_dir_all(left.join("onnx")).unwrap();
    std::fs::write(left.join("onnx/model.onnx"), "half").unwrap();
    assert_eq!(export("third").0, 0);
    assert!(!left.exists());
    let (code, _, err) = reportclip(dir.path(), &["export", "onnx", "--model", "nowhere", "--out", "second"]);
    assert!(code == 1 && err.contains("nowhere") && !dir.path().join("second").exists(), "{err}");
}

#[test]
fn what_8_bits_cost_is_measured_and_told() {
    let dir = tempfile::tempdir().unwrap();
    tiny_clip(dir.path());
    let synth = ["data", "synth", "--out", "phantom", "--patients", "6", "--size", "64"];
    let (code, _, err) = reportclip(dir.path(), &synth);
    assert_eq!(code, 0, "{err}");
    let args = ["--int8", "--data", "phantom/manifest.csv", "--json"];
    let (code, out, err) =
        reportclip(dir.path(), &[&["export", "onnx", "--model", "model", "--out", "onnx"], &args[..]].concat());
    assert_eq!(code, 0, "{err}");
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    let recall = told["recall"].as_array().unwrap();
    assert_eq!((recall.len(), told["files"].as_array().unwrap().len()), (6, 6));
    let args = ["eval", "--model", "model", "--data", "phantom/manifest.csv", "--bootstrap", "0", "--json"];
    let (_, out, _) = reportclip(dir.path(), &args);
    let eval: serde_json::Value = serde_json::from_str(&out).unwrap();
    let full = eval["image_to_text"]["figures"]["recall@5"].as_f64().unwrap();
    let five = recall.iter().find(|one| one["figure"] == "image→text recall@5").unwrap();
    assert_eq!(five["f32"].as_f64().unwrap(), full);
    let card = std::fs::read_to_string(dir.path().join("onnx/README.md")).unwrap();
    assert!(card.contains("| image→text recall@5 |"), "{card}");
}

#[test]
fn adapters_are_multiplied_out() {
    use reportclip::model::freeze::FreezeConfig;
    use reportclip::model::lora::{self, LoraConfig};
    let loaded = load_golden("clip/odd_widths");
    let options = LoraConfig { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec!["q_proj".into(), "fc1".into()] };
    let (params, layers) = lora::add(&loaded.params, &options, &FreezeConfig::NONE, 1).unwrap();
    assert!(layers > 0);
    for p in params.iter().filter(|p| p.spec.name.ends_with("lora_B.weight")) {
        p.var.set(&Tensor::full(0.05f32, p.spec.shape.clone(), &Device::Cpu).unwrap()).unwrap();
    }
    let pixels = &crate::common::tensors(&golden("clip/odd_widths/expected.safetensors"))["pixel_values"];
    let adapted = ClipModel::new(&loaded.config, &Builder::eval(&params)).unwrap();
    let plain = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
    let graph = loaded.config.image_graph(&lora::merged(&params).unwrap(), "i").unwrap();
    let made = &run(&graph, &[("pixel_values", pixels.clone())]).unwrap()["i"];
    assert_close("adapted", made, adapted.image_features(pixels).unwrap().tensor(), 1e-5, 1e-7);
    let moved = (made - plain.image_features(pixels).unwrap().tensor()).unwrap();
    assert!(numbers(&moved).iter().any(|d| d.abs() > 1e-3), "the adapters change something");
}

/// Every command of docs/onnx.md, as it stands there; `scripts/golden/check_onnx.py` and `check_onnx.mjs` run what the
/// page has for Python and JavaScript.
#[test]
fn the_page_about_onnx_can_be_copied() {
    let place = crate::runs::Place::new();
    place.train_ok("runs/demo", &["--set", "train.max_steps=2"]);
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::rename(place.path("phantom"), place.path("data/phantom")).unwrap();
    let commands = commands_of("onnx.md");
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        let output = place.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{command:?}: {}", crate::runs::text(&output.stderr));
        assert!(place.path("demo-onnx/onnx/model.onnx").is_file());
        // Both name the same folder, which must not be there.
        std::fs::remove_dir_all(place.path("demo-onnx")).unwrap();
    }
}
