#!/usr/bin/env python3
"""The table of docs/local-alignment.md: means over seeds of what scripts/study/local-alignment.sh left in a folder, and
differences from whole images alone, paired by seed, with 95 % intervals (Student's t).

    scripts/study/local_alignment.py OUT
"""
import json
import math
import sys
from pathlib import Path

NAMES = {"global": "whole images alone", "attention": "with `local`, attention", "map": "with `local`, map"}
MAPS = ["patches", "relevance"]
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def mean(values):
    return sum(values) / len(values)


def half(values):
    """Half of the 95 % interval of a mean."""
    if len(values) < 2:
        return math.nan
    spread = math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))
    return T.get(len(values) - 1, 1.96) * spread / math.sqrt(len(values))


def read(out, name, map_kind):
    found = {}
    for path in sorted(out.glob(f"{name}-*-{map_kind}.json")):
        report = json.loads(path.read_text())
        recall = mean([report[side]["figures"][f"recall@{k}"] for side in ("image_to_text", "text_to_image")
                       for k in (1, 5, 10)])
        figures = {f["name"]: (f["value"], f["chance"]) for f in report["grounding"]["figures"]}
        found[path.name.split("-")[1]] = figures, recall
    return found


def main():
    out = Path(sys.argv[1])
    base = {m: read(out, "global", m) for m in MAPS}
    shown = ["pointing", "cnr", "miou"]
    print("| trained | map | " + " | ".join(shown) + " | mean recall |")
    print("|---|---|" + "---|" * (len(shown) + 1))
    for name, words in NAMES.items():
        for m in MAPS:
            runs = read(out, name, m)
            cells = []
            for figure in shown:
                values = [f[figure][0] for f, _ in runs.values()]
                cell = f"{mean(values):.3f} ± {half(values):.3f}"
                if name != "global":
                    gains = [f[figure][0] - base[m][s][0][figure][0] for s, (f, _) in runs.items()]
                    cell += f" ({mean(gains):+.3f} ± {half(gains):.3f})"
                cells.append(cell)
            recalls = [r for _, r in runs.values()]
            cells.append(f"{100 * mean(recalls):.1f} ± {100 * half(recalls):.1f} %")
            print(f"| {words} | {m} | " + " | ".join(cells) + " |")
    chance = next(iter(base["patches"].values()))[0]
    print("| chance | | " + " | ".join(f"{chance[figure][1]:.3f}" for figure in shown) + " | |")
    print(f"\n{len(base['patches'])} seeds; in brackets the gain over whole images alone with the same map")


main()
