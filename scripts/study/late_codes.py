#!/usr/bin/env python3
"""What 8 bits change in late interaction (docs/search.md): scores of `search --late`, of each report of the test split with each
image, beside MaxSim of sentence-transformers on the vectors in f32 that transformers' CLIPModel gives. For models of CLIP's
form whose reports are read whole.

    scripts/study/late_codes.py PROGRAM MANIFEST INDEX QUERIES.csv MODEL

INDEX and QUERIES.csv as late_search.py writes them (late-N, text.csv). Needs torch, transformers, sentence-transformers, pillow.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sentence_transformers.util import maxsim
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

torch.set_grad_enabled(False)
program, manifest, index, queries, folder = sys.argv[1:]
with open(manifest, newline="", encoding="utf-8") as file:
    rows = [row for row in csv.DictReader(file) if row["split"] == "test"]

model = CLIPModel.from_pretrained(folder).eval()
images = [Image.open(Path(manifest).parent / row["image"]).convert("RGB") for row in rows]
pixels = AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")["pixel_values"]
states = model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
patches = normalize(model.visual_projection(model.vision_model.post_layernorm(states)), dim=-1)
texts = AutoTokenizer.from_pretrained(folder)(
    [" ".join(row["report"].split()) for row in rows], return_tensors="pt", padding=True, truncation=True,
    max_length=model.config.text_config.max_position_embeddings)
tokens = normalize(model.text_projection(model.text_model(**texts).last_hidden_state), dim=-1)
# Without the marks of begin and end.
ends = texts["attention_mask"].sum(1) - 1
expected = maxsim([tokens[i, 1:end] for i, end in enumerate(ends)], patches).numpy()

found = np.full_like(expected, np.nan)
stdout = subprocess.run([program, "search", "--late", "--index", index, "--queries", queries, "-k", str(len(rows)), "--json"],
                        check=True, capture_output=True, text=True).stdout
for i, line in enumerate(stdout.splitlines()):
    for hit in json.loads(line)["hits"]:
        found[i, hit["row"]] = hit["score"]
assert not np.isnan(found).any()

a, b = np.triu_indices(len(rows), 1)
same = np.mean([((x[a] > x[b]) == (y[a] > y[b])).mean() for x, y in zip(expected, found)])
best = [len(set(np.argsort(-x)[:10]) & set(np.argsort(-y)[:10])) / 10 for x, y in zip(expected, found)]
print(json.dumps({"lowest": float(expected.min()), "highest": float(expected.max()),
                  "largest_difference": float(np.abs(expected - found).max()), "same_order": float(same),
                  "same_best_10": float(np.mean(best))}))
