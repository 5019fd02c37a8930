//! The shape of a dual encoder: two towers, two projections, one scale. Which files say so is [`super::checkpoint`]'s.

use anyhow::{Result, ensure};

use super::layers::bag_pool::BagPooling;
use super::layers::projection::Projection;
use super::text::tower::TextConfig;
use super::vision::tower::VisionConfig;

/// A whole dual encoder.
#[derive(Clone, Debug)]
pub struct ClipConfig {
    /// Image tower.
    pub vision: Box<dyn VisionConfig>,
    /// Text tower.
    pub text: Box<dyn TextConfig>,
    /// From the image tower's state to the shared space.
    pub visual_projection: Projection,
    /// From the text tower's state to the shared space.
    pub text_projection: Projection,
    /// Width of the shared space.
    pub embed_dim: usize,
    /// Where `logit_scale` starts in a fresh model (ln 1/0.07 for OpenAI's).
    pub logit_scale_init: f64,
    /// Where `logit_bias` starts in a fresh model; `None` where there is none, as in every CLIP but SigLIP.
    pub logit_bias_init: Option<f64>,
    /// What stands for several images of one report.
    pub bag_pooling: BagPooling,
}

/// OpenAI's start of `logit_scale`.
pub const LOGIT_SCALE_INIT: f64 = 2.659_260_036_932_778; // ln 1/0.07

impl ClipConfig {
    /// Whether the numbers make a model.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<()> {
        self.vision.check()?;
        self.text.check()?;
        for (tower, projection, width) in
            [("image", self.visual_projection, self.vision.width()), ("text", self.text_projection, self.text.width())]
        {
            ensure!(
                projection != Projection::None || width == self.embed_dim,
                "the {tower} tower's state is {width} wide, the shared space {}, and there is no projection",
                self.embed_dim
            );
        }
        Ok(())
    }

    /// Bytes kept for the backward pass of one pair, about. Numbers are in f32; where products are in bf16 on the CPU
    /// (`narrow`), what only they read is kept in that. GPUs keep f32 and round as they multiply.
    pub fn activation_bytes(&self, narrow: bool) -> usize {
        let halved = if narrow { self.vision.operands().saturating_add(self.text.operands()) } else { 0 };
        let all = self.vision.activations().saturating_add(self.text.activations());
        all.saturating_mul(4).saturating_sub(halved.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::checkpoint::builtin;

    /// Beside what `bench train-step --steps 1 --json` of CLIP ViT-B/32 measured (docs/benchmarks.md), f32 and emulated
    /// bf16 without the emulation's own buffers: 12 bytes a weight, since a bench clips no gradients.
    #[test]
    fn activations_take_about_what_was_measured() {
        let config = builtin("clip-vit-base-patch32").unwrap();
        let weights = 12.0 * 151_277_313.0 / f64::from(1 << 20);
        for (batch, narrow, measured) in
            [(8, false, 2112.0), (32, false, 3200.0), (8, true, 2001.0 - 14.0), (32, true, 2734.0 - 58.0)]
        {
            let estimate = weights + (batch * config.activation_bytes(narrow)) as f64 / f64::from(1 << 20);
            assert!((estimate / measured - 1.0).abs() < 0.05, "batch {batch}: {estimate} MiB, measured {measured}");
        }
    }
}
