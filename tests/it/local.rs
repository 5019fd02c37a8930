//! Local alignment: sentences of reports against patches of images, in every tower that keeps patches.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use reportclip::data::{Batch, Images};
use reportclip::dist::Single;
use reportclip::loss::{ClipLoss, Direction, FalseNegatives, LocalConfig, LocalForm, LocalLoss, Loss};
use reportclip::model::checkpoint::Loaded;
use reportclip::model::{Builder, ClipModel};
use reportclip::ops::{Gradient, Segments, reference};
use reportclip::optim::Gradients;
use reportclip::train::{Supervision, TrainStep};

use crate::bags;
use crate::common::{assert_close, golden, load_golden, numbers, tensors};
use crate::encoders;
use crate::runs::{Place, json, text};
use crate::session::tokenizer;

fn both(form: LocalForm) -> Loss {
    let (label_smoothing, direction) = (0.1, Direction::Both);
    let options = LocalConfig { form, temperature: 0.07, attention_temperature: 0.1 };
    let local = Loss::of(LocalLoss { label_smoothing, direction, options, false_negatives: FalseNegatives::Keep });
    Loss::sum([(1.0, Loss::of(ClipLoss::plain(label_smoothing, direction))), (0.5, local)])
}

/// Each report's own ids as its sentence, and the first one's in the second report too.
fn sentences(ids: &Tensor) -> Supervision {
    let ids: Vec<Vec<u32>> = ids.to_dtype(DType::U32).unwrap().to_vec2().unwrap();
    let of_rows = (0..ids.len() as u32).map(|i| if i == 1 { vec![0, 1] } else { vec![i] }).collect();
    Supervision::of_sentences(ids, of_rows, &tokenizer())
}

fn batch(expected: &HashMap<String, Tensor>, from: usize, to: usize) -> Batch {
    let take = |name: &str| expected[name].narrow(0, from, to - from).unwrap().flatten_all().unwrap();
    Batch {
        images: Images::Pixels(take("pixel_values").to_dtype(DType::F32).unwrap().to_vec1().unwrap()),
        bags: None,
        tokens: expected["input_ids"].dim(1).unwrap(),
        input_ids: take("input_ids").to_dtype(DType::U32).unwrap().to_vec1().unwrap(),
        pairs: to - from,
        rows: (from..to).collect(),
        text_states: None,
        opposed: Vec::new(),
        errors: Vec::new(),
    }
}

fn dense(grad: &Gradient) -> Vec<f64> {
    numbers(&grad.clone().into_dense().unwrap())
}

/// ‖a − b‖ / ‖b‖ over all weights.
fn apart(a: &Gradients, b: &Gradients) -> f64 {
    assert_eq!(a.len(), b.len());
    let (mut off, mut size) = (0.0, 0.0);
    for (name, b) in b {
        for (a, b) in dense(&a[name]).iter().zip(dense(b)) {
            off += (a - b).powi(2);
            size += b * b;
        }
    }
    (off / size).sqrt()
}

