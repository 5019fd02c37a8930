"""Requests a second, waiting times and memory of `reportclip serve` beside scripts/bench/serve_twin.py, in turn.

    python scripts/bench/serve.py BINARY MODEL_FOLDER IMAGE [--python PYTHON] [--rounds 5] [--seconds 30]
        [--text-clients 100] [--image-clients 8] [--warm-up 10] [--timeout 120] [--kinds text image]

wrk (Debian's package) asks, in a closed loop: each client sends its next request once it has the answer to the last,
for the embedding of one short report, then of IMAGE. One server runs at a time, started anew for each round, the other
one first in every second; before it is measured, both are asked once, and what they answer must be the same vector.
With fewer clients for images than for texts, a slow machine answers each within the time limit: a model of ViT-B/32's
size takes some 0.1 s an image on two cores, so that a hundred clients would wait for 10 s. A round without an answer
counts as 0 requests/s, and the script fails in the end.

Prints what was run, one line of JSON for each server, kind and round, and tables: medians with the lowest and the
highest round. Memory is that of the server alone, its peak and what it has after the last request. CPU time is all of
the server's while it is measured, by the requests that were answered: on a machine that does other work it is what to
read, and says nothing of cores that wait.
"""

import argparse
import base64
import json
import os
import pathlib
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("binary")
arguments.add_argument("model")
arguments.add_argument("image")
arguments.add_argument("--python", default=sys.executable, help="with fastapi, uvicorn, torch and transformers")
arguments.add_argument("--rounds", type=int, default=5)
arguments.add_argument("--seconds", type=int, default=30, help="of each measurement")
arguments.add_argument("--warm-up", type=int, default=10, help="seconds before each, which do not count")
arguments.add_argument("--text-clients", type=int, default=100)
arguments.add_argument("--image-clients", type=int, default=8)
arguments.add_argument("--timeout", type=int, default=120, help="seconds that a request may take")
arguments.add_argument("--kinds", nargs="+", choices=["text", "image"], default=["text", "image"])
options = arguments.parse_args()

PORT = 18417
ADDRESS = f"http://127.0.0.1:{PORT}"
TWIN = pathlib.Path(__file__).with_name("serve_twin.py")
LIMITS = {"batch-window": 5, "max-batch": 32, "queue": 256}
SERVERS = {
    "reportclip": [options.binary, "serve", "--model", options.model, "--port", str(PORT)]
    + ["--timeout", str(options.timeout)]
    + [word for name, value in LIMITS.items() for word in (f"--{name}", str(value))],
    "FastAPI": [options.python, str(TWIN), options.model, str(PORT)]
    + ["--window-ms", str(LIMITS["batch-window"]), "--max-batch", str(LIMITS["max-batch"])]
    + ["--queue", str(LIMITS["queue"])],
}
IMAGE = pathlib.Path(options.image).read_bytes()
BODIES = {
    "text": {"input": "FINDINGS: Large left pleural effusion. IMPRESSION: Left effusion."},
    "image": {"input": {"image": base64.b64encode(IMAGE).decode()}},
}
BODIES = {kind: BODIES[kind] for kind in options.kinds}
CLIENTS = {"text": options.text_clients, "image": options.image_clients}
VERSIONS = """
import fastapi, torch, transformers, uvicorn
print(f"FastAPI {fastapi.__version__}, uvicorn {uvicorn.__version__}, transformers {transformers.__version__}, "
      f"PyTorch {torch.__version__} with {torch.get_num_threads()} threads")
"""
SIZE = """
import io, sys
from PIL import Image
from transformers import AutoModel
image, model = Image.open(sys.argv[1]), AutoModel.from_pretrained(sys.argv[2])
print(f"{type(model).__name__} of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights; an image of "
      f"{image.width} × {image.height}, {image.format}")
"""


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def tell_what_is_run():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"machine: {cpu[1] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} cores online")
    print(f"others' load before: {os.getloadavg()[0]:.2f}")
    print(f"{said(options.binary, '--version')}; {said(options.python, '-c', VERSIONS)}")
    print(f"{said(options.python, '-c', SIZE, options.image, options.model)}, {len(IMAGE)} bytes")
    clients = ", ".join(f"{CLIENTS[kind]} clients for {kind}s" for kind in BODIES)
    print(f"{clients}; {options.rounds} rounds of {options.seconds} s each after {options.warm_up} s of warm-up")
    print(f"time limit of a request: {options.timeout} s")
    for command in SERVERS.values():
        print("$", " ".join(command))
    print(flush=True)


def of_process(pid, field):
    """MiB of a process and what it started."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    own = int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(of_process(int(child), field) for child in children)


def cpu_of_process(pid):
    """CPU seconds of a process and what it started."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_of_process(int(child)) for child in children)


