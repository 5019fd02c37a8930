//! Pixels to model input, as a `preprocessor_config.json` of transformers or the `preprocess_cfg` of open_clip says: resize
//! with antialiasing, centre crop, rescale, normalise.

use anyhow::{Context, Result, bail, ensure};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use serde_json::{Value, json};

use super::augment::Augmented;
use super::image::Picture;

/// How to resize.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resize {
    /// The shorter side becomes this; the longer keeps the shape, rounded down.
    ShortestEdge(u32),
    /// The longer side becomes this; the shorter keeps the shape, rounded.
    LongestEdge(u32),
    /// Both sides are given, (height, width).
    Exact(u32, u32),
}

/// The steps from pixels to `pixel_values`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// transformers' class that does the same from the same fields.
    class: &'static str,
    resize: Option<Resize>,
    /// Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
    resample: u64,
    /// (height, width)
    crop: Option<(u32, u32)>,
    /// What stands around an image that is smaller than its crop.
    fill: u8,
    /// Pixels are multiplied by this first.
    rescale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
const BILINEAR: u64 = 2;
const BICUBIC: u64 = 3;

/// What a class of transformers does where its file says nothing.
struct Class {
    /// Its name without the ending ImageProcessor.
    name: &'static str,
    written: &'static str,
    /// Models whose files name no class.
    model_types: &'static [&'static str],
    /// Whether a size given as one number is both sides rather than the shorter.
    square: bool,
    size: Resize,
    resample: u64,
    crop: Option<u32>,
    clip_colours: bool,
}

/// As read off transformers 5.23 by scripts/golden/image_processors.py.
const CLASSES: &[Class] = &[
    Class {
        name: "CLIP",
        written: "CLIPImageProcessor",
        model_types: &["clip"],
        square: false,
        size: Resize::ShortestEdge(224),
        resample: BICUBIC,
        crop: Some(224),
        clip_colours: true,
    },
    Class {
        name: "ChineseCLIP",
        written: "ChineseCLIPImageProcessor",
        model_types: &["chinese_clip"],
        square: false,
        size: Resize::ShortestEdge(224),
        resample: BICUBIC,
        crop: Some(224),
        clip_colours: true,
    },
    Class {
        name: "Bit",
        written: "BitImageProcessor",
        model_types: &["dinov2", "dinov2_with_registers", "bit"],
        square: false,
        size: Resize::ShortestEdge(224),
        resample: BICUBIC,
        crop: Some(224),
        clip_colours: true,
    },
    Class {
        name: "ViT",
        written: "ViTImageProcessor",
        model_types: &["vit", "swin", "vision-text-dual-encoder"],
        square: true,
        size: Resize::Exact(224, 224),
        resample: BILINEAR,
        crop: None,
        clip_colours: false,
    },
    Class {
        name: "DeiT",
        written: "DeiTImageProcessor",
        model_types: &["deit"],
        square: true,
        size: Resize::Exact(256, 256),
        resample: BICUBIC,
        crop: Some(224),
        clip_colours: false,
    },
    Class {
        name: "Siglip",
        written: "SiglipImageProcessor",
        model_types: &["siglip"],
        square: false,
        size: Resize::Exact(224, 224),
        resample: BICUBIC,
        crop: None,
        clip_colours: false,
    },
    Class {
        name: "Siglip2",
        written: "SiglipImageProcessor",
        model_types: &["siglip2"],
        square: false,
        size: Resize::Exact(224, 224),
        resample: BILINEAR,
        crop: None,
        clip_colours: false,
    },
    Class {
        name: "ConvNext",
        // Its share of the crop is worked out when the file is read; what is left is what CLIP's class does.
        written: "CLIPImageProcessor",
        model_types: &["convnext", "convnextv2", "resnet"],
        square: false,
        size: Resize::ShortestEdge(384),
        resample: BICUBIC,
        crop: None,
        clip_colours: false,
    },
    Class {
        name: "Beit",
        written: "BeitImageProcessor",
        model_types: &["beit"],
        square: true,
        size: Resize::Exact(224, 224),
        resample: BICUBIC,
        crop: None,
        clip_colours: false,
    },
];

