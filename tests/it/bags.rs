//! Several images with one report: how rows name them, what stands for them against PyTorch, and the whole way through
//! training, resuming, evaluating and embedding.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use reportclip::data::{
    BagBy, BagColumns, BagPolicy, Bags, Batch, Columns, ImageSource, Images, Manifest, OnBadImage, Picture,
    VolumePolicy, image, volume,
};
use reportclip::dist::Single;
use reportclip::loss::{ClipLoss, Direction, Loss};
use reportclip::model::checkpoint::{FreshClip, FreshTower, LoadOptions, Loaded, fresh_clip, load};
use reportclip::model::{
    BagPooling, BagPoolingKind, BagPoolingRequest, BagPosition, Builder, ClipConfig, ClipModel, Noise, Params,
};
use reportclip::ops::{Gradient, Segments, Tape, Value, reference};
use reportclip::train::TrainStep;

use crate::common::{assert_close, golden, gray, numbers, open, tensors};
use crate::runs::{Place, json, text};
use crate::session::tiny;

/// Values and gradients of every pooling, and of every weight of attention.
#[test]
fn poolings_are_those_of_pytorch() {
    let expected = tensors(&golden("bag_pooling.safetensors"));
    let lengths: Vec<usize> = numbers(&expected["lengths"]).into_iter().map(|n| n as usize).collect();
    let places: Vec<f32> = expected["places"].to_vec1().unwrap();
    let attention = |position| BagPooling::Attention { hidden: 6, position };
    let cases = [
        ("mean", BagPooling::Mean),
        ("max", BagPooling::Max),
        ("none", attention(BagPosition::None)),
        ("learned", attention(BagPosition::Learned)),
        ("sinusoidal", attention(BagPosition::Sinusoidal)),
    ];
    for (name, bag_pooling) in cases {
        let tower = FreshTower { width: 16, layers: 1, heads: 2 };
        let numbers = FreshClip {
            vision: tower,
            image_size: 32,
            patch_size: 16,
            text: tower,
            vocab_size: 600,
            context_length: 16,
            end_id: 599,
            embed_dim: 16,
            logit_bias: false,
        };
        let config = ClipConfig { bag_pooling, ..fresh_clip(&numbers, &serde_json::json!({})).unwrap().0 };
        let weight = |name: &str| match name.strip_prefix("bag_pooling.") {
            Some("position") => Some(expected["position"].clone()),
            Some(name) => Some(expected[&format!("weights.{name}")].clone()),
            None => None,
        };
        let specs = ClipModel::specs(&config).unwrap();
        let ours = specs.iter().filter(|spec| spec.name.starts_with("bag_pooling.")).count();
        assert_eq!(
            ours,
            if name == "learned" {
                6
            } else if bag_pooling.has_weights() {
                5
            } else {
                0
            },
            "{name}"
        );
        let with_numbers = |spec: reportclip::model::ParamSpec| {
            let tensor = weight(&spec.name).unwrap_or_else(|| spec.random(1, &Device::Cpu).unwrap());
            (spec, tensor)
        };
        let params = Params::new(specs.into_iter().map(with_numbers).collect()).unwrap();
        let tape = Tape::new(params.len() + 1);
        let model = ClipModel::new(&config, &Builder::train(&params, &tape)).unwrap();
        let x = tape.leaf(params.len(), expected["x"].clone());
        let y = model.pool_bags(&x, &Segments::of_lengths(lengths.iter().copied()), &places).unwrap();
        assert_close(name, y.tensor(), &expected[&format!("{name}.y")], 1e-6, 1e-7);
        tape.backward([(&y, expected["upstream"].clone())], &mut |_| Ok(())).unwrap();
        let grad = |leaf| tape.take_grad(leaf).unwrap().into_dense().unwrap();
        assert_close(name, &grad(params.len()), &expected[&format!("{name}.x")], 1e-5, 1e-7);
        for (number, param) in params.numbered().filter(|(_, p)| p.spec.name.starts_with("bag_pooling.")) {
            let short = param.spec.name.strip_prefix("bag_pooling.").unwrap();
            assert_close(&param.spec.name, &grad(number), &expected[&format!("{name}.{short}")], 1e-5, 1e-7);
        }
    }
}

const CASE: &str = "clip/quick_gelu_legacy_eos";

/// A golden model with attention over bags, and its weights.
pub fn with_attention() -> Loaded {
    let bag_pooling = BagPoolingRequest {
        kind: Some(BagPoolingKind::Attention),
        hidden: Some(5),
        position: Some(BagPosition::Learned),
    };
    load(&open(&golden(CASE)), &LoadOptions { bag_pooling, ..LoadOptions::default() }, &Device::Cpu).unwrap()
}

