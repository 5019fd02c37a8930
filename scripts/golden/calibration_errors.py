"""Calibration figures: classwise ECE and vector scaling by numpy and scipy; the root mean square error, as it is and
debiased, by its authors' own package (Kumar, Liang and Ma, arXiv 1909.10155; `pip install uncertainty-calibration`), over
bins that numpy cuts.

Writes tests/golden/calibration.json. Seed 3.
"""

import importlib.metadata

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from calibration.utils import plugin_ce, unbiased_l2_ce

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


def root_mean_square(p, targets):
    confidence, right = p.max(1), (p.argmax(1) == targets).astype(float)
    order = np.argsort(confidence, kind="stable")
    bins = [[(confidence[i], right[i]) for i in b] for b in np.array_split(order, BINS)]
    return float(plugin_ce(bins, power=2)), float(unbiased_l2_ce(bins))


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
    square, debiased = root_mean_square(p, targets)
    return {
        "logits": logits.tolist(), "targets": targets.tolist(),
        "classwise": classwise(p, targets), "square": square, "debiased": debiased, "vector": vector(logits, targets),
    }


def main():
    rng = np.random.default_rng(3)
    write_json(GOLDEN / "calibration.json", {
        "script": "scripts/golden/calibration_errors.py",
        "versions": {name: importlib.metadata.version(name) for name in ["numpy", "scipy", "uncertainty-calibration"]},
        "cases": [case(rng, 120, 4, 3.0), case(rng, 61, 3, 0.8), case(rng, 40, 2, 5.0)],
    }, indent=None)


main()
