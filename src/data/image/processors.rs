//! Where the steps from pixels to input are written: transformers' `preprocessor_config.json`, class by class, and
//! open_clip's `preprocess_cfg`.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::preprocess::{Preprocess, Resize};

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
        name: "EfficientNet",
        // Its second division by image_std is taken into that; what is left is what ViT's class does.
        written: "ViTImageProcessor",
        model_types: &["efficientnet"],
        square: true,
        size: Resize::Exact(346, 346),
        resample: BICUBIC,
        crop: None,
        clip_colours: false,
    },
    Class {
        // timm's, which transformers has no class for: seven eighths of the image, as its pretrained_cfg says.
        name: "EfficientNetLite0",
        written: "CLIPImageProcessor",
        model_types: &["efficientnet_lite0", "tf_efficientnet_lite0"],
        square: false,
        size: Resize::ShortestEdge(256),
        resample: BICUBIC,
        crop: Some(224),
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
        let rescale = match given("rescale_factor") {
            _ if !flag("do_rescale", true)? => 1.0,
            None => 1.0 / 255.0,
            Some(v) => v
                .as_f64()
                .filter(|x| *x > 0.0 && *x <= 1.0)
                .with_context(|| format!("rescale_factor is {v}; allowed is a number above 0 and at most 1"))?
                as f32,
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
            rescale,
            mean: if normalise { three(json, "image_mean", defaults.mean)? } else { [0.0; 3] },
            std,
        };
        if class.name == "EfficientNet" {
            ensure!(!flag("rescale_offset", false)?, "rescale_offset is true; this version takes false");
            if normalise && flag("include_top", true)? {
                read.std = read.std.map(|std| std * std);
            }
        }
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
            None => {
                bail!("is {json}; known are a number, {{\"shortest_edge\": n}} and {{\"height\": h, \"width\": w}}")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efficientnet_divides_by_its_deviation_twice() {
        let json = json!({
            "image_processor_type": "EfficientNetImageProcessor", "size": {"height": 2, "width": 2},
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.479, 0.473, 0.474],
        });
        let read = Preprocess::from_json(&json, None).unwrap();
        // What transformers 5.23 makes of a pixel of 200.
        for (i, expected) in [1.304_534_6, 1.467_461_6, 1.683_819].into_iter().enumerate() {
            let ours = (200.0 / 255.0 - read.mean[i]) / read.std[i];
            assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
        }
        let once =
            Preprocess::from_json(&json!({"include_top": false, "image_std": [0.5, 0.5, 0.5]}), Some("efficientnet"));
        assert_eq!(once.unwrap().std, [0.5; 3]);
        let offset = Preprocess::from_json(&json!({"rescale_offset": true}), Some("efficientnet"));
        assert_eq!(offset.unwrap_err().to_string(), "rescale_offset is true; this version takes false");
    }
}
