//! A head that was adapted to a few labelled images: kept beside the model, used in place of prompts. It holds weights,
//! names of classes and counts, nothing that names a patient; of one shot a class the weights are near to that image's
//! embedding.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::encoded::numbers;
use super::pairs::DistinctImages;
use super::zero_shot::{LabelledPrompts, Scores, scores};
use crate::data::{Prompts, Row};
use crate::digest::{ContentHash, of_bytes, sha256_of};
use crate::error::{Problem, Problems};
use crate::fs::{check_writable, may_write, read_up_to, replace_file, replace_with};
use crate::json;
use crate::metrics::few_shot::{LinearHead, Method};
use crate::model::checkpoint::{BESIDE, Listing, read_safetensors, save_safetensors_noting, spare_models};
use crate::session::{Encoder, model_content};

/// The JSON file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    method: Method,
    /// In the order of the weights' rows.
    classes: Vec<String>,
    /// Logits are (weight · embedding + bias) / temperature.
    temperature: f64,
    embed_dim: usize,
    /// Shots of each class.
    shots: Vec<usize>,
    /// Digest of the model's files, or its commit.
    model: Option<String>,
}

const FORMAT: u32 = 1;
/// The file of weights.
const WEIGHTS: &str = "reportclip_head.safetensors";
/// The JSON file, and under what the header of the weights keeps its SHA-256.
const ABOUT: &str = "reportclip_head.json";
/// Most classes, and longest embeddings.
const MOST: usize = 1 << 16;
/// Longest file of weights.
const MOST_BYTES: u64 = 1 << 30;

/// A linear classifier of a model's image embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    about: About,
    linear: LinearHead,
}

impl Head {
    pub(super) fn new(classes: Vec<String>, method: Method, shots: Vec<usize>, linear: LinearHead) -> Self {
        let embed_dim = linear.weights.first().map_or(0, Vec::len);
        let temperature = linear.temperature;
        Self { about: About { format: FORMAT, method, classes, temperature, embed_dim, shots, model: None }, linear }
    }

    /// Keeps it in `folder` as a head of `model`: weights as safetensors, the rest as JSON. Where that is the model's
    /// own folder, its list of checksums is written anew. Says where the weights are.
    ///
    /// # Errors
    /// There is one and not `force`; the folder's files are not those of its list, it cannot be written, or weights are
    /// not finite. Nothing is left of it then, nor of a folder that was made for it.
    pub fn keep(mut self, folder: &Path, model: &str, force: bool) -> Result<PathBuf> {
        ensure!(self.linear.is_finite(), "the head has weights that are not finite; nothing is kept");
        self.about.model = model_content(model)?;
        let is_new = !folder.exists();
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        self.write(folder, force).inspect_err(|_| {
            if is_new {
                // Only while it is empty.
                drop(std::fs::remove_dir(folder));
            }
        })
    }