/// Every trained weight gets a gradient; chunks, parts of sentences and recomputed blocks change nothing; bf16 is near.
#[test]
fn every_tower_learns_from_its_patches() {
    let clip = Loss::of(ClipLoss::plain(0.1, Direction::Both));
    let (mut of_bf16, mut of_forms, mut of_patches) = (Vec::new(), Vec::new(), Vec::new());
    for name in encoders::CASES {
        let mut case = encoders::case(name);
        // No objective here looks at it; it is not trained then.
        case.loaded.params.iter_mut().filter(|p| p.spec.name == "logit_bias").for_each(|p| p.trainable = false);
        let (loaded, expected) = (&case.loaded, &case.expected);
        let pairs = expected["pixel_values"].dim(0).unwrap();
        let supervision = sentences(&expected["input_ids"]);
        let (map, attention) = (both(LocalForm::Map), both(LocalForm::Attention));
        let step_of = |loss| TrainStep {
            supervision: Some(&supervision),
            ..TrainStep::new(&Single, &loaded.config, &loaded.params, loss)
        };
        let step = step_of(&map);
        let (whole, loss) = step.gradients(&[batch(expected, 0, pairs)]).unwrap();
        assert!(loss.loss_excess > 0.0 && loss.value.is_finite(), "{name}: {loss:?}");
        for param in loaded.params.trainable() {
            let sum = whole.get(&param.spec.name).map(|grad| grad.squared_sum().unwrap());
            // Of one or two images' attention a key's bias has none.
            let needed = !param.spec.name.contains("k_proj.bias");
            assert!(
                sum.is_some_and(|sum| sum.is_finite() && (sum > 0.0 || !needed)),
                "{name} {}: {sum:?}",
                param.spec.name
            );
        }
        let chunks = [batch(expected, 0, 1), batch(expected, 1, pairs)];
        let (chunked, of_chunks) = TrainStep { images_at_once: 1, ..step }.gradients(&chunks).unwrap();
        assert!((of_chunks.value - loss.value).abs() < 1e-5 * loss.value, "{name}: {} {}", of_chunks.value, loss.value);
        assert!(apart(&chunked, &whole) < 1e-4, "{name}: chunks are off by {}", apart(&chunked, &whole));
        let again = TrainStep { checkpoint_activations: true, ..step };
        let (again, _) = again.gradients(&[batch(expected, 0, pairs)]).unwrap();
        assert!(apart(&again, &whole) < 1e-4, "{name}: recomputing is off by {}", apart(&again, &whole));
        let narrow = TrainStep { products: DType::BF16, ..step };
        let (narrow, _) = narrow.gradients(&[batch(expected, 0, pairs)]).unwrap();
        of_bf16.push((name, apart(&narrow, &whole)));
        // Each form says something else, where there is more than one patch, and both what whole images do not.
        let (other, _) = step_of(&attention).gradients(&[batch(expected, 0, pairs)]).unwrap();
        let (alone, _) = step_of(&clip).gradients(&[batch(expected, 0, pairs)]).unwrap();
        of_patches.push((name, apart(&alone, &whole)));
        let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
        let rows = model.image_features_with_patches(&expected["pixel_values"]).unwrap().tensor().dim(0).unwrap();
        // Of one patch the sum is that patch.
        of_forms.extend((rows > 2 * pairs).then(|| (name, apart(&other, &whole))));
    }
    assert!(of_bf16.iter().all(|(_, apart)| *apart > 0.0 && *apart < 0.3), "bf16 is near, and not f32: {of_bf16:?}");
    assert!(of_patches.iter().all(|(_, apart)| *apart > 0.1), "patches add to whole images: {of_patches:?}");
    assert!(!of_forms.is_empty() && of_forms.iter().all(|(_, apart)| *apart > 1e-3), "two forms: {of_forms:?}");
}

/// Beside the patches, an image's features are those that it has without them.
#[test]
fn features_of_images_are_the_same_with_patches() {
    for name in encoders::CASES {
        let case = encoders::case(name);
        let model = ClipModel::new(&case.loaded.config, &Builder::eval(&case.loaded.params)).unwrap();
        let pixels = &case.expected["pixel_values"];
        let (images, whole) = (pixels.dim(0).unwrap(), model.image_features(pixels).unwrap());
        let all = model.image_features_with_patches(pixels).unwrap();
        let (rows, width) = all.tensor().dims2().unwrap();
        let first = all.tensor().narrow(0, 0, images).unwrap();
        assert_close(name, &first, whole.tensor(), 1e-4, 1e-5);
        let patches = all.tensor().narrow(0, images, rows - images).unwrap();
        let each = (rows / images) - 1;
        assert!(rows == images * (1 + each) && (each as f64).sqrt().fract() == 0.0, "{name}: {each} patches");
        assert_eq!(width, case.loaded.config.embed_dim);
        // A mean of these rows, and what follows it is linear.
        if name == "dual_swin_bert" {
            let mean = reference::mean_rows(&patches, &Segments::even(images, each)).unwrap();
            assert_close(name, &mean, whole.tensor(), 1e-4, 1e-5);
        }
    }
}

/// Rows of patches, in order, against transformers (scripts/golden/patches.py): within 1e-4 and 1e-5.
#[test]
fn features_of_patches_are_those_of_transformers() {
    let golden_rows = tensors(&golden("patches.safetensors"));
    assert_eq!(golden_rows.len(), 5);
    for (name, expected) in &golden_rows {
        let (loaded, pixels) = if name == "quick_gelu_legacy_eos" {
            let known = tensors(&golden(&format!("clip/{name}/expected.safetensors")));
            (load_golden(&format!("clip/{name}")), known["pixel_values"].clone())
        } else {
            let case = encoders::case(encoders::CASES.into_iter().find(|case| case == name).unwrap());
            (case.loaded, case.expected["pixel_values"].clone())
        };
        let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
        let all = model.image_features_with_patches(&pixels).unwrap();
        let images = pixels.dim(0).unwrap();
        let patches = all.tensor().narrow(0, images, all.tensor().dim(0).unwrap() - images).unwrap();
        assert_close(name, &patches, expected, 1e-4, 1e-5);
    }
}

