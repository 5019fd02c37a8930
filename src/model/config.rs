//! The shape of a CLIP, as `config.json` of a Hugging Face `model_type: clip` says it.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::config::FreezeDepth;
pub use crate::ops::Activation;

/// Which token's state stands for the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EosRule {
    /// The first highest id of the row; transformers does this where `eos_token_id` is 2, as in OpenAI's old configs.
    HighestId,
    /// The first token equal to this id.
    FirstEqual(u32),
}

/// Image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Width of a token's state.
    pub width: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Pixels a side.
    pub image_size: usize,
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Colour channels.
    pub channels: usize,
    /// Activation.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
}

impl VisionConfig {
    /// The class token and the patches.
    pub fn tokens(&self) -> usize {
        1 + self.grid() * self.grid()
    }

    /// Numbers that the layers frozen by `frozen` give for one image.
    pub fn frozen_numbers(&self, frozen: FreezeDepth) -> usize {
        match frozen {
            FreezeDepth::All => self.width,
            FreezeDepth::None | FreezeDepth::Blocks(_) => self.tokens() * self.width,
        }
    }

    /// Patches a side; pixels past the last whole patch are not seen.
    /// Patches a side; pixels past the last whole patch are not seen.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// Text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Width of a token's state.
    pub width: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Tokens known.
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Activation.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
    /// Pooling rule.
    pub eos: EosRule,
}

/// A whole CLIP.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Image tower.
    pub vision: VisionConfig,
    /// Text tower.
    pub text: TextConfig,
    /// Width of the shared space.
    pub embed_dim: usize,
    /// Where `logit_scale` starts in a fresh model (ln 1/0.07 for OpenAI's).
    pub logit_scale_init: f64,
}

impl ClipConfig {
    /// Published architectures by name, for measurements: (name, image size, patch, vision width, layers, text width,
    /// embed_dim); from the `config.json` of OpenAI's repositories of these names.
    const BUILTIN: [(&str, [usize; 6]); 4] = [
        ("clip-vit-base-patch32", [224, 32, 768, 12, 512, 512]),
        ("clip-vit-base-patch16", [224, 16, 768, 12, 512, 512]),
        ("clip-vit-large-patch14", [224, 14, 1024, 24, 768, 768]),
        ("clip-vit-large-patch14-336", [336, 14, 1024, 24, 768, 768]),
    ];