impl Class {
    /// By the class that the file names (in one of its older spellings too), or else by the model.
    fn find(json: &Value, model_type: Option<&str>) -> Result<&'static Self> {
        let said = ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| json[key].as_str());
        let Some(said) = said else {
            let by_model = CLASSES.iter().find(|c| c.model_types.contains(&model_type.unwrap_or("clip")));
            return Ok(by_model.unwrap_or(&CLASSES[0]));
        };
        let name = said.trim_end_matches("Fast").trim_end_matches("Pil");
        let name = name.trim_end_matches("ImageProcessor").trim_end_matches("FeatureExtractor");
        CLASSES.iter().find(|c| c.name == name).with_context(|| {
            let known: Vec<&str> = CLASSES.iter().map(|c| c.name).collect();
            format!("image_processor_type is {said:?}; known are those of {}", known.join(", "))
        })
    }

    fn preprocess(&self) -> Preprocess {
        Preprocess {
            class: self.written,
            resize: Some(self.size),
            resample: self.resample,
            crop: self.crop.map(|n| (n, n)),
            fill: 0,
            rescale: 1.0 / 255.0,
            mean: if self.clip_colours { CLIP_MEAN } else { [0.5; 3] },
            std: if self.clip_colours { CLIP_STD } else { [0.5; 3] },
        }
    }
}

impl Preprocess {
    /// OpenAI CLIP's, for images of `size` × `size`.
    pub fn clip(size: usize) -> Self {
        CLASSES[0].preprocess().with_image_size(size)
    }

    /// What models of this type have where their files say nothing, for images of `size` × `size`.
    pub fn of_model(model_type: &str, size: usize) -> Self {
        let class = CLASSES.iter().find(|c| c.model_types.contains(&model_type)).unwrap_or(&CLASSES[0]);
        class.preprocess().with_image_size(size)
    }

    /// Reads a `preprocessor_config.json`; absent fields have the defaults of the class that it names, or of that which
    /// goes with `model_type`.
    ///
    /// # Errors
    /// A class that is not known, a field of another type, a filter or size that is not known.
    pub fn from_json(json: &Value, model_type: Option<&str>) -> Result<Self> {
        let class = Class::find(json, model_type)?;
        let defaults = class.preprocess();
        let given = |name: &str| json.get(name).filter(|v| !v.is_null());
        let flag = |name: &str, default: bool| match given(name) {
            None => Ok(default),
            Some(v) => v.as_bool().with_context(|| format!("{name} is {v}, not true or false")),
        };
        let resize = match given("size") {
            Some(size) => read_size(size, class.square).context("size")?,
            None => class.size,
        };
        let crop = match given("crop_size") {
            Some(size) => match read_size(size, true).context("crop_size")? {
                Resize::Exact(h, w) => (h, w),
                Resize::ShortestEdge(n) | Resize::LongestEdge(n) => (n, n),
            },
            None => (224, 224),
        };
        let resample = match given("resample") {
            None => class.resample,
            Some(v) => v.as_u64().filter(|n| *n <= 5).with_context(|| format!("resample is {v}; known are 0 to 5"))?,
        };
        let normalise = flag("do_normalize", true)?;
        let std = if normalise { three(json, "image_std", defaults.std)? } else { [1.0; 3] };
        ensure!(std.iter().all(|s| *s > 0.0), "image_std is {std:?}; allowed are numbers above 0");
        let mut read = Self {
            class: class.written,
            resize: flag("do_resize", true)?.then_some(resize),
            resample,
            crop: flag("do_center_crop", class.crop.is_some())?.then_some(crop),
            fill: 0,
            rescale: match flag("do_rescale", true)? {
                true => match given("rescale_factor") {
                    None => 1.0 / 255.0,
                    Some(v) => v
                        .as_f64()
                        .filter(|x| *x > 0.0 && *x <= 1.0)
                        .with_context(|| format!("rescale_factor is {v}; allowed is a number above 0 and at most 1"))?
                        as f32,
                },
                false => 1.0,
            },
            mean: if normalise { three(json, "image_mean", defaults.mean)? } else { [0.0; 3] },
            std,
        };
        if class.name == "ConvNext" {
            read.take_share(match given("crop_pct") {
                None => 224.0 / 256.0,
                Some(v) => v
                    .as_f64()
                    .filter(|x| *x > 0.0 && *x <= 1.0)
                    .with_context(|| format!("crop_pct is {v}; allowed is a number above 0 and at most 1"))?,
            });
        }
        Ok(read)
    }

