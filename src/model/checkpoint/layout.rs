//! A model's layout on disk as it was read, so that it can be written back the same way.

use anyhow::Result;
use candle_core::Tensor;
use serde_json::{Value, json};

use crate::model::ClipConfig;
use crate::model::format::rename::{How, Renames};

/// Which program's form a model has on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// transformers' CLIPModel.
    Clip,
    /// transformers' ChineseCLIPModel.
    ChineseClip,
    /// transformers' SiglipModel.
    Siglip,
    /// transformers' Siglip2Model.
    Siglip2,
    /// transformers' VisionTextDualEncoderModel.
    DualEncoder,
    /// open_clip.
    OpenClip,
    /// Ours, for pairs that none of the others can hold: two towers of transformers and `reportclip.json`.
    Pair,
}

impl Family {
    /// The class of transformers that loads it, where there is one.
    pub fn transformers_class(self) -> Option<&'static str> {
        match self {
            Self::Clip => Some("CLIPModel"),
            Self::ChineseClip => Some("ChineseCLIPModel"),
            Self::Siglip => Some("SiglipModel"),
            Self::Siglip2 => Some("Siglip2Model"),
            Self::DualEncoder => Some("VisionTextDualEncoderModel"),
            Self::OpenClip | Self::Pair => None,
        }
    }

    /// The model type of transformers whose preprocessing a model has that comes without any; `None` where its image
    /// tower says so.
    pub fn preprocessing(self) -> Option<&'static str> {
        match self {
            Self::Clip | Self::ChineseClip | Self::OpenClip => Some("clip"),
            Self::Siglip => Some("siglip"),
            Self::Siglip2 => Some("siglip2"),
            Self::DualEncoder | Self::Pair => None,
        }
    }

    /// As it is told to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenClip => "open_clip",
            Self::Pair => "reportclip pair",
            other => other.transformers_class().unwrap_or_default(),
        }
    }
}

/// One weight file with the config beside it.
#[derive(Clone, Debug)]
pub(super) struct SavedFile {
    /// Folder within the model's; empty for the model's own.
    pub folder: &'static str,
    pub config_file: &'static str,
    /// The config as it was read; fields that we do not know stay as they are.
    pub config: Value,
    pub weights_file: &'static str,
    pub renames: Renames,
    /// Tensors that are no part of the model and are written back all the same.
    pub carried: Vec<(String, Tensor)>,
}

/// How a model lies on disk.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Whose form it is.
    pub family: Family,
    pub(super) files: Vec<SavedFile>,
    /// JSON files beside them, by name: what open_clip reads of another repository.
    pub beside: Vec<(String, Value)>,
}

