//! Every kind of model against the library that published it: features, loss, every gradient, and the way back to disk.
//! Fixtures: scripts/golden/encoders.py.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use crate::common::{assert_close, golden, named_by, numbers, open, tensors};
use candle_core::{DType, Device, Tensor};
use reportclip::data::{Batch, Images, ReportTokenizer, TokenizerKind};
use reportclip::dist::Single;
use reportclip::loss::{ClipLoss, Direction, Loss, SiglipLoss};
use reportclip::model::checkpoint::{Family, LoadOptions, Loaded, PairOptions, Pooling, load, load_pair};
use reportclip::model::freeze::{FreezeConfig, FreezeDepth};
use reportclip::model::{Builder, ClipModel, Part, freeze};
use reportclip::ops::Tape;
use reportclip::train::TrainStep;

pub const CASES: [&str; 28] = [
    "chinese_clip",
    "dual_beit_bert",
    "dual_clip_roberta",
    "dual_clip_roberta_v4",
    "dual_deit_bert",
    "dual_dinov2_xlmr",
    "dual_swin_bert",
    "dual_vit_bert",
    "oc_rn50",
    "oc_siglip",
    "oc_timm_bert",
    "oc_vit",
    "oc_vit_quickgelu_bin",
    "pair_beit_bert",
    "pair_convnext_bert",
    "pair_convnextv2_bert",
    "pair_deit_distilbert",
    "pair_dinov2_roberta",
    "pair_dinov2reg_xlmr",
    "pair_efficientnet_bert",
    "pair_lite_modernbert",
    "pair_resnet_bert",
    "pair_resnetbasic_bert",
    "pair_swin_bert",
    "pair_vit_bert",
    "pair_vit_modernbert",
    "siglip",
    "siglip2",
];

static CLIP: LazyLock<Loss> = LazyLock::new(|| Loss::of(ClipLoss::plain(0.1, Direction::Both)));

pub struct Case {
    pub loaded: Loaded,
    pub expected: HashMap<String, Tensor>,
    loss: Loss,
}

pub fn case(name: &'static str) -> Case {
    let folder = golden(&format!("encoders/{name}"));
    let expected = tensors(&folder.join("expected.safetensors"));
    let size = expected["pixel_values"].dim(3).unwrap();
    let options = LoadOptions { native_size: Some(size), ..LoadOptions::default() };
    let loaded = if name.starts_with("pair_") {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        let pooling = |key: &str| Pooling::from_word(json[key].as_str().unwrap());
        let pairing = PairOptions {
            image_pooling: pooling("image_pooling"),
            text_pooling: pooling("text_pooling"),
            mlp: json["projection"] == "mlp",
            embed_dim: json["embed_dim"].as_u64().unwrap() as usize,
        };
        let (image, text) = (open(&folder.join("vision")), open(&folder.join("text")));
        let loaded = load_pair(&image, &text, &pairing, &options, &Device::Cpu).unwrap();
        // The fresh heads become the reference's.
        for name in &loaded.fresh {
            loaded.params.get(name).unwrap().var.set(&expected[name]).unwrap();
        }
        loaded
    } else {
        load(&open(&folder), &options, &Device::Cpu).unwrap_or_else(|e| panic!("{name}: {e:#}"))
    };
    let loss =
        if name.starts_with("siglip") || name == "oc_siglip" { Loss::of(SiglipLoss::plain(0.0)) } else { CLIP.clone() };
    Case { loaded, expected, loss }
}