    /// ConvNeXt's: images below 384 pixels are a share of a larger one, from 384 on they are squeezed.
    fn take_share(&mut self, share: f64) {
        if let Some(Resize::ShortestEdge(n)) = self.resize {
            if n < 384 {
                self.resize = Some(Resize::ShortestEdge((f64::from(n) / share) as u32));
                self.crop = Some((n, n));
            } else {
                self.resize = Some(Resize::Exact(n, n));
            }
        }
    }

    /// Reads an `open_clip_config.json`.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_open_clip(json: &Value) -> Result<Self> {
        let c = json.get("preprocess_cfg").unwrap_or(&Value::Null);
        let size = json.pointer("/model_cfg/vision_cfg/image_size").or(c.get("size"));
        let (height, width) = match read_size(size.unwrap_or(&json!(224)), true).context("image_size")? {
            Resize::Exact(h, w) => (h, w),
            Resize::ShortestEdge(n) | Resize::LongestEdge(n) => (n, n),
        };
        let resample = match c["interpolation"].as_str().unwrap_or("bicubic") {
            "bicubic" | "random" => BICUBIC,
            "bilinear" => BILINEAR,
            other => bail!("interpolation is {other:?}; known are bicubic and bilinear"),
        };
        let resize = match c["resize_mode"].as_str().unwrap_or("shortest") {
            "shortest" => Resize::ShortestEdge(height.min(width)),
            "longest" => Resize::LongestEdge(height.max(width)),
            "squash" => Resize::Exact(height, width),
            other => bail!("resize_mode is {other:?}; known are shortest, longest and squash"),
        };
        let std = three(c, "std", CLIP_STD)?;
        ensure!(std.iter().all(|s| *s > 0.0), "std is {std:?}; allowed are numbers above 0");
        let fill = c["fill_color"].as_u64().unwrap_or(0).min(255) as u8;
        Ok(Self {
            class: "CLIPImageProcessor",
            resize: Some(resize),
            resample,
            crop: (!matches!(resize, Resize::Exact(..))).then_some((height, width)),
            fill,
            rescale: 1.0 / 255.0,
            mean: three(c, "mean", CLIP_MEAN)?,
            std,
        })
    }

    /// The same as open_clip's `preprocess_cfg`; fields of `before` that we do not know stay as they are.
    pub fn to_open_clip(&self, before: &Value) -> Value {
        let mut json = if before.is_object() { before.clone() } else { json!({}) };
        json["mean"] = json!(self.mean);
        json["std"] = json!(self.std);
        json["interpolation"] = json!(if self.resample == BILINEAR { "bilinear" } else { "bicubic" });
        json["resize_mode"] = json!(match self.resize {
            Some(Resize::Exact(..)) => "squash",
            Some(Resize::LongestEdge(_)) => "longest",
            Some(Resize::ShortestEdge(_)) | None => "shortest",
        });
        json
    }

    /// The same as a `preprocessor_config.json`.
    pub fn to_json(&self) -> Value {
        let size = |height: u32, width: u32| json!({"height": height, "width": width});
        json!({
            "image_processor_type": self.class,
            "do_convert_rgb": true,
            "do_resize": self.resize.is_some(),
            "size": match self.resize {
                Some(Resize::Exact(h, w)) => size(h, w),
                Some(Resize::ShortestEdge(n)) => json!({"shortest_edge": n}),
                Some(Resize::LongestEdge(n)) => json!({"longest_edge": n}),
                None => json!({"shortest_edge": 224}),
            },
            "resample": self.resample,
            "do_center_crop": self.crop.is_some(),
            "crop_size": self.crop.map_or_else(|| size(224, 224), |(h, w)| size(h, w)),
            "do_rescale": true,
            "rescale_factor": f64::from(self.rescale),
            "do_normalize": true,
            "image_mean": self.mean,
            "image_std": self.std,
        })
    }

    /// The same steps for another image size.
    pub fn with_image_size(mut self, size: usize) -> Self {
        let size = size as u32;
        self.resize = self.resize.map(|r| match r {
            // What is cut off keeps its share.
            Resize::ShortestEdge(n) => Resize::ShortestEdge(match self.crop {
                Some((h, _)) if n > h => (u64::from(n) * u64::from(size) / u64::from(h)) as u32,
                _ => size,
            }),
            Resize::LongestEdge(_) => Resize::LongestEdge(size),
            Resize::Exact(h, _) => match self.crop {
                Some((crop, _)) if h > crop => {
                    let side = (u64::from(h) * u64::from(size) / u64::from(crop)) as u32;
                    Resize::Exact(side, side)
                }
                _ => Resize::Exact(size, size),
            },
        });
        self.crop = self.crop.map(|_| (size, size));
        self
    }

    /// (height, width) of every result; `None` where it depends on the image.
    pub fn output_size(&self) -> Option<(u32, u32)> {
        self.crop.or(match self.resize {
            Some(Resize::Exact(h, w)) => Some((h, w)),
            _ => None,
        })
    }

    /// Pixels before rescaling and normalising. `region` is the part of the image to take, (x, y, width, height).
    ///
    /// # Errors
    /// An image that cannot be resized, such as one of size 0.
    pub fn resize_and_crop(&self, image: &Picture, region: Option<[f64; 4]>) -> Result<Picture> {
        let (width, height) = match region {
            Some([_, _, w, h]) => ((w.round() as u32).max(1), (h.round() as u32).max(1)),
            None => (image.width, image.height),
        };
        ensure!(width > 0 && height > 0, "image is {width}×{height}");
        let (target_h, target_w) = match self.resize {
            None => (height, width),
            Some(Resize::Exact(h, w)) => (h, w),
            Some(Resize::ShortestEdge(n)) => {
                let long = |long: u32, short: u32| (u64::from(n) * u64::from(long) / u64::from(short)) as u32;
                if width <= height { (long(height, width), n) } else { (n, long(width, height)) }
            }
            Some(Resize::LongestEdge(n)) => {
                let ratio = f64::from(width.max(height)) / f64::from(n);
                let side = |x: u32| ((f64::from(x) / ratio).round_ties_even() as u32).max(1);
                (side(height), side(width))
            }
        };
        ensure!(
            u64::from(target_w) * u64::from(target_h) < 1 << 28,
            "image of {width}×{height} would become {target_w}×{target_h}"
        );
        let resized = self.resample(image, region, target_w, target_h)?;
        Ok(match self.crop {
            Some((h, w)) => centre_crop(&resized, h, w, self.fill),
            None => resized,
        })
    }

    /// Across first and then down, each rounded to bytes, as Pillow does it: overshoot at sharp edges is cut off after
    /// each pass, so the order shows.
    fn resample(&self, image: &Picture, region: Option<[f64; 4]>, width: u32, height: u32) -> Result<Picture> {
        let (w, h) = (f64::from(image.width), f64::from(image.height));
        let [x, y, kept_w, kept_h] = region.unwrap_or([0.0, 0.0, w, h]);
        let across = self.pass(image, [x, 0.0, kept_w, h], width, image.height)?;
        self.pass(&across, [0.0, y, f64::from(width), kept_h], width, height)
    }

    fn pass(&self, image: &Picture, [x, y, w, h]: [f64; 4], width: u32, height: u32) -> Result<Picture> {
        let algorithm = match self.resample {
            0 => ResizeAlg::Nearest,
            1 => ResizeAlg::Convolution(FilterType::Lanczos3),
            2 => ResizeAlg::Convolution(FilterType::Bilinear),
            // Pillow's bicubic is the cubic with a = −0.5.
            3 => ResizeAlg::Convolution(FilterType::CatmullRom),
            4 => ResizeAlg::Convolution(FilterType::Box),
            _ => ResizeAlg::Convolution(FilterType::Hamming),
        };
        let options = ResizeOptions::new().resize_alg(algorithm).crop(x, y, w, h);
        let mut bytes = vec![0; width as usize * height as usize * image.channels];
        // Typed: the other form compiles kernels for every pixel type into this crate, a minute of build.
        if image.channels == 1 {
            let source = TypedImageRef::<U8>::from_buffer(image.width, image.height, &image.bytes)?;
            let mut target = TypedImage::<U8>::from_buffer(width, height, &mut bytes)?;
            Resizer::new().resize_typed(&source, &mut target, &options).context("cannot be resized")?;
        } else {
            let source = TypedImageRef::<U8x3>::from_buffer(image.width, image.height, &image.bytes)?;
            let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut bytes)?;
            Resizer::new().resize_typed(&source, &mut target, &options).context("cannot be resized")?;
        }
        Ok(Picture { width, height, channels: image.channels, bytes })
    }

    /// Everything but the last step: one byte instead of twelve a pixel while it waits for its turn.
    ///
    /// # Errors
    /// As [`Self::resize_and_crop`].
    pub fn prepare(&self, image: &Picture, augmented: Option<&Augmented>) -> Result<Prepared> {
        let mut picture = self.resize_and_crop(image, augmented.and_then(|a| a.region(image)))?;
        if let Some(augmented) = augmented {
            picture = augmented.geometry(picture);
        }
        Ok(Prepared { picture, augmented: augmented.copied(), rescale: self.rescale, mean: self.mean, std: self.std })
    }

    /// `pixel_values` of one image, (3, height, width) in channel-major order.
    ///
    /// # Errors
    /// As [`Self::resize_and_crop`].
    pub fn apply(&self, image: &Picture, augmented: Option<&Augmented>) -> Result<Vec<f32>> {
        let prepared = self.prepare(image, augmented)?;
        let mut values = vec![0.0; prepared.len()];
        prepared.write(&mut values);
        Ok(values)
    }
}

