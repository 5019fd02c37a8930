"""What the image processors of transformers and open_clip make of the images in tests/golden/preprocess.

Writes tests/golden/image_processors/: preprocessor_<config>.json, open_clip_<config>.json (a preprocess_cfg),
and safetensors with one tensor `<config>/<image>` (3, H, W) each:
  expected_pixels.safetensors      uint8, before rescaling and normalising
  expected_normalised.safetensors  float32 pixel_values of rgb.png
Each preprocessor is loaded with AutoImageProcessor, so it is the class a user gets today (torchvision).
"""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torchvision.transforms import Compose
from transformers import (AutoImageProcessor, BeitImageProcessor, BitImageProcessor, ChineseCLIPImageProcessor,
                          ConvNextImageProcessor, DeiTImageProcessor, SiglipImageProcessor, ViTImageProcessor)
from transformers.image_utils import (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN,
                                      OPENAI_CLIP_STD)

from common import GOLDEN, open_image, write_json, write_origin
from preprocess import as_bytes

FOLDER = GOLDEN / "image_processors"
IMAGES = ["gray.jpg", "gray16.png", "rgb.png", "rgba.png", "small.png", "wide.png"]
NORMALISED = "rgb.png"
BILINEAR, BICUBIC = 2, 3

IMAGENET = dict(image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)
CLIP = dict(image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD)
HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def square(n):
    return {"height": n, "width": n}


# As save_pretrained writes them today.
NEW = {
    "vit": ViTImageProcessor(size=square(24)),
    "vit_oblong": ViTImageProcessor(size={"height": 20, "width": 30}, resample=BICUBIC, **IMAGENET),
    "deit": DeiTImageProcessor(size=square(32), crop_size=square(25), **IMAGENET),
    "dinov2": BitImageProcessor(size={"shortest_edge": 30}, crop_size=square(25), **IMAGENET),
    "siglip": SiglipImageProcessor(size=square(24)),
    "chinese_clip": ChineseCLIPImageProcessor(size={"shortest_edge": 24}, crop_size=square(24)),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
    "beit": BeitImageProcessor(size=square(24)),
}

# As repositories were published over the years: an integer size, few fields, names that no longer exist.
OLD = {
    "vit_old": {"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor", **HALF,
                "resample": BILINEAR, "size": 24},
    "vit_bare": {"image_processor_type": "ViTImageProcessor", "size": 24},
    "vit_fast": {"crop_size": None, "data_format": "channels_first", "default_to_square": True, "device": None,
                 "disable_grouping": None, "do_center_crop": None, "do_convert_rgb": None, "do_normalize": True,
                 "do_rescale": True, "do_resize": True, "image_processor_type": "ViTImageProcessorFast", **IMAGENET,
                 "input_data_format": None, "resample": BICUBIC, "rescale_factor": 1 / 255, "return_tensors": None,
                 "size": square(24)},
    "no_rescale": {"do_normalize": True, "do_rescale": False, "do_resize": True, **HALF,
                   "image_processor_type": "ViTImageProcessor", "resample": BILINEAR, "size": square(24)},
    "no_normalize": {"do_normalize": False, "do_resize": True, **HALF, "rescale_factor": 1 / 127.5,
                     "image_processor_type": "ViTImageProcessor", "resample": BILINEAR, "size": square(24)},
    "deit_old": {"crop_size": 25, "do_center_crop": True, "do_normalize": True, "do_resize": True,
                 "feature_extractor_type": "DeiTFeatureExtractor", **IMAGENET, "resample": BICUBIC, "size": 32},
    "clip_old": {"crop_size": 24, "do_center_crop": True, "do_normalize": True, "do_resize": True,
                 "feature_extractor_type": "CLIPFeatureExtractor", **CLIP, "resample": BICUBIC, "size": 24},
    "clip_exact": {"crop_size": square(24), "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
                   "do_resize": True, "feature_extractor_type": "ChineseCLIPFeatureExtractor", **CLIP,
                   "resample": BICUBIC, "size": square(24)},
    "siglip2": {"do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True, **HALF,
                "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor",
                "resample": BILINEAR, "rescale_factor": 1 / 255, "size": square(24)},
    "convnext_old": {"crop_pct": 0.9, "do_normalize": True, "do_resize": True,
                     "feature_extractor_type": "ConvNextFeatureExtractor", **IMAGENET, "resample": BICUBIC,
                     "size": 24},
    "resnet_bare": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 28},
    "beit_old": {"crop_size": 24, "do_center_crop": False, "do_normalize": True, "do_resize": True,
                 "feature_extractor_type": "BeitFeatureExtractor", **HALF, "resample": BILINEAR, "size": 24},
    "beit_crop": {"crop_size": 24, "do_center_crop": True, "do_normalize": True, "do_resize": True,
                  "feature_extractor_type": "BeitFeatureExtractor", **HALF, "resample": BICUBIC, "size": 29},
}

