//! Every trainable weight moves, frozen ones do not and cost nothing, and GradCache gives the plain step's gradients.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::{assert_close, load_golden};
use candle_core::{DType, Device, Tensor};
use reportclip::data::{Batch, Images};
use reportclip::dist::Single;
use reportclip::loss::{ClipLoss, Direction, Loss};
use reportclip::model::checkpoint::Loaded;
use reportclip::model::freeze::{FreezeConfig, FreezeDepth};
use reportclip::model::{Builder, ClipModel, freeze};
use reportclip::ops::{Gradient, Tape};
use reportclip::optim::{AdamW, AdamWOptions};
use reportclip::session::Frozen;
use reportclip::train::TrainStep;
use std::sync::LazyLock;

static LOSS: LazyLock<Loss> = LazyLock::new(|| Loss::of(ClipLoss::plain(0.1, Direction::Both)));
const CASES: [&str; 3] = ["quick_gelu_legacy_eos", "gelu_one_head_uneven_patch", "odd_widths"];

fn batch(case: &str, from: usize, to: usize) -> Batch {
    let expected = common::tensors(&common::golden(&format!("clip/{case}/expected.safetensors")));
    let take = |name: &str| expected[name].narrow(0, from, to - from).unwrap().flatten_all().unwrap();
    let ids = take("input_ids").to_dtype(candle_core::DType::U32).unwrap();
    Batch {
        images: Images::Pixels(take("pixel_values").to_vec1().unwrap()),
        bags: None,
        tokens: expected["input_ids"].dim(1).unwrap(),
        input_ids: ids.to_vec1().unwrap(),
        pairs: to - from,
        rows: (0..to - from).collect(),
        text_states: None,
        opposed: Vec::new(),
        errors: Vec::new(),
    }
}

const OPTIONS: AdamWOptions = common::ADAMW;

fn step_of<'a>(loaded: &'a Loaded, loss: &'a Loss) -> TrainStep<'a> {
    TrainStep::new(&Single, &loaded.config, &loaded.params, loss)
}

#[test]
fn every_trainable_weight_moves_and_every_frozen_one_stays() {
    // (freeze, what must stay, by beginning of the name)
    let tower = |image, text| FreezeConfig { image, text, ..FreezeConfig::NONE };
    let cases: [(FreezeConfig, &[&str]); 6] = [
        (FreezeConfig::NONE, &[]),
        (tower(FreezeDepth::All, FreezeDepth::None), &["vision_model."]),
        (tower(FreezeDepth::None, FreezeDepth::All), &["text_model."]),
        (
            tower(FreezeDepth::Blocks(1), FreezeDepth::Blocks(0)),
            &[
                "vision_model.embeddings",
                "vision_model.pre_layrnorm",
                "vision_model.encoder.layers.0.",
                "text_model.embeddings",
            ],
        ),
        (FreezeConfig { projections: true, ..FreezeConfig::NONE }, &["visual_projection", "text_projection"]),
        (FreezeConfig { logit_scale: true, ..FreezeConfig::NONE }, &["logit_scale"]),
    ];
    for case in CASES {
        for (config, frozen) in &cases {
            let mut loaded = load_golden(&format!("clip/{case}"));
            freeze::apply(config, &mut loaded.params);
            let before = loaded.params.snapshot().unwrap();
            let (grads, _) = step_of(&loaded, &LOSS).gradients(&[batch(case, 0, 4)]).unwrap();
            for (name, grad) in &grads {
                let sum = grad.squared_sum().unwrap();
                assert!(sum.is_finite() && sum > 0.0, "{case}: the gradient of {name} is {sum}");
            }
            AdamW::new(&loaded.params, OPTIONS).unwrap().step(&loaded.params, &grads, 1.0).unwrap();
            for (name, old) in before {
                let param = loaded.params.get(&name).unwrap();
                let moved = common::numbers(&param.var) != common::numbers(&old);
                let expected = !frozen.iter().any(|f| name.starts_with(f));
                assert_eq!(moved, expected, "{case}: {name} under {config:?}");
                assert_eq!(param.trainable, expected, "{name}");
                assert_eq!(grads.contains_key(&name), expected, "{case}: gradient of {name} under {config:?}");
            }
        }
    }
}