/// An image of the model's size that is not rescaled and normalised yet.
#[derive(Clone, Debug)]
pub struct Prepared {
    picture: Picture,
    augmented: Option<Augmented>,
    rescale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Prepared {
    /// How many numbers [`Self::write`] writes: 3 × height × width.
    #[allow(clippy::len_without_is_empty)] // No image is empty.
    pub fn len(&self) -> usize {
        3 * self.picture.width as usize * self.picture.height as usize
    }

    /// Writes `pixel_values`, (3, height, width).
    pub fn write(&self, values: &mut [f32]) {
        for (channel, plane) in values.chunks_exact_mut(self.len() / 3).enumerate() {
            // Every value a byte can take, worked out once.
            let table: [f32; 256] = std::array::from_fn(|v| {
                let v = self.augmented.map_or(v as f32, |a| a.brightness_contrast(v as f32));
                (v * self.rescale - self.mean[channel]) / self.std[channel]
            });
            plane.iter_mut().zip(self.picture.colour(channel)).for_each(|(v, byte)| *v = table[usize::from(byte)]);
        }
    }
}

fn three(json: &Value, name: &str, default: [f32; 3]) -> Result<[f32; 3]> {
    match json.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(list) => serde_json::from_value::<[f32; 3]>(list.clone())
            .with_context(|| format!("{name} is {list}, not three numbers")),
    }
}

