"""Poolings of bags of embeddings, with gradients: the mean and the largest of L2-normalised embeddings, and gated
attention (Ilse, Tomczak and Welling 2018, arXiv 1802.04712, equation 9), also with places, written out in PyTorch.

Writes tests/golden/bag_pooling.safetensors. Seed 21.
"""

import math

import torch
from safetensors.torch import save_file
from torch import nn

from common import GOLDEN

WIDTH, HIDDEN, PLACES = 16, 6, 64
LENGTHS = [1, 3, 7, 2, 5]


class GatedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.v = nn.Linear(WIDTH, HIDDEN)
        self.u = nn.Linear(WIDTH, HIDDEN)
        self.w = nn.Linear(HIDDEN, 1, bias=False)

    def forward(self, h):
        return self.w(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h)))


def sinusoidal(places):
    pairs = WIDTH // 2
    angles = 100 * places[:, None] * torch.tensor([10000 ** (-j / pairs) for j in range(pairs)])
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1) / math.sqrt(pairs)


torch.manual_seed(21)
torch.set_default_dtype(torch.float64)
attention = GatedAttention()
table = nn.Parameter(torch.randn(PLACES, WIDTH) / 4)
x = torch.randn(sum(LENGTHS), WIDTH, requires_grad=True)
upstream = torch.randn(len(LENGTHS), WIDTH)
places = torch.cat([torch.arange(n) / max(n - 1, 1) if n > 1 else torch.tensor([0.5]) for n in LENGTHS])


def pooled(kind):
    unit = nn.functional.normalize(x)
    rows = {"learned": lambda: unit + table[(places * (PLACES - 1) + 0.5).floor().long()]}
    rows["sinusoidal"] = lambda: unit + sinusoidal(places)
    scores = attention(rows.get(kind, lambda: unit)())
    out = []
    for bag, score in zip(unit.split(LENGTHS), scores.split(LENGTHS)):
        if kind == "mean":
            out.append(bag.mean(0))
        elif kind == "max":
            out.append(bag.max(0).values)
        else:
            out.append((score.softmax(0) * bag).sum(0))
    return torch.stack(out)


tensors = {"x": x, "upstream": upstream, "places": places, "lengths": torch.tensor(LENGTHS), "position": table}
tensors |= {f"weights.{name}": p for name, p in attention.named_parameters()}
for kind in ["mean", "max", "none", "learned", "sinusoidal"]:
    for p in [x, table, *attention.parameters()]:
        p.grad = None
    y = pooled(kind)
    (y * upstream).sum().backward()
    tensors |= {f"{kind}.y": y, f"{kind}.x": x.grad.clone()}
    if kind not in ["mean", "max"]:
        tensors |= {f"{kind}.{name}": p.grad.clone() for name, p in attention.named_parameters()}
    if kind == "learned":
        tensors["learned.position"] = table.grad.clone()
tensors = {n: t.detach().float().contiguous() if t.is_floating_point() else t.float() for n, t in tensors.items()}
save_file(tensors, GOLDEN / "bag_pooling.safetensors", {"torch": torch.__version__, "script": "bag_pooling.py"})
