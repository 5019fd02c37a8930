//! CLIP against transformers: features, loss, every gradient, ten AdamW steps. Fixtures: scripts/golden/clip.py.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;

use candle_core::{DType, Tensor};
use common::{assert_close, golden, load_golden, open, tensors};
use reportclip::loss::{ClipLoss, Direction};
use reportclip::model::checkpoint::{LoadOptions, load};
use reportclip::model::{Builder, ClipModel, Params};
use reportclip::optim::{AdamW, AdamWOptions};

const CASES: [&str; 3] = ["quick_gelu_legacy_eos", "gelu_one_head_uneven_patch", "odd_widths"];

fn loss_of(model: &ClipModel, pixels: &Tensor, ids: &Tensor) -> Tensor {
    let (image, text) = (model.image_embeds(pixels).unwrap(), model.text_embeds(ids).unwrap());
    let loss = ClipLoss { label_smoothing: 0.1, direction: Direction::Both };
    loss.forward(&image, &text, &model.scale().unwrap()).unwrap().loss
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
        check("image_features", &model.image_features(pixels).unwrap());
        check("text_features", &model.text_features(&ids).unwrap());
        let (image, text) = (model.image_embeds(pixels).unwrap(), model.text_embeds(&ids).unwrap());
        check("image_embeds", &image);
        check("text_embeds", &text);
        let logits = image.matmul(&text.t().unwrap()).unwrap().broadcast_mul(&model.scale().unwrap()).unwrap();
        check("logits_per_image", &logits);
        check("loss", &loss_of(&model, pixels, &ids));
    }
}

#[test]
fn every_gradient_agrees_within_1e_4() {
    for case in CASES {
        let loaded = load_golden(&format!("clip/{case}"));
        let expected = tensors(&golden(&format!("clip/{case}/expected.safetensors")));
        let model = ClipModel::new(&loaded.config, &Builder::train(&loaded.params)).unwrap();
        let ids = expected["input_ids"].to_dtype(DType::U32).unwrap();
        let grads = loss_of(&model, &expected["pixel_values"], &ids).backward().unwrap();
        let compared = Cell::new(0);
        for param in loaded.params.iter() {
            let name = &param.spec.name;
            let grad = grads.get(&param.var).unwrap_or_else(|| panic!("{case}: {name} gets no gradient"));
            // A key's bias shifts all scores of a row alike: its true gradient is 0 and both sides hold rounding noise.
            let absolute = if name.ends_with("k_proj.bias") { 2e-6 } else { 0.0 };
            assert_close(&format!("{case} {name}"), grad, &expected[&format!("grad.{name}")], 1e-4, absolute);
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
        let ids = expected["input_ids"].to_dtype(DType::U32).unwrap();
        let losses = adamw_losses(&loaded.params, |params| {
            let model = ClipModel::new(&loaded.config, &Builder::train(params)).unwrap();
            loss_of(&model, &expected["pixel_values"], &ids)
        });
        let losses = Tensor::new(losses.as_slice(), &candle_core::Device::Cpu).unwrap();
        assert_close(case, &losses, &expected["adamw_losses"], 1e-4, 0.0);
    }
}

fn adamw_losses(params: &Params, loss: impl Fn(&Params) -> Tensor) -> Vec<f32> {
    let options = AdamWOptions { weight_decay: 0.2, clip_grad_norm: 0.0, ..common::ADAMW };
    let mut optimizer = AdamW::new(params, options).unwrap();
    let mut losses = Vec::new();
    for _ in 0..10 {
        let loss = loss(params);
        losses.push(loss.to_scalar().unwrap());
        let grads = loss.backward().unwrap();
        let grads = params.iter().map(|p| (p.spec.name.clone(), grads.get(&p.var).unwrap().clone())).collect();
        optimizer.step(params, &grads, 1.0).unwrap();
    }
    losses
}

#[test]
fn interpolated_image_positions_agree() {
    let expected = tensors(&golden("clip/interpolated/expected.safetensors"));
    let options = LoadOptions { image_size: Some(40), context_length: None };
    let loaded = load(&open(&golden("clip/interpolated")), &options, &candle_core::Device::Cpu).unwrap();
    let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
    let features = model.image_features(&expected["pixel_values"]).unwrap();
    assert_close("image_features", &features, &expected["image_features"], 1e-5, 0.0);
}

#[test]
fn candle_transformers_agrees_on_the_image_tower() {
    use candle_transformers::models::clip;
    let case = "quick_gelu_legacy_eos";
    let expected = tensors(&golden(&format!("clip/{case}/expected.safetensors")));
    let weights = golden(&format!("clip/{case}/model.safetensors"));
    let bytes = std::fs::read(weights).unwrap();
    let vb = candle_nn::VarBuilder::from_buffered_safetensors(bytes, DType::F32, &candle_core::Device::Cpu).unwrap();
    let config = clip::vision_model::ClipVisionConfig {
        embed_dim: 16,
        activation: clip::text_model::Activation::QuickGelu,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        projection_dim: 12,
        num_channels: 3,
        image_size: 32,
        patch_size: 8,
    };
    let oracle = clip::vision_model::ClipVisionTransformer::new(vb.pp("vision_model"), &config).unwrap();
    let state = candle_core::Module::forward(&oracle, &expected["pixel_values"]).unwrap();
    let projection = vb.get((12, 16), "visual_projection.weight").unwrap();
    let features = state.matmul(&projection.t().unwrap()).unwrap();
    assert_close("oracle", &features, &expected["image_features"], 1e-5, 0.0);
}
