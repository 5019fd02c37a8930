//! Every objective against PyTorch in f64 (scripts/golden/objectives.py): value within 2e-6 relative, gradients within
//! 1e-5 of the largest; ours run in f32.
#![allow(clippy::unwrap_used)]

use crate::common;
use candle_core::{Device, Tensor, Var};
use reportclip::loss::{
    ClassLoss, ClipLoss, Direction, Inputs, Loss, MultiLabelLoss, MultiPositiveLoss, PairTargets, SiglipLoss,
};
use serde_json::Value;

fn cases() -> Vec<Value> {
    let text = std::fs::read(common::golden("objectives.json")).unwrap();
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
    let loss = match case["kind"].as_str().unwrap() {
        "clip" => Loss::Clip(ClipLoss { label_smoothing, direction }),
        "siglip" => Loss::Siglip(SiglipLoss { label_smoothing }),
        "multi_positive" => Loss::MultiPositive(MultiPositiveLoss { label_smoothing, direction }),
        "class" => {
            let weights: Vec<f64> = list("weights").iter().map(|w| w.as_f64().unwrap()).collect();
            Loss::Class(ClassLoss { label_smoothing, weights: (!weights.is_empty()).then_some(weights) })
        }
        "multi_label" => Loss::MultiLabel(MultiLabelLoss { label_smoothing }),
        other => panic!("{other}"),
    };
    let targets = PairTargets {
        classes: list("classes").iter().map(|c| c.as_u64().map(|c| c as usize)).collect(),
        findings: list("findings")
            .iter()
            .map(|row| row.as_array().unwrap().iter().map(Value::as_bool).collect())
            .collect(),
        alike: list("alike").iter().flat_map(flat).map(f64::from).collect(),
    };
    (loss, targets, list("counts").iter().map(|c| c.as_u64().unwrap() as usize).collect())
}

#[test]
fn values_and_gradients_are_torchs() {
    let cases = cases();
    assert_eq!(cases.len(), 21);
    for case in &cases {
        let (loss, targets, counts) = of(case, case["label_smoothing"].as_f64().unwrap());
        let [image, text, log_scale, bias, sentences] =
            ["image", "text", "log_scale", "bias", "sentences"].map(|name| var(&case[name]));
        let scale = log_scale.as_ref().unwrap().exp().unwrap();
        let inputs = Inputs {
            image: image.as_ref().unwrap(),
            text: text.as_deref().filter(|_| loss.uses_reports()),
            scale: &scale,
            bias: bias.as_deref(),
            prompts: sentences.as_deref().map(|s| (s, counts.as_slice())),
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
        let named =
            [("image", &image), ("text", &text), ("log_scale", &log_scale), ("bias", &bias), ("sentences", &sentences)];
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
    let cases = cases();
    let find = |kind: &str| cases.iter().find(|c| c["kind"] == kind && c["label_smoothing"] == 0.1).unwrap();
    let (case, of_class) = (find("clip"), find("class"));
    let [image, text, sentences] = [&case["image"], &case["text"], &of_class["sentences"]].map(|v| var(v).unwrap());
    let (clip, ..) = of(case, 0.1);
    let (class, targets, counts) = of(of_class, 0.1);
    let scale = Tensor::new(7f32, &Device::Cpu).unwrap();
    let run = |loss: &Loss, targets: &PairTargets| {
        let prompts = Some((sentences.as_tensor(), counts.as_slice()));
        let inputs = Inputs { image: &image, text: Some(&text), scale: &scale, bias: None, prompts, targets };
        loss.forward(&inputs).unwrap()
    };
    let sum = run(&Loss::Sum(vec![(2.0, clip.clone()), (0.5, class.clone())]), &targets);
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