impl Case {
    pub fn step(&self) -> TrainStep<'_> {
        TrainStep::new(&Single, &self.loaded.config, &self.loaded.params, &self.loss)
    }

    pub fn batch(&self, from: usize, to: usize) -> Batch {
        let take = |name: &str| self.expected[name].narrow(0, from, to - from).unwrap().flatten_all().unwrap();
        Batch {
            images: Images::Pixels(take("pixel_values").to_vec1().unwrap()),
            bags: None,
            input_ids: take("input_ids").to_dtype(DType::U32).unwrap().to_vec1().unwrap(),
            pairs: to - from,
            tokens: self.expected["input_ids"].dim(1).unwrap(),
            rows: (0..to - from).collect(),
            text_states: None,
            opposed: Vec::new(),
            errors: Vec::new(),
        }
    }

    pub fn pairs(&self) -> usize {
        self.expected["input_ids"].dim(0).unwrap()
    }

    /// Gradients under the names and in the shapes that the file's own program uses.
    fn exported_gradients(&self) -> BTreeMap<String, Tensor> {
        let (grads, _) = self.step().gradients(&[self.batch(0, self.pairs())]).unwrap();
        let grads: Vec<(String, Tensor)> =
            grads.into_iter().map(|(name, grad)| (name, grad.into_dense().unwrap())).collect();
        // What is carried along is no gradient: a layout is asked for the trained weights alone.
        let exported = self.loaded.layout.export(&self.loaded.config, &grads).unwrap();
        let prefix = |folder: &str| if folder.is_empty() { String::new() } else { format!("{folder}_model.") };
        let all = exported.into_iter().flat_map(|part| {
            let prefix = prefix(part.folder);
            part.weights.1.into_iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
        });
        all.collect()
    }
}

#[test]
fn features_and_loss_agree_within_1e_5() {
    for name in CASES {
        let case = case(name);
        let model = ClipModel::new(&case.loaded.config, &Builder::eval(&case.loaded.params)).unwrap();
        let ids = case.expected["input_ids"].to_dtype(DType::U32).unwrap();
        let check = |what: &str, ours: &Tensor| {
            assert_close(&format!("{name} {what}"), ours, &case.expected[what], 1e-5, 0.0);
        };
        check("image_features", model.image_features(&case.expected["pixel_values"]).unwrap().tensor());
        check("text_features", model.text_features(&ids).unwrap().tensor());
        let (_, output) = case.step().gradients(&[case.batch(0, case.pairs())]).unwrap();
        check("loss", &output.loss);
    }
}

#[test]
fn every_gradient_agrees_within_1e_4() {
    for name in CASES {
        let case = case(name);
        let ours = case.exported_gradients();
        let mut compared = 0;
        for (key, expected) in &case.expected {
            let Some(weight) = key.strip_prefix("grad.") else { continue };
            let grad = ours.get(weight).unwrap_or_else(|| panic!("{name}: {weight} gets no gradient"));
            // A key's bias shifts all scores of a row alike: its true gradient is 0 and both sides hold rounding noise.
            assert_close(&format!("{name} {weight}"), grad, expected, 1e-4, 3e-6);
            compared += 1;
        }
        let trained = case.loaded.params.trainable().count();
        assert!(compared > 20 && trained > 20, "{name}: {compared} of {trained}");
        let known = case.expected.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(compared, known, "{name}");
    }
}

/// What the files hold, all types as f64, without what is ignored and not carried along.
fn stored(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let mut all = BTreeMap::new();
    for file in ["model.safetensors", "open_clip_model.safetensors", "heads.safetensors"] {
        let path = folder.join(file);
        if path.is_file() {
            all.extend(tensors(&path).into_iter().map(|(name, t)| (name, (t.dims().to_vec(), numbers(&t)))));
        }
    }
    all
}

#[test]
fn what_was_read_is_written_back_the_same() {
    for name in CASES {
        let case = case(name);
        let weights = case.loaded.params.snapshot().unwrap();
        let folder = golden(&format!("encoders/{name}"));
        let out = tempfile::tempdir().unwrap();
        for part in case.loaded.layout.export(&case.loaded.config, &weights).unwrap() {
            let inside = out.path().join(part.folder);
            std::fs::create_dir_all(&inside).unwrap();
            reportclip::model::checkpoint::save_safetensors(&inside.join(part.weights.0), &part.weights.1).unwrap();
            std::fs::write(inside.join(part.config.0), part.config.1.to_string()).unwrap();
            if name.starts_with("pair_") {
                continue;
            }
            let config = std::fs::read(folder.join(part.folder).join(part.config.0)).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            assert_eq!(part.config.1, config, "{name}: the config changed");
        }
        if !name.starts_with("pair_") && name != "oc_vit_quickgelu_bin" {
            assert_eq!(stored(out.path()), stored(&folder), "{name}");
        }
        for (file, json) in &case.loaded.layout.beside {
            let path = out.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, json.to_string()).unwrap();
        }
        if case.loaded.layout.family == Family::Pair {
            for tower in ["vision", "text"] {
                assert_eq!(stored(&out.path().join(tower)), stored(&folder.join(tower)), "{name}: {tower}");
            }
        }
        // And what was written is read again, to the last bit.
        let size = case.expected["pixel_values"].dim(3).unwrap();
        let options = LoadOptions { native_size: Some(size), ..LoadOptions::default() };
        let again = load(&open(out.path()), &options, &Device::Cpu).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(&*again.config.vision, &*case.loaded.config.vision, "{name}");
        for (weight, before) in &weights {
            let after = &again.params.get(weight).unwrap().var;
            assert_eq!(numbers(after), numbers(before), "{name}: {weight}");
        }
    }
}

