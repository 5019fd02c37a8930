//! One step of every kind of model on a device, against features, loss and gradients of the library that published it:
//! `tests/golden/encoders`, made by `scripts/golden/encoders.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::{OnFinding, Worst, difference, finding, numbers};
use crate::data::{Batch, Images};
use crate::dist::Single;
use crate::hub::{ModelFiles, Source};
use crate::json;
use crate::loss::{ClipLoss, Direction, Loss, SiglipLoss};
use crate::model::checkpoint::{LoadOptions, Loaded, PairOptions, Pooling, load, load_pair};
use crate::model::{Builder, ClipModel};
use crate::train::TrainStep;

/// As the tests have it on the CPU: 1e-4 of a gradient's largest number, and 3e-6.
const F32: f64 = 1e-4;
const F32_FLOOR: f64 = 0.03;
/// Of the whole gradient's norm, and of the largest feature: widths of these models are 8 to 24, where the rounding of
/// single numbers does not average out. The CPU's differ by 0.17 in a ResNet and by 0.06 at most in all others.
const BF16: f64 = 0.25;

/// Every model of `folder`, in f32 and with products in bf16.
///
/// # Errors
/// Those of `on_finding`; no such folder. A model that fails is a finding.
pub fn models(folder: &Path, device: &Device, on_finding: &mut OnFinding) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut folders: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    folders.retain(|path| path.join("expected.safetensors").is_file());
    folders.sort();
    anyhow::ensure!(!folders.is_empty(), "{}: no folder in it has an expected.safetensors", folder.display());
    for path in folders {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (precision, products, allowed) in [("f32", DType::F32, F32), ("bf16", DType::BF16, BF16)] {
            let worst = Case::open(&path, device).and_then(|case| case.worst(products));
            on_finding(finding(name.clone(), precision, allowed, worst))?;
        }
    }
    Ok(())
}

struct Case<'a> {
    loaded: Loaded,
    expected: HashMap<String, Tensor>,
    loss: Loss,
    device: &'a Device,
}

impl<'a> Case<'a> {
    fn open(folder: &Path, device: &'a Device) -> Result<Self> {
        let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu)?;
        let size = get(&expected, "pixel_values")?.dim(3)?;
        let options = LoadOptions { native_size: Some(size), ..LoadOptions::default() };
        let open = |folder: PathBuf| ModelFiles::open(&Source::Folder(folder));
        let is_siglip = folder.file_name().is_some_and(|name| name.to_string_lossy().contains("siglip"));
        let loss =
            if is_siglip { Loss::of(SiglipLoss::plain(0.0)) } else { Loss::of(ClipLoss::plain(0.1, Direction::Both)) };
        let loaded = if folder.join("case.json").is_file() {
            let (image, text) = (open(folder.join("vision"))?, open(folder.join("text"))?);
            let loaded = load_pair(&image, &text, &pairing(&folder.join("case.json"))?, &options, device)?;
            for name in &loaded.fresh {
                let param = loaded.params.get(name).with_context(|| format!("no weight {name}"))?;
                param.var.set(&get(&expected, name)?.to_device(device)?)?;
            }
            loaded
        } else {
            load(&open(folder.to_path_buf())?, &options, device)?
        };
        Ok(Self { loaded, expected, loss, device })
    }

    fn worst(&self, products: DType) -> Result<Worst> {
        let mut worst = Worst::new();
        let expected = |name: &str| get(&self.expected, name);
        let builder = Builder::eval(&self.loaded.params).products(products);
        let model = ClipModel::new(&self.loaded.config, &builder)?;
        let image = model.image_features(&expected("pixel_values")?.to_device(self.device)?)?;
        let text = model.text_features(&expected("input_ids")?.to_dtype(DType::U32)?.to_device(self.device)?)?;
        worst.see("image features", difference(image.tensor(), expected("image_features")?, F32_FLOOR)?);
        worst.see("text features", difference(text.tensor(), expected("text_features")?, F32_FLOOR)?);
        let step =
            TrainStep { products, ..TrainStep::new(&Single, &self.loaded.config, &self.loaded.params, &self.loss) };
        let (grads, output) = step.gradients(&[self.batch()?])?;
        worst.see("loss", difference(&output.loss, expected("loss")?, 0.0)?);
        let grads = grads.into_iter().map(|(name, grad)| Ok((name, grad.into_dense()?.to_device(&Device::Cpu)?)));
        self.see_gradients(&grads.collect::<Result<Vec<_>>>()?, products, &mut worst)?;
        Ok(worst)
    }

    /// In f32 each by itself; in bf16 all together, since small ones are rounding noise.
    fn see_gradients(&self, grads: &[(String, Tensor)], products: DType, worst: &mut Worst) -> Result<()> {
        let mut ours = HashMap::new();
        for part in self.loaded.layout.export(&self.loaded.config, grads)? {
            let prefix = if part.folder.is_empty() { String::new() } else { format!("{}_model.", part.folder) };
            ours.extend(part.weights.1.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        }
        let (mut off, mut all) = (0.0, 0.0);
        for (key, expected) in &self.expected {
            let Some(weight) = key.strip_prefix("grad.") else { continue };
            let grad = ours.get(weight).with_context(|| format!("{weight} gets no gradient"))?;
            if products == DType::F32 {
                worst.see(weight, difference(grad, expected, F32_FLOOR).with_context(|| weight.to_string())?);
            }
            for (a, b) in numbers(grad)?.iter().zip(numbers(expected)?) {
                off += (a - b) * (a - b);
                all += b * b;
            }
        }
        anyhow::ensure!(all > 0.0, "no gradient to compare with");
        worst.see("the whole gradient", (off / all).sqrt());
        Ok(())
    }

    fn batch(&self) -> Result<Batch> {
        let (pixels, ids) = (get(&self.expected, "pixel_values")?, get(&self.expected, "input_ids")?);
        let (pairs, tokens) = ids.dims2()?;
        Ok(Batch {
            images: Images::Pixels(pixels.flatten_all()?.to_vec1()?),
            bags: None,
            input_ids: ids.flatten_all()?.to_dtype(DType::U32)?.to_vec1()?,
            pairs,
            tokens,
            rows: (0..pairs).collect(),
            text_states: None,
            opposed: Vec::new(),
            errors: Vec::new(),
        })
    }
}

fn get<'a>(tensors: &'a HashMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    tensors.get(name).with_context(|| format!("expected.safetensors has no {name}"))
}

fn pairing(path: &Path) -> Result<PairOptions> {
    let case = json::read(path)?;
    let pooling = |key: &str| case[key].as_str().and_then(Pooling::from_word);
    Ok(PairOptions {
        image_pooling: pooling("image_pooling"),
        text_pooling: pooling("text_pooling"),
        mlp: case["projection"] == "mlp",
        embed_dim: case["embed_dim"].as_u64().context("case.json: embed_dim")? as usize,
    })
}
