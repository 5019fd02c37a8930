//! Products in bf16. The reference is the same model in f64 without kernels, where the operands of every product are
//! rounded to bf16 as the kernels round them: what is left between the two is rounding in f32, and a number here and
//! there that f32 and f64 round to different neighbours. Measured on an EPYC (AVX2, emulated): towers at best within
//! 4e-6, most within 1e-7; objectives within 5e-7.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Tensor, Var};
use reportclip::loss::{
    ClassLoss, ClipLoss, Direction, DistillLoss, FalseNegatives, Inputs, LocalConfig, LocalFeatures, LocalForm,
    LocalLoss, Loss, MultiLabelLoss, MultiPositiveLoss, OBJECTIVES, PairTargets, PromptFeatures, SiglipLoss,
};
use reportclip::model::checkpoint::Loaded;
use reportclip::model::freeze::{FreezeConfig, FreezeDepth};
use reportclip::model::{Builder, ClipModel, Noise, Param, Params, freeze, lora};
use reportclip::ops::{self, Activation, Attention, Conv2d, Maps, Rotary, Segments, Tape, Value};
use reportclip::train::TrainStep;

use crate::common::{golden, load_golden, numbers, tensors};
use crate::encoders;

/// A fixed sequence of numbers between −1 and 1, in f32.
fn wave(shape: &[usize], phase: f64) -> Tensor {
    let number = |i: usize| ((i as f64 * 0.7 + phase).sin() * (i as f64 * 0.13 + phase).cos()) as f32;
    Tensor::from_vec((0..shape.iter().product()).map(number).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

/// Output and gradients of `f` with products in bf16, of numbers in f32 or f64.
fn on_tape(shapes: &[&[usize]], dtype: DType, f: impl Fn(&[&Value]) -> Result<Value>) -> Vec<Tensor> {
    let tape = Tape::new(shapes.len());
    let leaf = |(i, shape): (usize, &&[usize])| {
        tape.leaf(i, wave(shape, i as f64 + 0.3).to_dtype(dtype).unwrap()).with_products(DType::BF16)
    };
    let leaves: Vec<Value> = shapes.iter().enumerate().map(leaf).collect();
    let y = f(&leaves.iter().collect::<Vec<_>>()).unwrap();
    let upstream = wave(y.tensor().dims(), 5.1).to_dtype(dtype).unwrap();
    tape.backward([(&y, upstream)], &mut |_| Ok(())).unwrap();
    let grad = |i| tape.take_grad(i).unwrap_or_else(|| panic!("no gradient for input {i}")).into_dense().unwrap();
    std::iter::once(y.tensor().clone()).chain((0..shapes.len()).map(grad)).collect()
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>();
    let size = square(&mut b.iter().copied());
    assert!(size > 0.0, "nothing to compare with");
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / size).sqrt()
}

/// Kernels against f64 on rounded operands: by norm, for what an operation rounds on its way may flip.
fn compare(name: &str, shapes: &[&[usize]], f: impl Fn(&[&Value]) -> Result<Value>) {
    let (ours, exact) = (on_tape(shapes, DType::F32, &f), on_tape(shapes, DType::F64, &f));
    for (i, (a, b)) in ours.iter().zip(&exact).enumerate() {
        assert_eq!(a.dims(), b.dims(), "{name}");
        // Where f32 and f64 round to different neighbours, a number is off by 1 / 128 at most.
        crate::common::assert_close(&format!("{name} {shapes:?} {i}"), a, b, 8e-3, 1e-6);
        let off = distance(&numbers(a), &numbers(b));
        assert!(off < 2e-3, "{name} {shapes:?}: number {i} (0: output, then gradients) is off by {off:e}");
    }
}

/// The same where nothing is rounded between a product and what is compared: element by element.
fn compare_exactly(name: &str, shapes: &[&[usize]], f: impl Fn(&[&Value]) -> Result<Value>) {
    let (ours, exact) = (on_tape(shapes, DType::F32, &f), on_tape(shapes, DType::F64, &f));
    for (i, (a, b)) in ours.iter().zip(&exact).enumerate() {
        crate::common::assert_close(&format!("{name} {shapes:?} {i}"), a, b, 1e-5, 1e-6);
    }
}

const SHAPES: [(usize, usize); 7] = [(1, 1), (1, 7), (5, 13), (17, 64), (33, 31), (130, 48), (257, 65)];

#[test]
fn linear_layers_agree_with_f64_on_rounded_operands() {
    for (rows, inner) in SHAPES {
        for out in [1, 9, 40] {
            let shapes: [&[usize]; 4] = [&[rows, inner], &[out, inner], &[out], &[rows, out]];
            compare_exactly("linear", &shapes[..3], |t| ops::linear(t[0], t[1], t[2]));
            compare_exactly("linear_no_bias", &shapes[..2], |t| ops::linear_no_bias(t[0], t[1]));
            compare_exactly("linear_residual", &shapes, |t| ops::linear_residual(t[0], t[1], t[2], t[3]));
            for kind in [Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
                compare("activated, of f32", &shapes, |t| ops::activated_linear_residual(t[0], kind, t[1], t[2], t[3]));
                compare("activated, of bf16", &shapes, |t| {
                    ops::activated_linear_residual(&t[0].as_operand()?, kind, t[1], t[2], t[3])
                });
            }
        }
    }
}

#[test]
fn a_block_in_bf16_agrees_with_f64_on_rounded_operands() {
    // Norm, three products of one operand, and a feed-forward layer whose hidden numbers are in bf16.
    let f = |t: &[&Value]| {
        let normed = ops::layer_norm_operand(t[0], t[1], t[2], 1e-5)?;
        let [q, k, v] = [3, 4, 5].map(|i| ops::linear_operand(&normed, t[i], Some(t[2])));
        let x = ops::add(&ops::multiply(&q?, &k?)?, &v?)?;
        let hidden = ops::linear_operand(&x, t[6], None)?;
        ops::activated_linear_residual(&hidden, Activation::Gelu, t[7], t[2], t[0])
    };
    let (w, inner) = (24, 40);
    let shapes: [&[usize]; 8] = [&[19, w], &[w], &[w], &[w, w], &[w, w], &[w, w], &[inner, w], &[w, inner]];
    compare("block", &shapes, f);
    let kept = on_tape(&[shapes[0], shapes[3]], DType::F32, |t| ops::linear_operand(t[0], t[1], None));
    assert_eq!(kept[0].dtype(), DType::BF16);
    assert!(kept[1..].iter().all(|grad| grad.dtype() == DType::F32));
}

#[test]
fn every_operation_takes_what_is_kept_in_bf16() {
    let maps = Maps { items: 2, height: 3, width: 4 };
    let (rows, width): (usize, usize) = (24, 8);
    let segments = Segments::of_lengths([10, 14]);
    let rotary = Rotary { heads: 2, theta: 1e4 };
    let positions: Vec<u32> = (0..rows as u32).collect();
    let attention = Attention::within(&segments, 2, false);
    let x: &[usize] = &[rows, width];
    let one = |name: &str, f: &dyn Fn(&Value) -> Result<Value>| {
        // The gradient reaches the operation in f32 and, by way of an activation's product, in bf16.
        compare(name, &[x], |t| f(&t[0].as_operand()?));
        let (square, row): (&[usize], &[usize]) = (&[width, width], &[width]);
        compare(name, &[x, square, row], |t| {
            let y = f(&t[0].as_operand()?)?;
            let residual = Value::from(y.tensor().zeros_like()?).widened()?;
            ops::activated_linear_residual(&y, Activation::Silu, t[1], t[2], &residual)
        });
    };
    one("as_operand", &|x| x.as_operand());
    one("widened", &|x| x.widened());
    one("reshape", &|x| x.reshape((rows / 2, 2 * width))?.reshape((rows, width)));
    one("select_rows", &|x| ops::select_rows(x, &[3, 0, 3, 23, 7]));
    one("concat_rows", &|x| ops::concat_rows(x, x));
    one("prepend", &|x| ops::prepend(&Value::from(wave(&[width], 0.2).to_dtype(of(x))?), x, 2));
    one("add_embedding", &|x| ops::add_embedding(x, &Value::from(wave(&[3, width], 0.2).to_dtype(of(x))?), &[1; 24]));
    one("add", &|x| ops::add(x, x));
    one("multiply", &|x| ops::multiply(x, x));
    one("scale_rows", &|x| ops::scale_rows(x, &Value::from(wave(&[rows], 0.2).to_dtype(of(x))?)));
    one("activation", &|x| Activation::Gelu.apply(x));
    one("gated", &|x| ops::gated(x, x, Activation::Gelu));
    one("mean_rows", &|x| ops::mean_rows(x, &segments));
    one("avg_pool", &|x| Ok(ops::avg_pool(x, maps, 2)?.0));
    one("max_pool", &|x| Ok(ops::max_pool(x, maps, 2, 2, 0)?.0));
    one("rotary", &|x| rotary.apply(x, &positions));
    one("attention", &|x| attention.apply(x, x, x));
    one("recomputed", &|x| ops::recomputed(x, &[], |x| ops::add(&Activation::Gelu.apply(x)?, x)));
    one("layer_norm", &|x| {
        let row = |phase| Ok::<_, candle_core::Error>(Value::from(wave(&[width], phase).to_dtype(of(x))?));
        ops::layer_norm(x, &row(0.1)?, &row(0.2)?, 1e-5)
    });
    one("response_norm", &|x| {
        let row = |phase| Ok::<_, candle_core::Error>(Value::from(wave(&[width], phase).to_dtype(of(x))?));
        ops::response_norm(x, maps, &row(0.1)?, &row(0.2)?)
    });
    one("depthwise_conv", &|x| {
        let weight = Value::from(wave(&[width, 1, 3, 3], 0.1).to_dtype(of(x))?);
        ops::depthwise_conv(x, maps, &weight, &Value::from(wave(&[width], 0.2).to_dtype(of(x))?))
    });
}

#[test]
fn feed_forward_layers_are_the_same_with_and_without_gradients() {
    use Activation::{Gelu, GeluTanh, QuickGelu, Relu, Relu6, Sigmoid, Silu, Tanh};
    let shapes: [&[usize]; 5] = [&[37, 20], &[75, 20], &[75], &[20, 75], &[20]];
    for kind in [QuickGelu, Gelu, GeluTanh, Relu, Tanh, Silu, Sigmoid, Relu6] {
        let f = |t: &[&Value]| ops::feed_forward(t[0], (t[1], Some(t[2])), kind, (t[3], t[4]), t[0]);
        let constants: Vec<Value> = (shapes.iter().enumerate())
            .map(|(i, shape)| Value::from(wave(shape, i as f64 + 0.3)).with_products(DType::BF16))
            .collect();
        let without = f(&constants.iter().collect::<Vec<_>>()).unwrap();
        let with = &on_tape(&shapes, DType::F32, f)[0];
        assert!(numbers(with).iter().any(|x| x.abs() > 0.1), "{kind:?}");
        assert_eq!(numbers(with), numbers(without.tensor()), "{kind:?}");
    }
}

/// The gradient of an activation before a product is the first to reach `x`, in bf16: what comes next adds to it.
#[test]
fn gradients_add_to_one_in_bf16() {
    let maps = Maps { items: 2, height: 3, width: 4 };
    let (x, square, row): (&[usize], &[usize], &[usize]) = (&[24, 6], &[6, 6], &[6]);
    let end = |t: &[&Value], y: &Value| ops::activated_linear_residual(t[0], Activation::Silu, t[1], t[2], y);
    compare("layer_norm", &[x, square, row], |t| end(t, &ops::layer_norm(t[0], t[2], t[2], 1e-5)?));
    compare("linear", &[x, square, row], |t| end(t, &ops::linear(t[0], t[1], t[2])?));
    compare("select_rows", &[x, square, row], |t| end(t, &ops::select_rows(t[0], &[3; 24])?));
    for (kernel, padding) in [(1, 0), (3, 1)] {
        compare("conv2d", &[x, square, row, &[6, 6, kernel, kernel]], |t| {
            let conv = Conv2d { weight: t[3], bias: None, residual: None, stride: 1, padding, relu: true };
            end(t, &conv.apply(t[0], maps)?.0)
        });
    }
}

/// The type that constants need beside `x`.
fn of(x: &Value) -> DType {
    if x.tensor().dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

#[test]
fn convolutions_agree_with_f64_on_rounded_operands() {
    // (kernel, stride, padding, bias, residual, relu); candle's own convolution knows no way back where a stride leaves
    // pixels over.
    let cases = [
        (1, 1, 0, false, false, false),
        (1, 1, 0, true, true, true),
        (3, 1, 1, true, false, true),
        (3, 2, 1, false, true, false),
        (4, 4, 0, true, false, false),
    ];
    for (kernel, stride, padding, bias, residual, relu) in cases {
        let (height, width) = if kernel == 4 { (8, 12) } else { (7, 9) };
        let maps = Maps { items: 3, height, width };
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let to = 3 * side(height) * side(width);
        let shapes: [&[usize]; 4] = [&[maps.rows(), 5], &[7, 5, kernel, kernel], &[7], &[to, 7]];
        let shapes: Vec<&[usize]> =
            [true, true, bias, residual].iter().zip(shapes).filter(|s| *s.0).map(|s| s.1).collect();
        compare_exactly(&format!("conv2d {kernel} {stride}"), &shapes, |t| {
            let (bias, residual) = (bias.then(|| t[2]), residual.then(|| t[t.len() - 1]));
            let conv = Conv2d { weight: t[1], bias, residual, stride, padding, relu };
            Ok(conv.apply(t[0], maps)?.0)
        });
    }
}

struct Model {
    name: &'static str,
    loaded: Loaded,
    pixels: Tensor,
    ids: Tensor,
    noise: Rc<Noise>,
}

fn clip_model(name: &'static str) -> Model {
    let expected = tensors(&golden(&format!("clip/{name}/expected.safetensors")));
    Model::of(name, load_golden(&format!("clip/{name}")), &expected)
}

/// The files of a model once more.
fn open_again(name: &'static str) -> Loaded {
    if encoders::CASES.contains(&name) { encoders::case(name).loaded } else { load_golden(&format!("clip/{name}")) }
}

fn models() -> impl Iterator<Item = Model> {
    let clip = ["quick_gelu_legacy_eos", "gelu_one_head_uneven_patch", "odd_widths"].into_iter().map(clip_model);
    clip.chain(encoders::CASES.into_iter().map(|name| {
        let case = encoders::case(name);
        Model::of(name, case.loaded, &case.expected)
    }))
}

type Gradients = BTreeMap<String, Vec<f64>>;

impl Model {
    fn of(name: &'static str, loaded: Loaded, expected: &std::collections::HashMap<String, Tensor>) -> Self {
        let ids = expected["input_ids"].to_dtype(DType::U32).unwrap();
        Self { name, loaded, pixels: expected["pixel_values"].clone(), ids, noise: Rc::default() }
    }

    /// Image and text features, and gradients of every trained weight of the towers and their projections, of those
    /// that
    /// `upstream` gives to the features.
    fn gradients(
        &self,
        dtype: DType,
        products: DType,
        upstream: impl FnOnce(&Tensor, &Tensor) -> [Tensor; 2],
    ) -> ([Tensor; 2], Gradients) {
        let params = &self.loaded.params;
        let tape = Tape::new(params.len());
        let builder = Builder::train(params, &tape).numbers(dtype).products(products).noise(&self.noise);
        let model = ClipModel::new(&self.loaded.config, &builder).unwrap();
        let image = model.image_features(&self.pixels.to_dtype(dtype).unwrap()).unwrap();
        let text = model.text_features(&self.ids).unwrap();
        let features = [image.tensor().clone(), text.tensor().clone()];
        let [of_image, of_text] = upstream(image.tensor(), text.tensor()).map(|grad| grad.to_dtype(dtype).unwrap());
        tape.backward([(&image, of_image), (&text, of_text)], &mut |_| Ok(())).unwrap();
        let of_weights = params.numbered().filter(|(_, p)| p.trainable).filter_map(|(number, p)| {
            let grad = tape.take_grad(number)?.into_dense().unwrap();
            assert_eq!(grad.dtype(), dtype, "{}", p.spec.name);
            Some((p.spec.name.clone(), numbers(&grad)))
        });
        (features, of_weights.collect())
    }

    /// How far bf16 is from f64 on rounded operands, and from f32, under gradients of features that `upstream` gives.
    fn distances(&self, upstream: impl Fn(&Tensor, &Tensor) -> [Tensor; 2]) -> Distances {
        let (features, ours) = self.gradients(DType::F32, DType::BF16, &upstream);
        // What a loss makes of features is no matter of products: it is taken from those in bf16.
        let given = upstream(&features[0], &features[1]);
        let (exact_features, exact) = self.gradients(DType::F64, DType::BF16, |_, _| given.clone());
        let (_, unrounded) = self.gradients(DType::F32, DType::F32, |_, _| given.clone());
        assert_eq!(ours.keys().collect::<Vec<_>>(), exact.keys().collect::<Vec<_>>(), "{}", self.name);
        for (name, grad) in &ours {
            let size = grad.iter().map(|x| x * x).sum::<f64>();
            assert!(size > 0.0 && size.is_finite(), "{}: the squared gradient of {name} is {size}", self.name);
        }
        let of_side = |side: usize| {
            let features = distance(&numbers(&features[side]), &numbers(&exact_features[side]));
            let part = |g: &Gradients| -> Vec<f64> {
                let is_text = |name: &str| usize::from(name.starts_with("text_"));
                g.iter().filter(|(name, _)| is_text(name) == side).flat_map(|(_, grad)| grad.clone()).collect()
            };
            features.max(distance(&part(&ours), &part(&exact)))
        };
        Distances { sides: [0, 1].map(of_side), from_f32: distance(&all(&ours), &all(&unrounded)) }
    }

    /// The same model with every weight a little smaller, for its first pair alone: other numbers are rounded.
    fn varied(&self, times: usize) -> Self {
        let of = |p: &Param| (p.spec.clone(), (p.var.as_tensor() * (1.0 - 0.003 * times as f64)).unwrap().detach());
        let mut params = Params::new(self.loaded.params.iter().map(of).collect()).unwrap();
        for p in params.iter_mut() {
            p.trainable = self.loaded.params.get(&p.spec.name).unwrap().trainable;
        }
        let loaded = Loaded { params, ..open_again(self.name) };
        let first = |t: &Tensor| t.narrow(0, 0, 1).unwrap();
        Self { name: self.name, loaded, pixels: first(&self.pixels), ids: first(&self.ids), noise: Rc::default() }
    }
}

fn all(g: &Gradients) -> Vec<f64> {
    g.values().flatten().copied().collect()
}

/// ‖ours − others‖ / ‖others‖
#[derive(Debug)]
struct Distances {
    /// Of features and gradients of the image side and of the text side from f64 on rounded operands.
    sides: [f64; 2],
    /// Of all gradients.
    from_f32: f64,
}

impl Distances {
    /// A number that f32 and f64 round to different neighbours moves the next layer's, so that distances grow with the
    /// depth towards that of the rounding itself: one run is held to that.
    fn check(&self, what: &str) {
        let Self { sides, from_f32 } = *self;
        assert!(sides[0].max(sides[1]) < 0.05, "{what}: {self:?}");
        assert!(from_f32 > 1e-3 && from_f32 < 0.2, "{what}: {self:?}");
    }
}

/// A loss over features, and what it knows of the rows.
struct Objective {
    loss: Loss,
    targets: PairTargets,
    /// Sentences of each direction; the reports serve as sentences.
    counts: Vec<usize>,
}

impl Objective {
    fn of(kind: &str, pairs: usize) -> Self {
        let direction = Direction::Both;
        let loss = match kind {
            "clip" => Loss::of(ClipLoss::plain(0.1, direction)),
            "siglip" => Loss::of(SiglipLoss::plain(0.0)),
            "multi_positive" => Loss::of(MultiPositiveLoss { label_smoothing: 0.1, direction }),
            "class" => Loss::of(ClassLoss { label_smoothing: 0.1, weights: None }),
            "distill" => Loss::of(DistillLoss { direction }),
            "multi_label" => Loss::of(MultiLabelLoss { label_smoothing: 0.0 }),
            "local" => {
                let options = LocalConfig { form: LocalForm::Map, temperature: 0.1, attention_temperature: 0.2 };
                Loss::of(LocalLoss { label_smoothing: 0.1, direction, options, false_negatives: FalseNegatives::Keep })
            }
            other => panic!("{other} has no test here"),
        };
        let alike = |i: usize| if i / pairs == i % pairs { 1.0 } else { 0.5 / (1 + i / pairs + i % pairs) as f64 };
        let targets = PairTargets {
            classes: (0..pairs).map(|i| Some(i % 2)).collect(),
            findings: (0..pairs).map(|i| vec![Some(i % 2 == 0)]).collect(),
            likeness: (0..pairs * pairs).map(alike).collect(),
            teacher: (0..pairs * pairs).map(|i| 4.0 * alike(i)).collect(),
        };
        Self { loss, targets, counts: vec![1, pairs - 1] }
    }

    /// On image and text features.
    fn gradients(&self, image: &Tensor, text: &Tensor) -> [Tensor; 2] {
        let [images, texts] = [image, text].map(|features| Var::from_tensor(features).unwrap());
        let [scale, bias] = [10f32, -5.0].map(|v| Tensor::new(v, &Device::Cpu).unwrap());
        // An image is its own only patch, a report its own only sentence.
        let pairs = image.dim(0).unwrap();
        let (segments, of_pairs) = (Segments::even(pairs, 1), (0..pairs as u32).map(|i| vec![i]).collect::<Vec<_>>());
        let local = LocalFeatures { patches: &images, segments: &segments, sentences: &texts, of_pairs: &of_pairs };
        let inputs = Inputs {
            image: &images,
            text: self.loss.uses_reports().then_some(texts.as_tensor()),
            scale: &scale,
            bias: self.loss.uses_bias().then_some(&bias),
            opposed: None,
            prompts: Some(PromptFeatures { sentences: &texts, counts: &self.counts }),
            local: Some(local),
            targets: &self.targets,
        };
        let mut grads = self.loss.forward(&inputs).unwrap().loss.backward().unwrap();
        [images, texts].map(|var| grads.remove(&var).unwrap())
    }
}

fn plain_upstream(image: &Tensor, text: &Tensor) -> [Tensor; 2] {
    [wave(image.dims(), 0.5), wave(text.dims(), 1.5)]
}

/// Where no number is rounded to another neighbour, f32 and f64 agree to the last digits; a wrong gradient is wrong in
/// every variation.
#[test]
fn every_tower_agrees_with_f64_on_rounded_operands_and_with_f32() {
    for model in models() {
        model.distances(plain_upstream).check(model.name);
        let trained = model.loaded.params.trainable().filter(|p| !p.spec.name.starts_with("logit_")).count();
        let (_, ours) = model.gradients(DType::F32, DType::BF16, plain_upstream);
        assert_eq!(ours.len(), trained, "{}: every weight of the towers gets a gradient", model.name);
        let mut best = [f64::INFINITY; 2];
        for times in 0..12 {
            let sides = model.varied(times).distances(plain_upstream).sides;
            best = [best[0].min(sides[0]), best[1].min(sides[1])];
            if best[0].max(best[1]) < 1e-5 {
                break;
            }
        }
        assert!(best[0].max(best[1]) < 2e-5, "{}: image and text sides are off by {best:?} at best", model.name);
    }
}

#[test]
fn every_objective_agrees_with_f64_on_rounded_operands_and_with_f32() {
    for kind in OBJECTIVES {
        let mut best = f64::INFINITY;
        for model in [clip_model("quick_gelu_legacy_eos"), clip_model("odd_widths")] {
            let objective = Objective::of(kind.name, model.ids.dim(0).unwrap());
            let distances = model.distances(|image, text| objective.gradients(image, text));
            distances.check(kind.name);
            best = best.min(distances.sides[0].max(distances.sides[1]));
        }
        assert!(best < 1e-3, "{}: off by {best:e} at best", kind.name);
    }
}

/// Gradients of a whole training step, by name.
fn of_step(step: &TrainStep, batches: &[reportclip::data::Batch]) -> Gradients {
    let (grads, _) = step.gradients(batches).unwrap();
    grads.into_iter().map(|(name, grad)| (name, numbers(&grad.into_dense().unwrap()))).collect()
}

#[test]
fn threads_and_recomputation_change_nothing_and_chunks_only_the_last_digits() {
    for name in ["dual_vit_bert", "pair_vit_modernbert", "pair_resnet_bert", "dual_swin_bert", "siglip"] {
        let case = encoders::case(name);
        let step = TrainStep { products: DType::BF16, ..case.step() };
        let whole = of_step(&step, &[case.batch(0, 3)]);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            // A case of its own: weights do not pass from thread to thread.
            let other = pool.install(|| {
                let case = encoders::case(name);
                of_step(&TrainStep { products: DType::BF16, ..case.step() }, &[case.batch(0, 3)])
            });
            assert!(whole == other, "{name}: {threads} threads");
        }
        let again = TrainStep { checkpoint_activations: true, ..step };
        assert!(whole == of_step(&again, &[case.batch(0, 3)]), "{name}: recomputed");
        let chunked = of_step(&step, &[case.batch(0, 1), case.batch(1, 3)]);
        let off = distance(&all(&chunked), &all(&whole));
        assert!(off < 1e-2, "{name}: chunks are off by {off:e}");
    }
}

#[test]
fn adapters_and_dropout_agree_with_f64_on_rounded_operands() {
    for name in ["dual_vit_bert", "pair_vit_modernbert", "siglip"] {
        let case = encoders::case(name);
        let mut model = Model::of(name, case.loaded, &case.expected);
        let targets = ["q_proj", "v_proj", "out_proj", "fc1", "fc2"].map(str::to_string).to_vec();
        let options = lora::LoraConfig { rank: 2, alpha: 3.0, dropout: 0.25, targets };
        let (mut params, adapters) = lora::add(&model.loaded.params, &options, &FreezeConfig::NONE, 5).unwrap();
        assert!(adapters > 4, "{name}: {adapters} adapters");
        for p in params.iter_mut() {
            p.trainable = p.spec.name.contains(".lora_");
            if p.spec.name.ends_with("lora_B.weight") {
                p.var.set(&wave(p.spec.shape.dims(), 0.4)).unwrap();
            }
        }
        model.loaded.params = params;
        model.noise = Rc::new(Noise { dropout: 0.1, adapter_dropout: 0.25, seed: 3, ..Noise::default() });
        model.distances(plain_upstream).check(name);
        assert_eq!(model.gradients(DType::F32, DType::BF16, plain_upstream).1.len(), 2 * adapters, "{name}");
    }
}

/// Explanations read attentions' gradients, which bf16 leaves near those of f32.
#[test]
fn relevance_is_near_that_of_f32() {
    let model = clip_model("quick_gelu_legacy_eos");
    let of = |products: DType| {
        let params = &model.loaded.params;
        let tape = Tape::new(params.len());
        tape.watch_attention();
        let b = Builder::train(params, &tape).products(products);
        let y = ClipModel::new(&model.loaded.config, &b).unwrap().image_features(&model.pixels).unwrap();
        tape.backward([(&y, wave(y.tensor().dims(), 1.0))], &mut |_| Ok(())).unwrap();
        let layers = tape.take_relevance();
        assert_eq!(layers.len(), 2);
        layers.into_iter().flat_map(|layer| layer.values).map(f64::from).collect::<Vec<f64>>()
    };
    let off = distance(&of(DType::BF16), &of(DType::F32));
    assert!(off > 0.0 && off < 0.05, "relevance is off by {off:e}");
}

#[test]
fn memory_in_bf16_is_less_by_what_products_alone_read() {
    for model in models() {
        let c = &model.loaded.config;
        let (wide, narrow) = (c.activation_bytes(false), c.activation_bytes(true));
        assert_eq!(wide, 4 * (c.vision.activations() + c.text.activations()), "{}", model.name);
        assert!(narrow < wide && narrow > wide / 2, "{}: {narrow} bytes in bf16, {wide} in f32", model.name);
        assert!(c.vision.operands() < c.vision.activations(), "{}", model.name);
    }
    let convolutions = encoders::case("pair_resnet_bert").loaded.config;
    assert_eq!(convolutions.vision.operands(), 0);
}

#[test]
fn inference_and_frozen_towers_are_in_bf16_too() {
    let model = clip_model("quick_gelu_legacy_eos");
    let features = |freeze: FreezeConfig, products: DType| {
        let mut loaded = load_golden(&format!("clip/{}", model.name));
        freeze::apply(&freeze, &mut loaded.params);
        let tape = Tape::new(loaded.params.len());
        let b = Builder::train(&loaded.params, &tape).products(products);
        let clip = ClipModel::new(&loaded.config, &b).unwrap();
        let inference = ClipModel::new(&loaded.config, &Builder::eval(&loaded.params).products(products)).unwrap();
        let of = |clip: &ClipModel| {
            let image = clip.image_features(&model.pixels).unwrap();
            numbers(image.tensor()).into_iter().chain(numbers(clip.text_features(&model.ids).unwrap().tensor()))
        };
        let trained: Vec<f64> = of(&clip).collect();
        // Twice, for what is packed by the first batch serves the second.
        for _ in 0..2 {
            assert_eq!(trained, of(&inference).collect::<Vec<_>>(), "inference");
        }
        trained
    };
    let all = FreezeConfig { image: FreezeDepth::All, text: FreezeDepth::All, ..FreezeConfig::NONE };
    let (rough, exact) = (features(FreezeConfig::NONE, DType::BF16), features(FreezeConfig::NONE, DType::F32));
    assert_eq!(rough, features(all, DType::BF16), "frozen towers");
    let off = distance(&rough, &exact);
    assert!(off > 1e-4 && off < 0.02, "bf16 is off f32 by {off:e}");
}
