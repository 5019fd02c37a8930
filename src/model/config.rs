//! The shape of a dual encoder: two towers, two projections, one scale. Which files say so is [`super::checkpoint`]'s.

use anyhow::{Result, bail, ensure};

use super::freeze::FreezeDepth;
use super::text::{BertConfig, ClipTextConfig, EosRule, TextPool};
use super::vision::{ConvNextConfig, Prefix, ResNetConfig, SwinConfig, VitConfig, VitPool};
pub use crate::ops::Activation;

/// What becomes of a tower's state before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// The state is the feature.
    None,
    /// One matrix.
    Linear {
        /// Whether a bias is added.
        bias: bool,
    },
    /// Two with a GELU between them.
    Mlp {
        /// Width between them.
        hidden: usize,
        /// Whether the first and the second have a bias.
        biases: (bool, bool),
    },
}

/// Image tower: one variant a file of [`super::vision`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum VisionConfig {
    Vit(VitConfig),
    ResNet(ResNetConfig),
    ConvNext(ConvNextConfig),
    Swin(SwinConfig),
}

impl VisionConfig {
    /// Whether patches can be left out: a ViT whose places are added to its patches.
    pub fn drops_patches(&self) -> bool {
        matches!(self, Self::Vit(vit) if vit.positions && !vit.relative_positions)
    }

    /// Width of an image's state.
    pub fn width(&self) -> usize {
        match self {
            Self::Vit(c) => c.width,
            Self::ResNet(c) => c.width(),
            Self::ConvNext(c) => c.width(),
            Self::Swin(c) => c.width(),
        }
    }

    /// Pixels a side.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Vit(c) => c.image_size,
            Self::ResNet(c) => c.image_size,
            Self::ConvNext(c) => c.image_size,
            Self::Swin(c) => c.image_size,
        }
    }

    /// Asks for another size; learnt positions are interpolated when weights are loaded.
    pub fn set_image_size(&mut self, size: usize) {
        match self {
            Self::Vit(c) => c.image_size = size,
            Self::ResNet(c) => c.image_size = size,
            Self::ConvNext(c) => c.image_size = size,
            Self::Swin(c) => c.image_size = size,
        }
    }

    /// Numbers that the layers frozen by `frozen` give for one image; `None` where they cannot be kept.
    pub fn frozen_numbers(&self, frozen: FreezeDepth) -> Option<usize> {
        match (self, frozen) {
            (_, FreezeDepth::All) => Some(self.width()),
            (Self::Vit(c), _) => Some(c.tokens() * c.width),
            _ => None,
        }
    }

    /// Numbers kept for the backward pass of one image, about.
    pub fn activations(&self) -> usize {
        let pixels = 3 * self.image_size() * self.image_size();
        pixels
            + match self {
                Self::Vit(c) => c.tokens() * c.layers * (10 * c.width + 3 * c.intermediate),
                Self::ResNet(c) => c.activations(),
                Self::ConvNext(c) => c.activations(),
                Self::Swin(c) => c.activations(),
            }
    }

    /// Multiply-adds of one image's way through the tower, every token through every block; `None` where they are not
    /// counted.
    pub fn multiply_adds(&self) -> Option<usize> {
        let Self::Vit(c) = self else { return None };
        let patches = (c.image_size / c.patch_size).pow(2) * 3 * c.patch_size.pow(2) * c.width;
        Some(patches + transformer_multiply_adds(c.tokens(), c.layers, c.width, c.intermediate))
    }

    /// Blocks that freezing counts, over all stages.
    pub fn blocks(&self) -> usize {
        match self {
            Self::Vit(c) => c.layers,
            Self::ResNet(c) => c.depths.iter().sum(),
            Self::ConvNext(c) => c.depths.iter().sum(),
            Self::Swin(c) => c.depths.iter().sum(),
        }
    }

    /// The kind of tower, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vit(_) => "vision transformer",
            Self::ResNet(_) => "ResNet",
            Self::ConvNext(_) => "ConvNeXt",
            Self::Swin(_) => "Swin transformer",
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Vit(c) => c.check(),
            Self::ResNet(c) => c.check(),
            Self::ConvNext(c) => c.check(),
            Self::Swin(c) => c.check(),
        }
    }
}

/// Text tower: one variant a file of [`super::text`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum TextConfig {
    Clip(ClipTextConfig),
    Bert(BertConfig),
}

impl TextConfig {
    /// Width of a text's state.
    pub fn width(&self) -> usize {
        match self {
            Self::Clip(c) => c.width,
            Self::Bert(c) => c.width,
        }
    }