#[test]
fn every_trainable_weight_gets_a_gradient_and_frozen_ones_do_not() {
    let tower = |image, text| FreezeConfig { image, text, ..FreezeConfig::NONE };
    for name in CASES {
        let mut case = case(name);
        for config in [
            FreezeConfig::NONE,
            tower(FreezeDepth::All, FreezeDepth::None),
            tower(FreezeDepth::None, FreezeDepth::All),
            tower(FreezeDepth::Blocks(1), FreezeDepth::Blocks(1)),
        ] {
            freeze::apply(&config, &mut case.loaded.params);
            let (grads, _) = case.step().gradients(&[case.batch(0, case.pairs())]).unwrap();
            for param in case.loaded.params.iter() {
                let what = &param.spec.name;
                assert_eq!(grads.contains_key(what), param.trainable, "{name}: {what} under {config:?}");
                let depth = match param.spec.part {
                    Part::Image => config.image,
                    Part::Text => config.text,
                    Part::Heads => FreezeDepth::None,
                };
                assert!(depth != FreezeDepth::All || !param.trainable, "{name}: {what}");
                assert!(!(param.spec.buffer && param.trainable), "{name}: {what}");
                if let Some(grad) = grads.get(what) {
                    let sum = grad.squared_sum().unwrap();
                    // Key biases: rounding noise, which may be exactly 0.
                    let noise = what.contains("k_proj.bias");
                    assert!(sum.is_finite() && (sum > 0.0 || noise), "{name}: the gradient of {what} is {sum}");
                }
            }
        }
    }
}

#[test]
fn frozen_towers_are_no_part_of_the_graph_and_kept_features_change_nothing() {
    for name in CASES {
        let mut case = case(name);
        let frozen = FreezeConfig { image: FreezeDepth::All, text: FreezeDepth::All, ..FreezeConfig::NONE };
        freeze::apply(&frozen, &mut case.loaded.params);
        let tape = Tape::new(case.loaded.params.len());
        let model = ClipModel::new(&case.loaded.config, &Builder::train(&case.loaded.params, &tape)).unwrap();
        let pixels = &case.expected["pixel_values"];
        let whole = model.image_features(pixels).unwrap();
        // At most the projection: two products and an activation.
        assert!(tape.steps() <= 3, "{name}: {} steps", tape.steps());
        let kept = model.frozen_image_features(pixels, FreezeDepth::All).unwrap();
        let numbers_each = case.loaded.config.vision.frozen_numbers(FreezeDepth::All).unwrap();
        assert_eq!(kept.elem_count(), numbers_each * case.pairs(), "{name}");
        let above = model.image_features_above(kept, FreezeDepth::All).unwrap();
        assert_close(name, above.tensor(), whole.tensor(), 1e-6, 0.0);
    }
}

#[test]
fn chunks_and_recomputation_give_the_gradients_of_the_whole_batch() {
    for name in CASES {
        let case = case(name);
        let whole = case.step().gradients(&[case.batch(0, 3)]).unwrap().0;
        let chunked = case.step().gradients(&[case.batch(0, 1), case.batch(1, 3)]).unwrap().0;
        let again = TrainStep { checkpoint_activations: true, ..case.step() };
        let again = again.gradients(&[case.batch(0, 3)]).unwrap().0;
        for (what, grad) in whole {
            let grad = grad.into_dense().unwrap();
            for other in [&chunked, &again] {
                let other = other[&what].clone().into_dense().unwrap();
                assert_close(&format!("{name} {what}"), &other, &grad, 2e-5, 3e-6);
            }
        }
    }
}

