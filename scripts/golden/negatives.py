"""Objectives whose negatives count differently, in PyTorch, value and gradients in float64. Seed 0.

Row by row over the candidates that count, with F.cross_entropy and F.binary_cross_entropy_with_logits where these can
say it. The debiased loss is written as the authors' code has it (github.com/chingyaoc/DCL, main.py).

Writes tests/golden/negatives.json: cases {kind, label_smoothing, false_negatives, debias, image, text, opposed, of,
alike, log_scale, bias, loss, hard, grads}.
"""

import math

import torch
import torch.nn.functional as F

from common import GOLDEN, versions, write_json

torch.set_default_dtype(torch.float64)
B, D = 6, 4


def unit(x):
    return F.normalize(x, dim=-1)


def f32(*shape):
    return torch.randn(*shape).float().double().requires_grad_()


def weight(alike, how, i, k):
    """How often candidate k of the batch stands in the sum of row i."""
    if i == k or how in ("keep", "positive"):
        return 1.0
    others = sum(1 for j in range(B) if j != i and alike[i][j] > 0)
    kept = 0.0 if how == "remove" else 1.0 / max(others, 1)
    return 1.0 - alike[i][k] * (1.0 - kept)


def row_loss(z, extra, target, weights, eps, debias, scale):
    """One row: logits z of the batch, extra ones that are wrong, target over the batch."""
    count = torch.tensor([w > 0 for w in weights] + [True] * len(extra))
    logits = torch.cat([z, extra])
    p = torch.cat([target, torch.zeros(len(extra))])
    if debias is None and all(w == 1 for w in weights):
        return F.cross_entropy(logits[None], p[None], label_smoothing=eps)
    w = torch.tensor(list(weights) + [1.0] * len(extra))
    p = (1 - eps) * p + eps * w / w.sum()
    if debias is None:
        whole = torch.log((w * logits.exp())[count].sum())
    else:
        own, tau = debias
        pos = z[own].exp()
        neg = sum(weights[k] * z[k].exp() for k in range(B) if k != own)
        n = sum(weights[k] for k in range(B) if k != own)
        ng = torch.clamp((-tau * n * pos + neg) / (1 - tau), min=n * math.exp(-scale.item()))
        # The clamp's bound moves with the scale, too.
        if ng.item() == n * math.exp(-scale.item()):
            ng = n * torch.exp(-scale)
        whole = torch.log(pos + ng + extra.exp().sum())
    return (p * (whole - logits)).sum()


def case(kind, eps, seed, alike, how="keep", debias=0.0, of=()):
    torch.manual_seed(seed)
    v = {"image": f32(B, D), "text": f32(B, D), "log_scale": torch.tensor(1.5).float().double().requires_grad_(),
         "bias": torch.tensor(-2.0).requires_grad_()}
    if of:
        v["opposed"] = f32(len(of), D)

    def loss(eps):
        scale = v["log_scale"].exp()
        image = unit(v["image"])
        sims = scale * image @ unit(v["text"]).T
        extra = scale * image @ unit(v["opposed"]).T if of else torch.zeros(B, 0)
        own_extra = [extra[i, [m for m, row in enumerate(of) if row == i]] for i in range(B)]
        weights = [[weight(alike, how, i, k) for k in range(B)] for i in range(B)]
        if kind == "siglip":
            total = torch.zeros(())
            for i in range(B):
                for k in range(B):
                    t = 1.0 if i == k else (alike[i][k] if how == "positive" else 0.0)
                    t = torch.tensor((1 - eps) * t + eps / 2)
                    bce = F.binary_cross_entropy_with_logits(sims[i, k] + v["bias"], t)
                    total = total + weights[i][k] * bce
                for z in own_extra[i]:
                    total = total + F.binary_cross_entropy_with_logits(z + v["bias"], torch.tensor(eps / 2))
            return total / B
        none = torch.zeros(0)
        total = torch.zeros(())
        for i in range(B):
            target = torch.tensor(alike[i]) if kind == "multi_positive" else F.one_hot(torch.tensor(i), B).double()
            target = target / target.sum()
            of_row = (i, debias) if debias else None
            total = total + row_loss(sims[i], own_extra[i], target, weights[i], eps, of_row, scale)
            total = total + row_loss(sims[:, i], none, target, weights[i], eps, of_row, scale)
        return total / (2 * B)

    value = loss(eps)
    value.backward()
    grads = {name: x.grad.flatten().tolist() for name, x in v.items() if x.grad is not None}
    with torch.no_grad():
        hard = loss(0.0).item()
    return {"kind": kind, "label_smoothing": eps, "false_negatives": how, "debias": debias, "of": list(of),
            "alike": alike, "loss": value.item(), "hard": hard, "grads": grads,
            **{name: x.detach().tolist() for name, x in v.items()}}


def main():
    keys = [[1., 0., 0., 1., 0., 0.], [0., 1., 0., 0., 0., 0.], [0., 0., 1., 0., 1., 1.],
            [1., 0., 0., 1., 0., 0.], [0., 0., 1., 0., 1., 1.], [0., 0., 1., 0., 1., 1.]]
    graded = [[1., 0., .5, 0., 0., 0.], [0., 1., 0., 0., .25, 0.], [.5, 0., 1., 0., .75, 0.],
              [0., 0., 0., 1., 0., 0.], [0., .25, .75, 0., 1., 0.], [0., 0., 0., 0., 0., 1.]]
    of = (4, 0, 3)
    cases = []
    for seed, eps in enumerate([0.0, 0.1]):
        for kind in ["clip", "siglip", "multi_positive"]:
            cases.append(case(kind, eps, seed, keys, of=of))
        for kind in ["clip", "siglip"]:
            for how in ["remove", "soften"]:
                cases += [case(kind, eps, seed, keys, how), case(kind, eps, seed, graded, how, of=of)]
        cases += [case("siglip", eps, seed, keys, "positive"), case("siglip", eps, seed, graded, "positive", of=of)]
    for seed in range(2):
        cases += [case("clip", 0.0, seed, keys, debias=0.1), case("clip", 0.0, seed, keys, "remove", debias=0.05),
                  # So large a share that the bound holds in some rows.
                  case("clip", 0.0, seed, keys, debias=0.5, of=of)]
    write_json(GOLDEN / "negatives.json",
               {"script": "scripts/golden/negatives.py", "versions": versions(), "cases": cases}, indent=None)


main()
