"""Late interaction: features of tokens in the shared space, as transformers' classes have them (what follows the blocks for
the whole text, on each token), and MaxSim of sentence-transformers over random unit vectors. Seed 0.

Writes tests/golden/late.safetensors: `tokens.MODEL`, (tokens of all texts that are no padding, embed_dim), of golden models
that are there already, on their own golden texts; `queries`, `rows` with `query_offsets`, `row_offsets` and their `scores`,
(queries, rows).
"""

import importlib.metadata
import json

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.util import maxsim
from transformers import CLIPModel, ModernBertModel, SiglipModel, VisionTextDualEncoderModel

from common import GOLDEN, versions

torch.set_grad_enabled(False)


def expected(name):
    return load_file(GOLDEN / name / "expected.safetensors")


def packed(features, mask):
    """(texts, tokens, embed_dim) → one text after the other, without padding."""
    return features[mask.bool()]


def clip(name):
    model = CLIPModel.from_pretrained(GOLDEN / name).eval()
    ids = expected(name)["input_ids"].long()
    features = model.text_projection(model.text_model(input_ids=ids).last_hidden_state)
    # Nothing behind the pooled token counts; of this legacy config it is the highest id.
    return packed(features, torch.arange(ids.shape[1]) <= ids.argmax(-1, keepdim=True))


def siglip(name):
    model = SiglipModel.from_pretrained(GOLDEN / name).eval()
    ids = expected(name)["input_ids"].long()
    # Padding is attended to, as in training.
    return model.text_model.head(model.text_model(input_ids=ids).last_hidden_state).flatten(0, 1)


def dual(name):
    model = VisionTextDualEncoderModel.from_pretrained(GOLDEN / name).eval()
    ids, mask = (expected(name)[key].long() for key in ["input_ids", "attention_mask"])
    rows = model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
    return packed(model.text_projection(torch.tanh(model.text_model.pooler.dense(rows))), mask)


def pair_modernbert(name):
    model, given = ModernBertModel.from_pretrained(GOLDEN / name / "text").eval(), expected(name)
    ids, mask = (given[key].long() for key in ["input_ids", "attention_mask"])
    rows = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert json.loads((GOLDEN / name / "case.json").read_text())["projection"] == "linear"
    return packed(rows @ given["text_projection.weight"].float().T, mask)


def random_vectors(lengths, width, generator):
    """Unit vectors of items of these lengths, items of one direction so that cosines differ."""
    rows = []
    for length in lengths:
        middle = torch.randn(width, generator=generator)
        rows.append(torch.nn.functional.normalize(middle + torch.randn(length, width, generator=generator), dim=-1))
    return rows


def main():
    generator = torch.Generator().manual_seed(0)
    queries = random_vectors([1, 2, 5, 17, 3, 31, 9, 12], 24, generator)
    rows = random_vectors(torch.randint(1, 60, (80,), generator=generator).tolist(), 24, generator)
    offsets = lambda items: torch.tensor([0] + [len(item) for item in items]).cumsum(0)
    found = {
        "tokens.clip/quick_gelu_legacy_eos": clip("clip/quick_gelu_legacy_eos"),
        "tokens.encoders/siglip": siglip("encoders/siglip"),
        "tokens.encoders/dual_vit_bert": dual("encoders/dual_vit_bert"),
        "tokens.encoders/pair_vit_modernbert": pair_modernbert("encoders/pair_vit_modernbert"),
        "queries": torch.cat(queries), "query_offsets": offsets(queries),
        "rows": torch.cat(rows), "row_offsets": offsets(rows),
        "scores": maxsim(queries, rows),
    }
    origin = {"script": "scripts/golden/late.py", **{k: str(v) for k, v in versions().items()}}
    origin["sentence-transformers"] = importlib.metadata.version("sentence-transformers")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, GOLDEN / "late.safetensors", metadata=origin)


main()
