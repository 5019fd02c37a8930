//! open_clip's layout: `open_clip_config.json` with `open_clip_model.safetensors` or `open_clip_pytorch_model.bin`. The
//! image tower is CLIP's ViT, CLIP's ResNet, or a ViT of timm; the text tower CLIP's or a BERT of transformers.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Pooling;
use super::json::Section;
use super::layout::{Family, Part};
use super::load::{Draft, PartDraft};
use super::open_clip_names::{BLOCKS, RESNET, TEXT, TIMM, VIT, timm_heads};
use super::rename::{How, Renames};
use super::source::{Folder, OPEN_CLIP, WeightFiles};
use super::text;
use crate::model::Activation;
use crate::model::config::{CLASS_TOKEN, ClipConfig, LOGIT_SCALE_INIT, Projection, TextConfig, VisionConfig};
use crate::model::text::{BertConfig, ClipTextConfig, EosRule, TextPool};
use crate::model::vision::{Prefix, ResNetConfig, ResNetPool, VitConfig, VitPool};

pub(super) const CONFIG: &str = "open_clip_config.json";

use How::{Same, Transposed};

pub(super) fn read(folder: Folder, config: Value) -> Result<Draft> {
    let model = Section::of(&config, "model_cfg");
    ensure!(model.json.is_object(), "it has no model_cfg");
    let weights = WeightFiles::open(folder, OPEN_CLIP)?;
    let mut reader = Reader {
        shapes: weights.shapes(),
        renames: Renames::default(),
        beside: Vec::new(),
        quick_gelu: model.flag("quick_gelu", false)?,
        embed_dim: model.size("embed_dim", 512)?,
    };
    if model.json.get("multimodal_cfg").is_some() {
        bail!("it has a multimodal_cfg (CoCa); only models of two towers are loaded");
    }
    let (vision, visual_projection) = reader.vision(&Section::of(model.json, "vision_cfg"))?;
    let (text, text_projection) = reader.text(folder, &Section::of(model.json, "text_cfg"))?;
    reader.renames.push("logit_scale".into(), "logit_scale".into(), Same);
    reader.renames.push("logit_bias".into(), "logit_bias".into(), Same);
    let bias = model.json.get("init_logit_bias").is_some_and(|v| !v.is_null());
    let clip = ClipConfig {
        vision,
        text,
        visual_projection,
        text_projection,
        embed_dim: reader.embed_dim,
        logit_scale_init: model.number("init_logit_scale", LOGIT_SCALE_INIT)?,
        logit_bias_init: if bias { Some(model.number("init_logit_bias", -10.0)?) } else { None },
    };
    let (renames, beside) = (reader.renames, reader.beside);
    let part = Part {
        folder: "",
        config_file: CONFIG,
        config,
        weights_file: "open_clip_model.safetensors",
        renames,
        carried: Vec::new(),
    };
    let unused = [
        ("attn_mask", "the causal mask, worked out again", false),
        ("text.attn_mask", "the causal mask, worked out again", false),
        ("text.transformer.embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight", false),
        ("text.transformer.pooler.**", "not used with this pooling", true),
    ];
    let unused = unused.into_iter().map(|u| (String::new(), u)).collect();
    let part = PartDraft::with_weights(folder, part, weights, unused);
    Ok(Draft { config: clip, family: Family::OpenClip, parts: vec![part], fresh_heads: None, beside })
}

/// What the file says, and the names found so far.
struct Reader {
    shapes: std::collections::BTreeMap<String, Vec<usize>>,
    renames: Renames,
    beside: Vec<(String, Value)>,
    quick_gelu: bool,
    embed_dim: usize,
}

