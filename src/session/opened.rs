//! A model opened for use.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::encode::{Embeddings, Encoder};
use super::folder::ModelFolder;
use super::precision::{PrecisionRequest, Products, precision_of};
use crate::config::Precision;
use crate::dist::Single;
use crate::model::{Builder, ClipModel, Params};

/// A model opened for use. The towers are views of the weights, so building them anew costs nothing.
///
/// ```no_run
/// use reportclip::session::Session;
///
/// # fn main() -> anyhow::Result<()> {
/// let session = Session::open("runs/demo/model", "auto")?;
/// let encoder = session.encoder(64)?;
/// let images = encoder.images(&[std::path::PathBuf::from("scan.png").into()])?; // (1, embed_dim)
/// let texts = encoder.texts(&["Large left pleural effusion.", "No effusion."])?; // (2, embed_dim)
/// let logits = session.logits_per_image(&images, &texts)?; // (1, 2)
/// # Ok(()) }
/// ```
pub struct Session {
    /// Its weights.
    pub params: Params,
    /// All that stands beside them in its folder: shape, preprocessing, tokenizer, what of a report it reads.
    pub folder: ModelFolder,
    /// Where the weights are.
    pub device: Device,
    /// In which type products with weights are worked out: f32 unless it is set to bf16.
    pub products: DType,
    /// Lines to tell once: automatic choices with their reasons.
    pub notes: Vec<String>,
}

impl Session {
    /// The same, with products in the type that is asked for, as far as the machine has them; f32 where nobody asks.
    #[must_use]
    pub fn in_precision(self, request: impl Into<PrecisionRequest>) -> Self {
        let request = request.into();
        let products = Products::choose(request, &self.device);
        products.tell_once(request);
        Self { products: products.dtype, ..self }
    }

    /// In which type its products are worked out.
    pub fn precision(&self) -> Precision {
        precision_of(self.products)
    }

    /// Its towers for inference.
    ///
    /// # Errors
    /// None in practice: a session has all the weights of its shape.
    pub fn model(&self) -> Result<ClipModel> {
        Ok(ClipModel::new(&self.folder.config, &Builder::eval(&self.params).products(self.products))?)
    }

    /// To encode `batch_size` items at once, with two decoding threads.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub fn encoder(&self, batch_size: usize) -> Result<Encoder<'_>> {
        Ok(Encoder {
            world: &Single,
            model: self.model()?,
            preprocess: &self.folder.preprocess,
            tokenizer: &self.folder.tokenizer,
            bags: self.folder.bags.evenly(),
            device: &self.device,
            batch_size,
            workers: 2,
            frozen: None,
        })
    }

    /// This model with every weight mixed with `base`'s: share × this + (1 − share) × base (WiSE-FT, arXiv 2109.01903).
    ///
    /// # Errors
    /// Models of two shapes.
    pub fn mixed(&self, base: &Self, share: f64) -> Result<Self> {
        let params = self.params.mixed(&base.params, share).context("the models differ in shape")?;
        let origin = format!("{} Mixed with the model before: {share} of the fine-tuned weights.", self.folder.origin);
        let folder = ModelFolder { origin, ..self.folder.clone() };
        Ok(Self { params, folder, device: self.device.clone(), products: self.products, notes: Vec::new() })
    }

    /// The model's own logits: cosines times `logit_scale.exp()`, plus `logit_bias` where it has one, as SigLIP does.
    /// Rows L2-normalised on the CPU, (images, embed_dim) and (texts, embed_dim) → (images, texts).
    ///
    /// # Errors
    /// Rows of two widths.
    pub fn logits_per_image(&self, image_embeds: &Embeddings, text_embeds: &Embeddings) -> Result<Tensor> {
        let model = self.model()?;
        let scale = model.scale()?.to_device(&Device::Cpu)?;
        let logits = image_embeds.matmul(&text_embeds.t()?.contiguous()?)?.broadcast_mul(&scale)?;
        Ok(match model.logit_bias() {
            Some(bias) => logits.broadcast_add(&bias.tensor().to_device(&Device::Cpu)?)?,
            None => logits,
        })
    }
}