    fn write(self, folder: &Path, force: bool) -> Result<PathBuf> {
        let [weights, about] = Self::places(folder, force)?;
        let mut list = Listing::without(folder, &[WEIGHTS, ABOUT])?;
        let of = |values: Vec<f64>, shape: &[usize]| -> Result<Tensor> {
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(DType::F32)?)
        };
        let (classes, width) = (self.linear.weights.len(), self.about.embed_dim);
        let tensors = [
            ("weight".to_string(), of(self.linear.weights.concat(), &[classes, width])?),
            ("bias".to_string(), of(self.linear.bias, &[classes])?),
        ];
        let text = serde_json::to_vec_pretty(&self.about)?;
        // Both are on the disk before either stands in its place: a full disk leaves no half of a head.
        replace_with(&weights, |path| {
            save_safetensors_noting(path, &tensors, &[(ABOUT, &of_bytes(&text))])?;
            File::open(path)?.sync_all()?;
            if let Some(list) = &mut list {
                list.put(WEIGHTS, sha256_of(path)?);
                list.put(ABOUT, of_bytes(&text));
            }
            replace_file(&about, &text)
        })?;
        if let Some(list) = list {
            list.write(folder)?;
        }
        Ok(weights)
    }

    /// Whether `folder`, if it is there already, can keep one: asked before the work is done.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub fn may_keep(folder: &Path, force: bool) -> Result<()> {
        // A model keeps it in its own folder, and in no folder inside that.
        spare_models(folder)?;
        if !folder.exists() {
            return check_writable(folder);
        }
        ensure!(folder.is_dir(), "{}: is no folder", folder.display());
        Listing::without(folder, &[WEIGHTS, ABOUT])?;
        Self::places(folder, force).map(|_| ())
    }

    /// Where weights and the rest go, if they may.
    fn places(folder: &Path, force: bool) -> Result<[PathBuf; 2]> {
        let (weights, about) = (folder.join(WEIGHTS), folder.join(ABOUT));
        may_write(&weights, force)?;
        may_write(&about, force)?;
        Ok([weights, about])
    }

    /// Reads what [`Self::keep`] wrote: the file of weights, and the JSON file of the same name beside it.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of a head; [`Problems`] where it is not even one of weights.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.is_file() || path.extension().is_none_or(|e| e != "safetensors") {
            return Err(Problems(vec![Problem(format!(
                "head {}: there is no such .safetensors file; `reportclip adapt --save DIR` makes {BESIDE}.safetensors \
                 in DIR",
                path.display()
            ))])
            .into());
        }
        Self::parts(path).with_context(|| format!("head {}", path.display()))
    }

    fn parts(path: &Path) -> Result<Self> {
        let text = read_up_to(&path.with_extension("json"), json::MAX_BYTES).context("its JSON file")?;
        let value = json::parse(&text).context("its JSON file")?;
        let about: About = serde_json::from_value(value).context("its JSON file is none of a head")?;
        ensure!(about.format == FORMAT, "has format {}; this version reads {FORMAT}", about.format);
        let (classes, width) = (about.classes.len(), about.embed_dim);
        ensure!((2..=MOST).contains(&classes) && (1..=MOST).contains(&width), "has {classes} classes of width {width}");
        let distinct = about.classes.iter().collect::<std::collections::HashSet<_>>().len();
        ensure!(distinct == classes && about.shots.len() == classes, "names a class twice, or counts others");
        let temperature = about.temperature;
        ensure!(temperature.is_finite() && temperature > 0.0, "temperature is {temperature}; allowed is above 0");
        let (tensors, notes) = read_safetensors(path, MOST_BYTES)?;
        let get = |name: &str, shape: &[usize]| {
            let tensor = tensors.get(name).with_context(|| format!("has no tensor {name}"))?;
            ensure!(tensor.dims() == shape, "tensor {name} is {:?}, not {shape:?}", tensor.dims());
            Ok(tensor.to_dtype(DType::F64)?)
        };
        let linear = LinearHead {
            weights: get("weight", &[classes, width])?.to_vec2()?,
            bias: get("bias", &[classes])?.to_vec1()?,
            temperature,
        };
        ensure!(linear.is_finite(), "has weights that are not finite");
        ensure!(
            notes.get(ABOUT) == Some(&of_bytes(&text)),
            "its JSON file is not the one that it was written with: which weights are which class's is not known; \
             `reportclip adapt --save` makes both"
        );
        Ok(Self { about, linear })
    }

    /// Whether it is of `model`, and of the classes of `prompts`.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, model: &str, prompts: &Prompts) -> Result<()> {
        let mut own: Vec<&String> = self.about.classes.iter().collect();
        let names = prompts.names();
        let mut asked: Vec<&String> = names.iter().collect();
        own.sort();
        asked.sort();
        ensure!(
            own == asked && !prompts.multi_label,
            "the head tells apart {}, the prompt file {}",
            self.about.classes.join(", "),
            names.join(", ")
        );
        if let (Some(before), Some(now)) = (&self.about.model, model_content(model)?) {
            ensure!(*before == now, "the head was made on another model than {model}; `reportclip adapt` makes one");
        }
        Ok(())
    }

    /// What it is, for a threshold that was chosen with it.
    pub(super) fn digest(&self) -> String {
        let mut hash = ContentHash::default();
        self.about.classes.iter().for_each(|name| hash.field(name));
        let values = self.linear.weights.iter().flatten().chain(&self.linear.bias).chain([&self.linear.temperature]);
        values.for_each(|value| hash.field(value.to_le_bytes()));
        hash.hex()
    }

    /// Scores of the distinct images of `rows`, the head in place of the prompts' directions.
    ///
    /// # Errors
    /// A model of another width, an image that cannot be read.
    pub(super) fn score(
        &self,
        encoder: &Encoder,
        rows: &[Row],
        prompts: LabelledPrompts,
        subgroups: usize,
    ) -> Result<Scores> {
        let order = self.order(prompts.prompts, encoder.model.embed_dim())?;
        let images = DistinctImages::of(rows);
        let embeds = numbers(&encoder.images(&images.sources)?)?;
        let logits: Vec<Vec<f64>> = embeds.iter().map(|x| self.logits(x, &order)).collect();
        Ok(scores(images, rows, logits, prompts, subgroups))
    }

    /// Which of its classes stands at each place of `prompts`, for a model of this width.
    ///
    /// # Errors
    /// It is of another width, or of other classes.
    pub(super) fn order(&self, prompts: &Prompts, width: usize) -> Result<Vec<usize>> {
        ensure!(width == self.about.embed_dim, "the head has width {}, the model {width}", self.about.embed_dim);
        let place = |name: &String| self.about.classes.iter().position(|class| class == name);
        let order = prompts.names().iter().map(place).collect::<Option<Vec<_>>>();
        order.context("the head tells apart other classes")
    }

    /// Logits of an image's embedding, in [`Self::order`].
    pub(super) fn logits(&self, embedding: &[f64], order: &[usize]) -> Vec<f64> {
        let logits = self.linear.logits(embedding);
        order.iter().map(|&k| logits[k]).collect()
    }
}
