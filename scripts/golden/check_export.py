"""Checks that transformers computes the same embeddings from a reportclip export as reportclip did.

    python scripts/golden/check_export.py MODEL_DIR EMBEDS.safetensors MANIFEST.csv [--image-root DIR]

EMBEDS holds `image_embeds` and `text_embeds`, L2-normalised, one row per row of the manifest.
Exits 1 if a weight is missing or unexpected, or if an embedding differs by more than 1e-4.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPProcessor

from common import open_image

LIMIT = 1e-4
BATCH = 16


def load_model(folder):
    model, info = CLIPModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    problems = {kind: names for kind, names in info.items() if names}
    if problems:
        sys.exit(f"the weights do not fit the model: {problems}")
    return model.eval()


def encode(model, processor, images, texts):
    context = model.config.text_config.max_position_embeddings
    tokens = processor.tokenizer(texts, max_length=context, truncation=True, padding="max_length",
                                 return_tensors="pt")
    pixels = processor.image_processor(images, return_tensors="pt").pixel_values
    return {
        "image_embeds": F.normalize(model.get_image_features(pixels).pooler_output, dim=-1),
        "text_embeds": F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("embeds", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--image-root", type=Path, help="default: the folder of the manifest")
    parser.add_argument("--backend", choices=["pil", "torchvision"], default="pil", help="image processor")
    args = parser.parse_args()
    image_root = args.image_root or args.manifest.parent

    model = load_model(args.model_dir)
    processor = CLIPProcessor.from_pretrained(args.model_dir, backend=args.backend)
    print("image processor:", type(processor.image_processor).__name__)
    with open(args.manifest, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))

    batches = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            part = rows[start:start + BATCH]
            images = [open_image(image_root / row["image"]) for row in part]
            batches.append(encode(model, processor, images, [row["report"] for row in part]))

    ours = load_file(args.embeds)
    failed = False
    for name in ("image_embeds", "text_embeds"):
        theirs = torch.cat([batch[name] for batch in batches])
        if ours[name].shape != theirs.shape:
            sys.exit(f"{name}: shape {tuple(ours[name].shape)}, transformers has {tuple(theirs.shape)}")
        difference = (ours[name].float() - theirs).abs().max().item()
        print(f"{name}: {len(theirs)} rows, largest absolute difference {difference:.3g}")
        failed |= not difference <= LIMIT  # also when it is NaN
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
