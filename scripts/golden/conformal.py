"""Conformal prediction by torchcp (LAC, APS, RAPS, class-conditional), MAPIE (LAC) and numpy (risk control).

Writes tests/golden/conformal.json. Where torchsort is not installed, which needs a compiler and which none of these scores
uses, an empty module stands for it. Seed 2.
"""

import importlib.metadata
import sys
import types

try:
    import torchsort  # noqa: F401
except ImportError:
    sys.modules["torchsort"] = types.SimpleNamespace(soft_rank=None, soft_sort=None)

import numpy as np
import torch
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from torchcp.classification.predictor import ClassConditionalPredictor, SplitPredictor
from torchcp.classification.score import APS, LAC, RAPS

from common import GOLDEN, write_json

SCORES = {
    "lac": lambda: LAC(score_type="softmax"),
    "aps": lambda: APS(score_type="softmax", randomized=False),
    "raps": lambda: RAPS(score_type="softmax", randomized=False, penalty=0.1, kreg=1),
}


class Known(ClassifierMixin, BaseEstimator):
    """A model whose probabilities are its input."""

    def __init__(self, classes=2):
        self.classes = classes
        self.classes_ = np.arange(classes)
        self.fitted_ = True

    def fit(self, x, y):
        return self

    def predict(self, x):
        return np.asarray(x).argmax(1)

    def predict_proba(self, x):
        return np.asarray(x)


def case(rng, rows, classes, alpha):
    draw = lambda n: rng.normal(size=(n, classes)) * 2
    logits, judged = draw(rows), draw(25)
    targets = np.array([rng.choice(classes, p=np.exp(z) / np.exp(z).sum()) for z in logits])
    z, y, judged_z = torch.tensor(logits), torch.tensor(targets), torch.tensor(judged)
    found = {"logits": logits.tolist(), "targets": targets.tolist(), "judged": judged.tolist(), "alpha": alpha, "sets": {}}
    for name, score in SCORES.items():
        predictor = SplitPredictor(score())
        quantile = predictor.calculate_threshold(z, y, alpha)
        quantile = predictor.q_hat if quantile is None else quantile
        sets = predictor.predict_with_logits(judged_z, quantile)
        found["sets"][name] = {"quantile": float(quantile), "sets": torch.as_tensor(sets).int().tolist()}
    for name, score in SCORES.items():
        predictor = ClassConditionalPredictor(score())
        quantile = predictor.calculate_threshold(z, y, alpha)
        quantile = predictor.q_hat if quantile is None else quantile
        sets = predictor.predict_with_logits(judged_z, quantile)
        quantile = [q if np.isfinite(q) else None for q in torch.as_tensor(quantile).tolist()]
        found["sets"][f"{name}_by_class"] = {"quantile": quantile, "sets": torch.as_tensor(sets).int().tolist()}
    p = lambda z: torch.softmax(z, 1).numpy()
    mapie = SplitConformalClassifier(Known(classes), confidence_level=1 - alpha, conformity_score="lac", prefit=True)
    mapie.conformalize(p(z), targets)
    found["sets"]["mapie_lac"] = {"sets": mapie.predict_set(p(judged_z))[1][:, :, 0].astype(int).tolist()}
    return found


def risk(rng, images, findings, alpha):
    """One image a patient: the largest threshold with (n · mean missed + 1) / (n + 1) ≤ alpha over the n images that have
    a finding, by trying all. Half of the images have none."""
    has = (rng.random((images, findings)) < 0.4) & (rng.random((images, 1)) < 0.5)
    p = np.where(has, rng.random((images, findings)) ** 0.3, rng.random((images, findings)))
    def bound(t):
        ill = has.any(1)
        missed = (has & (p < t))[ill].sum(1) / has[ill].sum(1)
        return (ill.sum() * missed.mean() + 1) / (ill.sum() + 1)
    good = [t for t in sorted(set(p[has])) if bound(t) <= alpha + 1e-12]
    return {"probabilities": p.tolist(), "has": has.tolist(), "alpha": alpha, "threshold": float(max(good, default=0.0))}


def main():
    rng = np.random.default_rng(2)
    names = ["torchcp", "mapie", "torch", "numpy"]
    write_json(GOLDEN / "conformal.json", {
        "script": "scripts/golden/conformal.py",
        "versions": {name: importlib.metadata.version(name) for name in names},
        "classes": [case(rng, 80, 4, 0.1), case(rng, 60, 3, 0.2), case(rng, 99, 6, 0.05)],
        "risk": [risk(rng, 50, 4, 0.1), risk(rng, 30, 6, 0.25), risk(rng, 8, 3, 0.1)],
    }, indent=None)


main()
