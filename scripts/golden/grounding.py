"""Contrast, overlap and pointing game of random maps with random boxes, in numpy. Seed 0.

Writes tests/golden/grounding.json: cases {map, inside, contrast, overlap, pointing, overlap_by_chance,
pointing_by_chance}. What chance gives is also drawn: overlaps of shuffled maps, 4000 times, within 0.02.
"""

import numpy as np

from common import GOLDEN, versions, write_json

THRESHOLDS = [0.3, 0.4, 0.5, 0.6, 0.7]


def figures(values, inside):
    a, b = values[inside], values[~inside]
    stretched = (values - values.min()) / (values.max() - values.min())
    found = [stretched >= t for t in THRESHOLDS]
    iou = [(f & inside).sum() / (f | inside).sum() for f in found]
    expected = [f.sum() * inside.mean() for f in found]
    chance = [e / (f.sum() + inside.sum() - e) for e, f in zip(expected, found)]
    return {"contrast": (a.mean() - b.mean()) / np.sqrt(a.var() + b.var()), "overlap": iou,
            "pointing": float(inside[values == values.max()].mean()), "overlap_by_chance": chance,
            "pointing_by_chance": inside.mean()}


def case(rng, side, box, strength):
    y, x, h, w = box
    inside = np.zeros((side, side), bool)
    inside[y:y + h, x:x + w] = True
    values = rng.normal(size=(side, side)) + strength * inside
    values = values.astype(np.float32).astype(float).ravel()
    inside = inside.ravel()
    result = figures(values, inside)
    shuffled = np.mean([figures(rng.permutation(values), inside)["overlap"] for _ in range(4000)], axis=0)
    assert np.abs(shuffled - result["overlap_by_chance"]).max() < 0.02, (shuffled, result)
    return {"map": values.tolist(), "inside": inside.tolist(), **result}


def main():
    rng = np.random.default_rng(0)
    cases = [case(rng, side, box, strength)
             for side, box in [(8, (1, 2, 3, 4)), (14, (0, 0, 2, 2)), (16, (3, 3, 12, 12)), (5, (4, 4, 1, 1))]
             for strength in [-2.0, 0.0, 3.0]]
    write_json(GOLDEN / "grounding.json",
               {"script": "scripts/golden/grounding.py", "versions": versions(), "cases": cases}, indent=None)


main()