/// Pairs `from..to` of four, with bags of 1, 3, 2 and 1 images, which are the golden ones again and again.
pub fn batch(from: usize, to: usize) -> Batch {
    const SIZES: [usize; 4] = [1, 3, 2, 1];
    let expected = tensors(&golden(&format!("{CASE}/expected.safetensors")));
    let first: usize = SIZES[..from].iter().sum();
    let count: usize = SIZES[from..to].iter().sum();
    let picture = |i: usize| {
        let picture = expected["pixel_values"].get((first + i) % 4).unwrap();
        let darker = (picture * (1.0 - 0.1 * (first + i) as f64)).unwrap();
        darker.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let ids = expected["input_ids"].narrow(0, from, to - from).unwrap().to_dtype(DType::U32).unwrap();
    let places = |&size: &usize| (0..size).map(|i| (i as f32 + 0.5) / size as f32).collect::<Vec<f32>>();
    Batch {
        images: Images::Pixels((0..count).flat_map(picture).collect()),
        bags: Bags::of(&SIZES[from..to].iter().map(places).collect::<Vec<_>>()),
        tokens: ids.dim(1).unwrap(),
        input_ids: ids.flatten_all().unwrap().to_vec1().unwrap(),
        pairs: to - from,
        rows: (from..to).collect(),
        text_states: None,
        opposed: Vec::new(),
        errors: Vec::new(),
    }
}

#[test]
fn parts_of_a_bag_and_chunks_of_bags_give_the_gradient_of_all_at_once() {
    let loaded = with_attention();
    let loss = Loss::of(ClipLoss::plain(0.1, Direction::Both));
    let gradients = |images_at_once: usize, batches: &[Batch]| {
        let step = TrainStep::new(&Single, &loaded.config, &loaded.params, &loss);
        TrainStep { images_at_once, ..step }.gradients(batches).unwrap()
    };
    let (whole, whole_loss) = gradients(usize::MAX, &[batch(0, 4)]);
    for param in loaded.params.trainable() {
        let sum = whole.get(&param.spec.name).map(|grad| grad.squared_sum().unwrap());
        assert!(sum.is_some_and(|sum| sum.is_finite() && sum > 0.0), "{}: {sum:?}", param.spec.name);
    }
    for (at_once, batches) in [
        (1, vec![batch(0, 4)]),
        (3, vec![batch(0, 4)]),
        (usize::MAX, vec![batch(0, 2), batch(2, 4)]),
        (2, vec![batch(0, 1), batch(1, 3), batch(3, 4)]),
    ] {
        let (grads, loss) = gradients(at_once, &batches);
        assert_close("loss", &loss.loss, &whole_loss.loss, 1e-6, 0.0);
        assert_eq!(grads.len(), whole.len());
        for (name, grad) in &whole {
            let dense = |grad: &Gradient| grad.clone().into_dense().unwrap();
            let absolute = if name.ends_with("k_proj.bias") { 2e-6 } else { 1e-7 };
            assert_close(&format!("{at_once} at once: {name}"), &dense(&grads[name]), &dense(grad), 2e-5, absolute);
        }
    }
}

/// What parts drop is the same whether their blocks keep their activations or are run again after the part.
#[test]
fn parts_that_drop_have_the_gradient_of_their_own_forward_pass() {
    let loaded = with_attention();
    let loss = Loss::of(ClipLoss::plain(0.1, Direction::Both));
    let noise = |dropout| Rc::new(Noise { dropout, seed: 7, ..Noise::default() });
    let gradients = |checkpoint_activations, noise: &Rc<Noise>, batches: &[Batch]| {
        let step = TrainStep::new(&Single, &loaded.config, &loaded.params, &loss);
        let step = TrainStep { images_at_once: 2, checkpoint_activations, noise: Some(noise), ..step };
        step.gradients(batches).unwrap()
    };
    for batches in [vec![batch(0, 4)], vec![batch(0, 2), batch(2, 4)]] {
        let [(kept, kept_loss), (again, again_loss), (whole, _)] = [(false, 0.3), (true, 0.3), (false, 0.0)]
            .map(|(checkpoint, rate)| gradients(checkpoint, &noise(rate), &batches));
        assert_close("loss", &again_loss.loss, &kept_loss.loss, 1e-6, 0.0);
        let dense = |grad: &Gradient| grad.clone().into_dense().unwrap();
        let mut dropped = false;
        for (name, grad) in &kept {
            let absolute = if name.ends_with("k_proj.bias") { 2e-6 } else { 1e-7 };
            assert_close(name, &dense(&again[name]), &dense(grad), 2e-5, absolute);
            let largest = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let apart = largest((dense(&whole[name]) - dense(grad)).unwrap());
            dropped |= apart > 0.05 * largest(dense(&whole[name]));
        }
        assert!(dropped, "nothing was dropped");
    }
}

/// Pictures with something to tell apart in each.
fn pictures(folder: &Path, names: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    for (i, name) in names.iter().enumerate() {
        let i = i as u32;
        let picture = gray(40, 36, |x, y| (x * (i + 2) + y * (7 - i % 5)) as u8);
        fs::write(folder.join(name), image::png(&picture).unwrap()).unwrap();
    }
}

fn sizes(manifest: &Manifest) -> Vec<usize> {
    manifest.rows.iter().map(|row| row.image().images().len()).collect()
}

#[test]
fn rows_name_several_images_in_many_ways() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &["a.png", "b.png", "c.png", "a;b.png"]);
    pictures(&dir.path().join("series"), &["2.png", "1.png", "3.png"]);
    fs::write(dir.path().join("series/notes.txt"), "no image").unwrap();
    let open = |name: &str, text: &str, bag: BagColumns| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        Manifest::open(&path, &Columns { bag, ..Columns::default() }, None).unwrap()
    };
    let names = |m: &Manifest, row: usize| m.rows[row].image_names().map(str::to_string).collect::<Vec<_>>();
    let csv = "image,report\na.png,one\na.png; b.png;c.png,three\n\"[\"\"b.png\"\", \"\"c.png\"\"]\",two\n\
               series,folder\na;b.png,one that has the separator in its name\n";
    let manifest = open("m.csv", csv, BagColumns::default());
    assert!(manifest.problems.is_empty(), "{:?}", manifest.problems);
    assert_eq!(sizes(&manifest), [1, 3, 2, 3, 1]);
    assert_eq!(names(&manifest, 1), ["a.png", "b.png", "c.png"]);
    assert_eq!(names(&manifest, 3), ["series/1.png", "series/2.png", "series/3.png"]);
    assert!(matches!(manifest.rows[0].image(), ImageSource::File(_)));
    let jsonl = "{\"image\": [\"a.png\", \"c.png\"], \"report\": \"x\"}\n{\"image\": \"b.png\", \"report\": \"y\"}\n";
    assert_eq!(sizes(&open("m.jsonl", jsonl, BagColumns::default())), [2, 1]);
    let pipes = BagColumns { separator: "|".into(), ..BagColumns::default() };
    let manifest = open("p.csv", "image,report\na.png|b.png,x\na.png;b.png,y\n", pipes);
    assert_eq!((sizes(&manifest), manifest.problems.len()), (vec![2], 1));
    // A study's rows, the report of the first that has one.
    let studies = BagColumns { by: BagBy::Study, ..BagColumns::default() };
    let rows = "image,report,study_id\na.png,,7\nc.png,other,8\nb.png,words,7\nc.png,words,7\na.png,alone,\n";
    let manifest = open("s.csv", rows, studies.clone());
    assert_eq!(sizes(&manifest), [3, 1, 1]);
    let told: Vec<_> = manifest.rows.iter().map(|row| (row.line, row.report())).collect();
    assert_eq!(told, [(2, "words"), (3, "other"), (6, "alone")]);
    let rows = "image,report,study_id,split\na.png,x,7,train\nb.png,y,7,train\na.png,x,8,train\nb.png,x,8,val\n";
    let reasons: Vec<String> = open("d.csv", rows, studies.clone()).problems.iter().map(ToString::to_string).collect();
    assert!(
        reasons[0].ends_with("d.csv:2: its study has another report on line 3; data.bag.by = \"study_id\" takes one")
    );
    assert!(reasons[1].ends_with("d.csv:4: its study is in another split on line 5 than on line 4"), "{reasons:?}");
    // Each patient has a first study of their own; a study has one label.
    let rows = "image,report,patient_id,study_id,label\na.png,x,p1,study1,l\nb.png,y,p2,study1,m\nc.png,x,p1,study1,l\n\
                a.png,z,p2,study2,l\nb.png,z,p2,study2,m\nc.png,w,p3,study1,\na.png,w,p3,study1,m\n";
    let manifest = open("p.csv", rows, studies.clone());
    let told: Vec<_> = manifest.rows.iter().map(|row| (row.line, row.report(), row.label())).collect();
    assert_eq!(told, [(2, "x", Some("l")), (3, "y", Some("m")), (7, "w", Some("m"))]);
    assert_eq!(sizes(&manifest), [2, 1, 2]);
    let reasons: Vec<String> = manifest.problems.iter().map(ToString::to_string).collect();
    assert!(reasons[0].ends_with("p.csv:5: its study has another label on line 6 than on line 5"), "{reasons:?}");
    // What is missing is told without its name, or left out.
    let rows = "image,report\na.png;gone.png,x\ngone.png;lost.png,y\n;,z\n";
    let manifest = open("g.csv", rows, BagColumns::default());
    assert_eq!((sizes(&manifest), manifest.problems.len()), (vec![], 3));
    let told = manifest.problems[0].to_string();
    assert!(told.contains("image: there is no such file below") && !told.contains("gone"), "{told}");
    let dropping = BagColumns { on_bad: OnBadImage::Drop, ..BagColumns::default() };
    let manifest = open("g.csv", rows, dropping.clone());
    assert_eq!((sizes(&manifest), manifest.problems.len()), (vec![1], 2));
    // So is a folder without images; one name in brackets is no list.
    fs::create_dir(dir.path().join("empty")).unwrap();
    let manifest = open("e.csv", "image,report\na.png;empty,x\n[old],y\n", dropping);
    assert_eq!((sizes(&manifest), manifest.problems.len()), (vec![1], 1));
    let told = manifest.problems[0].to_string();
    assert!(told.contains("image: there is no such file below"), "{told}");
    // A list that is none is told as such, a name that begins as one is still a name.
    pictures(dir.path(), &["[1].png", "[2].png"]);
    let rows = "image,report\n['gone.png'],x\n\"['gone.png';'b.png']\",y\n[1].png;[2].png,z\n[1].png,z\n";
    let manifest = open("l.csv", rows, BagColumns::default());
    assert_eq!((sizes(&manifest), manifest.problems.len()), (vec![2, 1], 2));
    for problem in &manifest.problems {
        let told = problem.to_string();
        assert!(
            told.contains("is no JSON list of names; allowed is one such as [\"a.png\", \"b.png\"]")
                && !told.contains("gone"),
            "{told}"
        );
    }
}

