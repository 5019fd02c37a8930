#!/usr/bin/env python3
"""What `prove.sh run` does on the machine with the GPU, and the tables of what it left. Python's own library only.

  prove.py run FOLDER [--minutes 9] [--device cuda] [--parts 1,2,…] [--out prove.jsonl]
  prove.py report LINES
FOLDER is the unpacked package. Each part has its share of the time, and what it leaves is the next ones'. Every result
is a line of JSON in --out and a line for people on stdout, at once; a part that fails or runs out of time does not stop
the next.
Exit status: 0 where every result is right, 1 where one is not. What there was no time for, or nothing to measure with, is
told and counts as neither.
"""
import argparse
import glob
import json
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PARTS = {
    1: ("the machine", 90), 2: ("every operation", 90), 3: ("every kind of model", 90),
    4: ("ten steps and a resume", 60), 5: ("compute-sanitizer", 60), 6: ("training beside PyTorch", 200),
    7: ("encoding beside PyTorch", 60), 8: ("seconds by operation", 30),
}
# What needs no GPU.
ON_CPU = [2, 3, 4, 7]
# Losses of two ways to the same ten steps: relative difference.
LOSS_TOLERANCE = 1e-3
# The same numbers come another way.
COPY_TOLERANCE = 1e-6
B32, PAIR, L14 = "clip-vit-base-patch32", "vit-base-patch16+bert-base", "clip-vit-large-patch14"
CONVOLUTIONS = "resnet-50+bert-base"
LIBRARIES = ["libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudnn.so.9"]