    /// Tokens known.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Clip(c) => c.vocab_size,
            Self::Bert(c) => c.vocab_size,
        }
    }

    /// Longest text in tokens.
    pub fn context_length(&self) -> usize {
        match self {
            Self::Clip(c) => c.context_length,
            Self::Bert(c) => c.context_length,
        }
    }

    /// Asks for another length. Where positions are resized for it, that happens when weights are loaded.
    pub fn set_context_length(&mut self, length: usize) {
        match self {
            Self::Clip(c) => c.context_length = length,
            Self::Bert(c) => c.context_length = length,
        }
    }

    /// Blocks that freezing counts.
    pub fn blocks(&self) -> usize {
        match self {
            Self::Clip(c) => c.layers,
            Self::Bert(c) => c.layers,
        }
    }

    /// Whether padding is part of the text: every text is padded to the context length, and padding is attended to.
    pub fn attends_padding(&self) -> bool {
        matches!(self, Self::Clip(c) if c.eos == EosRule::LastRow)
    }

    /// The token that texts end with, for made-up texts.
    pub fn end_id(&self) -> u32 {
        match self {
            Self::Clip(ClipTextConfig { eos: EosRule::FirstEqual(id), .. }) => *id,
            _ => self.vocab_size() as u32 - 1,
        }
    }

    /// Multiply-adds of the way of a text of so many tokens through the tower.
    pub fn multiply_adds(&self, tokens: usize) -> usize {
        match self {
            Self::Clip(c) => transformer_multiply_adds(tokens, c.layers, c.width, c.intermediate),
            Self::Bert(c) => transformer_multiply_adds(tokens, c.layers, c.width, c.intermediate),
        }
    }

    /// Numbers kept for the backward pass of one text of the longest kind, about.
    pub fn activations(&self) -> usize {
        let tower = |layers: usize, width: usize, intermediate: usize| layers * (10 * width + 3 * intermediate);
        self.context_length()
            * match self {
                Self::Clip(c) => tower(c.layers, c.width, c.intermediate),
                Self::Bert(c) => tower(c.layers, c.width, c.intermediate),
            }
    }

    /// The kind of tower, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Clip(_) => "CLIP text transformer",
            Self::Bert(_) => "BERT",
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Clip(c) => c.check(),
            Self::Bert(c) => c.check(),
        }
    }
}

/// A whole dual encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Image tower.
    pub vision: VisionConfig,
    /// Text tower.
    pub text: TextConfig,
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
}

/// OpenAI's start of `logit_scale`.
pub const LOGIT_SCALE_INIT: f64 = 2.659_260_036_932_778; // ln 1/0.07

impl ClipConfig {
    /// Published architectures by name, for measurements: (name, image size, patch, vision width, layers, text width,
    /// embed_dim); from the `config.json` of OpenAI's repositories of these names.
    const BUILTIN: [(&str, [usize; 6]); 4] = [
        ("clip-vit-base-patch32", [224, 32, 768, 12, 512, 512]),
        ("clip-vit-base-patch16", [224, 16, 768, 12, 512, 512]),
        ("clip-vit-large-patch14", [224, 14, 1024, 24, 768, 768]),
        ("clip-vit-large-patch14-336", [336, 14, 1024, 24, 768, 768]),
    ];
    /// Image towers that are measured with BERT-base beside them.
    const WITH_BERT: [&str; 2] = ["vit-base-patch16+bert-base", "resnet-50+bert-base"];

    /// The published architecture of this name.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn builtin(name: &str) -> Result<Self> {
        if Self::WITH_BERT.contains(&name) {
            return Ok(Self::with_bert(match name.starts_with("vit") {
                true => VisionConfig::Vit(VitConfig {
                    pool: VitPool::Cls,
                    layer_norm_eps: 1e-12,
                    activation: Activation::Gelu,
                    patch_bias: true,
                    pre_norm: false,
                    ..VitConfig::clip(768, 12, 224, 16)
                }),
                false => VisionConfig::ResNet(ResNetConfig::resnet_50(224)),
            }));
        }
        let found = Self::BUILTIN.iter().find(|(known, _)| *known == name);
        let [image_size, patch_size, vision_width, layers, text_width, embed_dim] = match found {
            Some((_, numbers)) => *numbers,
            None => {
                let known = Self::BUILTIN.iter().map(|(known, _)| *known).chain(Self::WITH_BERT);
                bail!("model {name:?}: built in are {}", known.collect::<Vec<_>>().join(", "))
            }
        };
        // Heads are 64 wide and feed-forward layers four times the width in all of them.
        Ok(Self {
            vision: VisionConfig::Vit(VitConfig::clip(vision_width, layers, image_size, patch_size)),
            text: TextConfig::Clip(ClipTextConfig::clip(text_width, 12, 49408, 77, EosRule::FirstEqual(49407))),
            visual_projection: Projection::Linear { bias: false },
            text_projection: Projection::Linear { bias: false },
            embed_dim,
            logit_scale_init: LOGIT_SCALE_INIT,
            logit_bias_init: None,
        })
    }

    fn with_bert(vision: VisionConfig) -> Self {
        let bert = BertConfig {
            width: 768,
            intermediate: 3072,
            layers: 12,
            heads: 12,
            vocab_size: 30522,
            positions: 512,
            position_offset: 0,
            token_types: 2,
            context_length: 128,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
            pad_id: 0,
            pool: TextPool::Cls,
        };
        Self {
            vision,
            text: TextConfig::Bert(bert),
            visual_projection: Projection::Linear { bias: false },
            text_projection: Projection::Linear { bias: false },
            embed_dim: 512,
            logit_scale_init: LOGIT_SCALE_INIT,
            logit_bias_init: None,
        }
    }

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
}

/// What both transformers' shapes must satisfy; `name` is the tower's section in `config.json`.
pub(super) fn check_transformer(name: &str, width: usize, heads: usize, layers: usize, eps: f64) -> Result<()> {
    ensure!(
        heads > 0 && width.is_multiple_of(heads),
        "{name}: hidden_size {width} is not a multiple of num_attention_heads {heads}"
    );
    ensure!(eps > 0.0 && eps < 1.0, "{name}: layer_norm_eps is {eps}; allowed is above 0 and below 1");
    ensure!(layers <= 1024, "{name}: num_hidden_layers is {layers}; allowed is up to 1024");
    Ok(())
}

/// A CLIP's prefix: one class token.
pub(super) const CLASS_TOKEN: Prefix = Prefix { class_token: true, distillation_token: false, registers: 0 };

/// Projections, feed-forward layers, and attention's two products.
fn transformer_multiply_adds(tokens: usize, layers: usize, width: usize, intermediate: usize) -> usize {
    layers * tokens * (4 * width * width + 2 * width * intermediate + 2 * tokens * width)
}
