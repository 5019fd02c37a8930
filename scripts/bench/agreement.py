#!/usr/bin/env python3
"""Whether two values of a sweep's key train alike: figures over seeds, and their differences paired by seed.

  agreement.py SWEEP [--key train.precision] [--figures mean_recall,match_nll,match_ece]
SWEEP: a folder of `reportclip sweep --grid KEY=A,B --seeds N`. A row a figure: its mean over seeds with the 95 %
interval of the mean for each value, and that of the differences B − A of equal seeds (Student's t over the seeds). They agree where the
latter holds 0, and how far they might still differ is what it says.
"""
import argparse
import json
import os
import statistics

# The 97.5 % quantile of Student's t, by seeds − 1; above 9 the normal distribution's, which is a little less.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def interval(values):
    middle = statistics.mean(values)
    half = T.get(len(values) - 1, 1.96) * statistics.stdev(values) / len(values) ** 0.5
    return middle, middle - half, middle + half


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep")
    parser.add_argument("--key", default="train.precision")
    parser.add_argument("--figures", default="mean_recall,match_nll,match_ece")
    a = parser.parse_args()
    members = json.load(open(os.path.join(a.sweep, "sweep.json")))["members"]
    by_value = {}
    for member in members:
        value = dict(member["setting"])[a.key]
        by_value.setdefault(value, {})[member["seed"]] = member["figures"]
    (first, of_first), (second, of_second) = by_value.items()
    seeds = sorted(seed for seed in of_first if of_first[seed] and of_second.get(seed))
    print(f"{len(seeds)} seeds: mean [95 % interval of the mean]\n")
    print(f"| figure | {first} | {second} | {second} − {first}, paired by seed |")
    print("|---|---|---|---|")
    for name in a.figures.split(","):
        x, y = ([of[seed][name] for seed in seeds] for of in (of_first, of_second))
        cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*interval(v)) for v in (x, y)]
        paired = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval([b - a for a, b in zip(x, y)]))
        print(f"| {name} | {cells[0]} | {cells[1]} | {paired} |")


if __name__ == "__main__":
    main()
