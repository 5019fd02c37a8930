"""Retrieval metrics and chance levels, computed plainly in numpy.

Writes tests/golden/retrieval.json: {"versions", "cases": [{similarity (images x texts), relevance,
i2t, t2i, chance_i2t, chance_t2i}]}.

The rank of a query is 1 + the number of irrelevant gallery items that score at least as much as its
best relevant item, so ties count against the model.
"""

from math import comb

import numpy as np

from common import GOLDEN, versions, write_json

KS = [1, 5, 10]


def ranks_of(similarity, relevance):
    ranks = []
    for scores, relevant in zip(similarity, relevance):
        best = scores[relevant].max()
        ranks.append(1 + int((scores[~relevant] >= best).sum()))
    return np.array(ranks)


def metrics(similarity, relevance):
    ranks = ranks_of(similarity, relevance)
    return {
        "ranks": ranks.tolist(),
        **{f"recall@{k}": float((ranks <= k).mean()) for k in KS},
        "mean_rank": float(ranks.mean()),
        "median_rank": float(np.median(ranks)),
        "mrr": float((1 / ranks).mean()),
    }


def chance(relevance):
    """Exact expectations when the gallery is shuffled at random, averaged over the queries."""
    gallery = relevance.shape[1]
    rows = []
    for relevant in relevance:
        r = int(relevant.sum())
        # worse[k] = probability that the first k places hold no relevant item
        worse = [comb(gallery - r, k) / comb(gallery, k) for k in range(gallery + 1)]
        row = {f"recall@{k}": 1 - worse[min(k, gallery)] for k in KS}
        row["mean_rank"] = (gallery + 1) / (r + 1)
        row["mrr"] = sum((worse[k - 1] - worse[k]) / k for k in range(1, gallery + 1))
        rows.append(row)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def check_chance(rng, relevance, rounds=4000):
    """The exact values agree with a simulation."""
    ranks = np.array([ranks_of(rng.random(relevance.shape), relevance) for _ in range(rounds)])
    simulated = {**{f"recall@{k}": (ranks <= k).mean() for k in KS},
                 "mean_rank": ranks.mean(), "mrr": (1 / ranks).mean()}
    for key, exact in chance(relevance).items():
        assert abs(simulated[key] - exact) < 0.02 * max(1, exact), (key, simulated[key], exact)


def make_case(name, similarity, relevance):
    return {
        "name": name,
        "similarity": similarity.tolist(),
        "relevance": relevance.astype(int).tolist(),
        "i2t": metrics(similarity, relevance),
        "t2i": metrics(similarity.T, relevance.T),
        "chance_i2t": chance(relevance),
        "chance_t2i": chance(relevance.T),
    }


def random_case(rng, name, images, texts, decimals, extra):
    """Every image and text has a relevant partner; `extra` more random pairs are relevant too."""
    relevance = np.zeros((images, texts), dtype=bool)
    relevance[np.arange(images), np.arange(images) % texts] = True
    relevance[np.arange(texts) % images, np.arange(texts)] = True
    relevance[rng.integers(images, size=extra), rng.integers(texts, size=extra)] = True
    # Rounding to few decimals makes ties; adding 0.0 turns -0.0 into 0.0.
    similarity = np.round(rng.normal(size=relevance.shape) + relevance, decimals) + 0.0
    check_chance(rng, relevance)
    check_chance(rng, relevance.T)
    return make_case(name, similarity, relevance)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    shared = np.eye(5, 7, dtype=bool)
    shared[0, 5:] = True
    cases = [
        random_case(rng, "one to one", 12, 12, 3, 0),
        random_case(rng, "shared texts", 20, 9, 3, 0),
        random_case(rng, "many to many, ties", 15, 18, 0, 20),
        random_case(rng, "gallery smaller than k", 6, 3, 1, 2),
        make_case("all scores equal", np.zeros((5, 7)), shared),
    ]
    for case in cases:
        print(case["name"], {k: v for k, v in case["i2t"].items() if k != "ranks"}, case["chance_i2t"])
    write_json(GOLDEN / "retrieval.json", {"versions": versions(), "cases": cases}, indent=None)
