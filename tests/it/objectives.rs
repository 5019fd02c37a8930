//! Every objective against PyTorch in f64 (scripts/golden/objectives.py): value within 2e-6 relative, gradients within
//! 1e-5 of the largest; ours run in f32.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use crate::common;
use candle_core::{Device, Tensor, Var};
use reportclip::loss::{
    ClassLoss, ClipLoss, Direction, DistillLoss, FalseNegatives, Inputs, LocalConfig, LocalFeatures, LocalForm,
    LocalLoss, Loss, MultiLabelLoss, MultiPositiveLoss, OBJECTIVES, Opposed, PairTargets, PromptFeatures, SiglipLoss,
};
use reportclip::ops::Segments;
use serde_json::Value;

fn cases(file: &str) -> Vec<Value> {
    let text = std::fs::read(common::golden(file)).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn flat(v: &Value) -> Vec<f32> {
    match v {
        Value::Array(list) => list.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn var(v: &Value) -> Option<Var> {
    let numbers = flat(v.is_null().then_some(&Value::Null).map_or(Some(v), |_| None)?);
    let rows = v.as_array().map_or(0, Vec::len);
    let tensor = match rows {
        0 => Tensor::new(numbers[0], &Device::Cpu).unwrap(),
        rows => Tensor::from_vec(numbers.clone(), (rows, numbers.len() / rows), &Device::Cpu).unwrap(),
    };
    Some(Var::from_tensor(&tensor).unwrap())
}

/// The case's loss, targets and prompts.
fn of(case: &Value, label_smoothing: f64) -> (Loss, PairTargets, Vec<usize>) {
    let direction = Direction::Both;
    let list = |key: &str| case[key].as_array().cloned().unwrap_or_default();
    let false_negatives =
        case["false_negatives"].as_str().map_or(FalseNegatives::Keep, |w| FalseNegatives::find(w).unwrap());
    let debias = case["debias"].as_f64().unwrap_or(0.0);
    let loss = match case["kind"].as_str().unwrap() {
        "clip" => Loss::of(ClipLoss { false_negatives, debias, ..ClipLoss::plain(label_smoothing, direction) }),
        "siglip" => Loss::of(SiglipLoss { label_smoothing, false_negatives }),
        "multi_positive" => Loss::of(MultiPositiveLoss { label_smoothing, direction }),
        "class" => {
            let weights: Vec<f64> = list("weights").iter().map(|w| w.as_f64().unwrap()).collect();
            Loss::of(ClassLoss { label_smoothing, weights: (!weights.is_empty()).then_some(weights) })
        }
        "distill" => Loss::of(DistillLoss { direction }),
        "multi_label" => Loss::of(MultiLabelLoss { label_smoothing }),
        "local" => {
            let number = |key: &str| case[key].as_f64().unwrap();
            let options = LocalConfig {
                form: LocalForm::find(case["form"].as_str().unwrap()).unwrap(),
                temperature: number("temperature"),
                attention_temperature: number("attention_temperature"),
            };
            Loss::of(LocalLoss { label_smoothing, direction, options, false_negatives })
        }
        other => panic!("{other}"),
    };
    let targets = PairTargets {
        classes: list("classes").iter().map(|c| c.as_u64().map(|c| c as usize)).collect(),
        findings: list("findings")
            .iter()
            .map(|row| row.as_array().unwrap().iter().map(Value::as_bool).collect())
            .collect(),
        likeness: list("alike").iter().flat_map(flat).map(f64::from).collect(),
        teacher: list("teacher").iter().flat_map(flat).map(f64::from).collect(),
    };
    (loss, targets, list("counts").iter().map(|c| c.as_u64().unwrap() as usize).collect())
}

#[test]
fn values_and_gradients_are_torchs() {
    let (plain, negatives) = (cases("objectives.json"), cases("negatives.json"));
    assert_eq!((plain.len(), negatives.len()), (40, 32));
    for case in plain.iter().chain(&negatives) {
        let (loss, targets, counts) = of(case, case["label_smoothing"].as_f64().unwrap());
        let [image, text, log_scale, bias, sentences, opposed, patches] =
            ["image", "text", "log_scale", "bias", "sentences", "opposed", "patches"].map(|name| var(&case[name]));
        let rows: Vec<usize> =
            case["of"].as_array().into_iter().flatten().map(|row| row.as_u64().unwrap() as usize).collect();
        let whole =
            |v: &Value| -> Vec<u32> { v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect() };
        let of_pairs: Vec<Vec<u32>> = case["of_pairs"].as_array().into_iter().flatten().map(whole).collect();
        let lengths = case["lengths"].as_array().into_iter().flatten();
        let segments = Segments::of_lengths(lengths.map(|n| n.as_u64().unwrap() as usize));
        let local = patches.as_deref().zip(sentences.as_deref()).map(|(patches, sentences)| LocalFeatures {
            patches,
            segments: &segments,
            sentences,
            of_pairs: &of_pairs,
        });
        let scale = log_scale.as_ref().unwrap().exp().unwrap();
        let inputs = Inputs {
            image: image.as_ref().unwrap(),
            text: text.as_deref().filter(|_| loss.uses_reports()),
            scale: &scale,
            bias: bias.as_deref(),
            opposed: opposed.as_deref().map(|features| Opposed { features, of: &rows }),
            prompts: sentences.as_deref().map(|sentences| PromptFeatures { sentences, counts: &counts }),
            local,
            targets: &targets,
        };
        let output = loss.forward(&inputs).unwrap();
        let value = f64::from(output.loss.to_scalar::<f32>().unwrap());
        for (what, ours) in [("loss", value), ("hard", output.loss_hard)] {
            let theirs = case[what].as_f64().unwrap();
            assert!(
                (ours - theirs).abs() <= 2e-6 * theirs.max(1.0),
                "{}: {what} {ours}, expected {theirs}",
                case["kind"]
            );
        }
        assert!(output.loss_excess >= -1e-6, "{}: excess {}", case["kind"], output.loss_excess);
        let grads = output.loss.backward().unwrap();
        let named = [
            ("image", &image),
            ("text", &text),
            ("log_scale", &log_scale),
            ("bias", &bias),
            ("sentences", &sentences),
            ("patches", &patches),
            ("opposed", &opposed),
        ];
        for (name, var) in named {
            let theirs = &case["grads"][name];
            let Some(ours) = var.as_ref().and_then(|v| grads.get(v)) else {
                assert!(theirs.is_null(), "{}: no gradient of {name}", case["kind"]);
                continue;
            };
            assert!(!theirs.is_null(), "{}: torch has no gradient of {name}", case["kind"]);
            let ours = common::numbers(ours);
            let theirs: Vec<f64> = theirs.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            let scale = theirs.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
            let worst = ours.iter().zip(&theirs).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= 1e-5 * scale, "{}: gradient of {name} is off by {worst} of {scale}", case["kind"]);
        }
    }
}

#[test]
fn a_sum_is_the_sum_and_a_batch_without_labels_is_nothing() {
    let cases = cases("objectives.json");
    let find = |kind: &str| cases.iter().find(|c| c["kind"] == kind && c["label_smoothing"] == 0.1).unwrap();
    let (case, of_class) = (find("clip"), find("class"));
    let [image, text, sentences] = [&case["image"], &case["text"], &of_class["sentences"]].map(|v| var(v).unwrap());
    let (clip, ..) = of(case, 0.1);
    let (class, targets, counts) = of(of_class, 0.1);
    let scale = Tensor::new(7f32, &Device::Cpu).unwrap();
    let run = |loss: &Loss, targets: &PairTargets| {
        let prompts = Some(PromptFeatures { sentences: &sentences, counts: &counts });
        let (text, opposed, local) = (Some(&*text), None, None);
        let inputs = Inputs { image: &image, text, scale: &scale, bias: None, prompts, local, opposed, targets };
        loss.forward(&inputs).unwrap()
    };
    let sum = run(&Loss::sum(vec![(2.0, clip.clone()), (0.5, class.clone())]), &targets);
    let (a, b) = (run(&clip, &targets), run(&class, &targets));
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-5, "{a} {b}");
    close(sum.loss_hard, 2.0 * a.loss_hard + 0.5 * b.loss_hard);
    close(sum.loss_excess, 2.0 * a.loss_excess + 0.5 * b.loss_excess);
    close(sum.chance, 2.0 * 6f64.ln() + 0.5 * 3f64.ln());
    // A mean over nothing would be NaN, as in PyTorch; here it is nothing.
    let none = PairTargets { classes: vec![None; 6], ..PairTargets::default() };
    let output = run(&class, &none);
    assert_eq!(output.loss.to_scalar::<f32>().unwrap(), 0.0);
    let grads = output.loss.backward().unwrap();
    assert!(common::numbers(grads.get(&image).unwrap()).iter().all(|g| *g == 0.0));
    assert!(clip.uses_reports() && !class.uses_reports());
}

/// Adding an objective takes its file, its row of the table, a case here and a line of the docs: nothing else in src
/// names one, but for the few places that mean a certain one.
#[test]
fn objectives_are_listed_in_the_table_alone() {
    // (file, objective): the default of loss.kind, what the benchmark trains, what a message advises, a heading, what
    // golden models were trained by, a family of figures.
    const MEANT: [(&str, &str); 9] = [
        ("config/loss_keys.rs", "clip"),
        ("bench/train_step.rs", "clip"),
        ("loss/likeness.rs", "clip"),
        ("cli/table.rs", "class"),
        ("bench/parity/models.rs", "clip"),
        ("bench/parity/models.rs", "siglip"),
        ("sweep/evaluation.rs", "class"),
        ("sweep/agreement.rs", "class"),
        ("eval/by_patient.rs", "class"),
    ];
    // There the words are families of models.
    const OF_MODELS: [&str; 4] = ["model/", "data/", "session/", "export/"];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut named = Vec::new();
    for path in common::rust_files(&src) {
        let relative = path.strip_prefix(&src).unwrap().to_str().unwrap().to_string();
        let source = std::fs::read_to_string(&path).unwrap().replace('\\', "");
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        for kind in OBJECTIVES {
            let own = [format!("loss/{}.rs", kind.name), "loss/table.rs".into(), "loss/mod.rs".into()];
            let camel: String = kind.name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
            let is_type = source.contains(&format!("{camel}Loss"));
            let is_word = source.contains(&format!("\"{}\"", kind.name));
            let of_models = OF_MODELS.iter().any(|start| relative.starts_with(start));
            if !own.contains(&relative) && (is_type || (is_word && !of_models)) {
                named.push((relative.clone(), kind.name));
            }
        }
    }
    let meant = |(file, kind): &(String, &str)| MEANT.contains(&(file.as_str(), *kind));
    assert!(named.iter().all(meant), "named outside their file and the table: {named:?}");
    assert_eq!(named.len(), MEANT.len(), "the test reads the sources: {named:?}");
    // And each has a case of its own above.
    let tested: BTreeSet<String> =
        cases("objectives.json").iter().map(|case| case["kind"].as_str().unwrap().to_string()).collect();
    assert_eq!(tested, OBJECTIVES.iter().map(|kind| kind.name.to_string()).collect());
}
