"""Tiny images of many kinds, and what the CLIP image processors of transformers make of them.

Writes tests/golden/preprocess/: the images, preprocessor_<config>.json, and safetensors with one tensor
`<config>/<image>` (3, H, W) each:
  expected_pil.safetensors         uint8, before rescaling and normalising, PIL-based processor
  expected_fast.safetensors        the same, torchvision-based processor
  expected_normalised.safetensors  float32 pixel_values of config `a`, PIL-based processor
"""

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from common import GOLDEN, open_image, write_json, write_origin

FOLDER = GOLDEN / "preprocess"
BICUBIC, BILINEAR = 3, 2
CLIP_NORM = dict(image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD)
HALF_NORM = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)

CONFIGS = {
    "a": dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=BICUBIC, **CLIP_NORM),
    "b": dict(size={"height": 24, "width": 40}, do_center_crop=False, resample=BILINEAR, **HALF_NORM),
    "c": dict(size={"shortest_edge": 20}, crop_size={"height": 32, "width": 32}, resample=BICUBIC, **CLIP_NORM),
    "d": dict(size={"shortest_edge": 33}, crop_size={"height": 30, "width": 30}, resample=BICUBIC, **CLIP_NORM),
}


def picture(rng, width, height, channels, noise=0.08):
    """Smooth waves plus noise, values in 0..1."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + c) + c) * np.cos(y / (7 - c) + c) for c in range(channels)]
    values = 0.5 + 0.45 * np.stack(waves, axis=-1) + noise * rng.normal(size=(height, width, channels))
    return values.clip(0, 1)


def make_images():
    rng = np.random.default_rng(0)

    def bytes_of(width, height, channels):
        return (picture(rng, width, height, channels) * 255).round().astype(np.uint8)

    def save(name, image, **options):
        image.save(FOLDER / name, **options)

    save("gray.jpg", Image.fromarray(bytes_of(97, 61, 1)[:, :, 0]), quality=95)
    save("rgb.jpg", Image.fromarray(bytes_of(64, 80, 3)), quality=95, subsampling="4:2:0")
    save("rgb.png", Image.fromarray(bytes_of(50, 33, 3)))
    save("rgba.png", Image.fromarray(bytes_of(40, 41, 4)))
    save("palette.png", Image.fromarray(bytes_of(45, 45, 3)).quantize(32))
    save("palette_transparent.png", Image.fromarray(bytes_of(37, 45, 3)).quantize(16), transparency=3)
    save("gray_alpha.png", Image.fromarray(bytes_of(44, 36, 2), mode="LA"))
    save("gray16.png", Image.fromarray((picture(rng, 48, 40, 1)[:, :, 0] * 65535).astype(np.uint16)))
    save("one_bit.png", Image.fromarray(bytes_of(40, 40, 1)[:, :, 0]).convert("1", dither=Image.Dither.NONE))
    save("wide.png", Image.fromarray(bytes_of(120, 9, 3)))
    save("small.png", Image.fromarray(bytes_of(10, 12, 3)))


def as_bytes(pixel_values):
    rounded = pixel_values.round()
    assert (pixel_values - rounded).abs().max() < 1e-3
    return rounded.to(torch.uint8)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_images()
    paths = sorted(p for p in FOLDER.iterdir() if p.suffix in (".png", ".jpg"))
    pil, fast, normalised = {}, {}, {}
    differences = {}
    for config_name, options in CONFIGS.items():
        slow_processor, fast_processor = CLIPImageProcessorPil(**options), CLIPImageProcessor(**options)
        write_json(FOLDER / f"preprocessor_{config_name}.json", slow_processor.to_dict())
        for path in paths:
            key = f"{config_name}/{path.name}"
            image = open_image(path)
            plain = dict(return_tensors="pt", do_rescale=False, do_normalize=False)
            pil[key] = as_bytes(slow_processor(image, **plain).pixel_values[0].float())
            fast[key] = as_bytes(fast_processor(image, **plain).pixel_values[0].float())
            if config_name == "a":
                normalised[key] = slow_processor(image, return_tensors="pt").pixel_values[0].contiguous()
            differences[key] = int((pil[key].int() - fast[key].int()).abs().max())
            print(key, tuple(pil[key].shape), "largest difference pil/fast:", differences[key])
    save_file(pil, FOLDER / "expected_pil.safetensors")
    save_file(fast, FOLDER / "expected_fast.safetensors")
    save_file(normalised, FOLDER / "expected_normalised.safetensors")
    write_origin(
        FOLDER, "preprocess.py",
        gray16="converted to 8 bits by round(value / 257) before the processor saw it",
        largest_difference_pil_fast=differences,
    )


if __name__ == "__main__":
    main()
