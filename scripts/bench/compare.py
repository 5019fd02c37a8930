#!/usr/bin/env python3
"""reportclip beside PyTorch: the same work in turn, several times over, and the ratios.

  compare.py --python peer-venv/bin/python [--reportclip target/release/reportclip] [--rounds 3] [--only NAME,…]
             [--precision f32,bf16] [--images DIR] [--lengths FILE]… [--model DIR --manifest CSV] [--out lines.jsonl]
A machine's speed changes from minute to minute, so only ratios of runs that took turns mean anything: each round runs
every program once, and the ratio is that of the medians over all rounds. The raw lines go to --out.
Every line names the class of the machine, by its best instructions for products. In bf16 PyTorch runs under autocast with
the fused AdamW; where reportclip has no kernel for it and runs in f32, the row says so.
--lengths: tokens of real texts, one number a line (report_lengths.py makes such a file); --images: real image files.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


# Flags of /proc/cpuinfo, the best first.
CLASSES = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))


def machine():
    """The class of this machine, and what its processor is called."""
    lines = open("/proc/cpuinfo").read().splitlines()
    first = lambda key: next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
    flags = first("flags").split()
    return next((name for flag, name in CLASSES if flag in flags), "other"), first("model name") or "unknown"


def cases(a):
    """Groups: the peer's arguments, and (name, figure, our arguments) of everything that is set against that run."""
    for precision in a.precision.split(","):
        in_f32 = precision == "f32"
        more = [] if in_f32 else ["--precision", precision]
        for group, theirs, ours in of_towers(a):
            ours = [(name if in_f32 else f"{name}, {precision}", key, args + more) for name, key, args in ours]
            yield group if in_f32 else f"{group}-{precision}", theirs + more, ours
    yield from of_files(a)


def of_towers(a):
    """What a precision changes."""
    step = ["train-step", "--threads", "2", "--steps", str(a.steps)]
    lengths = [(os.path.splitext(os.path.basename(path))[0], ["--text-lengths", path]) for path in a.lengths]
    for batch in (8, 32):
        full = step + ["--batch-size", str(batch)]
        ours = [(f"step, batch {batch}", "median_step_s", full)]
        ours += [(f"step, batch {batch}, {name}", "median_step_s", full + more) for name, more in lengths]
        yield f"step-{batch}", full, ours
    for name, more in (("vit-base-patch16", []), ("resnet-50", ["--channels-last"])):
        pair = step + ["--batch-size", "8", "--model", f"{name}+bert-base"]
        yield f"{name}-8", pair + more, [(f"{name} and BERT-base, batch 8", "median_step_s", pair)]
    frozen = step + ["--batch-size", "8", "--freeze-image"]
    kept = frozen + ["--cached-features"]
    ours = [("frozen image tower, batch 8", "median_step_s", kept)]
    ours += [(f"frozen image tower, batch 8, {name}", "median_step_s", kept + more) for name, more in lengths]
    yield "frozen-8", frozen, ours
    encode = ["encode", "--threads", "2", "--steps", str(a.steps), "--batch-size", "32"]
    yield "encode", encode, [("encode", "images_per_s", encode), ("encode", "texts_per_s", encode)]


def of_files(a):
    """What no precision changes."""
    if a.images:
        images = ["data", "--images", a.images]
        yield "data", images, [("images, one core", "images_per_s", images)]
    if a.model:
        theirs = ["start", "--batch-size", "8", "--model", a.model, "--manifest", a.manifest]
        ours = ["start", a.model, a.manifest]
        names = [("start until the first step begins", "start_to_step_s"), ("until it ends", "start_to_first_step_s")]
        yield "start", theirs, [(name, key, ours) for name, key in names]


