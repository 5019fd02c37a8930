"""What the golden scripts share: the output folder, JSON writing, versions, and how an image is opened."""

import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
PACKAGES = ["torch", "torchvision", "transformers", "tokenizers", "safetensors", "pillow", "numpy"]


def versions():
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def write_json(path, value, indent=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_origin(folder, script, **notes):
    """golden.json: which script and which library versions made this folder."""
    write_json(folder / "golden.json", {"script": f"scripts/golden/{script}", "versions": versions(), **notes})


def open_image(path):
    """16-bit gray is scaled to 8 bits; PIL by itself would clip everything above 255 to white."""
    image = Image.open(path)
    image.load()
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    return image
