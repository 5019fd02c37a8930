#!/usr/bin/env python3
"""Tables of docs/label-smoothing.md, a figure each, from what the sweeps of the study wrote.

    scripts/study/tables.py docs/study/*.md
"""
import sys
from pathlib import Path

from markdown_table import table

PARTS = ["phantom-250", "noise-250", "phantom-1000", "phantom-4000", "notes", "notes-frozen", "notes-lora", "notes-full"]
PLAIN = "loss.label_smoothing = 0"
SETTINGS = {
    "loss.label_smoothing = 0.05": "ε = 0.05",
    "loss.label_smoothing = 0.1": "ε = 0.1",
    "loss.label_smoothing = 0.2": "ε = 0.2",
    'loss.label_smoothing = { from = 0.2, to = 0.0, over = "100%" }': "ε from 0.2 to 0",
    "loss.kind = multi_positive, loss.label_smoothing = 0": "several positives",
    "loss.kind = siglip, loss.label_smoothing = 0": "siglip",
}
# A figure, whether after temperature scaling.
FIGURES = [
    ("over-fitting", False),
    ("recall@1 %", False),
    ("mean recall %", False),
    ("AUROC", False),
    ("matching NLL", False),
    ("matching NLL", True),
    ("matching ECE", False),
    ("matching ECE", True),
    ("class NLL", False),
    ("class NLL", True),
    ("class ECE", True),
    ("matching AURC", True),
    ("class AURC", True),
    ("class AURC, logits normalised", False),
    ("matches answered at 90 % right, %", False),
    ("answered at 90 % right, %", False),
    ("answered at 90 % right, %", True),
]
LEVELS = [
    "matching ECE",
    "matching temperature",
    "accuracy %",
    "class ECE",
    "answered at 90 % right, %",
    "classes in a 90 % set",
    "classes alike across seeds %",
    "reports alike across seeds %",
]


def cells(line):
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def read(path):
    """Levels by (setting, figure), and differences from ε = 0 likewise."""
    levels, differences = {}, {}
    lines = [line for line in Path(path).read_text().splitlines() if line.startswith("|")]
    head = cells(lines[0])
    for line in lines[1:]:
        row = cells(line)
        if len(row) == len(head):
            levels.update({(row[0], name): value for name, value in zip(head, row)})
        elif len(row) == 6:
            differences[row[0], row[1]] = row[2] + (" \\*" if row[4] == "yes" else "")
    return levels, differences


def main():
    found = {Path(path).stem: read(path) for path in sys.argv[1:]}
    parts = [part for part in PARTS if part in found]
    for figure, scaled in FIGURES:
        name = figure + (", scaled" if scaled else "")
        print(f"{name}\n")
        level = PLAIN + (", then temperature scaling" if scaled else "")
        row = lambda levels, differences: (
            [levels.get((level, figure), ""), levels.get(("(chance)", figure), "").replace("–", "")]
            + [differences.get((setting, name), "") for setting in SETTINGS]
        )
        table(["part", "ε = 0", "chance", *SETTINGS.values()], [[part, *row(*found[part])] for part in parts])
    for figure in LEVELS:
        print(f"{figure}\n")
        rows = ["(chance)", "(calibrated, by luck)", PLAIN, *SETTINGS]
        row = lambda levels: [levels.get((setting, figure), "").replace("–", "") for setting in rows]
        table(["part", "chance", "by luck", "ε = 0", *SETTINGS.values()], [[part, *row(found[part][0])] for part in parts])


main()
