"""Trains twice with PyPI's MLflow server on loopback, and holds what it has against the run folders.

python check_mlflow.py REPORTCLIP   (in a venv with mlflow)"""

import importlib.metadata
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import mlflow

from tiny_run import CONFIG

def numbers(prefix, value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(f"{prefix}/{key}", inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield prefix, float(value)


def of_run_folder(folder):
    kept = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        prefix, value = ("train", line) if line["kind"] == "step" else ("val", line["val"])
        for name, number in numbers(prefix, value):
            if name != "train/step":
                kept[name.replace("@", "_at_"), line["step"]] = number
    return kept


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main(binary, place):
    (place / "tiny.toml").write_text(CONFIG)
    url = f"http://127.0.0.1:{port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", url.rsplit(":", 1)[1],
               "--workers", "1", "--backend-store-uri", f"sqlite:///{place}/mlflow.db",
               "--default-artifact-root", str(place / "artifacts")]
    server = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.5)
        check(binary, place, url)
    finally:
        server.terminate()
        server.wait()


def train(binary, place, *more):
    """What is told of the server."""
    command = [binary, "train", "tiny.toml", "--out", "run", *more]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "track.mlflow" in line]


def check(binary, place, url):
    assert not train(binary, place, "--set", f"track.mlflow={url}", "--set", "train.stop_after=5")
    client = mlflow.MlflowClient(url)
    experiment = client.get_experiment_by_name("reportclip").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("run", "KILLED"), run.info
    changed = ["--set", "train.checkpoint_every=3"]
    told = train(binary, place, "--resume", "latest", "--set", f"track.mlflow={url}", *changed)
    assert len(told) == 1 and "train.checkpoint_every" in told[0], told
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED", run.info
    kept = of_run_folder(place / "run")
    there = {}
    for name in run.data.metrics:
        for figure in client.get_metric_history(run.info.run_id, name):
            assert (name, figure.step) not in there or name == "train/samples_per_s", (name, figure.step)
            there[name, figure.step] = figure.value
    missing = [key for key, value in kept.items() if there.get(key) != value]
    assert len(kept) > 100 and not missing, missing[:5]
    assert run.data.params["optim.lr"] == "0.00001" and "data.train" not in run.data.params, run.data.params
    assert run.data.tags["reportclip.version"]
    assert "train.checkpoint_every=3" in run.data.tags["reportclip.resumed_with"], run.data.tags
    print("mlflow", importlib.metadata.version("mlflow"), len(kept), "figures of", len(run.data.metrics), "names,",
          len(run.data.params), "parameters: as in the run folder, over a stop and a resume")


if __name__ == "__main__":
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as folder:
        main(binary, pathlib.Path(folder))