OPENAI = dict(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
OPEN_CLIP = {
    "shortest": PreprocessCfg(size=24, **OPENAI),
    "shortest_bilinear": PreprocessCfg(size=25, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # An oblong size makes open_clip forget the interpolation: it is bicubic all the same.
    "shortest_oblong": PreprocessCfg(size=(20, 30), interpolation="bilinear", **OPENAI),
    "longest": PreprocessCfg(size=24, resize_mode="longest", fill_color=0, **OPENAI),
    "longest_bilinear": PreprocessCfg(size=25, resize_mode="longest", interpolation="bilinear", fill_color=127,
                                      **OPENAI),
    "squash": PreprocessCfg(size=24, resize_mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3),
    "squash_bilinear": PreprocessCfg(size=(20, 30), resize_mode="squash", interpolation="bilinear", **OPENAI),
}


def load(config, **options):
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "preprocessor_config.json", config)
        return AutoImageProcessor.from_pretrained(folder, **options)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    pixels, normalised, classes, differences = {}, {}, {}, {}
    images = {name: open_image(GOLDEN / "preprocess" / name) for name in IMAGES}

    configs = {name: processor.to_dict() for name, processor in NEW.items()} | OLD
    plain = dict(return_tensors="pt", do_rescale=False, do_normalize=False)
    for name, config in configs.items():
        write_json(FOLDER / f"preprocessor_{name}.json", config)
        processor, pil = load(config), load(config, backend="pil")
        classes[name] = type(processor).__name__
        differences[name] = 0
        for image_name, image in images.items():
            # Several classes leave the colours alone, so they fail on gray and RGBA. Gray has one meaning in RGB;
            # transparency has not (CLIP's class lays it on white, `convert` forgets it), so it is left out there.
            if not processor.do_convert_rgb:
                if image.mode == "RGBA":
                    continue
                image = image.convert("RGB")
            key = f"{name}/{image_name}"
            pixels[key] = as_bytes(processor(image, **plain).pixel_values[0].float()).contiguous()
            other = as_bytes(pil(image, **plain).pixel_values[0].float())
            differences[name] = max(differences[name], int((pixels[key].int() - other.int()).abs().max()))
            if image_name == NORMALISED:
                normalised[key] = processor(image, return_tensors="pt").pixel_values[0].float().contiguous()
        print(name, classes[name], tuple(normalised[f"{name}/{NORMALISED}"].shape), "largest difference to PIL:",
              differences[name])

    for name, config in OPEN_CLIP.items():
        write_json(FOLDER / f"open_clip_{name}.json", asdict(config))
        transform = image_transform_v2(config, is_train=False)
        before = Compose(transform.transforms[:-1])
        for image_name, image in images.items():
            key = f"open_clip_{name}/{image_name}"
            pixels[key] = as_bytes(before(image) * 255).contiguous()
            if image_name == NORMALISED:
                normalised[key] = transform(image).contiguous()
        print("open_clip", name, tuple(normalised[f"open_clip_{name}/{NORMALISED}"].shape))

    save_file(pixels, FOLDER / "expected_pixels.safetensors")
    save_file(normalised, FOLDER / "expected_normalised.safetensors")
    write_origin(
        FOLDER, "image_processors.py",
        images="tests/golden/preprocess, gray16 converted to 8 bits by round(value / 257)",
        convert_rgb="where the class does not do it, gray was converted to RGB first and rgba.png is left out",
        classes=classes, largest_difference_to_pil=differences,
    )
    print(sum(p.stat().st_size for p in FOLDER.iterdir()), "bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