#[test]
fn what_is_frozen_is_no_part_of_the_graph() {
    let case = "quick_gelu_legacy_eos";
    let b = batch(case, 0, 4);
    let pixels = b.images.to_tensor((4, 3, 32, 32), &Device::Cpu).unwrap();
    let ids = Tensor::from_vec(b.input_ids, (4, b.tokens), &Device::Cpu).unwrap();
    let tracked = |config: FreezeConfig| {
        let mut loaded = load_golden(&format!("clip/{case}"));
        freeze::apply(&config, &mut loaded.params);
        let tape = Tape::new(loaded.params.len());
        let model = ClipModel::new(&loaded.config, &Builder::train(&loaded.params, &tape)).unwrap();
        // How many steps a backward pass runs through: those that depend on a trained weight.
        let _image = model.image_features(&pixels).unwrap();
        let image = tape.steps();
        let _text = model.text_features(&ids).unwrap();
        (image, tape.steps() - image)
    };
    let whole = tracked(FreezeConfig::NONE);
    let towers = tracked(FreezeConfig { image: FreezeDepth::All, text: FreezeDepth::All, ..FreezeConfig::NONE });
    let half =
        tracked(FreezeConfig { image: FreezeDepth::Blocks(1), text: FreezeDepth::Blocks(1), ..FreezeConfig::NONE });
    let (image, text) = (FreezeDepth::All, FreezeDepth::All);
    let all = FreezeConfig { image, text, projections: true, logit_scale: true, ..FreezeConfig::NONE };
    assert!(whole.0 > 20 && whole.1 > 20, "{whole:?}");
    assert_eq!(towers, (1, 1), "the projections of {whole:?}");
    assert!(half.0 < whole.0 * 2 / 3 && half.1 < whole.1 * 2 / 3, "{half:?} of {whole:?}");
    assert_eq!(tracked(all), (0, 0));
}

/// The opposites of the pairs at these places: token ids of other pairs.
fn with_opposites(mut batch: Batch, case: &str, pairs: &[usize]) -> Batch {
    for &pair in pairs {
        batch.input_ids.extend(self::batch(case, 3 - batch.rows[pair], 4 - batch.rows[pair]).input_ids);
        batch.opposed.push(pair);
    }
    batch
}

#[test]
fn chunks_with_opposites_give_the_gradients_of_the_whole_batch() {
    let case = CASES[0];
    let loaded = load_golden(&format!("clip/{case}"));
    let chunk = |from: usize, to: usize, pairs: &[usize]| {
        let mut batch = batch(case, from, to);
        batch.rows = (from..to).collect();
        with_opposites(batch, case, pairs)
    };
    let gradients = |batches: &[Batch]| {
        let step = TrainStep { opposites: true, ..step_of(&loaded, &LOSS) };
        step.gradients(batches).unwrap()
    };
    let (whole, whole_loss) = gradients(&[chunk(0, 4, &[0, 2, 3])]);
    let (chunks, loss) = gradients(&[chunk(0, 1, &[0]), chunk(1, 2, &[]), chunk(2, 4, &[0, 1])]);
    assert_close(case, &loss.loss, &whole_loss.loss, 1e-6, 0.0);
    let (_, without) = gradients(&[chunk(0, 4, &[])]);
    assert!(whole_loss.value > without.value, "a negative more costs: {} and {}", whole_loss.value, without.value);
    for (name, grad) in &whole {
        let absolute = if name.ends_with("k_proj.bias") { 2e-6 } else { 1e-8 };
        let dense = |grad: &Gradient| grad.clone().into_dense().unwrap();
        assert_close(&format!("{case} {name}"), &dense(&chunks[name]), &dense(grad), 1e-5, absolute);
    }
}

#[test]
fn chunks_give_the_gradients_of_the_whole_batch() {
    for case in CASES {
        let loaded = load_golden(&format!("clip/{case}"));
        let step = |batches: &[Batch]| step_of(&loaded, &LOSS).gradients(batches).unwrap();
        let (whole, whole_loss) = step(&[batch(case, 0, 4)]);
        let (chunks, loss) = step(&[batch(case, 0, 1), batch(case, 1, 3), batch(case, 3, 4)]);
        assert_close(case, &loss.loss, &whole_loss.loss, 1e-6, 0.0);
        for (name, grad) in &whole {
            let absolute = if name.ends_with("k_proj.bias") { 2e-6 } else { 1e-8 };
            let dense = |grad: &Gradient| grad.clone().into_dense().unwrap();
            assert_close(&format!("{case} {name}"), &dense(&chunks[name]), &dense(grad), 1e-5, absolute);
        }
    }
}

