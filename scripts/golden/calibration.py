"""Calibration figures that other libraries have not or have otherwise, by numpy and scipy: classwise ECE, the debiased
root mean square error of Kumar, Liang and Ma (arXiv 1909.10155), vector scaling.

Writes tests/golden/calibration.json. Seed 3.
"""

import importlib.metadata

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from common import GOLDEN, write_json

BINS = 15


def classwise(p, targets):
    errors = []
    for k in range(p.shape[1]):
        confidence, right = p[:, k], (targets == k).astype(float)
        # A border belongs to the bin below.
        which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        bins = [which == b for b in range(BINS)]
        errors.append(sum(abs(confidence[b].mean() - right[b].mean()) * b.mean() for b in bins if b.any()))
    return float(np.mean(errors))


def debiased(p, targets):
    confidence, right = p.max(1), (p.argmax(1) == targets).astype(float)
    order, total = np.argsort(confidence, kind="stable"), 0.0
    for b in np.array_split(order, BINS):
        if len(b) > 1:
            accuracy = right[b].mean()
            gap = (confidence[b].mean() - accuracy) ** 2
            total += len(b) / len(order) * (gap - accuracy * (1 - accuracy) / (len(b) - 1))
    return float(np.sqrt(max(total, 0)))


def vector(logits, targets):
    rows, classes = logits.shape

    def loss(theta):
        z = logits * theta[:classes] + theta[classes:]
        start = np.concatenate([np.ones(classes), np.zeros(classes)])
        return -log_softmax(z, axis=1)[np.arange(rows), targets].sum() + ((theta - start) ** 2).sum() / 2

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    found = minimize(loss, start, method="BFGS", options={"gtol": 1e-9, "maxiter": 10_000}).x
    return (logits * found[:classes] + found[classes:]).tolist()


def case(rng, rows, classes, sharpness):
    logits = rng.normal(size=(rows, classes)) * sharpness
    targets = np.array([rng.choice(classes, p=softmax(z / (sharpness / 2 + 0.5))) for z in logits])
    p = softmax(logits, axis=1)
    return {
        "logits": logits.tolist(), "targets": targets.tolist(),
        "classwise": classwise(p, targets), "debiased": debiased(p, targets), "vector": vector(logits, targets),
    }


def main():
    rng = np.random.default_rng(3)
    write_json(GOLDEN / "calibration.json", {
        "script": "scripts/golden/calibration.py",
        "versions": {name: importlib.metadata.version(name) for name in ["numpy", "scipy"]},
        "cases": [case(rng, 120, 4, 3.0), case(rng, 61, 3, 0.8), case(rng, 40, 2, 5.0)],
    }, indent=None)


main()
