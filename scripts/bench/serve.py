"""Requests a second, waiting times and memory of `reportclip serve` beside scripts/bench/serve_twin.py, in turn.

    python scripts/bench/serve.py BINARY MODEL_FOLDER IMAGE [--python PYTHON] [--rounds 3] [--seconds 10]

wrk (Debian's package) asks: 32 connections, each for the embedding of one short report or of IMAGE. Prints one line of
JSON for each server, kind and round.
"""

import argparse
import base64
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

arguments = argparse.ArgumentParser()
arguments.add_argument("binary")
arguments.add_argument("model")
arguments.add_argument("image")
arguments.add_argument("--python", default=sys.executable, help="with fastapi, uvicorn, torch and transformers")
arguments.add_argument("--rounds", type=int, default=3)
arguments.add_argument("--seconds", type=int, default=10)
arguments.add_argument("--connections", type=int, default=32)
options = arguments.parse_args()

PORT = 18417
TWIN = pathlib.Path(__file__).with_name("serve_twin.py")
SERVERS = {
    "reportclip": [options.binary, "serve", "--model", options.model, "--port", str(PORT)],
    "fastapi": [options.python, str(TWIN), options.model, str(PORT)],
}
IMAGE = base64.b64encode(pathlib.Path(options.image).read_bytes()).decode()
BODIES = {
    "text": {"input": "FINDINGS: Large left pleural effusion. IMPRESSION: Left effusion."},
    "image": {"input": {"image": IMAGE}},
}


def resident(pid):
    """MiB of a process and what it started."""
    own = 0
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    own += int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident(int(child)) for child in children)


def wait_until_ready():
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server does not answer")


def seconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit]


def load(kind, duration):
    with tempfile.TemporaryDirectory() as folder:
        body = pathlib.Path(folder, "body.json")
        body.write_text(json.dumps(BODIES[kind]))
        script = pathlib.Path(folder, "post.lua")
        script.write_text(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f'local file = io.open("{body}")\nwrk.body = file:read("*a")\nfile:close()\n'
        )
        command = ["wrk", "-t1", f"-c{options.connections}", f"-d{duration}s", "--latency", "--timeout", "60s", "-s"]
        command += [str(script), f"http://127.0.0.1:{PORT}/v1/embeddings"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # wrk tells of no answer at all as of answers in no time.
    if not re.search(r"50%\s+\d", said) or re.search(r"Requests/sec:\s+0\.00", said):
        sys.exit(f"no request was answered in {duration} s: {said}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return {
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),
        "p50_ms": 1000 * seconds(re.search(r"50%\s+(\S+)", said)[1]),
        "p99_ms": 1000 * seconds(re.search(r"99%\s+(\S+)", said)[1]),
        "refused": int(bad[1]) if bad else 0,
    }


for number in range(options.rounds):
    for name, command in SERVERS.items():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until_ready()
            for kind in BODIES:
                load(kind, 2)
                found = {"server": name, "kind": kind, "round": number, **load(kind, options.seconds)}
                print(json.dumps(found | {"resident_mib": round(resident(process.pid))}), flush=True)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
