//! Why a model finds an image and a text alike: gradient × attention, rolled out to patches and tokens, or where it was
//! trained to find sentences among patches, their cosines.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var};

use super::patch_maps::{MapKind, PatchMaps};
use crate::data::{ImageSource, Picture, Row};
use crate::model::{Builder, ClipModel};
use crate::ops::{Relevance, Tape, Value, reference::l2_normalize, roll_out};
use crate::session::Session;

/// What the pair has in common.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Cosine of image and text.
    pub cosine: f64,
    /// The model's own logit: that times `logit_scale.exp()`, plus `logit_bias` where the model has one.
    pub logit: f64,
    /// What `patches` shows.
    pub map: MapKind,
    /// Why that.
    pub reason: &'static str,
    /// Of each patch, row by row, 0 to 1; empty for relevance in towers without attention over patches.
    pub patches: Vec<f32>,
    /// Patches a side.
    pub grid: usize,
    /// Each token with its relevance, 0 to 1; without the marks at beginning and end. Pieces of one character are one,
    /// with the highest of theirs.
    pub tokens: Vec<(String, f32)>,
}

/// Explains the cosine of `image` and `text`, on the CPU, by the map of [`MapKind::of`].
///
/// # Errors
/// Whatever preprocessing, tokenizer or model report.
pub fn explain(session: &Session, image: &Picture, text: &str) -> Result<Explanation> {
    explain_by(session, image, text, MapKind::of(session))
}

/// [`explain`] by this map, for this reason.
///
/// # Errors
/// As there; a tower that keeps no patches.
pub(super) fn explain_by(
    session: &Session,
    image: &Picture,
    text: &str,
    (map, reason): (MapKind, &'static str),
) -> Result<Explanation> {
    let folder = &session.folder;
    let (config, tokenizer) = (&folder.config, &folder.tokenizer);
    let pixel_values = pixel_values(session, image)?;
    let ids = tokenizer.encode(text)?;
    let input_ids = Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu)?;
    let image_side = Side::of(session, |model| model.image_features(&pixel_values))?;
    let text_side = Side::of(session, |model| model.text_features(&input_ids))?;
    let (x, y) = (Var::from_tensor(image_side.features.tensor())?, Var::from_tensor(text_side.features.tensor())?);
    let cosine = (l2_normalize(&x)? * l2_normalize(&y)?)?.sum_all()?;
    let mut grads = cosine.backward()?;
    let mut grad = |var: &Var| grads.remove(var).context("the cosine has no gradient");
    let (of_image, of_text) = (image_side.relevance(grad(&x)?)?, text_side.relevance(grad(&y)?)?);
    let cosine = f64::from(cosine.to_scalar::<f32>()?);
    let head = |name: &str| session.params.get(name).map(|p| p.var.to_scalar::<f32>().map(f64::from)).transpose();
    let scale = head("logit_scale")?.context("a CLIP has a logit_scale")?.exp();
    let logit = cosine * scale + head("logit_bias")?.unwrap_or(0.0);
    let (patches, grid) = match map {
        MapKind::Patches => {
            let maps = PatchMaps::of((session, &session.model()?), image)?;
            (maps.cosines(&l2_normalize(&y)?)?, maps.grid)
        }
        MapKind::Relevance => patches(session, &of_image)?,
    };
    let patches = to_one(&patches);
    let rows = of_text.first().map_or(0, |r| r.keys);
    let relevance = roll_out(&of_text, config.text.pooled_row(rows));
    let marks = |id: u32| [tokenizer.start_id(), tokenizer.end_id()].contains(&Some(id)) || id == tokenizer.pad_id();
    let shown: Vec<usize> = (0..relevance.len().min(ids.len())).filter(|&i| !marks(ids[i])).collect();
    let values = to_one(&shown.iter().map(|&i| relevance[i]).collect::<Vec<_>>());
    let pieces = tokenizer.pieces(&shown.iter().map(|&i| ids[i]).collect::<Vec<_>>());
    let mut values = values.into_iter();
    let most = |(text, count): (String, usize)| (text, values.by_ref().take(count).fold(0.0, f32::max));
    let tokens = pieces.into_iter().map(most).collect();
    Ok(Explanation { cosine, logit, map, reason, patches, grid, tokens })
}

