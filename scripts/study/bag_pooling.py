#!/usr/bin/env python3
"""Tables of the study of bag poolings, from what scripts/study/bag-pooling.sh wrote.

    scripts/study/bag_pooling.py OUT SEEDS
"""
import csv
import json
import random
import sys
from pathlib import Path

from markdown_table import table

POOLINGS = ["attention", "mean", "max"]
DRAWS = 1000


def figures(figures):
    return {figure["name"]: figure for figure in figures}


def shown(value, interval, digits=3):
    bounds = f" [{interval[0]:.{digits}f} – {interval[1]:.{digits}f}]" if interval else ""
    return f"{value:.{digits}f}{bounds}"


def figure(found, name):
    return shown(found[name]["value"], found[name]["interval"])


def of_mean(values, seed=0):
    """Mean with its 95 % interval by bootstrap; a patient has one CT."""
    draw = random.Random(seed)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(DRAWS))
    return shown(sum(values) / len(values), (means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS) - 1]))


def retrieval(out, name):
    report = json.load(open(out / f"{name}-eval.json"))
    cells = []
    for way in ["image_to_text", "text_to_image"]:
        of = report[way]
        low, high = of["interval"]
        cells.append(shown(of["figures"]["recall@1"], (low["recall@1"], high["recall@1"])))
        cells.append(f"{of['chance']['recall@1']:.3f}")
    return cells


def classes(out, name):
    report = json.load(open(out / f"{name}-zero-shot.json"))
    overall = figures(report["figures"])
    cells = [figure(overall, "auroc_macro"), f"{overall['auroc_macro']['chance']:.3f}"]
    for finding in report["findings"]:
        if finding["name"] != "normal":
            cells.append(figure(figures(finding["figures"]), "auroc"))
    return cells, [finding["name"] for finding in report["findings"] if finding["name"] != "normal"]


def weights(path, rows, label):
    """Of CTs with a finding: share on the slices that hold it, by attention and by the gradient, and of slices that do;
    whether the slice with the largest share of each does."""
    found = {"share": [], "gradient_share": []}
    first = {"share": [], "gradient_share": []}
    chance = []
    for line in map(json.loads, open(path)):
        row = rows[line["line"]]
        images = line["images"]
        holds = [str(image["image"]) in row["finding_slices"].split(";") for image in images]
        if row["label"] != label or not any(holds):
            continue
        chance.append(sum(holds) / len(holds))
        for key in found:
            shares = [image[key] for image in images]
            if None in shares:
                continue
            found[key].append(sum(share for share, held in zip(shares, holds) if held))
            # The mean has no largest share.
            if max(shares) - min(shares) > 1e-6:
                first[key].append(float(holds[max(range(len(shares)), key=lambda i: shares[i])]))
    cell = lambda values: of_mean(values) if values else "–"
    return [f"{sum(chance) / len(chance):.3f}", *(cell(d[key]) for key in found for d in (found, first))]


def main():
    out, seeds = Path(sys.argv[1]), range(int(sys.argv[2]))
    rows = {number: row for number, row in enumerate(csv.DictReader(open(out / "ct/manifest.csv")), start=2)}
    members = [(pooling, seed) for pooling in POOLINGS for seed in seeds]
    names = classes(out, "mean-0")[1]

    print("Test split; 95 % intervals by bootstrap over patients.\n")
    head = ["pooling", "seed", "recall@1 image→text", "chance", "recall@1 text→image", "chance", "AUROC", "chance"]
    head += [f"AUROC {name}" for name in names]
    line = lambda p, s: [p, str(s), *retrieval(out, f"{p}-{s}"), *classes(out, f"{p}-{s}")[0]]
    table(head, [line(*member) for member in members])

    print("Attention minus another pooling of the same seed, paired on the same patients:\n")
    pairs = [(other, seed) for other in ["mean", "max"] for seed in seeds]
    margins = []
    for other, seed in pairs:
        name = f"attention-{other}-{seed}"
        found = figures(json.load(open(out / f"{name}-eval.json"))["difference"])
        found.update(figures(json.load(open(out / f"{name}-zero-shot.json"))["difference"]))
        keys = ["image→text recall@1", "text→image recall@1", "auroc_macro"]
        margins.append([f"attention − {other}", str(seed), *(figure(found, key) for key in keys)])
    table(["margin", "seed", "recall@1 image→text", "recall@1 text→image", "AUROC"], margins)

    print("Share on the slices that hold the finding, by attention and by gradient × input; how often the slice with the")
    print("largest share holds it; and by chance, the share of slices that hold it:\n")
    head = ["pooling", "seed", "finding", "chance", "attention", "its first slice", "gradient", "its first slice"]
    lines = [(p, s, n) for p, s in members for n in names]
    table(head, [[p, str(s), n, *weights(out / f"{p}-{s}.jsonl", rows, n)] for p, s, n in lines])


main()