/// One folder of an exported model.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Folder within the model's; empty for the model's own.
    pub folder: &'static str,
    /// File name and content of its config.
    pub config: (&'static str, Value),
    /// File name and tensors of its weights.
    pub weights: (&'static str, Vec<(String, Tensor)>),
}

impl Layout {
    /// transformers' word for the text tower, which says what its tokenizer does where the tokenizer's own files do
    /// not.
    pub fn text_model_type(&self) -> &str {
        let text = self.files.iter().find(|p| p.folder == "text").or(self.files.first()).map(|p| &p.config);
        let said = text.and_then(|config| {
            config.get("text_config").unwrap_or(config).get("model_type").or(config.get("model_type"))
        });
        match (self.family, said.and_then(Value::as_str)) {
            (Family::Clip, _) => "clip",
            (Family::ChineseClip, _) => "bert",
            (Family::Siglip, _) => "siglip",
            (Family::Siglip2, _) => "siglip2",
            (Family::OpenClip, _) => match text.and_then(|c| c.pointer("/model_cfg/text_cfg/hf_model_name")) {
                Some(Value::String(_)) => "bert",
                _ => "clip",
            },
            (Family::DualEncoder | Family::Pair, said) => said.unwrap_or_default(),
        }
    }

    /// Name of the module that holds this weight of ours in the layout's program, and the folder of its part; `None`
    /// where the weight is no module's of its own, such as a third of a joint projection.
    pub fn module_of(&self, weight: &str) -> Option<(&'static str, String)> {
        self.files.iter().find_map(|part| match part.renames.foreign(weight)? {
            (name, How::Same) => Some((part.folder, name.strip_suffix(".weight")?.to_string())),
            _ => None,
        })
    }

    /// Config and weights as the layout's program reads them; `weights` have our names.
    ///
    /// # Errors
    /// A weight that the layout has no name for.
    pub fn export(&self, model: &ClipConfig, weights: &[(String, Tensor)]) -> Result<Vec<Exported>> {
        let homeless = weights.iter().find(|(name, _)| self.files.iter().all(|p| p.renames.foreign(name).is_none()));
        if let Some((name, _)) = homeless {
            anyhow::bail!("weight {name} has no name in the layout of {}", self.family.name());
        }
        let part = |part: &SavedFile| -> Result<Exported> {
            let mut tensors = part.renames.export(weights)?;
            tensors.extend(part.carried.iter().cloned());
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            let config = self.config_of(part, model);
            Ok(Exported {
                folder: part.folder,
                config: (part.config_file, config),
                weights: (part.weights_file, tensors),
            })
        };
        self.files.iter().map(part).collect()
    }

    /// The config of the model's own folder, where it has one.
    pub fn own_config(&self, model: &ClipConfig) -> Option<Value> {
        let own = self.files.iter().find(|part| part.folder.is_empty())?;
        Some(self.config_of(own, model))
    }

    /// The part's config with what training may have changed: sizes, and the type of the numbers.
    fn config_of(&self, part: &SavedFile, model: &ClipConfig) -> Value {
        let mut config = part.config.clone();
        let (image_size, context_length) = (model.vision.image_size(), model.text.context_length());
        let resized = model.text.learnt_positions().is_some();
        let mut set = |path: &[&str], value: usize, always: bool| {
            let mut at = &mut config;
            for key in &path[..path.len() - 1] {
                match at.get_mut(key) {
                    Some(next) if next.is_object() => at = next,
                    _ => return,
                }
            }
            let key = path[path.len() - 1];
            // A config that leaves a field out means its default: it is written only where that has changed.
            if always || at.get(key).is_some_and(|v| v.is_number() || v.is_array()) {
                at[key] = json!(value);
            }
        };
        match (self.family, part.folder) {
            (Family::Clip | Family::ChineseClip | Family::Siglip, _) => {
                set(&["vision_config", "image_size"], image_size, true);
                if resized {
                    set(&["text_config", "max_position_embeddings"], context_length, true);
                }
            }
            (Family::Siglip2, _) => {
                if let Some(positions) = model.vision.learnt_positions() {
                    set(&["vision_config", "num_patches"], positions.grid * positions.grid, true);
                }
                set(&["text_config", "max_position_embeddings"], context_length, true);
            }
            (Family::DualEncoder, _) => set(&["vision_config", "image_size"], image_size, false),
            (Family::OpenClip, _) => {
                set(&["model_cfg", "vision_cfg", "image_size"], image_size, true);
                set(&["model_cfg", "text_cfg", "context_length"], context_length, true);
            }
            (Family::Pair, "vision") => set(&["image_size"], image_size, false),
            (Family::Pair, "text") if resized => set(&["max_position_embeddings"], context_length, true),
            (Family::Pair, _) => {}
        }
        write_dtype(&mut config);
        config
    }
}

/// Weights are written in f32, whatever they were read from. transformers 4 says torch_dtype, 5 dtype.
fn write_dtype(config: &mut Value) {
    for section in ["", "text_config", "vision_config"] {
        for key in ["dtype", "torch_dtype"] {
            let section = if section.is_empty() { Some(&mut *config) } else { config.get_mut(section) };
            if let Some(value) = section.and_then(|s| s.get_mut(key)) {
                *value = json!("float32");
            }
        }
    }
}