#[test]
fn recomputed_blocks_and_early_updates_change_nothing() {
    for case in CASES {
        let run = |checkpoint_activations: bool, early: bool, chunked: bool| {
            let loaded = load_golden(&format!("clip/{case}"));
            let step = TrainStep { checkpoint_activations, ..step_of(&loaded, &LOSS) };
            let batches = if chunked { vec![batch(case, 0, 2), batch(case, 2, 4)] } else { vec![batch(case, 0, 4)] };
            let options = AdamWOptions { clip_grad_norm: 0.0, ..OPTIONS };
            let mut optimizer = AdamW::new(&loaded.params, options).unwrap();
            let norm = if early {
                step.run(&batches, &mut optimizer, 1.0).unwrap().1
            } else {
                let (grads, _) = step.gradients(&batches).unwrap();
                optimizer.step(&loaded.params, &grads, 1.0).unwrap()
            };
            let weights: Vec<Vec<f64>> = loaded.params.iter().map(|p| common::numbers(&p.var)).collect();
            (norm, weights)
        };
        for chunked in [false, true] {
            let (norm, weights) = run(false, false, chunked);
            for (recompute, early) in [(true, false), (false, true), (true, true)] {
                let (other_norm, others) = run(recompute, early, chunked);
                assert!((norm - other_norm).abs() <= 1e-12 * norm, "{case}: sums are added in another order at most");
                assert!(weights == others, "{case}: weights differ ({recompute}, {early}, {chunked})");
            }
        }
    }
}

/// Products in bf16: every weight keeps its type and gets a gradient of its own, near that of f32. Against PyTorch's
/// autocast the sums would differ by as much: bf16 has 8 bits.
#[test]
fn products_in_bf16_reach_every_weight() {
    let loaded = load_golden(&format!("clip/{}", CASES[0]));
    let batch = [batch(CASES[0], 0, 4)];
    let (exact, loss) = step_of(&loaded, &LOSS).gradients(&batch).unwrap();
    let step = TrainStep { products: DType::BF16, ..step_of(&loaded, &LOSS) };
    let (rough, rough_loss) = step.gradients(&batch).unwrap();
    let value = |t: &Tensor| t.to_scalar::<f32>().unwrap();
    let (a, b) = (value(&loss.loss), value(&rough_loss.loss));
    assert!(a != b && (a - b).abs() < 0.02 * a, "loss {a} in f32, {b} in bf16");
    assert_eq!(exact.len(), rough.len());
    let (mut difference, mut whole) = (0.0, 0.0);
    for (name, grad) in exact {
        let (x, y) = (grad.into_dense().unwrap(), rough[&name].clone().into_dense().unwrap());
        assert_eq!(y.dtype(), DType::F32, "{name}");
        let square = |t: &Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
        assert!(square(&y) > 0.0, "{name} has no gradient in bf16");
        difference += square(&(&x - &y).unwrap());
        whole += square(&x);
    }
    assert!(
        difference < 0.05f64.powi(2) * whole,
        "gradients differ by {:.3} of their norm",
        (difference / whole).sqrt()
    );
}

#[test]
fn one_direction_reaches_every_weight_too() {
    for direction in [Direction::ImageToText, Direction::TextToImage] {
        let loaded = load_golden("clip/odd_widths");
        let loss = Loss::of(ClipLoss::plain(0.0, direction));
        let (grads, _) = step_of(&loaded, &loss).gradients(&[batch("odd_widths", 0, 4)]).unwrap();
        assert_eq!(grads.len(), loaded.params.len());
    }
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let loaded = load_golden("clip/odd_widths");
    let var = &loaded.params.get("visual_projection.weight").unwrap().var;
    var.set(&(var.as_tensor() * f64::NAN).unwrap()).unwrap();
    let result = step_of(&loaded, &LOSS).gradients(&[batch("odd_widths", 0, 4)]);
    let message = reportclip::error::one_line(&result.err().unwrap());
    assert_eq!(message, "the image features are not finite; a lower optim.lr often helps");
}

#[test]
fn logit_scale_stays_at_or_below_ln_100() {
    let loaded = load_golden("clip/odd_widths");
    let scale = &loaded.params.get("logit_scale").unwrap().var;
    scale.set(&Tensor::new(4.6f32, &Device::Cpu).unwrap()).unwrap();
    let mut grads = reportclip::optim::Gradients::new();
    for param in loaded.params.iter() {
        grads.insert(param.spec.name.clone(), Gradient::Dense((param.var.ones_like().unwrap() * -1.0).unwrap()));
    }
    let mut optimizer = AdamW::new(&loaded.params, AdamWOptions { lr_heads: 0.5, ..OPTIONS }).unwrap();
    optimizer.step(&loaded.params, &grads, 1.0).unwrap();
    assert!((scale.to_scalar::<f32>().unwrap() - 100f32.ln()).abs() < 1e-6);
}

