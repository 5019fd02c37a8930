#!/usr/bin/env python3
"""reportclip beside PyTorch: the same work in turn, several times over, and the ratios.

  compare.py --python peer-venv/bin/python [--reportclip target/release/reportclip] [--rounds 3] [--only NAME,…]
             [--images DIR] [--lengths FILE] [--out lines.jsonl]
A machine's speed changes from minute to minute, so only ratios of runs that took turns mean anything: each round runs
every program once, and the ratio is that of the medians over all rounds. The raw lines go to --out.
--lengths: tokens of real texts, one number a line (report_lengths.py makes such a file); --images: real image files.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def cases(a):
    """name, what is compared, whether lower is better, the peer's arguments, ours."""
    step = ["train-step", "--threads", "2", "--steps", str(a.steps)]
    for batch in (8, 32):
        sizes = ["--batch-size", str(batch)]
        yield f"step-{batch}", "median_step_s", step + sizes, step + sizes
    if a.lengths:
        lengths = ["--text-lengths", a.lengths]
        for batch in (8, 32):
            sizes = ["--batch-size", str(batch)]
            yield f"lengths-{batch}", "median_step_s", step + sizes, step + sizes + lengths
    for batch in (8, 32):
        frozen = ["--batch-size", str(batch), "--freeze-image"]
        ours = step + frozen + ["--cached-features"]
        yield f"frozen-{batch}", "median_step_s", step + frozen, ours
        if a.lengths:
            yield f"frozen-lengths-{batch}", "median_step_s", step + frozen, ours + lengths
    encode = ["encode", "--threads", "2", "--steps", str(a.steps), "--batch-size", "32"]
    yield "encode", "images_per_s", encode, encode
    yield "encode", "texts_per_s", encode, encode
    if a.images:
        yield "data", "images_per_s", ["data", "--images", a.images], ["data", "--images", a.images]


def run(command):
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def middle(value):
    return value["median"] if isinstance(value, dict) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch, transformers, torchvision")
    parser.add_argument("--reportclip", default=os.path.join(HERE, "../../target/release/reportclip"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", help="names of cases, with commas between")
    parser.add_argument("--images")
    parser.add_argument("--lengths")
    parser.add_argument("--out", default=os.path.join(tempfile.gettempdir(), "reportclip-bench.jsonl"))
    a = parser.parse_args()
    wanted = a.only.split(",") if a.only else None
    chosen = [c for c in cases(a) if wanted is None or c[0] in wanted]
    lines = {}
    with open(a.out, "a") as out:
        for round_ in range(a.rounds):
            for name in dict.fromkeys(c[0] for c in chosen):
                _, _, theirs, ours = next(c for c in chosen if c[0] == name)
                commands = {
                    "pytorch": [a.python, os.path.join(HERE, "torch_peer.py")] + theirs,
                    "reportclip": [a.reportclip, "bench"] + ours + ["--json"],
                }
                for program, command in commands.items():
                    figures = run(command)
                    lines.setdefault((name, program), []).append(figures)
                    line = {"case": name, "program": program, "round": round_} | figures
                    out.write(json.dumps(line) + "\n")
                    out.flush()
                    print(json.dumps(line), file=sys.stderr)
    print("| case | figure | PyTorch: median (min to max) | reportclip | ratio | peak MiB, ratio |")
    print("|---|---|---|---|---|---|")
    for name, key, _, _ in chosen:
        cells, medians, memory = [], [], []
        for program in ("pytorch", "reportclip"):
            values = [middle(f[key]) for f in lines[name, program]]
            medians.append(statistics.median(values))
            cells.append(f"{medians[-1]:.3f} ({min(values):.3f} to {max(values):.3f})")
            memory.append(statistics.median(f.get("peak_rss_mib", 0) for f in lines[name, program]))
        peak = f"{memory[0]:.0f} → {memory[1]:.0f}, {memory[1] / memory[0]:.2f}" if memory[1] else "–"
        print(f"| {name} | {key} | {cells[0]} | {cells[1]} | **{medians[1] / medians[0]:.2f}** | {peak} |")


if __name__ == "__main__":
    main()
