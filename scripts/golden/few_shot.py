"""Few-shot heads: the text-informed probe by PyTorch's autograd, the training-free one by numpy, logistic regression by
scikit-learn.

Writes tests/golden/few_shot.json. The definitions are those of src/metrics/few_shot.rs, written anew; a class may have
no shot. Seed 4.
"""

import importlib.metadata

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from common import GOLDEN, write_json


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def training_free(x, y, texts, scale):
    classes = sorted(set(y))
    middle = np.mean([x[y == k].mean(0) for k in classes], axis=0)
    weights = texts.copy()
    for k in classes:
        n = (y == k).sum()
        weights[k] += n / (n + 1) * (x[y == k].mean(0) - middle)
    return scale * weights


def text_probe(x, y, texts, scale):
    classes = sorted(set(y))
    middle = np.mean([x[y == k].mean(0) for k in classes], axis=0)
    start = np.stack([x[y == k].mean(0) if k in classes else middle for k in range(len(texts))])
    w = torch.tensor(start, requires_grad=True)
    a = torch.full((len(texts),), float(scale), dtype=torch.float64, requires_grad=True)
    x, y, texts = torch.tensor(x), torch.tensor(y), torch.tensor(texts)
    largest = ((x @ texts.T) ** 2).mean(0).max().item() / 2
    loss = lambda: F.cross_entropy(x @ (w + a[:, None] * texts).T, y)
    for _ in range(100):
        (grad,) = torch.autograd.grad(loss(), w)
        w.data -= grad / 0.5
        (grad,) = torch.autograd.grad(loss(), a)
        a.data -= grad / largest
    return (w + a[:, None] * texts).detach().numpy()


def case(rng, rows, classes, width, scale, missing=()):
    centres = rng.normal(size=(classes, width))
    y = np.array([rng.choice([k for k in range(classes) if k not in missing]) for _ in range(rows)])
    x = unit(centres[y] + 0.7 * rng.normal(size=(rows, width)) + 1)
    texts = unit(0.5 * centres + rng.normal(size=(classes, width)))
    judged = unit(centres[rng.integers(classes, size=8)] + 0.7 * rng.normal(size=(8, width)) + 1)
    found = {
        "x": x.tolist(), "y": y.tolist(), "texts": texts.tolist(), "scale": scale, "judged": judged.tolist(),
        "training_free": (judged @ training_free(x, y, texts, scale).T).tolist(),
        "text_probe": (judged @ text_probe(x, y, texts, scale).T).tolist(),
    }
    if not missing:
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10000).fit(x, y)
        found["logistic"] = model.predict_proba(judged).tolist()
    return found


def main():
    rng = np.random.default_rng(4)
    write_json(GOLDEN / "few_shot.json", {
        "script": "scripts/golden/few_shot.py",
        "versions": {name: importlib.metadata.version(name) for name in ["torch", "numpy", "scikit-learn"]},
        "cases": [case(rng, 12, 3, 5, 14.0), case(rng, 40, 5, 8, 100.0), case(rng, 10, 4, 6, 30.0, missing=(2,))],
    }, indent=None)


main()
