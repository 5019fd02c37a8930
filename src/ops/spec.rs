//! What operations are told, as plain data: what an operation, its plain twin and its kernel for GPUs share.

use candle_core::{Result, Tensor};

use super::segments::Segments;

/// An activation, applied to each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`, OpenAI's.
    QuickGelu,
    /// GELU with the error function, `torch.nn.GELU()`: LAION's, BERT's.
    Gelu,
    /// GELU with tanh in its place, `gelu_pytorch_tanh`: SigLIP's.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent: BERT's pooler.
    Tanh,
    /// `x · sigmoid(x)`, also called swish: EfficientNet's.
    Silu,
    /// The logistic function: gates.
    Sigmoid,
    /// `min(max(x, 0), 6)`: EfficientNet-Lite's.
    Relu6,
}

/// Which rows look at which.
#[derive(Clone, Debug)]
pub struct Attention {
    /// A head's numbers stand side by side within a row.
    pub heads: usize,
    /// The rows of each item that look.
    pub queries: Segments,
    /// The rows of each item that are looked at.
    pub keys: Segments,
    /// Whether a query sees no key behind it; an item's last query stands at its last key.
    pub causal: bool,
    /// Keys that stand further than this from a query are not seen by it; an item's last query stands at its last key.
    pub window: Option<usize>,
}

/// What the loss is.
#[derive(Clone, Copy, Debug)]
pub struct Contrastive {
    /// ε: the partner gets `1 - ε + ε/N`, every other item of the batch `ε/N`.
    pub label_smoothing: f64,
    /// Whether each image looks for its text.
    pub image_to_text: bool,
    /// Whether each text looks for its image.
    pub text_to_image: bool,
}

/// How sentences look for their places among patches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalSimilarity {
    /// What cosines are divided by before the softmax over an image's patches.
    pub temperature: f64,
    /// Whether patches are added up as rows of length 1; otherwise a longer one counts more.
    pub unit_patches: bool,
}

/// The loss, and what similarities say beside it.
#[derive(Clone, Debug)]
pub struct ContrastiveOutput {
    /// Mean over directions and rows: a scalar, differentiable in both features and the scale.
    pub loss: Tensor,
    /// The same without smoothing.
    pub loss_hard: f64,
    /// Share of rows (over the counted directions) whose own partner is strictly the most similar.
    pub accuracy: f64,
}

/// A batch of feature maps whose pixels are rows: item by item, line by line, (items · height · width, channels).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maps {
    /// Images.
    pub items: usize,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
}

impl Maps {
    /// Pixels in all.
    pub fn rows(&self) -> usize {
        self.items * self.height * self.width
    }

    /// (items, channels, height, width) as rows.
    ///
    /// # Errors
    /// Another rank.
    pub fn from_pixels(pixels: &Tensor) -> Result<(Tensor, Self)> {
        let (items, channels, height, width) = pixels.dims4()?;
        let maps = Self { items, height, width };
        let rows = pixels.permute((0, 2, 3, 1))?.contiguous()?.reshape((maps.rows(), channels))?;
        Ok((rows, maps))
    }
}

/// The numbers of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub from: Maps,
    pub to: Maps,
    pub inner: usize,
    pub outer: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

/// The numbers of one update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct AdamwStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; 0 for parameters that have none.
    pub weight_decay: f64,
    /// Number of this update, from 1: for bias correction.
    pub t: i32,
    /// The gradient is multiplied by this first (norm clipping).
    pub grad_scale: f64,
}

/// What the numbers of an update come to in f32.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) grad_scale: f32,
    pub(super) decay1: f32,
    pub(super) decay2: f32,
    pub(super) fresh1: f32,
    pub(super) fresh2: f32,
    pub(super) keep: f32,
    pub(super) rate: f32,
    pub(super) root_c2: f32,
    pub(super) eps: f32,
}

impl Factors {
    /// As the kernel for GPUs takes them.
    pub(super) fn in_order(&self) -> [f32; 9] {
        let f = self;
        [f.grad_scale, f.decay1, f.decay2, f.fresh1, f.fresh2, f.keep, f.rate, f.root_c2, f.eps]
    }

    pub(super) fn new(s: &AdamwStep) -> Self {
        let (c1, c2) = corrections(s);
        Self {
            grad_scale: s.grad_scale as f32,
            decay1: s.beta1 as f32,
            decay2: s.beta2 as f32,
            fresh1: (1.0 - s.beta1) as f32,
            fresh2: (1.0 - s.beta2) as f32,
            keep: (1.0 - s.lr * s.weight_decay) as f32,
            rate: (s.lr / c1) as f32,
            root_c2: c2.sqrt() as f32,
            eps: s.eps as f32,
        }
    }
}

/// What the moments are divided by, which start at 0.
pub(super) fn corrections(s: &AdamwStep) -> (f64, f64) {
    (1.0 - s.beta1.powi(s.t), 1.0 - s.beta2.powi(s.t))
}

/// How rows are turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// A head's numbers stand side by side within a row.
    pub heads: usize,
    /// What the frequencies go down to from 1: pair `i` of the `n` of a head turns by `theta^(−i/n)` a place.
    pub theta: f64,
}

impl Rotary {
    /// By what each pair of a head of rows of `width` turns a place, in f32 as PyTorch works it out.
    pub fn frequencies(&self, width: usize) -> Vec<f32> {
        let pairs = width / self.heads / 2;
        (0..pairs).map(|i| 1.0 / (self.theta as f32).powf(2.0 * i as f32 / (2 * pairs) as f32)).collect()
    }

    /// Angle of each pair of a head at `position`.
    pub(super) fn angles(&self, width: usize, position: u32) -> Vec<f32> {
        self.frequencies(width).into_iter().map(|frequency| position as f32 * frequency).collect()
    }
}