    /// The published architecture of this name.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn builtin(name: &str) -> Result<Self> {
        let found = Self::BUILTIN.iter().find(|(known, _)| *known == name);
        let [image_size, patch_size, vision_width, layers, text_width, embed_dim] = match found {
            Some((_, numbers)) => *numbers,
            None => {
                let known: Vec<&str> = Self::BUILTIN.iter().map(|(known, _)| *known).collect();
                bail!("model {name:?}: built in are {}", known.join(", "))
            }
        };
        // Heads are 64 wide and feed-forward layers four times the width in all of them.
        Ok(Self {
            vision: VisionConfig {
                width: vision_width,
                intermediate: 4 * vision_width,
                layers,
                heads: vision_width / 64,
                image_size,
                patch_size,
                channels: 3,
                activation: Activation::QuickGelu,
                layer_norm_eps: 1e-5,
            },
            text: TextConfig {
                width: text_width,
                intermediate: 4 * text_width,
                layers: 12,
                heads: text_width / 64,
                vocab_size: 49408,
                context_length: 77,
                activation: Activation::QuickGelu,
                layer_norm_eps: 1e-5,
                eos: EosRule::FirstEqual(49407),
            },
            embed_dim,
            logit_scale_init: (1.0f64 / 0.07).ln(),
        })
    }

    /// Reads a `config.json`. Fields that are absent have transformers' defaults.
    ///
    /// # Errors
    /// Another `model_type`, a field of the wrong type or out of bounds.
    pub fn from_json(json: &Value) -> Result<Self> {
        match json.get("model_type").and_then(Value::as_str) {
            Some("clip") => {}
            Some(other) => bail!("model_type is {other:?}; this version loads \"clip\""),
            None => bail!("it has no model_type; a Hugging Face CLIP says \"model_type\": \"clip\""),
        }
        let empty = json!({});
        let text = Section { name: "text_config", json: json.get("text_config").unwrap_or(&empty) };
        let vision = Section { name: "vision_config", json: json.get("vision_config").unwrap_or(&empty) };
        let top = Section { name: "", json };
        let config = Self {
            vision: VisionConfig {
                width: vision.size("hidden_size", 768)?,
                intermediate: vision.size("intermediate_size", 3072)?,
                layers: vision.size("num_hidden_layers", 12)?,
                heads: vision.size("num_attention_heads", 12)?,
                image_size: vision.size("image_size", 224)?,
                patch_size: vision.size("patch_size", 32)?,
                channels: vision.size("num_channels", 3)?,
                activation: vision.activation()?,
                layer_norm_eps: vision.number("layer_norm_eps", 1e-5)?,
            },
            text: TextConfig {
                width: text.size("hidden_size", 512)?,
                intermediate: text.size("intermediate_size", 2048)?,
                layers: text.size("num_hidden_layers", 12)?,
                heads: text.size("num_attention_heads", 8)?,
                vocab_size: text.size("vocab_size", 49408)?,
                context_length: text.size("max_position_embeddings", 77)?,
                activation: text.activation()?,
                layer_norm_eps: text.number("layer_norm_eps", 1e-5)?,
                eos: match text.size("eos_token_id", 49407)? {
                    2 => EosRule::HighestId,
                    id => EosRule::FirstEqual(id as u32),
                },
            },
            embed_dim: top.size("projection_dim", 512)?,
            logit_scale_init: top.number("logit_scale_init_value", 2.6592)?,
        };
        config.check()?;
        Ok(config)
    }

    /// Whether the numbers make a model.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<()> {
        let towers = [
            ("vision_config", self.vision.width, self.vision.heads),
            ("text_config", self.text.width, self.text.heads),
        ];
        for (name, width, heads) in towers {
            ensure!(width % heads == 0, "{name}: hidden_size {width} is not a multiple of num_attention_heads {heads}");
        }
        let v = &self.vision;
        ensure!(
            v.patch_size <= v.image_size,
            "vision_config: patch_size {} is larger than image_size {}",
            v.patch_size,
            v.image_size
        );
        for (name, eps) in [("vision_config", v.layer_norm_eps), ("text_config", self.text.layer_norm_eps)] {
            ensure!(eps > 0.0 && eps < 1.0, "{name}: layer_norm_eps is {eps}; allowed is above 0 and below 1");
        }
        for (name, layers) in [("vision_config", v.layers), ("text_config", self.text.layers)] {
            ensure!(layers <= 1024, "{name}: num_hidden_layers is {layers}; allowed is up to 1024");
        }
        ensure!(v.channels == 3, "vision_config: num_channels is {}; images are given as 3 channels", v.channels);
        if let EosRule::FirstEqual(id) = self.text.eos {
            ensure!(
                (id as usize) < self.text.vocab_size,
                "text_config: eos_token_id {id} is outside the vocabulary of {} tokens",
                self.text.vocab_size
            );
        }
        Ok(())
    }

    /// Writes this shape into `json`, a `config.json`, and leaves what it does not know as it is.
    pub fn write_into(&self, json: &mut Value) {
        let tower = |width, intermediate, layers, heads, activation, eps: f64| {
            json!({
                "hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": layers,
                "num_attention_heads": heads, "projection_dim": self.embed_dim, "layer_norm_eps": eps,
                "hidden_act": match activation { Activation::QuickGelu => "quick_gelu", Activation::Gelu => "gelu" },
            })
        };
        let (v, t) = (&self.vision, &self.text);
        let mut vision = tower(v.width, v.intermediate, v.layers, v.heads, v.activation, v.layer_norm_eps);
        vision["model_type"] = json!("clip_vision_model");
        vision["image_size"] = json!(v.image_size);
        vision["patch_size"] = json!(v.patch_size);
        vision["num_channels"] = json!(v.channels);
        let mut text = tower(t.width, t.intermediate, t.layers, t.heads, t.activation, t.layer_norm_eps);
        text["model_type"] = json!("clip_text_model");
        text["vocab_size"] = json!(t.vocab_size);
        text["max_position_embeddings"] = json!(t.context_length);
        text["eos_token_id"] = json!(match t.eos {
            EosRule::HighestId => 2,
            EosRule::FirstEqual(id) => id,
        });
        if !json.is_object() {
            *json = json!({});
        }
        json["model_type"] = json!("clip");
        json["architectures"] = json!(["CLIPModel"]);
        json["projection_dim"] = json!(self.embed_dim);
        json["logit_scale_init_value"] = json!(self.logit_scale_init);
        for (key, section) in [("vision_config", vision), ("text_config", text)] {
            if !json.get(key).is_some_and(Value::is_object) {
                json[key] = json!({});
            }
            for (name, value) in section.as_object().into_iter().flatten() {
                json[key][name] = value.clone();
            }
        }
        // Weights are written in f32, whatever they were read from. transformers 4 says torch_dtype, 5 dtype.
        for (object, key) in [("", "dtype"), ("", "torch_dtype"), ("text_config", "dtype"), ("vision_config", "dtype")]
        {
            let section = if object.is_empty() { &mut *json } else { &mut json[object] };
            if section.get(key).is_some() {
                section[key] = json!("float32");
            }
        }
    }
}

struct Section<'a> {
    name: &'static str,
    json: &'a Value,
}

impl Section<'_> {
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_string() } else { format!("{}.{key}", self.name) }
    }

    /// A count between 1 and 2^20: past that a config is broken or hostile.
    fn size(&self, key: &str, default: usize) -> Result<usize> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                let n = value.as_u64().with_context(|| format!("{} is {value}, not a whole number", self.path(key)))?;
                ensure!((1..=1 << 20).contains(&n), "{} is {n}, allowed is 1 to {}", self.path(key), 1 << 20);
                Ok(n as usize)
            }
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_f64().with_context(|| format!("{} is {value}, not a number", self.path(key))),
        }
    }

    fn activation(&self) -> Result<Activation> {
        match self.json.get("hidden_act").and_then(Value::as_str).unwrap_or("quick_gelu") {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" => Ok(Activation::Gelu),
            other => bail!("{} is {other:?}; known are quick_gelu and gelu", self.path("hidden_act")),
        }
    }
}
