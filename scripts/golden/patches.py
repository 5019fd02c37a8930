"""Features of patches in the shared space, as transformers' classes have them: what follows the blocks for the whole image,
on each patch. Of golden models that are there already, on their own golden images.

Writes tests/golden/patches.safetensors: one tensor a model, (images · patches, embed_dim).
"""

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, VisionTextDualEncoderModel

from common import GOLDEN, versions

torch.set_grad_enabled(False)


def clip(name):
    model = CLIPModel.from_pretrained(GOLDEN / "clip" / name).eval()
    pixels = load_file(GOLDEN / "clip" / name / "expected.safetensors")["pixel_values"]
    rows = model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
    return model.visual_projection(model.vision_model.post_layernorm(rows)).flatten(0, 1)


def dual(name, head):
    model = VisionTextDualEncoderModel.from_pretrained(GOLDEN / "encoders" / name).eval()
    pixels = load_file(GOLDEN / "encoders" / name / "expected.safetensors")["pixel_values"]
    rows = model.vision_model(pixel_values=pixels).last_hidden_state
    return model.visual_projection(head(model.vision_model, rows)).flatten(0, 1)


def main():
    found = {
        "quick_gelu_legacy_eos": clip("quick_gelu_legacy_eos"),
        "dual_swin_bert": dual("dual_swin_bert", lambda tower, rows: rows),
        "dual_dinov2_xlmr": dual("dual_dinov2_xlmr", lambda tower, rows: rows[:, 1:]),
        "dual_vit_bert": dual("dual_vit_bert", lambda tower, rows: torch.tanh(tower.pooler.dense(rows[:, 1:]))),
        "dual_beit_bert": dual("dual_beit_bert", lambda tower, rows: tower.pooler.layernorm(rows[:, 1:])),
    }
    found = {name: rows.contiguous() for name, rows in found.items()}
    save_file(found, GOLDEN / "patches.safetensors",
              metadata={"script": "scripts/golden/patches.py", **{k: str(v) for k, v in versions().items()}})


main()