/// `square`: whether one number means both sides.
fn read_size(json: &Value, square: bool) -> Result<Resize> {
    let bounded = |v: &Value| match v.as_u64() {
        Some(n) if (1..=8192).contains(&n) => Ok(n as u32),
        _ => bail!("is {json}; allowed are sides from 1 to 8192"),
    };
    match (json, json.get("shortest_edge"), json.get("height"), json.get("width")) {
        (Value::Number(_), ..) if square => bounded(json).map(|n| Resize::Exact(n, n)),
        (Value::Number(_), ..) => Ok(Resize::ShortestEdge(bounded(json)?)),
        (Value::Array(sides), ..) if sides.len() == 2 => Ok(Resize::Exact(bounded(&sides[0])?, bounded(&sides[1])?)),
        (_, Some(n), ..) => Ok(Resize::ShortestEdge(bounded(n)?)),
        (_, None, Some(h), Some(w)) => Ok(Resize::Exact(bounded(h)?, bounded(w)?)),
        _ => match json.get("longest_edge") {
            Some(n) => Ok(Resize::LongestEdge(bounded(n)?)),
            None => bail!("is {json}; known are a number, {{\"shortest_edge\": n}} and {{\"height\": h, \"width\": w}}"),
        },
    }
}

/// The middle of `image`, with `fill` around it where the image is smaller (torchvision's rounding: the odd pixel of
/// padding goes after).
fn centre_crop(image: &Picture, height: u32, width: u32, fill: u8) -> Picture {
    // Offset of the crop in the image, and of the image in the crop.
    let offsets = |size: u32, crop: u32| {
        let inside = size.saturating_sub(crop) / 2;
        let around = crop.saturating_sub(size) / 2;
        (inside as usize, around as usize, size.min(crop) as usize)
    };
    let ((x, to_x, columns), (y, to_y, rows)) = (offsets(image.width, width), offsets(image.height, height));
    let (channels, line, to_line) = (image.channels, image.width as usize, width as usize);
    let mut bytes = vec![fill; width as usize * height as usize * channels];
    for row in 0..rows {
        let from = ((y + row) * line + x) * channels;
        let to = ((to_y + row) * to_line + to_x) * channels;
        bytes[to..to + columns * channels].copy_from_slice(&image.bytes[from..from + columns * channels]);
    }
    Picture { width, height, channels, bytes }
}