/// A pair with several images has the patches of all of them, however many pass through the tower at once.
#[test]
fn bags_have_the_patches_of_all_their_images() {
    let loaded: Loaded = bags::with_attention();
    let ids: Vec<u32> = bags::batch(0, 4).input_ids;
    let tokens = bags::batch(0, 4).tokens;
    let supervision = sentences(&Tensor::from_vec(ids, (4, tokens), &Device::Cpu).unwrap());
    let loss = both(LocalForm::Attention);
    let step =
        TrainStep { supervision: Some(&supervision), ..TrainStep::new(&Single, &loaded.config, &loaded.params, &loss) };
    let (whole, of_whole) = step.gradients(&[bags::batch(0, 4)]).unwrap();
    for (images_at_once, batches) in [
        (1, vec![bags::batch(0, 4)]),
        (3, vec![bags::batch(0, 4)]),
        (2, vec![bags::batch(0, 1), bags::batch(1, 3), bags::batch(3, 4)]),
    ] {
        let (grads, loss) = TrainStep { images_at_once, ..step }.gradients(&batches).unwrap();
        assert!((loss.value - of_whole.value).abs() < 1e-5, "{} {}", loss.value, of_whole.value);
        assert!(apart(&grads, &whole) < 1e-4, "{images_at_once} at once: {}", apart(&grads, &whole));
    }
}

/// Alike rows as positives, beside the objectives that go with it.
#[test]
fn sentences_of_alike_reports_are_positives_beside_objectives_that_take_them() {
    let place = Place::new();
    for kind in ["siglip", "multi_positive"] {
        let kinds = format!("loss.kind=[\"{kind}\", \"local\"]");
        let keys = [&kinds, "loss.positives=label", "loss.false_negatives=positive", "train.max_steps=3"];
        place.train_ok(kind, &keys.iter().flat_map(|key| ["--set", *key]).collect::<Vec<_>>());
        assert!(place.path(&format!("{kind}/model/reportclip_local.json")).exists());
    }
}