class Run:
    """Where results go, and how long there is."""

    def __init__(self, arguments):
        self.a = arguments
        self.folder = os.path.abspath(arguments.folder)
        self.program = arguments.program or os.path.join(self.folder, "bin", "reportclip")
        self.on_gpu = arguments.device.startswith("cuda")
        self.out = open(arguments.out, "a", buffering=1)
        self.part, self.part_ends = 0, 0.0
        self.counts = {"ok": 0, "failed": 0, "skipped": 0}
        self.environment = dict(os.environ)
        folders = library_folders(arguments.python) + [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p]
        self.environment["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(folders))
        # The driver keeps here what it translates for this GPU: all of it, for the next command.
        self.environment.setdefault("CUDA_CACHE_PATH", os.path.join(self.folder, "cache"))
        self.environment.setdefault("CUDA_CACHE_MAXSIZE", str(4 << 30))
        self.modules = {}

    def tell(self, what, ok, told="", **figures):
        """One result; ok is None where there was nothing to judge."""
        verdict = {True: "ok", False: "failed", None: "skipped"}[ok]
        self.counts[verdict] += 1
        line = {"part": self.part, "what": what, "ok": ok} | figures | ({"note": told} if told else {})
        self.out.write(json.dumps(line) + "\n")
        print(f"[{self.part}] {verdict:7} {what}{': ' if told else ''}{told}", flush=True)

    def left(self):
        return self.part_ends - time.monotonic()

    def call(self, command, on_line=None, limit=None):
        """Runs a command within the part's time: (exit status, None where it ran out of time; stdout; stderr)."""
        limit = min(self.left(), limit or 1e9)
        if limit < 1:
            return None, "", "no time left for it"
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                errors="replace", env=self.environment, start_new_session=True, cwd=self.folder,
            )
        except OSError as e:
            return 127, "", str(e)
        lines = queue.Queue()
        streams = {"out": process.stdout, "err": process.stderr}

        def read(name):
            for line in streams[name]:
                lines.put((name, line))
            lines.put((name, None))

        for name in streams:
            threading.Thread(target=read, args=(name,), daemon=True).start()
        text, open_streams, ends = {"out": [], "err": []}, 2, time.monotonic() + limit
        timed_out = False
        while open_streams:
            try:
                name, line = lines.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                timed_out = True
                break
            if line is None:
                open_streams -= 1
                continue
            text[name].append(line)
            if on_line and name == "out":
                on_line(line)
        if timed_out:
            end(process)
        else:
            try:
                process.wait(timeout=max(1.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                timed_out = True
                end(process)
        return None if timed_out else process.returncode, "".join(text["out"]), "".join(text["err"])

    def figures(self, what, command, limit=None, peer=False):
        """The JSON that a command's last line is, or None with a line that says why not. What ran out of time was not
        measured; nor was a peer that failed, as PyTorch's compiler does without one for C."""
        started = time.monotonic()
        status, out, err = self.call(command, limit=limit)
        if status == 0:
            try:
                return json.loads(out.strip().splitlines()[-1])
            except (IndexError, ValueError):
                err = f"no JSON: {out[-200:]!r}"
        ok = None if status is None or peer else False
        self.tell(what, ok, reason(status, err), seconds=round(time.monotonic() - started, 1))
        return None


def end(process):
    """Ends the command and what it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(timeout=3)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def reason(status, err):
    last = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "")
    if status is None:
        return "out of time" + (f" ({last[:300]})" if last else "")
    if status < 0:
        return f"ended by signal {-status}: {last[:300]}"
    return f"exit status {status}: {last[:300]}"


def library_folders(python):
    """Where CUDA's libraries may lie: the wheels of that interpreter's PyTorch (without importing it), then CUDA's own
    folders."""
    script = "import importlib.util as u; s = u.find_spec('torch'); print(*(s.submodule_search_locations if s else ()))"
    try:
        told = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=30)
        places = told.stdout.split("\n")[0].split() if told.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        places = []
    found = []
    for place in places:
        found += sorted(glob.glob(os.path.join(os.path.dirname(place), "nvidia", "*", "lib")), reverse=True)
        found.append(os.path.join(place, "lib"))
    found += sorted(glob.glob("/usr/local/cuda*/lib64"), reverse=True)
    return [folder for folder in found if glob.glob(os.path.join(folder, "lib*.so*"))]


def machine(run):
    run.tell(
        "machine", True, f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        python=sys.executable, libc=" ".join(platform.libc_ver()), library_path=run.environment["LD_LIBRARY_PATH"],
    )
    smi = shutil.which("nvidia-smi")
    if smi:
        query = "name,driver_version,memory.total,compute_cap,clocks.max.sm"
        status, out, err = run.call([smi, f"--query-gpu={query}", "--format=csv,noheader"], limit=15)
        run.tell("GPU", status == 0, out.strip() or reason(status, err))
    else:
        run.tell("GPU", None, "no nvidia-smi here")
    libraries(run)
    status, out, err = run.call([run.program, "--version"], limit=15)
    run.tell("the program starts", status == 0, out.strip() or reason(status, err))
    quick = [run.program, "bench", "parity", "--quick", "--device", run.a.device, "--json"]
    comparisons(run, quick)
    for precision in ("f32", "bf16"):
        command = [run.program, "bench", "matmul", "--device", run.a.device, "--precision", precision, "--json"]
        figures = run.figures(f"product in {precision}", command)
        if figures:
            tflops = figures["gflops"] / 1e3
            tf32 = " (over 100: TF32 is on, which it should not be)" if precision == "f32" and tflops > 100 else ""
            run.tell(f"product in {precision}", not tf32, f"{tflops:.1f} TFLOP/s{tf32}", **figures)
    # Last: a cold import takes long, and nothing of the program's own waits for it.
    script = "import torch, transformers as t; print(torch.__version__, torch.version.cuda, t.__version__)"
    status, out, err = run.call([run.a.python, "-c", script], limit=60)
    run.tell("PyTorch, its CUDA, transformers", True if status == 0 else None, out.strip() or reason(status, err))


def libraries(run):
    """Opened in a process of its own, with the path that the program gets."""
    script = (
        "import ctypes, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: ctypes.CDLL(name); found[name] = None\n"
        "    except OSError as e: found[name] = str(e)\n"
        "maps = open('/proc/self/maps').read().split()\n"
        "def place(n): return next((p for p in maps if p.split('/')[-1].startswith(n.split('.so')[0] + '.so')), '')\n"
        "print(json.dumps({n: [why or place(n), why is None] for n, why in found.items()}))"
    )
    status, out, err = run.call([sys.executable, "-c", script, *LIBRARIES], limit=60)
    found = json.loads(out) if status == 0 else {name: [reason(status, err), False] for name in LIBRARIES}
    for name, (where, there) in found.items():
        run.tell(name, there, where)


def comparisons(run, command, tensor_cores=False):
    """A command of `bench parity`: each of its lines is a result. With tensor cores those in f32 would be the same."""
    seen = [0]
    command = command + ["--tensor-cores"] * tensor_cores

    def on_line(line):
        try:
            found = json.loads(line)
        except ValueError:
            return
        seen[0] += 1
        if tensor_cores and found["precision"] == "f32":
            return
        off = found.get("difference")
        told = found["note"] if off is None else f"{off:.1e} of {found['allowed']:.0e} ({found['note']})"
        rest = {key: found[key] for key in ("precision", "difference", "allowed")}
        run.tell(f"{found['what']}, {found['precision']}{', tensor cores' * tensor_cores}", found["ok"], told, **rest)

    status, _, err = run.call(command, on_line=on_line)
    name = " ".join(command[1:4])
    if status is None or status != 0 and "comparisons failed" not in err or not seen[0]:
        run.tell(name, False, f"after {seen[0]} comparisons: {reason(status, err)}")


def operations(run):
    both_ways(run, [run.program, "bench", "parity", "--device", run.a.device, "--json"])


def models(run):
    golden = os.path.join(run.folder, "golden", "encoders")
    both_ways(run, [run.program, "bench", "parity", "--models", golden, "--device", run.a.device, "--json"])


def both_ways(run, command):
    comparisons(run, command)
    if run.on_gpu:
        comparisons(run, command, tensor_cores=True)


def steps(run):
    """Ten steps of the demo's model on the device and on the CPU; five, and five more after a resume; the switches that
    wait for a GPU's word. Then ten on real pairs, where the package has some."""
    work = tempfile.mkdtemp(dir=run.folder)
    common = ["train.max_steps=10", 'train.eval_every="10 steps"', "train.tensorboard=false"]

    def losses(what, name, device, more=(), resume=False, config="demo.toml"):
        out = os.path.join(work, name)
        settings = [*common, f'device="{device}"', *more] + ["data.phantom=200"] * (config == "demo.toml")
        command = [run.program, "train", os.path.join(run.folder, "configs", config)]
        command += [part for setting in settings for part in ("--set", setting)]
        command += ["--out", out] + (["--resume", "latest"] if resume else [])
        status, _, err = run.call(command)
        try:
            lines = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
        except (OSError, ValueError) as e:
            lines, err = [], err or str(e)
        found = [line["loss"] for line in lines if "lr" in line]
        if status != 0 or not found:
            run.tell(what, False, reason(status, err))
            return None
        return found

    def compare(what, ours, other, count=10, allowed=LOSS_TOLERANCE):
        if not ours or not other:
            return
        off = max((abs(a - b) / abs(b) for a, b in zip(ours, other)), default=1.0)
        ok = len(ours) == len(other) == count and off <= allowed
        told = f"largest difference {off:.1e} of {allowed:.0e}, {len(ours)} steps"
        told += f", losses {ours[0]:.4f} to {ours[-1]:.4f}"
        run.tell(what, ok, told, difference=off, allowed=allowed, identical=ours == other)

    # On the CPU itself, the other way: in chunks, keeping blocks' inputs alone.
    chunks = ["train.batch_size=8", "train.accum_freq=4", "train.checkpoint_activations=true"]
    ours = losses(f"ten steps on {run.a.device}", "ten", run.a.device)
    other = losses("ten steps on the CPU", "other", "cpu", () if run.on_gpu else chunks)
    compare(f"ten steps: {run.a.device} and the CPU{'' if run.on_gpu else ' in chunks'}", ours, other)
    half = losses("five steps", "half", run.a.device, ["train.stop_after=5"])
    if half is not None:
        resumed = losses("five more", "half", run.a.device, resume=True)
        compare("five steps, resumed: as ten at once", resumed, ours)
    overlapped = losses("ten steps, overlapped copies", "copies", run.a.device, ["train.overlap_copies=true"])
    compare("ten steps: overlapped copies and not", overlapped, ours, allowed=COPY_TOLERANCE)
    in_bf16 = ['train.precision="bf16"', "train.emulate_bf16=true"]
    for name, more in [("bf16", [])] + [("bf16 by tensor cores", ["train.tensor_cores=true"])] * run.on_gpu:
        bf16 = losses(f"ten steps in {name} on {run.a.device}", name, run.a.device, in_bf16 + more)
        compare(f"ten steps: {name} and f32", bf16, ours, allowed=0.1)
    manifests = glob.glob(os.path.join(run.folder, "data", "pairs", "*.csv"))
    for manifest in manifests[:1]:
        real = [f'data.train="{manifest}"']
        ours = losses(f"real pairs on {run.a.device}", "real", run.a.device, real, config="chest-notes.toml")
        more = real + ([] if run.on_gpu else chunks)
        other = losses("real pairs on the CPU", "real-cpu", "cpu", more, config="chest-notes.toml")
        compare(f"ten steps on real pairs: {run.a.device} and the CPU", ours, other)
    shutil.rmtree(work, ignore_errors=True)


def sanitizer(run):
    tool = shutil.which("compute-sanitizer") or next(iter(glob.glob("/usr/local/cuda*/bin/compute-sanitizer")), None)
    if tool is None:
        return run.tell("compute-sanitizer", None, "not here")
    # Those in f32 are the same with tensor cores; those in bf16 reach every kernel only so.
    parity = [run.program, "bench", "parity", "--device", run.a.device, "--json", "--tensor-cores"]
    for check in ("memcheck", "racecheck"):
        half = run.left() / (2 if check == "memcheck" else 1)
        command = [tool, "--tool", check, "--error-exitcode", "86", "--print-limit", "5", *parity]
        seen = [0]
        status, out, err = run.call(command, on_line=lambda line: count_comparison(line, seen), limit=half)
        lines = [line for line in (out + err).splitlines() if line.startswith("=========")]
        found = [line for line in lines if "SUMMARY: 0 " not in line and "COMPUTE-SANITIZER" not in line]
        wrong = status == 86 or any(re.search(r"SUMMARY: [1-9]", line) for line in lines)
        summed_up = any("SUMMARY: 0 " in line for line in lines)
        # Numbers that are wrong are part 2's to tell: they end the program with 1.
        told = f"after {seen[0]} comparisons"
        if status is None:
            # What it saw until then counts.
            wrong, told = wrong or len(found) > 1, f"{told}: out of time"
        elif not (summed_up or wrong):
            told = f"{told}: {reason(status, err or out)}"
        ok = False if wrong else True if summed_up else None
        run.tell(check, ok, f"{told} {' '.join(found[:6])[:600] if wrong else ''}".strip(), comparisons=seen[0])


def count_comparison(line, seen):
    seen[0] += line.startswith("{")


def beside(run, what, ours, theirs, key, **about):
    """Our figures, (name, command) each, then each peer's, with the ratio of the faster of ours."""
    value = lambda f: f[key]["median"] if isinstance(f[key], dict) else f[key]
    fastest = None
    for name, command in ours:
        figures = run.figures(f"{what}: {name}", command)
        if not figures:
            continue
        gpu = figures.get("gpu") or {}
        told = f"{value(figures):.1f} a second"
        if gpu.get("peak_memory_mib"):
            told += f", {gpu['peak_memory_mib']} MiB"
        if gpu.get("share_of_matmul"):
            told += f", {gpu['share_of_matmul']:.2f} of the product's speed"
        run.tell(f"{what}: {name}", True, told, program=name, **about, **figures)
        fastest = max(fastest or 0.0, value(figures))
    for name, command in theirs if fastest else []:
        # One that takes long, as compiling may, leaves half of the time to the rest.
        peer = run.figures(f"{what}: {name}", command, limit=run.left() / 2, peer=True)
        if peer:
            ratio = fastest / value(peer)
            told = f"{value(peer):.1f} a second: reportclip has {ratio:.2f} of it"
            run.tell(f"{what}: {name}", True, told, program=name, ratio=ratio, **about, **peer)


def own(run, command):
    """Our command as it is, and on a GPU with attention and convolutions by tensor cores."""
    ways = [("reportclip", command)]
    return ways + [("reportclip, tensor cores", command + ["--tensor-cores"])] * run.on_gpu


def has(run, module):
    if module not in run.modules:
        status, _, _ = run.call([run.a.python, "-c", f"import {module}"], limit=60)
        run.modules[module] = status == 0
    return run.modules[module]


def peers(run, command, model, batch, steps):
    script = [run.a.python, os.path.join(run.folder, "torch_gpu.py"), command, "--model", model]
    script += ["--batch-size", str(batch), "--steps", str(steps), "--device", run.a.device]
    if not has(run, "torch, transformers"):
        return []
    compiled = [("PyTorch, compiled", script + ["--compile"])] if run.on_gpu else []
    return [("PyTorch", script)] + compiled


def training(run):
    open_clip = has(run, "open_clip")
    # The first that are missed are those that say least.
    cases = [(B32, 256), (PAIR, 64), (B32, 64), (B32, 1024), (L14, 64), (PAIR, 256), (PAIR, 1024)]
    for model, batch in cases:
        ours = [run.program, "bench", "train-step", "--model", model, "--batch-size", str(batch), "--steps", "8"]
        ours += ["--device", run.a.device, "--precision", "bf16", "--json"]
        theirs = peers(run, "train-step", model, batch, 8)
        if open_clip and theirs and model != PAIR:
            theirs.append(("open_clip", theirs[0][1] + ["--open-clip"]))
        about = {"kind": "train", "model": model, "batch": batch}
        beside(run, f"{model}, batch {batch}", own(run, ours), theirs, "samples_per_s", **about)


def encoding(run):
    for model, batch in [(B32, 256 if run.on_gpu else 2), (PAIR, 256)][: 2 if run.on_gpu else 1]:
        count = 8 if run.on_gpu else 1
        ours = [run.program, "bench", "encode", "--model", model, "--batch-size", str(batch), "--steps", str(count)]
        ours += ["--device", run.a.device, "--precision", "bf16" if run.on_gpu else "f32", "--json"]
        theirs = peers(run, "encode", model, batch, count)
        about = {"kind": "encode", "model": model, "batch": batch}
        beside(run, f"images of {model}, batch {batch}", own(run, ours), theirs, "images_per_s", **about)


def profile(run):
    for model, batch in [(B32, 256), (PAIR, 64), (CONVOLUTIONS, 64)]:
        command = [run.program, "bench", "train-step", "--model", model, "--batch-size", str(batch), "--steps", "4"]
        command += ["--device", run.a.device, "--precision", "bf16", "--profile", "--json"]
        for name, command in own(run, command):
            what = f"seconds of {model}, batch {batch}: {name}"
            figures = run.figures(what, command)
            if figures:
                parts = sorted(figures["profile"], key=lambda p: -p["forward_s"] - p["backward_s"])
                told = ", ".join(
                    f"{p['part']} {1e3 * p['forward_s']:.1f} + {1e3 * p['backward_s']:.1f} ms" for p in parts)
                about = {"kind": "profile", "program": name, "model": model, "batch": batch}
                run.tell(what, True, told, **about, **figures)


WORK = {1: machine, 2: operations, 3: models, 4: steps, 5: sanitizer, 6: training, 7: encoding, 8: profile}


def prove(arguments):
    run = Run(arguments)
    wanted = arguments.parts or (list(PARTS) if run.on_gpu else ON_CPU)
    ends = time.monotonic() + 60 * arguments.minutes
    run.tell("start", True, f"{arguments.minutes} minutes on {arguments.device}, parts {wanted}", time=time.time())
    for i, part in enumerate(wanted):
        # Its share of what is left; a part that needs less leaves the rest to those after it.
        left = ends - time.monotonic()
        share = PARTS[part][1] / sum(PARTS[later][1] for later in wanted[i:])
        run.part, run.part_ends = part, time.monotonic() + left * share
        started = time.monotonic()
        try:
            WORK[part](run)
        except Exception as e:  # One part's mistake must not cost the others.
            run.tell(PARTS[part][0], False, f"{type(e).__name__}: {e}")
        print(f"[{part}] {PARTS[part][0]}: {time.monotonic() - started:.1f} s", flush=True)
    run.part = 0
    counts = run.counts
    told = f"{counts['ok']} ok, {counts['failed']} failed, {counts['skipped']} skipped"
    run.tell("end", counts["failed"] == 0, told, counts=counts)
    return 1 if counts["failed"] else 0


def report(path):
    """Markdown: what was right, training and encoding beside PyTorch, seconds by operation."""
    lines = []
    for number, line in enumerate(open(path), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            sys.exit(f"{path}:{number}: not a line of JSON; the lines that `prove.sh run` wrote are wanted")
    for line in lines:
        if line["part"] == 1 and line["ok"] is not False:
            print(f"- {line['what']}: {line.get('note', '')}")
    print("\n| part | right | wrong | not measured |\n|---|---|---|---|")
    for part, (name, _) in PARTS.items():
        of = [line["ok"] for line in lines if line["part"] == part]
        if of:
            print(f"| {name} | {of.count(True)} | {of.count(False)} | {of.count(None)} |")
    for verdict, ok in (("Wrong", False), ("Not measured", None)):
        for line in lines:
            if line["ok"] is ok and line["part"]:
                print(f"\n{verdict}: {line['what']}: {line.get('note', '')}")
    train = [line for line in lines if line.get("kind") == "train"]
    if train:
        print("\n| bf16 | program | pairs/s | peak MiB | share of the product | our faster : it |")
        print("|---|---|---|---|---|---|")
        for line in train:
            gpu = line.get("gpu") or {}
            share = f"{gpu['share_of_matmul']:.2f}" if gpu.get("share_of_matmul") else "–"
            ratio = f"**{line['ratio']:.2f}**" if "ratio" in line else "–"
            peak = gpu.get("peak_memory_mib", "–")
            about = f"{line['model']}, batch {line['batch']} | {line['program']}"
            print(f"| {about} | {line['samples_per_s']:.1f} | {peak} | {share} | {ratio} |")
    encode = [line for line in lines if line.get("kind") == "encode"]
    if encode:
        print("\n| encoding | program | images/s | texts/s |\n|---|---|---|---|")
        for line in encode:
            images, texts = line["images_per_s"]["median"], line["texts_per_s"]["median"]
            print(f"| {line['model']}, batch {line['batch']} | {line['program']} | {images:.1f} | {texts:.1f} |")
    for line in lines:
        if line.get("kind") == "profile":
            name = f"{line['program']}: {line['model']}, batch {line['batch']}"
            print(f"\n| {name} | forward, ms | backward, ms |\n|---|---|---|")
            for p in line["profile"]:
                print(f"| {p['part']} | {1e3 * p['forward_s']:.1f} | {1e3 * p['backward_s']:.1f} |")
    return 0


def numbers(text):
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("folder")
    running.add_argument("--minutes", type=float, default=9)
    running.add_argument("--device", default="cuda")
    running.add_argument("--parts", type=numbers, help="numbers with commas between; default: all, on a CPU 2,3,4,7")
    running.add_argument("--out", default="prove.jsonl")
    running.add_argument("--program", help="instead of FOLDER's")
    running.add_argument("--python", default=sys.executable, help="the interpreter with torch, for the comparison")
    commands.add_parser("report").add_argument("lines")
    chosen = parser.parse_args()
    sys.exit(prove(chosen) if chosen.command == "run" else report(chosen.lines))