/// Where a text stands for an image among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1, the best.
    pub place: usize,
    /// How many others there are.
    pub gallery: usize,
}

/// Where `text` stands for `image` among the distinct reports of `rows`.
///
/// # Errors
/// No rows; an image that cannot be read.
pub fn place(session: &Session, image: &ImageSource, text: &str, rows: &[Row]) -> Result<Place> {
    ensure!(!rows.is_empty(), "there are no reports to hold the text against");
    let distinct: std::collections::BTreeSet<&str> = rows.iter().map(Row::report).collect();
    let texts: Vec<&str> = std::iter::once(text).chain(distinct.iter().copied()).collect();
    let encoder = session.encoder(64)?;
    let image = encoder.images(std::slice::from_ref(image))?;
    let scores: Vec<f32> = image.matmul(&encoder.texts(&texts)?.t()?.contiguous()?)?.flatten_all()?.to_vec1()?;
    let place = 1 + scores[1..].iter().filter(|s| **s > scores[0]).count();
    Ok(Place { place, gallery: distinct.len() })
}

/// Relevance of each patch of `image`, row by row, not scaled, and patches a side, where `grad` is the gradient on its
/// image_features; none for towers without attention over patches.
///
/// # Errors
/// Whatever preprocessing or model report.
pub(super) fn patch_relevance(session: &Session, image: &Picture, grad: &[f32]) -> Result<(Vec<f32>, usize)> {
    let pixel_values = pixel_values(session, image)?;
    let side = Side::of(session, |model| model.image_features(&pixel_values))?;
    patches(session, &side.relevance(Tensor::new(grad, &Device::Cpu)?.unsqueeze(0)?)?)
}

fn pixel_values(session: &Session, image: &Picture) -> Result<Tensor> {
    let size = session.folder.config.vision.image_size();
    let values = session.folder.preprocess.apply(image, None)?;
    Ok(Tensor::from_vec(values, (1, 3, size, size), &Device::Cpu)?)
}

/// What the layers of the image tower say of each patch, and patches a side.
fn patches(session: &Session, layers: &[Relevance]) -> Result<(Vec<f32>, usize)> {
    let Some(patches) = session.folder.config.vision.patch_rows().filter(|_| !layers.is_empty()) else {
        return Ok((Vec::new(), 0));
    };
    let rows = roll_out(layers, patches.pooled);
    ensure!(rows.len() == patches.before + patches.grid * patches.grid, "the tower has {} rows", rows.len());
    Ok((rows[patches.before..].to_vec(), patches.grid))
}

/// One tower's way, recorded.
struct Side {
    tape: std::rc::Rc<Tape>,
    features: Value,
}

impl Side {
    fn of(session: &Session, run: impl Fn(&ClipModel) -> candle_core::Result<Value>) -> Result<Self> {
        let tape = Tape::new(session.params.len());
        tape.watch_attention();
        let weights = Builder::train(&session.params, &tape).products(session.products);
        let features = run(&ClipModel::new(&session.folder.config, &weights)?)?;
        Ok(Self { tape, features })
    }

    /// Of each layer, from the first.
    fn relevance(&self, grad: Tensor) -> Result<Vec<Relevance>> {
        self.tape.backward([(&self.features, grad)], &mut |_| Ok(()))?;
        Ok(self.tape.take_relevance())
    }
}

/// Shifted and stretched to 0..1.
pub(super) fn to_one(values: &[f32]) -> Vec<f32> {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().map(|v| if high > low { (v - low) / (high - low) } else { 0.0 }).collect()
}
