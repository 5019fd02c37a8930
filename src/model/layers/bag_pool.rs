//! What stands for a bag, the images of one report: one vector of those that the image tower gives for each.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use crate::model::params::{Builder, Init};
use crate::ops::{self, Activation, Segments, Value};
use crate::words::words;

words!(
    /// What stands for a bag.
    BagPoolingKind {
        /// The mean of its images' embeddings.
        Mean = "mean",
        /// Of each number the largest.
        Max = "max",
        /// A sum by learnt weights.
        Attention = "attention",
    }
);
words!(
    /// What attention knows of an image's place in its bag.
    BagPosition {
        /// Nothing.
        None = "none",
        /// A learnt vector for each of 64 places.
        Learned = "learned",
        /// Sines and cosines of the place.
        Sinusoidal = "sinusoidal",
    }
);

/// What stands for a bag of images. All three read L2-normalised embeddings, so that a bag's vector is made of what
/// `embed` gives for each image, and a bag of one image is that image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BagPooling {
    /// Their mean.
    #[default]
    Mean,
    /// Of each number the largest.
    Max,
    /// Their sum by gated attention: Ilse, Tomczak and Welling 2018, arXiv 1802.04712, equation 9.
    Attention {
        /// Width of the gate.
        hidden: usize,
        /// What is added to an embedding before it is weighed.
        position: BagPosition,
    },
}

/// What is asked for of a bag pooling; what nobody asks for is the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BagPoolingRequest {
    /// What stands for a bag.
    pub kind: Option<BagPoolingKind>,
    /// Width of attention's gate.
    pub hidden: Option<usize>,
    /// What attention knows of places.
    pub position: Option<BagPosition>,
}

/// What the names of its weights begin with.
pub const BAG_POOLING: &str = "bag_pooling";

/// Width of a gate where nobody says: what the paper has for its smaller problems.
const HIDDEN: usize = 128;

/// Places that a learnt position tells apart.
const PLACES: usize = 64;

impl BagPooling {
    /// Its word.
    pub fn kind(self) -> BagPoolingKind {
        match self {
            Self::Mean => BagPoolingKind::Mean,
            Self::Max => BagPoolingKind::Max,
            Self::Attention { .. } => BagPoolingKind::Attention,
        }
    }

    /// Whether it has weights of its own.
    pub fn has_weights(self) -> bool {
        matches!(self, Self::Attention { .. })
    }

    /// What becomes of the model's own where something else is asked for.
    pub fn asked(self, request: &BagPoolingRequest) -> Self {
        let (hidden, position) = match self {
            Self::Attention { hidden, position } => (hidden, position),
            Self::Mean | Self::Max => (HIDDEN, BagPosition::None),
        };
        match request.kind.unwrap_or(self.kind()) {
            BagPoolingKind::Mean => Self::Mean,
            BagPoolingKind::Max => Self::Max,
            BagPoolingKind::Attention => Self::Attention {
                hidden: request.hidden.unwrap_or(hidden),
                position: request.position.unwrap_or(position),
            },
        }
    }
}

/// A bag pooling over its weights.
pub enum BagPool {
    Mean,
    Max,
    Attention(Box<GatedAttention>),
}

/// w · (tanh(V h) ⊙ sigmoid(U h)) is the score of an embedding h.
pub struct GatedAttention {
    v: Linear,
    u: Linear,
    w: Linear,
    place: Place,
}

enum Place {
    Nowhere,
    Learned(Value), // (PLACES, embed_dim)
    Sinusoidal,
}

impl BagPool {
    pub fn new(b: &Builder, pooling: BagPooling, embed_dim: usize) -> Result<Self> {
        let BagPooling::Attention { hidden, position } = pooling else {
            return Ok(if pooling == BagPooling::Max { Self::Max } else { Self::Mean });
        };
        // Embeddings have length 1: with these the gate begins where tanh and sigmoid are steep.
        let gate = |name: &str| Linear::new(b, name, embed_dim, hidden, 1.0);
        let place = match position {
            BagPosition::None => Place::Nowhere,
            BagPosition::Learned => Place::Learned(b.vector("position", (PLACES, embed_dim), Init::Const(0.0))?),
            BagPosition::Sinusoidal => Place::Sinusoidal,
        };
        let (v, u) = (gate("v")?, gate("u")?);
        let w = Linear::without_bias(b, "w", hidden, 1, (hidden as f64).powf(-0.5))?;
        Ok(Self::Attention(Box::new(GatedAttention { v, u, w, place })))
    }

    /// image_features (images, embed_dim), of bags one after the other, with the place of each in its bag, 0 to 1 →
    /// (bags, embed_dim), not normalised.
    pub fn forward(&self, x: &Value, bags: &Segments, places: &[f32]) -> Result<Value> {
        self.forward_unit(&ops::l2_normalize(x)?, bags, places)
    }

    /// The same of rows that are L2-normalised already.
    pub fn forward_unit(&self, unit: &Value, bags: &Segments, places: &[f32]) -> Result<Value> {
        match self {
            Self::Mean => ops::mean_rows(unit, bags),
            Self::Max => ops::max_rows(unit, bags),
            Self::Attention(attention) => ops::softmax_pool(unit, &attention.scores(unit, places)?, bags),
        }
    }

    /// The share of each image in its bag's vector, where such a thing is known. x: as there.
    pub fn shares(&self, x: &Value, bags: &Segments, places: &[f32]) -> Result<Option<Vec<f32>>> {
        match self {
            Self::Mean => Ok(Some(bags.spans().flat_map(|(_, n)| std::iter::repeat_n(1.0 / n as f32, n)).collect())),
            Self::Max => Ok(None),
            Self::Attention(attention) => {
                let scores = attention.scores(&ops::l2_normalize(x)?, places)?;
                ops::softmax_shares(scores.tensor(), bags).map(Some)
            }
        }
    }
}

impl GatedAttention {
    /// (images, embed_dim) → (images, 1)
    fn scores(&self, unit: &Value, places: &[f32]) -> Result<Value> {
        let h = match &self.place {
            Place::Nowhere => unit.clone(),
            Place::Learned(table) => {
                let rows: Vec<u32> = places.iter().map(|place| (place * (PLACES - 1) as f32).round() as u32).collect();
                ops::add(unit, &ops::select_rows(table, &rows)?)?
            }
            Place::Sinusoidal => ops::add(unit, &sinusoidal(places, unit.tensor())?.into())?,
        };
        let (tanh, gate) =
            (Activation::Tanh.apply(&self.v.forward(&h)?)?, Activation::Sigmoid.apply(&self.u.forward(&h)?)?);
        self.w.forward(&ops::multiply(&tanh, &gate)?)
    }
}

/// Rows of length 1, as embeddings have it: pairs of sin and cos of 100 · place · 10000^(−j / pairs) for j = 0, 1, ….
fn sinusoidal(places: &[f32], like: &Tensor) -> Result<Tensor> {
    let width = like.dim(1)?;
    let pairs = width / 2;
    let number = |place: f32, column: usize| {
        if column >= 2 * pairs {
            return 0.0;
        }
        let angle = 100.0 * f64::from(place) * 1e4f64.powf(-((column / 2) as f64) / pairs as f64);
        let wave = if column.is_multiple_of(2) { angle.sin() } else { angle.cos() };
        wave * (pairs as f64).powf(-0.5)
    };
    let numbers: Vec<f64> = places.iter().flat_map(|&place| (0..width).map(move |i| number(place, i))).collect();
    Tensor::from_vec(numbers, (places.len(), width), like.device())?.to_dtype(like.dtype())
}
