"""Loads a base model and a run's adapter with PEFT, and compares towers with the run's merged model.

python check_adapter.py BASE_MODEL RUN, both of transformers' CLIP layout. Run by hand; needs peft and transformers.
"""

import importlib.metadata
import sys

import torch
from peft import PeftModel
from transformers import CLIPModel

torch.manual_seed(0)
base, run = sys.argv[1:]
merged = CLIPModel.from_pretrained(f"{run}/model").eval()
adapted = PeftModel.from_pretrained(CLIPModel.from_pretrained(base), f"{run}/adapter").eval()
size = merged.config.vision_config.image_size
pixels = torch.randn(3, 3, size, size)
ids = torch.randint(1, merged.config.text_config.vocab_size - 2, (3, 12))
with torch.no_grad():
    for name, inputs in [("vision_model", {"pixel_values": pixels}), ("text_model", {"input_ids": ids})]:
        a = getattr(merged, name)(**inputs).last_hidden_state
        b = getattr(adapted.base_model.model, name)(**inputs).last_hidden_state
        plain = getattr(CLIPModel.from_pretrained(base).eval(), name)(**inputs).last_hidden_state
        worst, moved = (a - b).abs().max().item(), (a - plain).abs().max().item()
        print(name, "merged against PEFT:", worst, "against the base:", moved)
        assert worst < 1e-4 < moved
print("peft", importlib.metadata.version("peft"))