impl Reader {
    fn activation(&self) -> Activation {
        if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu }
    }

    fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// One side of a tensor that must be there.
    fn side(&self, name: &str, dim: usize) -> Result<usize> {
        let shape = self.shapes.get(name).with_context(|| format!("tensor {name} is missing"))?;
        shape.get(dim).copied().with_context(|| format!("tensor {name} has shape {shape:?}"))
    }

    /// How many of `prefix.0.`, `prefix.1.`, … there are.
    fn count(&self, prefix: &str) -> usize {
        let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        self.shapes.keys().filter_map(number).max().map_or(0, |last| last + 1)
    }

    fn vision(&mut self, s: &Section) -> Result<(VisionConfig, Projection)> {
        for (key, allowed) in [
            ("attentional_pool", json!(false)),
            ("pos_embed_type", json!("learnable")),
            ("final_ln_after_pool", json!(false)),
            ("block_type", json!("default")),
            ("qk_norm", json!(false)),
            ("scale_attn", json!(false)),
            ("scale_fc", json!(false)),
            ("scale_heads", json!(false)),
            ("ls_init_value", json!(0)),
            ("eva_model_name", Value::Null),
            ("act_kwargs", json!({})),
        ] {
            s.refuse_unless(key, &allowed)?;
        }
        if let Some(name) = s.text("timm_model_name")? {
            return self.timm(s, name);
        }
        if s.json.get("layers").is_some_and(Value::is_array) {
            return self.resnet(s);
        }
        let width = s.size("width", 768)?;
        let pool = match s.text("pool_type")?.unwrap_or("tok") {
            "tok" => VitPool::Cls,
            "avg" => VitPool::Mean,
            other => bail!("vision_cfg.pool_type is {other:?}; known are tok and avg"),
        };
        for rules in [VIT, BLOCKS] {
            self.renames.add(rules, "visual.", "vision_model.");
        }
        self.renames.push("visual.proj".into(), "visual_projection.weight".into(), Transposed);
        let vit = VitConfig {
            intermediate: (width as f64 * s.number("mlp_ratio", 4.0)?) as usize,
            heads: width / s.size("head_width", 64)?.min(width),
            activation: self.activation(),
            layer_norm_eps: norm_eps(s)?,
            pre_norm: !s.flag("no_ln_pre", false)?,
            pool,
            ..VitConfig::clip(width, s.size("layers", 12)?, s.side("image_size", 224)?, s.side("patch_size", 16)?)
        };
        Ok((VisionConfig::Vit(vit), Projection::Linear { bias: false }))
    }

    fn resnet(&mut self, s: &Section) -> Result<(VisionConfig, Projection)> {
        let (width, depths) = (s.size("width", 64)?, s.sizes("layers", &[3, 4, 6, 3])?);
        ensure!(depths.len() == 4, "vision_cfg.layers is {depths:?}; a ResNet has 4 stages");
        let mut rule = |theirs: String, ours: String| {
            self.renames.push(format!("visual.{theirs}"), format!("vision_model.{ours}"), Same);
        };
        for i in 1..=3 {
            rule(format!("conv{i}.weight"), format!("embedder.{}.convolution.weight", i - 1));
            rule(format!("bn{i}.*"), format!("embedder.{}.normalization.*", i - 1));
        }
        for stage in 1..=4 {
            let (theirs, ours) = (format!("layer{stage}.*"), format!("encoder.stages.{}.layers.*", stage - 1));
            for i in 1..=3 {
                rule(format!("{theirs}.conv{i}.weight"), format!("{ours}.layer.{}.convolution.weight", i - 1));
                rule(format!("{theirs}.bn{i}.*"), format!("{ours}.layer.{}.normalization.*", i - 1));
            }
            rule(format!("{theirs}.downsample.0.weight"), format!("{ours}.shortcut.convolution.weight"));
            rule(format!("{theirs}.downsample.1.*"), format!("{ours}.shortcut.normalization.*"));
        }
        self.renames.add(RESNET, "visual.", "");
        let config = ResNetConfig {
            embedding: width,
            hidden: (0..4).map(|stage| (4 * width) << stage).collect(),
            depths,
            bottleneck: true,
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
            clip: true,
            image_size: s.side("image_size", 224)?,
            pool: ResNetPool::Attention { heads: width * 32 / s.size("head_width", 64)? },
        };
        Ok((VisionConfig::ResNet(config), Projection::Linear { bias: true }))
    }

    /// timm's configs are in its code; the numbers are read off the weights, and heads go by the name.
    fn timm(&mut self, s: &Section, name: &str) -> Result<(VisionConfig, Projection)> {
        const TRUNK: &str = "visual.trunk.";
        ensure!(
            name.starts_with("vit_"),
            "vision_cfg.timm_model_name is {name:?}; of timm's towers only ViTs (vit_…) are loaded"
        );
        let at = |inner: &str| format!("{TRUNK}{inner}");
        let patch = at("patch_embed.proj.weight");
        let (width, patch_size) = (self.side(&patch, 0)?, self.side(&patch, 2)?);
        let image_size = s.side("image_size", 224)?;
        let grid = image_size / patch_size.max(1);
        let class_token = self.has(&at("cls_token"));
        let registers = if self.has(&at("reg_token")) { self.side(&at("reg_token"), 1)? } else { 0 };
        let positions = self.side(&at("pos_embed"), 1)?;
        let prefix_positions = class_token && positions == grid * grid + 1;
        let pool = match s.text("timm_pool")?.unwrap_or("avg") {
            "map" => VitPool::Attention,
            "avg" if self.has(&at("fc_norm.weight")) => VitPool::MeanThenNorm,
            "avg" => VitPool::Mean,
            // Empty: the model's own.
            "token" | "" if self.has(&at("attn_pool.latent")) => VitPool::Attention,
            "token" | "" if class_token => VitPool::Cls,
            other => bail!("vision_cfg.timm_pool is {other:?}, which does not fit {name}"),
        };
        self.renames.add(TIMM, TRUNK, "vision_model.");
        let vit = VitConfig {
            width,
            intermediate: self.side(&at("blocks.0.mlp.fc1.weight"), 0)?,
            layers: self.count(&at("blocks.")),
            heads: timm_heads(name, width)?,
            image_size,
            patch_size,
            activation: match name {
                _ if name.contains("quickgelu") => Activation::QuickGelu,
                _ => Activation::Gelu,
            },
            layer_norm_eps: if name.contains("clip") && !name.contains("siglip") { 1e-5 } else { 1e-6 },
            prefix: Prefix { class_token, registers, ..CLASS_TOKEN },
            positions: true,
            prefix_positions,
            patch_bias: self.has(&at("patch_embed.proj.bias")),
            pre_norm: self.has(&at("norm_pre.weight")),
            final_norm: self.has(&at("norm.weight")),
            layer_scale: self.has(&at("blocks.0.ls1.gamma")),
            key_bias: true,
            relative_positions: false,
            pool,
        };
        ensure!(
            registers == 0 || !prefix_positions,
            "vision_cfg: {name} has positions for its registers, which is not supported"
        );
        let bias = s.flag("timm_proj_bias", false)?;
        let projection = match s.text("timm_proj")?.unwrap_or("linear") {
            "linear" => {
                self.renames.push("visual.head.proj.*".into(), "visual_projection.*".into(), Same);
                Projection::Linear { bias }
            }
            "mlp" => {
                self.renames.push("visual.head.mlp.fc1.*".into(), "visual_projection.0.*".into(), Same);
                self.renames.push("visual.head.mlp.fc2.*".into(), "visual_projection.2.*".into(), Same);
                Projection::Mlp { hidden: 2 * self.embed_dim, biases: (true, bias) }
            }
            "none" => Projection::None,
            other => bail!("vision_cfg.timm_proj is {other:?}; known are linear, mlp and none"),
        };
        Ok((VisionConfig::Vit(vit), projection))
    }

    fn text(&mut self, folder: Folder, s: &Section) -> Result<(TextConfig, Projection)> {
        if s.text("hf_model_name")?.is_some() {
            return self.bert(folder, s);
        }
        for (key, allowed) in [
            ("embed_cls", json!(false)),
            ("final_ln_after_pool", json!(false)),
            ("block_type", json!("default")),
            ("qk_norm", json!(false)),
            ("scale_attn", json!(false)),
            ("scale_fc", json!(false)),
            ("ls_init_value", json!(0)),
            ("mlp_ratio", json!(4.0)),
        ] {
            s.refuse_unless(key, &allowed)?;
        }
        let prefix = if self.has("text.token_embedding.weight") { "text." } else { "" };
        let (width, causal) = (s.size("width", 512)?, !s.flag("no_causal_mask", false)?);
        let eos = match s.text("pool_type")?.unwrap_or("argmax") {
            "argmax" => EosRule::HighestId,
            "eos" => EosRule::FirstEqual(s.id("eos_id", 2)?),
            "last" if !causal => EosRule::LastRow,
            other => bail!("text_cfg.pool_type is {other:?}; known are argmax, eos, and last without causal mask"),
        };
        for rules in [TEXT, BLOCKS] {
            self.renames.add(rules, prefix, "text_model.");
        }
        let bias = s.flag("proj_bias", false)?;
        let theirs = format!("{prefix}text_projection");
        if bias {
            self.renames.push(format!("{theirs}.*"), "text_projection.*".into(), Same);
        } else {
            self.renames.push(theirs, "text_projection.weight".into(), Transposed);
        }
        // timm's SigLIP models take tanh's GELU in neither tower; their text blocks follow quick_gelu like all others.
        let text = ClipTextConfig {
            heads: s.size("heads", 8)?,
            activation: match s.json.pointer("/act_kwargs/approximate") {
                Some(kind) if kind == "tanh" => Activation::GeluTanh,
                _ => self.activation(),
            },
            layer_norm_eps: norm_eps(s)?,
            causal,
            ..ClipTextConfig::clip(
                width,
                s.size("layers", 12)?,
                s.size("vocab_size", 49408)?,
                s.size("context_length", 77)?,
                eos,
            )
        };
        Ok((TextConfig::Clip(text), Projection::Linear { bias }))
    }

    /// A BERT of transformers, whose config is in another repository: taken from a folder of this name within the model's,
    /// or else read off the weights.
    fn bert(&mut self, folder: Folder, s: &Section) -> Result<(TextConfig, Projection)> {
        const TOWER: &str = "text.transformer.";
        let key =
            |old: &str, new: &str| -> Result<Option<String>> { Ok(s.text(new)?.or(s.text(old)?).map(str::to_string)) };
        let pooling = key("pooler_type", "hf_pooler_type")?;
        let pool = match pooling.as_deref().unwrap_or("mean_pooler") {
            "mean_pooler" => TextPool::Mean,
            "cls_last_hidden_state_pooler" => TextPool::Cls,
            "cls_pooler" if self.has(&format!("{TOWER}pooler.dense.weight")) => TextPool::Dense,
            "cls_pooler" => TextPool::Cls,
            other => bail!(
                "text_cfg.hf_pooler_type is {other:?}; known are mean_pooler, cls_pooler and \
                 cls_last_hidden_state_pooler"
            ),
        };
        let name = s.text("hf_model_name")?.unwrap_or_default();
        let beside = if is_inside(name) { Folder { files: folder.files, name }.json("config.json")? } else { None };
        let mut bert = match beside {
            Some(json) => {
                self.beside.push((format!("{name}/config.json"), json.clone()));
                let inner = Section { name: "hf_model_name", json: &json };
                match text::bert(&inner, Pooling::Cls)? {
                    TextConfig::Bert(bert) => bert,
                    TextConfig::Clip(_) => bail!("{name} is no BERT"),
                }
            }
            None => self.bert_off_weights(TOWER)?,
        };
        bert.pool = pool;
        bert.context_length = s.size("context_length", 77)?.min(bert.positions);
        self.renames.add(text::BERT, TOWER, "text_model.");
        let projection = match key("proj", "hf_proj_type")?.as_deref() {
            None if !self.has("text.proj.weight") && !self.has("text.proj.0.weight") => Projection::None,
            Some("linear") => {
                self.renames.push("text.proj.*".into(), "text_projection.*".into(), Same);
                Projection::Linear { bias: false }
            }
            None | Some("mlp") => {
                self.renames.push("text.proj.*.*".into(), "text_projection.*.*".into(), Same);
                Projection::Mlp { hidden: (bert.width + self.embed_dim) / 2, biases: (false, false) }
            }
            Some(other) => bail!("text_cfg.hf_proj_type is {other:?}; known are linear and mlp"),
        };
        Ok((TextConfig::Bert(bert), projection))
    }

    /// Every BERT published with open_clip has heads of 64, this epsilon and this activation.
    fn bert_off_weights(&self, tower: &str) -> Result<BertConfig> {
        let at = |inner: &str| format!("{tower}{inner}");
        ensure!(
            self.has(&at("embeddings.token_type_embeddings.weight")),
            "text_cfg: hf_model_name is no BERT; of transformers' towers only BERT is loaded from open_clip's layout"
        );
        let words = at("embeddings.word_embeddings.weight");
        let width = self.side(&words, 1)?;
        let positions = self.side(&at("embeddings.position_embeddings.weight"), 0)?;
        ensure!(
            width % 64 == 0,
            "the text tower is {width} wide, so its heads are not known; allowed are multiples of 64"
        );
        Ok(BertConfig {
            width,
            intermediate: self.side(&at("encoder.layer.0.intermediate.dense.weight"), 0)?,
            layers: self.count(&at("encoder.layer.")),
            heads: width / 64,
            vocab_size: self.side(&words, 0)?,
            positions,
            position_offset: 0,
            token_types: self.side(&at("embeddings.token_type_embeddings.weight"), 0)?,
            context_length: positions,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
            pad_id: 0,
            pool: TextPool::Cls,
        })
    }
}

/// Whether a name can be a folder within the model's own.
fn is_inside(name: &str) -> bool {
    !name.is_empty() && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn norm_eps(s: &Section) -> Result<f64> {
    Section::of(s.json, "norm_kwargs").number("eps", 1e-5)
}
