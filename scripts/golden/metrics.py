"""Classification, calibration, ranking and selective accuracy by scikit-learn, torchmetrics, scipy and numpy.

Writes tests/golden/metrics.json: cases of logits (rows x classes) and targets with every figure, and binary cases of
scores with ties. Seed 0.
"""

import importlib.metadata

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_precision

from common import GOLDEN, versions, write_json

BINS = 15


def calibration_by_mass(confidence, right):
    order = np.argsort(confidence, kind="stable")
    parts = [p for p in np.array_split(order, BINS) if len(p)]
    gaps = [abs(confidence[p].mean() - right[p].mean()) for p in parts]
    weights = [len(p) / len(order) for p in parts]
    return float(np.dot(gaps, weights))


def multiclass(rng, rows, classes, sharpness):
    logits = rng.normal(size=(rows, classes)) * sharpness
    targets = np.array([rng.choice(classes, p=softmax(z / (sharpness / 2 + 0.5))) for z in logits])
    p = softmax(logits, axis=1)
    predicted, confidence = p.argmax(1), p.max(1)
    right = (predicted == targets).astype(float)
    nll = lambda t: float(-log_softmax(logits / t, axis=1)[np.arange(rows), targets].mean())
    best = minimize_scalar(lambda s: nll(np.exp(-s)), bounds=np.log([0.01, 100]), method="bounded", options={"xatol": 1e-10})
    order = np.argsort(-confidence, kind="stable")
    risks = np.cumsum(1 - right[order]) / np.arange(1, rows + 1)
    one_hot = np.eye(classes)[targets]
    calibration = lambda norm: float(
        MulticlassCalibrationError(classes, n_bins=BINS, norm=norm)(torch.tensor(p), torch.tensor(targets))
    )
    return {
        "logits": logits.tolist(),
        "targets": targets.tolist(),
        "accuracy": sk.accuracy_score(targets, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
        "macro_f1": sk.f1_score(targets, predicted, average="macro", zero_division=0),
        "auroc": [float(sk.roc_auc_score(one_hot[:, k], p[:, k])) for k in range(classes)],
        "ece": calibration("l1"),
        "mce": calibration("max"),
        "ece_equal_mass": calibration_by_mass(confidence, right),
        "brier": float(((p - one_hot) ** 2).sum(1).mean()),
        "nll": sk.log_loss(targets, p, labels=range(classes)),
        "temperature": float(np.exp(-best.x)),
        "nll_scaled": float(best.fun),
        "aurc": float(risks.mean()),
    }


def binary(rng, rows):
    scores = np.round(rng.normal(size=rows), 1)  # ties
    positive = rng.random(rows) < 1 / (1 + np.exp(-scores))
    precision, recall, thresholds = sk.precision_recall_curve(positive, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        "scores": scores.tolist(),
        "positive": positive.tolist(),
        "auroc": float(sk.roc_auc_score(positive, scores)),
        "average_precision": float(sk.average_precision_score(positive, scores)),
        "f1_at_0": sk.f1_score(positive, scores >= 0),
        "best_f1": float(f1[:-1].max()),
    }


def ranking(rng, gallery):
    scores = rng.random(gallery)  # torchmetrics takes negative scores for "not found"
    alike = rng.random(gallery) < 0.3
    s, a = torch.tensor(scores), torch.tensor(alike)
    return {
        "scores": scores.tolist(),
        "alike": alike.tolist(),
        "map": float(retrieval_average_precision(s, a)),
        **{f"precision@{k}": float(retrieval_precision(s, a, top_k=k)) for k in (1, 5, 10)},
    }


def probe(rng, rows, width, classes):
    x = rng.normal(size=(rows, width))
    y = (x[:, :classes] + rng.normal(size=(rows, classes))).argmax(1)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10000).fit(x, y)
    return {
        "x": x.tolist(), "y": y.tolist(),
        "probabilities": model.predict_proba(x).tolist(),
        "loss": float(sk.log_loss(y, model.predict_proba(x))),
    }


def main():
    rng = np.random.default_rng(0)
    extra = {name: importlib.metadata.version(name) for name in ["scikit-learn", "torchmetrics", "scipy"]}
    write_json(GOLDEN / "metrics.json", {
        "script": "scripts/golden/metrics.py",
        "versions": versions() | extra,
        "multiclass": [multiclass(rng, 200, 4, 3.0), multiclass(rng, 97, 2, 0.7), multiclass(rng, 60, 8, 6.0)],
        "binary": [binary(rng, 150), binary(rng, 31)],
        "ranking": [ranking(rng, 40), ranking(rng, 12)],
        "probe": [probe(rng, 60, 5, 3), probe(rng, 40, 8, 2)],
    }, indent=None)


main()
