#!/usr/bin/env python3
"""The table of docs/local-alignment.md: means over seeds of what scripts/study/local-alignment.sh left in a folder, and
differences from whole images alone, paired by seed, with 95 % intervals (Student's t).

    scripts/study/local_alignment.py OUT
"""
import json
import sys
from pathlib import Path

from intervals import half, mean

NAMES = {"global": "whole images alone", "attention": "with `local`, attention", "map": "with `local`, map"}
MAPS = ["patches", "relevance"]


def read(out, name, map_kind):
    found = {}
    for path in sorted(out.glob(f"{name}-*-{map_kind}.json")):
        report = json.loads(path.read_text())
        recall = mean([report[side]["figures"][f"recall@{k}"] for side in ("image_to_text", "text_to_image")
                       for k in (1, 5, 10)])
        grounding = report["grounding"]
        others = {f["name"]: f["value"] for f in grounding.get("of_others") or []}
        figures = {f["name"]: (f["value"], f["chance"], others.get(f["name"])) for f in grounding["figures"]}
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
            # A seed that is not done yet has no partner.
            runs = {seed: run for seed, run in read(out, name, m).items() if seed in base[m]}
            if not runs:
                continue
            cells = []
            for figure in shown:
                values = [f[figure][0] for f, _ in runs.values()]
                cell = f"{mean(values):.3f} ± {half(values):.3f}"
                if None not in [f[figure][2] for f, _ in runs.values()]:
                    over = [f[figure][0] - f[figure][2] for f, _ in runs.values()]
                    cell += f", {mean(over):+.3f} ± {half(over):.3f} over another's map"
                if name != "global":
                    gains = [f[figure][0] - base[m][s][0][figure][0] for s, (f, _) in runs.items()]
                    cell += f" ({mean(gains):+.3f} ± {half(gains):.3f})"
                cells.append(cell)
            recalls = [100 * r for _, r in runs.values()]
            cell = f"{mean(recalls):.1f} ± {half(recalls):.1f} %"
            if name != "global":
                gains = [100 * (r - base[m][s][1]) for s, (_, r) in runs.items()]
                cell += f" ({mean(gains):+.1f} ± {half(gains):.1f})"
            cells.append(cell)
            print(f"| {words} | {m} | " + " | ".join(cells) + " |")
    if not base["patches"]:
        sys.exit(f"{out}: no seed of whole images alone is judged yet")
    chance = next(iter(base["patches"].values()))[0]
    print("| uniform | | " + " | ".join(f"{chance[figure][1]:.3f}" for figure in shown) + " | |")
    print(f"\n{len(base['patches'])} seeds; in brackets the gain over whole images alone with the same map")


main()