#[test]
fn rows_are_joined_by_a_column_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &["a.png"]);
    let studies = BagColumns { by: BagBy::Study, ..BagColumns::default() };
    let columns = Columns { bag: studies, ..Columns::default() };
    for (name, rows, wanted) in [
        ("n.csv", "image,report,visit\na.png,x,7\n", "there is no column \"study_id\", only image, report, visit;"),
        ("b.csv", "image,report,study_id\na.png,x,\n", "no row has anything in column \"study_id\""),
        ("n.jsonl", "{\"image\": \"a.png\", \"report\": \"x\"}\n", "no row has anything in column \"study_id\""),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, rows).unwrap();
        let error = format!("{:#}", Manifest::open(&path, &columns, None).unwrap_err());
        assert!(error.contains(wanted) && error.contains("name it with data.study_id_column"), "{error}");
        Manifest::open(&path, &Columns::default(), None).unwrap();
    }
}

/// One embedding a row: of the mean, what averaging the embeddings of the images gives; of one image, the very same.
#[test]
fn a_bags_mean_is_the_mean_of_its_images_embeddings() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &["a.png", "b.png", "c.png", "d.png", "e.png"]);
    let path = dir.path().join("m.csv");
    fs::write(&path, "image,report\na.png;b.png;c.png,x\nd.png,y\ne.png;a.png,z\nb.png,w\n").unwrap();
    let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
    let bags: Vec<ImageSource> = rows.iter().map(|row| row.image()).collect();
    let single: Vec<ImageSource> =
        ["a", "b", "c", "d", "e"].iter().map(|n| dir.path().join(format!("{n}.png")).into()).collect();
    let session = tiny(None);
    let encode = |images: &[ImageSource], at_once| session.encoder(at_once).unwrap().images(images).unwrap();
    let each = encode(&single, 64);
    let mean = |rows: &[u32]| {
        let rows = each.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
        reference::l2_normalize(&rows.mean_keepdim(0).unwrap()).unwrap()
    };
    for at_once in [1, 2, 64] {
        let found = encode(&bags, at_once);
        assert_eq!(found.dims(), [4, 16]);
        assert_close("three", &found.narrow(0, 0, 1).unwrap(), &mean(&[0, 1, 2]), 1e-6, 1e-7);
        assert_close("two", &found.narrow(0, 2, 1).unwrap(), &mean(&[4, 0]), 1e-6, 1e-7);
    }
    let (all, alone) = (encode(&bags, 64), encode(&[single[3].clone(), single[1].clone()], 64));
    for (bag, image) in [(1, 0), (3, 1)] {
        assert_close("one", &all.get(bag).unwrap(), &alone.get(image).unwrap(), 1e-6, 0.0);
    }
}

