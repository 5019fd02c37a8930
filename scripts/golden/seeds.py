"""Intervals over seeds by Student's t, and two settings by Welch's test, from scipy.

Writes tests/golden/seeds.json. Seed 6.
"""

import importlib.metadata

import numpy as np
from scipy import stats

from common import GOLDEN, write_json


def interval(values):
    n = len(values)
    return list(stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values)))


def welch(a, b):
    found = stats.ttest_ind(a, b, equal_var=False)
    bounds = found.confidence_interval(0.95)
    return {"a": a.tolist(), "b": b.tolist(), "p": found.pvalue, "interval": [bounds.low, bounds.high]}


rng = np.random.default_rng(6)
samples = [rng.normal(0.7, 0.1, n) for n in (2, 3, 5, 10, 30)]
pairs = [
    (rng.normal(0.6, 0.05, 3), rng.normal(0.7, 0.05, 3)),
    (rng.normal(0.6, 0.02, 10), rng.normal(0.62, 0.04, 10)),
    (rng.normal(0.6, 0.1, 2), rng.normal(0.6, 0.1, 5)),
]
write_json(
    GOLDEN / "seeds.json",
    {
        "script": "scripts/golden/seeds.py",
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        "means": [{"values": v.tolist(), "interval": interval(v)} for v in samples],
        "pairs": [welch(a, b) for a, b in pairs],
    },
)
