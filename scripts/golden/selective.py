"""Selective prediction by numpy alone: scores of sureness, AURC, excess AURC, accuracy at coverage, coverage at accuracy.

Writes tests/golden/selective.json. Written from the papers' definitions (arXiv 1805.08206 for excess AURC, 2305.15508 and
2403.14715 for the normalised logit), another way than the program: every order of tied answers is averaged by brute
force. Seed 1.
"""

import itertools
import platform

import numpy as np

from common import GOLDEN, write_json


def sureness(z):
    p = np.exp(z - z.max())
    p = p / p.sum()
    top = np.sort(p)[::-1]
    centred = z - z.mean()
    return {
        "max_probability": top[0],
        "margin": top[0] - top[1],
        "normalised_logit": centred.max() / np.linalg.norm(centred, 2),
        "entropy": float((p * np.log(p)).sum()),
    }


def areas(right_in_order):
    wrong = 1 - np.asarray(right_in_order, float)
    return np.cumsum(wrong) / np.arange(1, len(wrong) + 1)


def curve(scores, right):
    """Mean risk after each answer over all orders of answers that are equally sure."""
    scores, right = np.asarray(scores), np.asarray(right)
    groups = [right[scores == s] for s in sorted(set(scores), reverse=True)]
    orders = [[[i in at for i in range(len(g))] for at in itertools.combinations(range(len(g)), int(g.sum()))] for g in groups]
    every = [areas(np.concatenate(o)) for o in itertools.product(*orders)]
    return np.mean(every, axis=0)


def figures(scores, right):
    scores, right = np.asarray(scores), np.asarray(right)
    risk, n = curve(scores, right), len(right)
    best = areas(sorted(right, reverse=True))
    at = lambda share: 1 - risk[int(np.ceil(share * n - 1e-9)) - 1]
    def answered(accuracy):
        kept = [scores >= t for t in set(scores)]
        good = [k.mean() for k in kept if right[k].mean() >= accuracy - 1e-12]
        return max(good, default=0.0)
    return {
        "aurc": risk.mean(), "excess_aurc": risk.mean() - best.mean(),
        "accuracy_of_50": at(0.5), "accuracy_of_80": at(0.8), "accuracy_of_90": at(0.9),
        "coverage_at_80": answered(0.8), "coverage_at_90": answered(0.9), "coverage_at_95": answered(0.95),
    }


def main():
    rng = np.random.default_rng(1)
    cases = []
    for rows, classes, sharpness in [(60, 5, 3.0), (41, 3, 1.0), (30, 8, 8.0)]:
        logits = np.round(rng.normal(size=(rows, classes)) * sharpness, 6)
        targets = [int(rng.choice(classes, p=np.exp(z / 2) / np.exp(z / 2).sum())) for z in logits]
        right = [int(z.argmax()) == t for z, t in zip(logits, targets)]
        scores = [sureness(z) for z in logits]
        case = {"logits": logits.tolist(), "targets": targets, "scores": {}}
        for name in scores[0]:
            of = [float(s[name]) for s in scores]
            case["scores"][name] = {"values": of, **{k: float(v) for k, v in figures(of, right).items()}}
        cases.append(case)
    ties = []
    for rows in (9, 12):
        scores = np.round(rng.random(rows) * 3) / 4
        right = rng.random(rows) < scores + 0.2
        ties.append({"confidence": scores.tolist(), "right": right.tolist(),
                     **{k: float(v) for k, v in figures(scores, right).items()}})
    write_json(GOLDEN / "selective.json", {
        "script": "scripts/golden/selective.py",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "cases": cases, "ties": ties,
    }, indent=None)


main()