/// Names and copies of single images of bags are found on both sides of a split.
#[test]
fn lint_finds_images_that_bags_of_two_splits_share() {
    let place = Place::new();
    pictures(&place.path("bags"), &["a.png", "b.png", "c.png", "d.png"]);
    fs::copy(place.path("bags/d.png"), place.path("bags/e.png")).unwrap();
    let rows = "a.png;b.png,x,train\nc.png;a.png,y,val\nd.png,z,train\nc.png;e.png,w,val\nb.png,v,train\n";
    fs::write(place.path("bags/m.csv"), format!("image,report,split\n{rows}")).unwrap();
    let report = json(&place.run(&["data", "lint", "bags/m.csv", "--json"]).stdout);
    let found = |kind: &str| {
        let all = report["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["code"] == kind).map(|finding| finding["rows"].clone())
    };
    assert_eq!(found("leaking_image"), Some(serde_json::json!(["bags/m.csv:3"])), "{report}");
    assert_eq!(found("leaking_copy"), Some(serde_json::json!(["bags/m.csv:5"])), "{report}");
}

#[test]
fn a_split_of_studies_is_written_on_each_of_their_lines() {
    let place = Place::new();
    pictures(&place.path("bags"), &["a.png", "b.png", "c.png", "d.png", "e.png"]);
    fs::create_dir(place.path("else")).unwrap();
    let rows = "a.png|b.png,x,p,1,train\nc.png,y,q,1,val\nd.png,,p,1,train\ne.png,y,q,1,val\na.png,z,r,,test\n";
    fs::write(place.path("bags/m.csv"), format!("image,report,patient_id,study_id,split\n{rows}")).unwrap();
    let bag = BagColumns { by: BagBy::Study, separator: "|".into(), ..BagColumns::default() };
    let columns = Columns { bag, ..Columns::default() };
    for seed in ["0", "1", "2", "3"] {
        let args = ["data", "split", "bags/m.csv", "--out", "else/split.csv", "--force", "--seed", seed];
        let shares = ["--shares", "train=0.5,val=0.5", "--bag-by", "study_id", "--bag-separator", "|"];
        let out = place.run(&[&args[..], &shares].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        let manifest = Manifest::open(&place.path("else/split.csv"), &columns, None).unwrap();
        assert!(manifest.problems.is_empty(), "{}", manifest.problems[0]);
        assert_eq!(sizes(&manifest), [3, 2, 1], "each line has its own images");
        let names: Vec<&str> = manifest.rows[0].image_names().collect();
        assert_eq!(names, ["../bags/a.png", "../bags/b.png", "../bags/d.png"]);
        assert!(manifest.rows.iter().all(|row| matches!(row.split(), Some("train" | "val"))));
        assert_eq!(manifest.rows[0].split(), manifest.rows[2].split(), "they share an image");
    }
}

/// Each row has its phantom and two pictures that a seed makes of it.
fn bags_of_phantoms(place: &Place) {
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let mut lines = manifest.lines();
    let mut written = format!("{}\n", lines.next().unwrap());
    for (i, line) in lines.enumerate() {
        let (image, rest) = line.split_once(',').unwrap();
        let extra = (0..i % 4).map(|k| {
            let name = format!("images/extra-{i}-{k}.png");
            let (a, b) = (i as u32 % 13 + 2, k as u32 * 5 + 3);
            let picture = gray(32, 32, |x, y| (x * a + y * b + i as u32) as u8);
            fs::write(place.path("phantom").join(&name), image::png(&picture).unwrap()).unwrap();
            name
        });
        let names: Vec<String> = std::iter::once(image.to_string()).chain(extra).collect();
        written += &format!("{},{rest}\n", names.join(";"));
    }
    fs::write(place.path("phantom/bags.csv"), written).unwrap();
}

#[test]
fn bags_train_resume_evaluate_and_embed() {
    let place = Place::new();
    bags_of_phantoms(&place);
    let data = ["data.train=\"phantom/bags.csv\"", "data.bag.max=3", "data.bag.pick=\"random\"", "train.batch_size=4"];
    let cases: [(&str, &[&str]); 3] = [
        ("mean", &["train.accum_freq=2"]),
        ("attention", &["model.bag_pooling=\"attention\"", "model.bag_position=\"learned\"", "train.accum_freq=2"]),
        ("max", &["model.bag_pooling=\"max\"", "train.dropout=0.1", "train.patch_dropout=0.25", "lora.rank=2"]),
    ];
    for (name, more) in cases {
        let sets: Vec<&str> = data.iter().chain(more).flat_map(|s| ["--set", *s]).collect();
        let (whole, parts) = (format!("{name}-ten"), format!("{name}-five"));
        place.train_ok(&whole, &sets);
        place.train_ok(&parts, &[&sets[..], &["--set", "train.stop_after=5"]].concat());
        place.train_ok(&parts, &[&sets[..], &["--resume", "latest"]].concat());
        place.assert_same_run(&whole, &parts);
        let model = format!("{whole}/model");
        let kept = |file: &str| fs::read(place.path(&model).join(file)).ok();
        assert_eq!(kept("bag_pooling.json").is_some(), name != "mean");
        assert_eq!(kept("bag_pooling.safetensors").is_some(), name == "attention");
        assert_eq!(
            kept("bag_pooling.safetensors"),
            fs::read(place.path(&parts).join("model/bag_pooling.safetensors")).ok()
        );
        assert_eq!(json(&kept("reportclip_bags.json").unwrap())["max"], 3);
        // One embedding a row, figures as training had them.
        let args = ["--model", &model, "--data", "phantom/bags.csv", "--split", "val"];
        let out = place.run(&[&["eval"], &args[..], &["--json", "--bootstrap", "0"]].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        let judged = json(&out.stdout);
        let metrics = fs::read_to_string(place.path(&whole).join("metrics.jsonl")).unwrap();
        let best = metrics.lines().map(|line| json(line.as_bytes())).filter(|line| line["kind"] == "eval").skip(1);
        let best = best.map(|line| line["val"]["mean_recall"].as_f64().unwrap()).fold(0.0, f64::max);
        let found = judged["mean_recall"].as_f64().unwrap_or_else(|| panic!("{judged}"));
        assert!((best - found).abs() < 1e-9, "{name}: {found}, while training {best}");
        let out = place.run(&[&["embed"], &args[..], &["--out", &format!("{name}.safetensors")]].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        let embedded = tensors(&place.path(&format!("{name}.safetensors")));
        let pairs = fs::read_to_string(place.path("phantom/bags.csv")).unwrap();
        let count = pairs.lines().filter(|line| line.contains(",val,")).count();
        for side in ["image_embeds", "text_embeds"] {
            assert_eq!(embedded[side].dims(), [count, 16], "{name} {side}");
        }
    }
    // Which images count: their parts make up the cosine.
    let manifest = fs::read_to_string(place.path("phantom/bags.csv")).unwrap();
    let row = manifest.lines().nth(4).unwrap().split(',').next().unwrap();
    let images: Vec<String> = row.split(';').map(|name| format!("phantom/{name}")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    for (name, has_shares) in [("mean", true), ("attention", true), ("max", false)] {
        let model = format!("{name}-ten/model");
        let args = [&["explain", "--model", &model, "--image"], &images[..], &["--text", "Clear lungs."]].concat();
        let out = place.run(&[&args[..], &["--json"]].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        let told = json(&out.stdout);
        let of = |key: &str| -> Vec<f64> {
            told["images"].as_array().unwrap().iter().filter_map(|image| image[key].as_f64()).collect()
        };
        // Three of four are read.
        assert_eq!((of("part").len(), of("image")), (3, vec![0.0, 2.0, 3.0]), "{name}: {told}");
        let sum: f64 = of("part").iter().sum();
        assert!((sum - told["bag_cosine"].as_f64().unwrap()).abs() < 1e-5, "{name}: {told}");
        assert!(!has_shares || (of("share").iter().sum::<f64>() - 1.0).abs() < 1e-5, "{name}: {told}");
        assert_eq!(of("share").len(), if has_shares { 3 } else { 0 }, "{name}: {told}");
        for together in [images.join(";"), format!("[{}]", images[0])] {
            let args = ["explain", "--model", &model, "--image", &together, "--text", "Clear lungs."];
            let errors = place.errors(&args, 2);
            assert!(errors[0].ends_with("name several images apart, as in --image a.png b.png"), "{errors:?}");
        }
        let shown = text(&place.run(&args).stdout);
        assert!(shown.contains("of 4 images, 3 of them read") && shown.contains("image 3: "), "{shown}");
        // Slices are images too: the one that counts most is drawn, whichever file it lies in.
        nifti(&place.path("ct.nii"), 7);
        for (files, count) in [(vec!["ct.nii"], 7), (vec!["ct.nii", images[0]], 8)] {
            let args = [&["explain", "--model", &model, "--image"], &files[..], &["--text", "Clear lungs."]].concat();
            let out = place.run(&[&args[..], &["--json", "--out", "slice.png", "--force"]].concat());
            assert!(out.status.success(), "{files:?}: {}", text(&out.stderr));
            let (told, part) = (json(&out.stdout), |image: &serde_json::Value| image["part"].as_f64().unwrap());
            let images = told["images"].as_array().unwrap();
            let most = images.iter().find(|image| image["image"] == told["explained_image"]).unwrap();
            assert!(images.len() == 3 && images.iter().all(|image| part(image) <= part(most)), "{files:?}: {told}");
            let shown = text(&place.run(&args).stdout);
            assert!(shown.contains(&format!("of {count} images, 3 of them read")), "{shown}");
        }
    }
    // A model's own pooling is what is trained on from it.
    let from = "model.path=\"attention-ten/model\"";
    let config = fs::read_to_string(place.path("tiny.toml")).unwrap();
    let (before, after) = (config.find("[model]").unwrap(), config.find("[data]").unwrap());
    fs::write(place.path("on.toml"), config[..before].to_string() + &config[after..]).unwrap();
    let sets: Vec<&str> = data.iter().chain(&[from]).flat_map(|s| ["--set", *s]).collect();
    let out = place.run(&[&["train", "on.toml", "--out", "on"], &sets[..]].concat());
    assert!(out.status.success() && !text(&out.stderr).contains("fresh weights"), "{}", text(&out.stderr));
    assert!(place.path("on/model/bag_pooling.safetensors").is_file());
}

/// What frozen towers make of images is kept image by image, whichever are drawn.
#[test]
fn features_of_bags_are_kept_and_change_nothing() {
    let place = Place::new();
    bags_of_phantoms(&place);
    for (pick, more) in [("random", "model.bag_pooling=\"attention\""), ("uniform", "seed=3")] {
        let pick = format!("data.bag.pick={pick:?}");
        let still = [
            "data.train=\"phantom/bags.csv\"",
            "data.bag.max=2",
            "augment.rotation=0",
            "augment.brightness=0",
            "freeze.image=\"all\"",
            "train.max_steps=12",
            &pick,
            more,
        ];
        let sets = |more: &[&'static str]| -> Vec<String> {
            still.iter().chain(more).flat_map(|set| ["--set".to_string(), set.to_string()]).collect()
        };
        let train = |out: &str, sets: Vec<String>| {
            text(&place.train_ok(out, &sets.iter().map(String::as_str).collect::<Vec<_>>()).stderr)
        };
        let (with, without) = (format!("runs/with-{more}"), format!("runs/without-{more}"));
        let told = train(&with, sets(&[]));
        assert!(told.contains(" images to work out"), "{told}");
        train(&without, sets(&["data.cache_features=false"]));
        let losses = |run: &str| -> Vec<f64> {
            let lines = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
            lines.lines().filter_map(|line| json(line.as_bytes())["loss"].as_f64()).collect()
        };
        let (a, b) = (losses(&with), losses(&without));
        assert!(a.len() == 12 && b.len() == 12);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} with kept features, {b:?} without");
    }
}

/// The names of all images are told from others, and so are look-alikes among all of them.
#[test]
fn names_and_look_alikes_of_all_images_of_a_bag_are_seen() {
    let place = Place::new();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    for (name, darker) in [("first.png", 0), ("second.png", 1)] {
        let picture = gray(64, 64, |x, y| (((x * 5) ^ (y * 3)) as u8 | 1) - darker);
        fs::write(place.path("phantom/images").join(name), image::png(&picture).unwrap()).unwrap();
    }
    let write = |[of_train, of_val]: [&str; 2]| {
        let mut lines: Vec<String> = manifest.lines().map(str::to_string).collect();
        for (split, more) in [(",train,", of_train), (",val,", of_val)] {
            let line = lines.iter_mut().find(|line| line.contains(split)).unwrap();
            *line = line.replacen(',', &format!("{more},"), 1);
        }
        fs::write(place.path("phantom/bags.csv"), lines.join("\n")).unwrap();
    };
    let sets = ["--set", "data.train=\"phantom/bags.csv\""];
    let told = |out: &str, more: &[&str]| text(&place.train(out, &[&sets[..], more].concat()).stderr);
    const NEAR: &str = "1 images in training look nearly the same as one in another split";
    write([";images/first.png", ""]);
    let alone = told("alone", &[]);
    assert!(!alone.contains("look nearly the same"), "{alone}");
    write([";images/first.png", ";images/second.png"]);
    let near = told("near", &["--set", "train.stop_after=5"]);
    assert!(near.contains(NEAR), "{near}");
    // The same content under another name, before the last of the row.
    fs::copy(place.path("phantom/images/first.png"), place.path("phantom/images/third.png")).unwrap();
    write([";images/first.png;images/first.png", ""]);
    told("run", &["--set", "train.stop_after=5"]);
    write([";images/third.png;images/first.png", ""]);
    let resumed = told("run", &["--resume", "latest"]);
    assert!(resumed.contains("file names of images changed in at least 1 of "), "{resumed}");
}

/// Features that were kept of one policy are none of another's, also where each row has one of them.
#[test]
fn kept_features_are_those_of_the_policy_and_the_time_point() {
    let place = Place::new();
    bags_of_phantoms(&place);
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let ct = place.path("phantom/ct.nii");
    nifti(&ct, 7);
    // A second point in time.
    let mut file = fs::read(&ct).unwrap();
    file[40..42].copy_from_slice(&4i16.to_le_bytes());
    file[48..50].copy_from_slice(&2i16.to_le_bytes());
    let voxels: Vec<i16> = file[352..].as_chunks().0.iter().map(|&voxel| i16::from_le_bytes(voxel)).collect();
    file.extend(voxels.iter().rev().flat_map(|voxel| voxel.to_le_bytes()));
    fs::write(&ct, file).unwrap();
    let mut lines: Vec<String> = manifest.lines().map(str::to_string).collect();
    let (at, rest) = lines
        .iter()
        .enumerate()
        .find_map(|(i, line)| line.contains(",train,").then(|| (i, line.split_once(',').unwrap().1.to_string())))
        .unwrap();
    for (name, image) in [("volume", "ct.nii"), ("later", "ct.nii#2")] {
        lines[at] = format!("{image},{rest}");
        fs::write(place.path("phantom").join(format!("{name}.csv")), lines.join("\n")).unwrap();
    }
    let missing = |data: &str, more: &[&str]| {
        let data = format!("data.train=\"phantom/{data}.csv\"");
        let still = [
            &data,
            "data.bag.max=1",
            "augment.rotation=0",
            "augment.brightness=0",
            "freeze.image=\"all\"",
            "train.max_steps=12",
            "data.feature_cache=\"kept\"",
        ];
        let sets: Vec<&str> = still.iter().chain(more).flat_map(|set| ["--set", *set]).collect();
        let number = fs::read_dir(place.path("runs")).map_or(0, Iterator::count);
        let told = text(&place.train_ok(&format!("runs/{number}"), &sets).stderr);
        let (before, _) = told.split_once(" to work out").unwrap();
        before.rsplit_once(" MiB, ").unwrap().1.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    for (data, first, second) in [
        ("bags", "data.bag.pick=\"first\"", "data.bag.pick=\"uniform\""),
        ("volume", "data.window=\"lung\"", "data.window=\"bone\""),
    ] {
        let all = missing(data, &[first]);
        assert!(all > 0, "{data}");
        assert_eq!((missing(data, &[first]), missing(data, &[second])), (0, all), "{data}");
    }
    let lung = ["data.window=\"lung\""];
    assert!(missing("volume", &lung) == 0 && missing("later", &lung) > 0);
}

#[test]
fn an_unreadable_image_of_a_bag_is_told_or_left_out() {
    let place = Place::new();
    bags_of_phantoms(&place);
    let manifest = fs::read_to_string(place.path("phantom/bags.csv")).unwrap();
    let of_three = |line: &&str| line.contains(",train,") && line.split(',').next().unwrap().split(';').count() == 3;
    let (line, row) = manifest.lines().zip(1..).find_map(|(l, i)| of_three(&l).then_some((i, l))).unwrap();
    let broken = place.path("phantom").join(row.split([',', ';']).nth(2).unwrap());
    let whole = fs::read(&broken).unwrap();
    fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let sets = ["--set", "data.train=\"phantom/bags.csv\"", "--set", "train.max_steps=20"];
    let out = place.train("stops", &sets);
    assert_eq!(out.status.code(), Some(1));
    let told = text(&out.stderr);
    assert!(told.contains(&format!("bags.csv:{line}: image 3 of 3: ")) && !told.contains("extra"), "{told}");
    place.train_ok("drops", &[&sets[..], &["--set", "data.bag.on_bad=\"drop\""]].concat());
    let skipped = place.train_ok("skips", &[&sets[..], &["--set", "data.on_error=\"skip\""]].concat());
    assert!(!text(&skipped.stderr).contains("extra"));
    let policy = BagPolicy { on_bad: OnBadImage::Drop, of_images: false, ..BagPolicy::default() };
    let kept = json(&fs::read(place.path("drops/model/reportclip_bags.json")).unwrap());
    assert_eq!(BagPolicy::from_json(&kept).unwrap(), policy);
    // So is one that is not there, by what the model says, also where an index is read again.
    fs::remove_file(&broken).unwrap();
    let data = ["--data", "phantom/bags.csv", "--split", "val"];
    let embed = ["embed", "--model", "drops/model", "--data", "phantom/bags.csv", "--out", "kept.safetensors"];
    for args in [[&["eval", "--model", "drops/model"], &data[..]].concat(), embed.to_vec()] {
        let out = place.run(&args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    }
    let found = place.run(&["search", "--index", "kept.safetensors", "--text", "x", "--json", "-k", "1000"]);
    let found = json(&found.stdout);
    let mut hits = found["hits"].as_array().unwrap().iter();
    assert!(hits.any(|hit| hit["line"] == line), "its row was embedded and is read again: {found}");
    let errors = place.errors(&[&["eval", "--model", "skips/model"], &data[..]].concat(), 1);
    assert!(errors[0].contains("image: there is no such file below "), "{errors:?}");
}

/// A NIfTI file of 16-bit numbers, 24 × 20 voxels a slice.
pub fn nifti(path: &Path, slices: u16) {
    let voxel = |i: usize| ((i % 24) * (i / 480 + 2) * 9 + i / 24 % 20 * 17 + i / 480 * 40) as i16;
    nifti_of(path, slices, voxel);
}

/// The same with these voxels, by their number in the file.
pub fn nifti_of(path: &Path, slices: u16, voxel: impl Fn(usize) -> i16) {
    let mut file = vec![0u8; 352];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348i32.to_le_bytes());
    for (i, size) in [3i16, 24, 20, slices as i16, 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * i, &size.to_le_bytes());
        put(76 + 4 * i, &1f32.to_le_bytes());
    }
    put(70, &4i16.to_le_bytes());
    put(72, &16i16.to_le_bytes());
    put(108, &352f32.to_le_bytes());
    put(112, &1f32.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    for axis in 0..3 {
        put(280 + 16 * axis + 4 * axis, &1f32.to_le_bytes());
    }
    put(344, b"n+1\0");
    file.extend((0..480 * usize::from(slices)).flat_map(|i| voxel(i).to_le_bytes()));
    fs::write(path, file).unwrap();
}

/// Slices of a volume are a bag as images of their own are.
#[test]
fn a_volume_is_the_bag_of_its_slices() {
    let dir = tempfile::tempdir().unwrap();
    nifti(&dir.path().join("ct.nii"), 7);
    pictures(dir.path(), &["a.png"]);
    let path = dir.path().join("m.csv");
    fs::write(&path, "image,report\nct.nii,x\na.png;ct.nii,y\na.png,z\n").unwrap();
    let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
    let mut session = tiny(None);
    session.folder.bags.max = 3;
    let file = dir.path().join("ct.nii");
    let three = slices(&file, &session.folder.bags.volume, &[1, 3, 5]);
    let single: Vec<ImageSource> = three
        .iter()
        .enumerate()
        .map(|(i, slice)| {
            let path = dir.path().join(format!("slice{i}.png"));
            fs::write(&path, image::png(slice).unwrap()).unwrap();
            path.into()
        })
        .collect();
    let encode = |images: &[ImageSource]| session.encoder(2).unwrap().images(images).unwrap();
    let found = encode(&rows.iter().map(|row| row.image()).collect::<Vec<_>>());
    assert_eq!(found.dims(), [3, 16]);
    let mean = reference::l2_normalize(&encode(&single).mean_keepdim(0).unwrap()).unwrap();
    assert_close("a volume", &found.narrow(0, 0, 1).unwrap(), &mean, 1e-6, 1e-7);
    // One image and seven slices are eight images, of which the second, fifth and seventh are read.
    let shown = slices(&file, &session.folder.bags.volume, &[0, 3, 5]);
    shown.iter().zip(["u", "v", "w"]).for_each(|(slice, name)| {
        fs::write(dir.path().join(name), image::png(slice).unwrap()).unwrap();
    });
    let both: Vec<ImageSource> = ["u", "v", "w"].iter().map(|name| dir.path().join(name).into()).collect();
    let mean = reference::l2_normalize(&encode(&both).mean_keepdim(0).unwrap()).unwrap();
    assert_close("an image and a volume", &found.narrow(0, 1, 1).unwrap(), &mean, 1e-6, 1e-7);
}

/// A value that nothing is trained on.
#[test]
fn bags_of_one_image_are_that_image() {
    let session = tiny(None);
    let model = session.model().unwrap();
    let x = Value::from(Tensor::from_vec((0..48).map(|i| (i as f32).sin()).collect(), (3, 16), &Device::Cpu).unwrap());
    let bags = Bags::of_single(3);
    let pooled = model.pool_bags(&x, &bags.segments, &bags.places).unwrap();
    assert_close("bags of one", pooled.tensor(), &reference::l2_normalize(x.tensor()).unwrap(), 0.0, 0.0);
    assert!(Bags::of(&[vec![0.5], vec![0.5]]).is_none());
}

/// Rows of one study in two files are not joined: that is told, and not passed over.
#[test]
fn a_study_in_two_files_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let header = "image,report,patient_id,study_id\n";
    let write = |name: &str, row: &str| fs::write(dir.path().join(name), format!("{header}{row}\n")).unwrap();
    let columns = Columns { bag: BagColumns { by: BagBy::Study, ..BagColumns::default() }, ..Columns::default() };
    let path = |name: &str| dir.path().join(name);
    let open = |names: &[&str]| {
        let sources: Vec<PathBuf> = names.iter().map(|name| path(name)).collect();
        Manifest::open_all(&sources, &columns, None).map(|(manifest, _)| manifest.rows.len())
    };
    write("1.csv", "a.png,x,p1,s1");
    write("2.csv", "b.png,y,p1,s1");
    for names in [&["{1,2}.csv"][..], &["1.csv", "2.csv"]] {
        let error = open(names).unwrap_err().to_string();
        assert!(error.contains("2.csv:2: is a row of the study of ") && error.contains("1.csv:2"), "{error}");
        assert!(error.contains("joins rows of one file") && !error.contains("p1"), "{error}");
    }
    // A file that is named twice is read twice; another patient's study is another.
    assert_eq!(open(&["1.csv", "1.csv"]).unwrap(), 2);
    write("2.csv", "b.png,y,p2,s1");
    assert_eq!(open(&["{1,2}.csv"]).unwrap(), 2);
    // Where nobody says whose it is, numbers of other sources are others.
    write("1.csv", "a.png,x,,s1");
    write("2.csv", "b.png,y,,s1");
    assert_eq!(open(&["1.csv", "2.csv"]).unwrap(), 2);
    assert!(open(&["{1,2}.csv"]).is_err());
}

fn slices(file: &Path, policy: &VolumePolicy, which: &[usize]) -> Vec<Picture> {
    volume::Scan::of(file, policy).unwrap().unwrap().slices(which).unwrap()
}
