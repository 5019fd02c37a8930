#!/usr/bin/env python3
"""Figures of scripts/study/negatives.sh: a line of a run, or the table of docs/negatives.md.

    scripts/study/negatives.py line SETTING SEED SECONDS RUN
    scripts/study/negatives.py table OUT/figures.jsonl
"""
import json
import sys

from intervals import half, mean

FIGURES = ["mean recall %", "AUROC", "denial, both ways %", "side %", "size %", "s a step"]


def line(setting, seed, seconds, run):
    report = json.load(open(run + ".eval"))
    zero_shot = json.load(open(run + ".zero-shot"))
    prefers = [figure["value"] for figure in report["negation"]["figures"]]
    auroc = next(f["value"] for f in zero_shot["figures"] if f["name"] == "auroc_macro")
    steps = [json.loads(text) for text in open(run + "/timing.jsonl")]
    of_steps = sorted(s["seconds"] for s in steps if "seconds" in s)
    figures = {
        "mean recall %": 100 * report["mean_recall"],
        "AUROC": auroc,
        "denial, both ways %": 100 * prefers[6],
        "side %": 100 * prefers[2],
        "size %": 100 * prefers[3],
        "s a step": of_steps[len(of_steps) // 2],
    }
    print(json.dumps({"setting": setting, "seed": int(seed), "seconds": float(seconds), "figures": figures}))


def base_of(setting):
    """The setting that this one is held against."""
    if setting.startswith("local-"):
        return "local"
    return "siglip" if setting.startswith("siglip") else "plain"


def table(path):
    runs = {}
    for text in open(path):
        run = json.loads(text)
        runs.setdefault(run["setting"], {})[run["seed"]] = run
    print("| setting | seeds | " + " | ".join(FIGURES) + " | whole run, s |")
    print("|---|---|" + "---|" * (len(FIGURES) + 1))
    for setting, of_seed in runs.items():
        base = runs.get(base_of(setting), {})
        seeds = sorted(set(of_seed) & set(base))
        # Not done yet.
        if not seeds:
            continue
        cells = []
        for name in FIGURES:
            digits = 3 if name in ("AUROC", "s a step") else 1
            values = [of_seed[s]["figures"][name] for s in seeds]
            cell = f"{mean(values):.{digits}f}"
            if of_seed is not base:
                gains = [of_seed[s]["figures"][name] - base[s]["figures"][name] for s in seeds]
                cell += f" ({mean(gains):+.{digits}f} ± {half(gains):.{digits}f})"
            cells.append(cell)
        seconds = sum(of_seed[s]["seconds"] for s in seeds) / len(seeds)
        print(f"| {setting} | {len(seeds)} | " + " | ".join(cells) + f" | {seconds:.0f} |")


if sys.argv[1] == "line":
    line(*sys.argv[2:])
else:
    table(sys.argv[2])