def run(command):
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def start(program, model, manifest):
    """`reportclip train` from its start until it reports its first step."""
    with tempfile.TemporaryDirectory() as folder:
        config, out = os.path.join(folder, "start.toml"), os.path.join(folder, "run")
        lines = ["[model]", f"path = {json.dumps(os.path.abspath(model))}", "[data]",
                 f"train = {json.dumps(os.path.abspath(manifest))}", "[train]", "batch_size = 8", "max_steps = 1",
                 "clip_grad_norm = 0"]
        open(config, "w").write("\n".join(lines) + "\n")
        started = time.time()
        process = subprocess.Popen([program, "train", config, "--out", out], stderr=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, text=True)
        ended = next(time.time() - started for line in process.stderr if line.startswith("step 1/"))
        process.kill()
        process.wait()
        step = json.loads(open(os.path.join(out, "timing.jsonl")).readline())["seconds"]
        return {"start_to_step_s": ended - step, "start_to_first_step_s": ended}


def middle(value):
    return value["median"] if isinstance(value, dict) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch, transformers, torchvision")
    parser.add_argument("--reportclip", default=os.path.join(HERE, "../../target/release/reportclip"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", default="f32,bf16", help="f32, bf16 or both with a comma between")
    parser.add_argument("--only", help="groups, with commas between: step-8, step-32, vit-base-patch16-8, resnet-50-8, "
                        "frozen-8, encode (each also with -bf16 behind), data, start")
    parser.add_argument("--images", help="folder of real image files")
    parser.add_argument("--lengths", action="append", default=[], help="tokens of real texts; may be given again")
    parser.add_argument("--model", help="folder that `torch_peer.py save` wrote")
    parser.add_argument("--manifest", help="CSV with eight pairs, columns image and report")
    parser.add_argument("--out", default=os.path.join(tempfile.gettempdir(), "reportclip-bench.jsonl"))
    a = parser.parse_args()
    wanted = a.only.split(",") if a.only else None
    groups = [group for group in cases(a) if wanted is None or group[0] in wanted]
    lines = {}
    kind, processor = machine()

    def keep(out, case, program, round_, figures):
        lines.setdefault((case, program), []).append(figures)
        line = json.dumps({"case": case, "program": program, "round": round_, "machine": kind, "cpu": processor} | figures)
        print(line, file=out, flush=True)
        print(line, file=sys.stderr)

    with open(a.out, "a") as out:
        for round_ in range(a.rounds):
            for group, theirs, ours in groups:
                peer = run([a.python, os.path.join(HERE, "torch_peer.py")] + theirs)
                keep(out, group, "pytorch", round_, peer)
                for name in dict.fromkeys(name for name, _, _ in ours):
                    arguments = next(arguments for other, _, arguments in ours if other == name)
                    if arguments[0] == "start":
                        figures = start(a.reportclip, *arguments[1:])
                    else:
                        figures = run([a.reportclip, "bench"] + arguments + ["--json"])
                    keep(out, name, "reportclip", round_, figures)
    print(f"Machine: {kind}, {processor}, {os.cpu_count()} cores\n")
    print("| case | PyTorch: median (lowest to highest) | reportclip | ratio | peak MiB | ratio |")
    print("|---|---|---|---|---|---|")
    for group, _, ours in groups:
        for name, key, _ in ours:
            cells, medians, memory = [], [], []
            for figures in (lines[group, "pytorch"], lines[name, "reportclip"]):
                values = [middle(f[key]) for f in figures]
                medians.append(statistics.median(values))
                cells.append(f"{medians[-1]:.2f} ({min(values):.2f} to {max(values):.2f})")
                memory.append(statistics.median(f.get("peak_rss_mib", 0) for f in figures))
            peak = f"{memory[0]:.0f} → {memory[1]:.0f} | {memory[1] / memory[0]:.2f}" if memory[1] else "– | –"
            unit = key.replace("_per_s", " a second").replace("median_step_s", "seconds a step")
            unit = "seconds" if unit.startswith("start") else unit
            in_f32 = name.endswith(", bf16") and lines[name, "reportclip"][0]["precision"] == "f32"
            name = f"{name} (reportclip in f32: no kernel)" if in_f32 else name
            print(f"| {name}, {unit} | {cells[0]} | {cells[1]} | **{medians[1] / medians[0]:.2f}** | {peak} |")


if __name__ == "__main__":
    main()