#[test]
fn freezing_the_scale_leaves_the_bias_trained() {
    for name in ["siglip", "oc_siglip"] {
        let mut case = case(name);
        let trained = |case: &Case, name: &str| case.loaded.params.get(name).unwrap().trainable;
        freeze::apply(&FreezeConfig { logit_scale: true, ..FreezeConfig::NONE }, &mut case.loaded.params);
        assert!(!trained(&case, "logit_scale") && trained(&case, "logit_bias"), "{name}");
        freeze::apply(&FreezeConfig { projections: true, ..FreezeConfig::NONE }, &mut case.loaded.params);
        assert!(trained(&case, "logit_scale") && trained(&case, "logit_bias"), "{name}");
    }
}

/// A tower is its folder and its row: whoever names one elsewhere makes the next tower touch another file.
#[test]
fn no_tower_is_named_outside_its_folder_and_the_table() {
    fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }
    // As a word of its own: one tower's name may end with another's.
    fn names(source: &str, name: &str) -> bool {
        let of_word = |c: char| c.is_alphanumeric() || c == '_';
        source
            .match_indices(name)
            .any(|(at, _)| !source[..at].ends_with(of_word) && !source[at + name.len()..].starts_with(of_word))
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut towers = Vec::new();
    for side in ["vision", "text"] {
        let folders = std::fs::read_dir(src.join("model").join(side)).unwrap().map(|entry| entry.unwrap().path());
        towers.extend(folders.filter(|path| path.is_dir()).map(|path| {
            let config = std::fs::read_to_string(path.join("config.rs")).unwrap();
            let (_, name) = config.split_once("#[derive(Clone, Debug, PartialEq)]\npub struct ").unwrap();
            let module = format!("{side}::{}", path.file_name().unwrap().to_str().unwrap());
            (module, name.split(' ').next().unwrap().to_string(), path)
        }));
    }
    assert!(towers.len() >= 8, "{towers:?}");
    let mut named = Vec::new();
    for path in sources(&src).iter().filter(|path| **path != src.join("model/towers.rs")) {
        let source = std::fs::read_to_string(path).unwrap();
        for (module, config, folder) in towers.iter().filter(|(.., folder)| !path.starts_with(folder)) {
            if names(&source, module) || names(&source, config) {
                named.push(format!("{}: {module} of {}", path.display(), folder.display()));
            }
        }
    }
    assert!(named.is_empty(), "towers are named in {} places: {named:#?}", named.len());
    let table = std::fs::read_to_string(src.join("model/towers.rs")).unwrap();
    for (module, ..) in &towers {
        let row = format!("{}::TOWER", module.split("::").last().unwrap());
        let rows = table.split([' ', '[', ']', ',']).filter(|word| **word == row).count();
        assert_eq!(rows, 1, "{row} stands once in the table");
    }
}

/// The published names, without the weights: every one is a weight of ours or told to be no part of the tower.
#[test]
fn published_names_of_efficientnet_lite0_are_all_known() {
    let names = std::fs::read(golden("encoders/efficientnet_lite0_names.json")).unwrap();
    let names: BTreeMap<String, BTreeMap<String, Vec<usize>>> = serde_json::from_slice(&names).unwrap();
    for (model_type, shapes) in names {
        let folder = tempfile::tempdir().unwrap();
        let key = if model_type.starts_with("tf_") { "architecture" } else { "model_type" };
        let config = serde_json::json!({ key: model_type });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let zeros = |(name, shape): (&String, &Vec<usize>)| {
            (name.clone(), Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu).unwrap())
        };
        let weights: Vec<(String, Tensor)> = shapes.iter().map(zeros).collect();
        let file = folder.path().join("model.safetensors");
        reportclip::model::checkpoint::save_safetensors(&file, &weights).unwrap();
        let pairing = PairOptions { image_pooling: None, text_pooling: None, mlp: false, embed_dim: 8 };
        let text = open(&golden("encoders/pair_vit_bert/text"));
        let options = LoadOptions { native_size: Some(224), ..LoadOptions::default() };
        let loaded = load_pair(&open(folder.path()), &text, &pairing, &options, &Device::Cpu)
            .unwrap_or_else(|e| panic!("{model_type}: {e:#}"));
        assert_eq!(loaded.config.vision.width(), 1280);
        let ours = loaded.params.iter().filter(|p| p.spec.part == Part::Image).count();
        // Counters of batch norms are carried along; the classifier's two are left out.
        let counters = shapes.keys().filter(|name| name.ends_with("num_batches_tracked")).count();
        assert_eq!(ours + counters + 2, shapes.len(), "{model_type}");
    }
}

