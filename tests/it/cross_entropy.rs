//! `cross_entropy` against PyTorch, values and gradients. Golden cases: scripts/golden/cross_entropy.py.
#![allow(clippy::unwrap_used)]

use crate::common::{assert_close, golden};
use candle_core::{Device, Tensor, Var};
use reportclip::loss::{CrossEntropy, Reduction, Targets, cross_entropy};
use serde_json::Value;

fn floats(v: &Value) -> Vec<f32> {
    match v {
        Value::Array(list) => list.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

#[test]
fn values_and_gradients_equal_pytorch_within_1e_6() {
    let text = std::fs::read(golden("cross_entropy.json")).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let rows = case["logits"].as_array().unwrap().len();
        let logits = floats(&case["logits"]);
        let shape = (rows, logits.len() / rows);
        let logits = Var::from_tensor(&Tensor::from_vec(logits, shape, &Device::Cpu).unwrap()).unwrap();
        let probabilities;
        let indices: Vec<i64>;
        let targets = if case["targets"][0].is_array() {
            probabilities = Tensor::from_vec(floats(&case["targets"]), shape, &Device::Cpu).unwrap();
            Targets::Probabilities(&probabilities)
        } else {
            indices = case["targets"].as_array().unwrap().iter().map(|t| t.as_i64().unwrap()).collect();
            Targets::Indices(&indices)
        };
        let options = CrossEntropy {
            weight: case["weight"].as_array().map(|w| w.iter().map(|x| x.as_f64().unwrap()).collect()),
            ignore_index: case["ignore_index"].as_i64().unwrap_or(-100),
            reduction: match case["reduction"].as_str().unwrap() {
                "mean" => Reduction::Mean,
                "sum" => Reduction::Sum,
                _ => Reduction::None,
            },
            label_smoothing: case["label_smoothing"].as_f64().unwrap(),
        };
        let loss = cross_entropy(&logits, targets, &options).unwrap();
        let expected = Tensor::from_vec(floats(&case["loss"]), loss.dims(), &Device::Cpu).unwrap();
        assert_close(name, &loss, &expected, 1e-6, 1e-6);
        let grads = loss.sum_all().unwrap().backward().unwrap();
        let expected = Tensor::from_vec(floats(&case["grad"]), shape, &Device::Cpu).unwrap();
        assert_close(&format!("{name} grad"), grads.get(&logits).unwrap(), &expected, 1e-6, 1e-6);
    }
}

#[test]
fn mean_over_only_ignored_rows_is_nan_as_in_pytorch() {
    let logits = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
    let loss = cross_entropy(&logits, Targets::Indices(&[-100]), &CrossEntropy::default()).unwrap();
    assert!(loss.to_scalar::<f32>().unwrap().is_nan());
}

#[test]
fn bad_targets_are_named() {
    let logits = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let message = |y: &[i64]| {
        let e = cross_entropy(&logits, Targets::Indices(y), &CrossEntropy::default()).unwrap_err();
        reportclip::error::one_line(&e.into())
    };
    assert_eq!(message(&[0, 3]), "target 3 of row 1 is outside 0..3 and is not ignore_index (-100)");
    assert_eq!(message(&[0]), "1 targets for 2 rows");
}