/// From training to maps: what a model was trained for is kept in its folder, its maps are judged on the boxes that
/// `data synth` wrote, and explained by.
#[test]
fn maps_are_judged_and_explained_by() {
    let place = Place::new();
    let local = ["--set", "loss.kind=[\"clip\", \"local\"]", "--set", "loss.local.form=map"];
    place.train_ok("local", &local);
    place.train_ok("plain", &[]);
    let kept = fs::read(place.path("local/model/reportclip_local.json")).unwrap();
    assert_eq!(json(&kept)["form"], "map");
    assert!(!place.path("plain/model/reportclip_local.json").exists());
    let boxes = place.path("phantom/boxes.csv");
    let eval = |model: &str, more: &[&str]| {
        let (model, boxes) = (format!("{model}/model"), boxes.to_str().unwrap());
        let args =
            ["eval", "--model", &model, "--data", "phantom/manifest.csv", "--grounding", boxes, "--bootstrap", "50"];
        let output = place.run(&[&args[..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    for (model, more, map) in [
        ("local", &[][..], "patches"),
        ("plain", &[], "relevance"),
        ("plain", &["--grounding-map", "patches"], "patches"),
        ("local", &["--grounding-map", "relevance"], "relevance"),
    ] {
        let grounding = json(&eval(model, &[more, &["--json"]].concat()))["grounding"].clone();
        assert_eq!(grounding["map"], map, "{grounding}");
        let of_others = grounding["of_others"].as_array().unwrap();
        assert_eq!(of_others.len(), grounding["figures"].as_array().unwrap().len());
        assert_ne!(of_others, grounding["figures"].as_array().unwrap(), "another's map is another");
        let names = grounding["figures"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap());
        assert_eq!(names.take(4).collect::<Vec<_>>(), ["cnr", "pointing", "miou", "iou@0.3"]);
        for figure in grounding["figures"].as_array().unwrap() {
            let number = |v: &serde_json::Value| v.as_f64().unwrap_or_else(|| panic!("{figure}"));
            let (value, chance) = (number(&figure["value"]), number(&figure["chance"]));
            let (low, high) = (number(&figure["interval"][0]), number(&figure["interval"][1]));
            assert!(low <= value && value <= high && value.is_finite(), "{figure}");
            assert!(
                figure["name"] == "cnr" || (chance > 0.0 && chance < 1.0 && (0.0..=1.0).contains(&value)),
                "{figure}"
            );
        }
        let count = |key: &str| grounding[key].as_u64().unwrap();
        let rows = csv::Reader::from_path(&boxes).unwrap().records().count() as u64;
        assert!(count("places") > 0 && count("images") > 0 && count("places") + count("unseen") <= rows, "{grounding}");
        assert_eq!(count("elsewhere"), 0);
        assert_eq!(grounding["left_out"].as_array().unwrap().is_empty(), count("unseen") == 0, "{grounding}");
    }
    let table = text(&eval("local", &[]));
    assert!(table.contains("places found by the map of patches (the model was trained to find"), "{table}");
    let image = fs::read_dir(place.path("phantom/images")).unwrap().next().unwrap().unwrap().path();
    for (model, map) in [("local", "patches"), ("plain", "relevance")] {
        let model = format!("{model}/model");
        let args = ["explain", "--model", &model, "--image", image.to_str().unwrap(), "--text", "Large left effusion."];
        let explained = json(&place.run(&[&args[..], &["--json"]].concat()).stdout);
        assert_eq!(explained["map"], map);
        let reason = explained["reason"].as_str().unwrap();
        assert!(reason.starts_with("the model was trained "), "{reason}");
        let lines = text(&place.run(&args).stdout);
        assert!(lines.contains(&format!("map of {map}: {reason}\n")), "without a picture too: {lines}");
        assert_eq!(explained["patches"].as_array().unwrap().len() as u64, explained["grid"].as_u64().unwrap().pow(2));
    }
    for (table, told) in [
        ("image,label,x,y,width,height,x\n", "columns 3 and 7 are both called \"x\""),
        (
            "image,label,x,y,width,height\n\nIMAGE,Effusion,99,1,4,4\n",
            "line 3: it lies outside of its image of 32 × 32 pixels",
        ),
        (
            "image,label,x,y,width,height\nIMAGE,Effusion,99,1,4,4\nIMAGE,Nodule,1,99,4,4\n",
            "; and 1 more sentences have places that cannot be used",
        ),
    ] {
        let first = csv::Reader::from_path(&boxes).unwrap().records().next().unwrap().unwrap();
        fs::write(place.path("wrong.csv"), table.replace("IMAGE", &first[0])).unwrap();
        let args = ["eval", "--model", "local/model", "--data", "phantom/manifest.csv", "--grounding", "wrong.csv"];
        let errors = place.errors(&args, 1);
        assert!(errors[0].contains("--grounding") && errors[0].contains("wrong.csv"), "{errors:?}");
        assert!(errors[0].contains(told), "{errors:?}");
    }
    // What is left out beside others is told, in JSON and beside it.
    let table = fs::read_to_string(&boxes).unwrap();
    let header = csv::Reader::from_path(&boxes).unwrap().headers().unwrap().clone();
    let row = |cell: &str| match cell {
        "image" => "elsewhere.png",
        "x" | "y" => "1",
        "width" | "height" => "4",
        "sentence" | "report" | "label" => "Effusion",
        _ => "",
    };
    let more = header.iter().map(row).collect::<Vec<_>>().join(",");
    fs::write(place.path("more.csv"), format!("{}\n{more}\n", table.trim_end())).unwrap();
    let model = ["eval", "--model", "local/model", "--data", "phantom/manifest.csv", "--bootstrap", "50"];
    let output = place.run(&[&model[..], &["--json", "--grounding", "more.csv"]].concat());
    let (stderr, grounding) = (text(&output.stderr), json(&output.stdout)["grounding"].clone());
    assert_eq!(grounding["elsewhere"], 1, "{grounding}");
    let told = "1 sentence on images that are not among these rows";
    assert!(grounding["left_out"][0].as_str().unwrap().starts_with(told), "{grounding}");
    assert!(stderr.contains(&format!("warning: places left out: {told}")), "{stderr}");
    assert!(!stderr.contains("elsewhere.png"), "names of images may name patients: {stderr}");
    fs::write(place.path("other.csv"), "image,label,x,y,width,height\nelsewhere.png,Effusion,1,1,4,4\n").unwrap();
    let args = ["eval", "--model", "local/model", "--data", "phantom/manifest.csv", "--grounding", "other.csv"];
    let errors = place.errors(&args, 1);
    assert!(errors[0].contains("none of 1 places is on an image of these rows"), "{errors:?}");
}