/// A real model, where there is one: see scripts/golden/efficientnet_lite0.py.
#[test]
fn efficientnet_lite0_agrees_with_its_package_within_1e_4() {
    let Some(folders) = named_by("REPORTCLIP_LITE0", "MODEL_FOLDER:EXPECTED_FOLDER") else { return };
    let (model, expected) = folders.split_once(':').unwrap();
    // The first real pair: with MiniLM beside it, where that is there.
    let minilm = std::env::var("REPORTCLIP_MINILM").ok();
    let text = match minilm.as_deref().and_then(|folders| folders.split_once(':')) {
        Some((minilm, _)) => open(Path::new(minilm)),
        None => open(&golden("encoders/pair_vit_bert/text")),
    };
    let pairing = PairOptions { image_pooling: None, text_pooling: None, mlp: false, embed_dim: 1280 };
    let options = LoadOptions { native_size: Some(224), ..LoadOptions::default() };
    let loaded = load_pair(&open(Path::new(model)), &text, &pairing, &options, &Device::Cpu).unwrap();
    let heads = loaded.params.get("visual_projection.weight").unwrap();
    heads.var.set(&Tensor::eye(1280, DType::F32, &Device::Cpu).unwrap()).unwrap();
    let clip = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
    let expected = tensors(&Path::new(expected).join("expected.safetensors"));
    let ours = clip.image_features(&expected["pixel_values"]).unwrap();
    let pairs = numbers(ours.tensor()).into_iter().zip(numbers(&expected["features"]));
    let worst = pairs.fold(0f64, |m, (a, b)| m.max((a - b).abs()));
    eprintln!("{} images, {} in all, largest difference {worst:e}", ours.tensor().dims()[0], loaded.config.text.name());
    assert!(worst < 1e-4, "{worst:e}");
}

/// A real model, where there is one: see scripts/golden/minilm.py.
#[test]
fn minilm_embeddings_agree_with_sentence_transformers_within_1e_4() {
    let Some(folders) = named_by("REPORTCLIP_MINILM", "MODEL_FOLDER:EXPECTED_FOLDER") else { return };
    let (model, expected) = folders.split_once(':').unwrap();
    let pairing = PairOptions { image_pooling: None, text_pooling: None, mlp: false, embed_dim: 384 };
    let (image, text) = (open(&golden("encoders/pair_vit_bert/vision")), open(Path::new(model)));
    // sentence_bert_config.json: max_seq_length.
    let options = LoadOptions { context_length: Some(256), ..LoadOptions::default() };
    let loaded = load_pair(&image, &text, &pairing, &options, &Device::Cpu).unwrap();
    let heads = loaded.params.get("text_projection.weight").unwrap();
    heads.var.set(&Tensor::eye(384, DType::F32, &Device::Cpu).unwrap()).unwrap();
    let clip = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
    let kind = TokenizerKind { model_type: "bert".into(), context_length: 256, full_length: false };
    let tokenizer = ReportTokenizer::from_folder(Path::new(model), kind).unwrap();
    let texts: Vec<String> =
        serde_json::from_slice(&std::fs::read(Path::new(expected).join("texts.json")).unwrap()).unwrap();
    let (ids, tokens) = tokenizer.encode_batch(texts.iter().map(String::as_str)).unwrap();
    let ids = Tensor::from_vec(ids, (texts.len(), tokens), &Device::Cpu).unwrap();
    let expected = &tensors(&Path::new(expected).join("expected.safetensors"))["embeddings"];
    let ours = clip.text_embeds(&ids).unwrap();
    let worst = numbers(&ours).iter().zip(numbers(expected)).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
    eprintln!("{} texts, largest difference {worst:e}", texts.len());
    assert!(worst < 1e-4, "{worst:e}");
}
