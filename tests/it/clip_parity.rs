//! CLIP against transformers: features, loss, every gradient, ten AdamW steps. Fixtures: scripts/golden/clip.py.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::common::{assert_close, golden, load_golden, open, tensors};
use candle_core::{DType, Device, Tensor};
use reportclip::data::{Batch, Images};
use reportclip::dist::Single;
use reportclip::loss::{ClipLoss, Direction, Loss};
use reportclip::model::checkpoint::{LoadOptions, Loaded, load};
use reportclip::model::{Builder, ClipModel};
use reportclip::optim::{AdamW, AdamWOptions};
use reportclip::train::TrainStep;

const CASES: [&str; 3] = ["quick_gelu_legacy_eos", "gelu_one_head_uneven_patch", "odd_widths"];

static LOSS: LazyLock<Loss> = LazyLock::new(|| Loss::of(ClipLoss::plain(0.1, Direction::Both)));

/// A golden case as a training step, with its batch.
fn step<'a>(loaded: &'a Loaded, expected: &HashMap<String, Tensor>) -> (TrainStep<'a>, [Batch; 1]) {
    let (pairs, tokens) = expected["input_ids"].dims2().unwrap();
    let flat = |name: &str| expected[name].flatten_all().unwrap();
    let batch = Batch {
        images: Images::Pixels(flat("pixel_values").to_vec1().unwrap()),
        bags: None,
        input_ids: flat("input_ids").to_dtype(DType::U32).unwrap().to_vec1().unwrap(),
        pairs,
        tokens,
        rows: (0..pairs).collect(),
        text_states: None,
        opposed: Vec::new(),
        errors: Vec::new(),
    };
    (TrainStep::new(&Single, &loaded.config, &loaded.params, &LOSS), [batch])
}

#[test]
fn forward_agrees_within_1e_5() {
    for case in CASES {
        let loaded = load_golden(&format!("clip/{case}"));
        let expected = tensors(&golden(&format!("clip/{case}/expected.safetensors")));
        let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
        let ids = expected["input_ids"].to_dtype(DType::U32).unwrap();
        let pixels = &expected["pixel_values"];
        let check =
            |name: &str, ours: &Tensor| assert_close(&format!("{case} {name}"), ours, &expected[name], 1e-5, 0.0);
        check("image_features", model.image_features(pixels).unwrap().tensor());
        check("text_features", model.text_features(&ids).unwrap().tensor());
        let (image, text) = (model.image_embeds(pixels).unwrap(), model.text_embeds(&ids).unwrap());
        check("image_embeds", &image);
        check("text_embeds", &text);
        let logits = image.matmul(&text.t().unwrap()).unwrap().broadcast_mul(&model.scale().unwrap()).unwrap();
        check("logits_per_image", &logits);
        let (step, batch) = step(&loaded, &expected);
        check("loss", &step.gradients(&batch).unwrap().1.loss);
    }
}

#[test]
fn every_gradient_agrees_within_1e_4() {
    for case in CASES {
        let loaded = load_golden(&format!("clip/{case}"));
        let expected = tensors(&golden(&format!("clip/{case}/expected.safetensors")));
        let (step, batch) = step(&loaded, &expected);
        let (mut grads, _) = step.gradients(&batch).unwrap();
        let compared = Cell::new(0);
        for param in loaded.params.iter() {
            let name = &param.spec.name;
            let grad = grads.remove(name).unwrap_or_else(|| panic!("{case}: {name} gets no gradient"));
            let grad = grad.into_dense().unwrap();
            // A key's bias shifts all scores of a row alike: its true gradient is 0 and both sides hold rounding noise.
            let absolute = if name.ends_with("k_proj.bias") { 2e-6 } else { 0.0 };
            assert_close(&format!("{case} {name}"), &grad, &expected[&format!("grad.{name}")], 1e-4, absolute);
            compared.set(compared.get() + 1);
        }
        assert_eq!(compared.get(), expected.keys().filter(|k| k.starts_with("grad.")).count());
    }
}

#[test]
fn ten_adamw_steps_agree_within_1e_4() {
    for case in CASES {
        let loaded = load_golden(&format!("clip/{case}"));
        let expected = tensors(&golden(&format!("clip/{case}/expected.safetensors")));
        let (step, batch) = step(&loaded, &expected);
        let options = AdamWOptions { weight_decay: 0.2, clip_grad_norm: 0.0, ..common::ADAMW };
        let mut optimizer = AdamW::new(&loaded.params, options).unwrap();
        let mut next = || step.run(&batch, &mut optimizer, 1.0).unwrap().0.loss.to_scalar::<f32>().unwrap();
        let losses: Vec<f32> = (0..10).map(|_| next()).collect();
        let losses = Tensor::new(losses.as_slice(), &Device::Cpu).unwrap();
        assert_close(case, &losses, &expected["adamw_losses"], 1e-4, 0.0);
    }
}

#[test]
fn interpolated_image_positions_agree() {
    let expected = tensors(&golden("clip/interpolated/expected.safetensors"));
    let options = LoadOptions { image_size: Some(40), ..LoadOptions::default() };
    let loaded = load(&open(&golden("clip/interpolated")), &options, &candle_core::Device::Cpu).unwrap();
    let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
    let features = model.image_features(&expected["pixel_values"]).unwrap();
    assert_close("image_features", features.tensor(), &expected["image_features"], 1e-5, 0.0);
}