#[test]
fn a_logit_scale_that_starts_above_ln_100_is_not_pulled_down_and_resumes_so() {
    let loaded = load_golden("clip/odd_widths");
    let scale = &loaded.params.get("logit_scale").unwrap().var;
    // As SigLIP is published: 117.3.
    let start = 117.3f32.ln();
    scale.set(&Tensor::new(start, &Device::Cpu).unwrap()).unwrap();
    let grads = |sign: f64| -> reportclip::optim::Gradients {
        let grad = |p: &reportclip::model::Param| Gradient::Dense((p.var.ones_like().unwrap() * sign).unwrap());
        loaded.params.iter().map(|p| (p.spec.name.clone(), grad(p))).collect()
    };
    let options = AdamWOptions { lr_heads: 0.1, ..OPTIONS };
    let mut optimizer = AdamW::new(&loaded.params, options).unwrap();
    let value = || scale.to_scalar::<f32>().unwrap();
    optimizer.step(&loaded.params, &grads(-1.0), 1.0).unwrap();
    assert_eq!(value(), start, "it stays at its start at most");
    optimizer.step(&loaded.params, &grads(3.0), 1.0).unwrap();
    let lower = value();
    assert!(lower < start && lower > 100f32.ln(), "{lower}");
    // A resumed run begins at another number, and has the first one's limit.
    let state: std::collections::HashMap<String, Tensor> = optimizer.state().into_iter().collect();
    let mut resumed = AdamW::new(&loaded.params, options).unwrap();
    resumed.restore(&state, 2).unwrap();
    for _ in 0..20 {
        resumed.step(&loaded.params, &grads(-3.0), 1.0).unwrap();
    }
    assert_eq!(value(), start);
}

#[test]
fn each_part_has_its_learning_rate_and_clipping_scales_the_moments() {
    let loaded = load_golden("clip/odd_widths");
    let before = loaded.params.snapshot().unwrap();
    let options = AdamWOptions { lr_image: 1e-3, lr_text: 2e-3, lr_heads: 4e-3, clip_grad_norm: 0.5, ..OPTIONS };
    let mut optimizer = AdamW::new(&loaded.params, options).unwrap();
    let grads: reportclip::optim::Gradients =
        loaded.params.iter().map(|p| (p.spec.name.clone(), Gradient::Dense(p.var.ones_like().unwrap()))).collect();
    let count = loaded.params.count().0 as f64;
    let norm = optimizer.step(&loaded.params, &grads, 0.5).unwrap();
    assert!((norm - count.sqrt()).abs() < 1e-9 * count);
    for (name, old) in before {
        let rate = match name.split('.').next().unwrap() {
            "vision_model" => 1e-3,
            "text_model" => 2e-3,
            _ => 4e-3,
        };
        // The first step moves by the rate against the gradient's sign, whatever its size (but for AdamW's epsilon).
        let param = loaded.params.get(&name).unwrap();
        let expected = (old - 0.5 * rate).unwrap();
        assert_close(&name, &param.var, &expected, 0.0, 2e-3 * rate);
    }
    let state: std::collections::HashMap<String, Tensor> = optimizer.state().into_iter().collect();
    let m = common::numbers(&state["m.logit_scale"])[0];
    assert!((m - 0.1 * 0.5 / (norm + 1e-6)).abs() < 1e-9, "{m}");
}

#[test]
fn a_step_on_kept_features_is_the_step_on_pixels() {
    for case in CASES {
        for frozen in [FreezeDepth::Blocks(0), FreezeDepth::Blocks(1), FreezeDepth::Blocks(2), FreezeDepth::All] {
            let mut loaded = load_golden(&format!("clip/{case}"));
            let config = FreezeConfig { image: frozen, ..FreezeConfig::NONE };
            let owner = Frozen::apply(config, 0.0, &mut loaded.params);
            let vision = &loaded.config.vision;
            let pixels = batch(case, 0, 4);
            let shape = (4, 3, vision.image_size(), vision.image_size());
            let values = pixels.images.to_tensor(shape, &Device::Cpu).unwrap();
            let model = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params)).unwrap();
            let features = model.frozen_image_features(&values, frozen).unwrap();
            let features: Vec<f32> = features.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(features.len(), 4 * vision.frozen_numbers(frozen).unwrap());
            let kept = Batch { images: Images::Features(features), ..pixels.clone() };
            let step = TrainStep { frozen: Some(&owner), ..step_of(&loaded, &LOSS) };
            let (a, loss_a) = step.gradients(&[pixels]).unwrap();
            let (b, loss_b) = step.gradients(&[kept]).unwrap();
            assert_close(case, &loss_b.loss, &loss_a.loss, 1e-6, 0.0);
            assert!(a.keys().eq(b.keys()), "{case} {frozen:?}: the same weights get gradients");
            for (name, grad) in a {
                let dense = |grad: Gradient| grad.into_dense().unwrap();
                assert_close(&format!("{case} {frozen:?} {name}"), &dense(b[&name].clone()), &dense(grad), 1e-5, 2e-6);
            }
        }
    }
}