def wait_until_ready(process):
    began = time.monotonic()
    while time.monotonic() < began + options.timeout:
        if process.poll() is not None:
            sys.exit(f"the server ended by itself, with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{ADDRESS}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"the server does not answer within {options.timeout} s")


def vector(kind):
    """What one request is answered, of length 1."""
    request = urllib.request.Request(f"{ADDRESS}/v1/embeddings", json.dumps(BODIES[kind]).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=options.timeout) as answer:
        found = json.load(answer)["data"][0]["embedding"]
    length = sum(x * x for x in found) ** 0.5
    return [x / length for x in found]


def check_alike(kind, known):
    """Servers that do other things are not compared."""
    found = vector(kind)
    cosine = sum(a * b for a, b in zip(found, known.setdefault(kind, found), strict=True))
    if cosine < 0.999:
        sys.exit(f"the servers answer other vectors for the same {kind}: cosine {cosine:.4f}")


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4, "h": 3.6e6}[unit]


def load(kind, duration):
    with tempfile.TemporaryDirectory() as folder:
        body = pathlib.Path(folder, "body.json")
        body.write_text(json.dumps(BODIES[kind]))
        script = pathlib.Path(folder, "post.lua")
        script.write_text(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f'local file = io.open("{body}")\nwrk.body = file:read("*a")\nfile:close()\n'
        )
        command = ["wrk", "-t1", f"-c{CLIENTS[kind]}", f"-d{duration}s", "--latency"]
        told = said(*command, "--timeout", f"{options.timeout}s", "-s", str(script), f"{ADDRESS}/v1/embeddings")

    def number(pattern):
        found = re.search(pattern, told)
        return int(found[1]) if found else 0

    # wrk tells of no answer at all as of answers in no time.
    answered, refused = number(r"(\d+) requests in"), number(r"Non-2xx or 3xx responses: (\d+)")
    # At the begin of a line: shares of other things end in 50%, too.
    told_of = lambda p: re.search(rf"^\s*{p}%\s+(\S+)", told, re.MULTILINE)[1]
    waits = {f"p{p}_ms": milliseconds(told_of(p)) for p in (50, 99)} if answered else {}
    lost = sum(number(rf"Socket errors:.*\b{what} (\d+)") for what in ("connect", "read", "write", "timeout"))
    good = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1]) * (answered - refused) / max(answered, 1)
    return {"answered": answered, "requests_per_s": round(good, 2), **waits, "refused": refused, "lost": lost}


def measured(name, number, known):
    process = subprocess.Popen(SERVERS[name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = []
    try:
        wait_until_ready(process)
        for kind in BODIES:
            check_alike(kind, known)
            load(kind, options.warm_up)
            # Behind what the clients of the warm-up no longer wait for.
            vector(kind)
            before = cpu_of_process(process.pid)
            row = {"server": name, "kind": kind, "round": number, **load(kind, options.seconds)}
            if row["answered"]:
                row["cpu_ms"] = round(1000 * (cpu_of_process(process.pid) - before) / row["answered"], 2)
            memory = {what: round(of_process(process.pid, field)) for what, field in MEMORY.items()}
            rows.append(row | memory)
            print(json.dumps(rows[-1]), flush=True)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return rows


MEMORY = {"peak_mib": "VmHWM", "resident_mib": "VmRSS"}
COLUMNS = {
    "requests_per_s": "requests/s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "cpu_ms": "CPU a request, ms",
    "peak_mib": "peak, MiB",
    "resident_mib": "afterwards, MiB",
    "refused": "refused",
    "lost": "lost",
}


def spread(rows, column):
    values = [row[column] for row in rows if column in row]
    if not values:
        return "–"
    digits = 1 if max(values) < 100 and isinstance(values[0], float) else 0
    middle, low, high = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def show(rows):
    for kind in BODIES:
        of = {name: [r for r in rows if r["server"] == name and r["kind"] == kind] for name in SERVERS}
        print(f"\n{kind}, {CLIENTS[kind]} clients, median (lowest–highest) of {options.rounds} rounds:\n")
        print("| | " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
        for name, own in of.items():
            print(f"| {name} | " + " | ".join(spread(own, column) for column in COLUMNS) + " |")
        middle = lambda name, column: statistics.median(row[column] for row in of[name])
        ours, theirs = (middle(name, "requests_per_s") for name in SERVERS)
        pairs = [
            a["requests_per_s"] / b["requests_per_s"] for a, b in zip(*of.values()) if b["requests_per_s"] > 0
        ]
        shares = [middle("reportclip", what) / middle("FastAPI", what) for what in MEMORY]
        if theirs > 0:
            by_round = f"by round {min(pairs):.2f} to {max(pairs):.2f}"
            print(f"\n{ours / theirs:.2f} × FastAPI's requests/s ({by_round}), ", end="")
        print(f"{shares[0]:.2f} of its peak memory, {shares[1]:.2f} of what it has afterwards")


tell_what_is_run()
all_rows, known = [], {}
for number in range(options.rounds):
    for name in list(SERVERS)[:: 1 if number % 2 == 0 else -1]:
        all_rows += measured(name, number, known)
all_rows.sort(key=lambda row: row["round"])
show(all_rows)
unanswered = sum(row["requests_per_s"] == 0 for row in all_rows)
if unanswered:
    sys.exit(f"{unanswered} rounds without a good answer: fewer clients, longer --seconds or a longer --timeout")
