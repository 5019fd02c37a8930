#!/usr/bin/env python3
"""Late interaction beside the plain search (docs/search.md): recall of each row's own image or report among the rows of a
split, size on disk, and time.

    scripts/study/late_search.py PROGRAM MANIFEST OUT MODEL…

Writes indexes and queries into OUT, and a line of JSON a model. CPU time is the program's own (user + system), of one search
with all rows of the split as queries. Reports that stand there twice count as each other's, for texts and images alike.
Folders of an earlier run are removed first.
"""

import csv
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

program, manifest, out, *models = sys.argv[1:]
out = Path(out)
out.mkdir(parents=True, exist_ok=True)
with open(manifest, newline="", encoding="utf-8") as file:
    rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
folder = Path(manifest).resolve().parent


def run(*args):
    """stdout, seconds, seconds of CPU time."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([program, *map(str, args)], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, time.perf_counter() - begun, cpu


def size(index):
    return sum(path.stat().st_size for path in index.glob("shard-*"))


for column in ["text", "image"]:
    with open(out / f"{column}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([column])
        for row in rows:
            images = ";".join(str(folder / image.strip()) for image in row["image"].split(";"))
            writer.writerow([" ".join(row["report"].split()) if column == "text" else images])

for number, model in enumerate(models):
    told = {"model": model, "rows": len(rows)}
    for name, late in [("plain", []), ("late", ["--late"])]:
        index = out / f"{name}-{number}"
        # Shards that are there already would be kept.
        shutil.rmtree(index, ignore_errors=True)
        _, wall, cpu = run("embed", *late, "--model", model, "--data", manifest, "--split", "test", "--out", f"{index}/",
                           "--force")
        told[name] = {"bytes": size(index), "embed_s": round(wall, 2), "embed_cpu_s": round(cpu, 2)}
        for column in ["text", "image"]:
            stdout, wall, cpu = run("search", *late, "--index", index, "--queries", out / f"{column}.csv", "-k", 10,
                                    "--json")
            hits = [[hit["row"] for hit in json.loads(line)["hits"]] for line in stdout.splitlines()]
            own = [[i for i, found in enumerate(found) if rows[found]["report"] == row["report"]]
                   for found, row in zip(hits, rows)]
            assert len(hits) == len(rows)
            told[name][column] = {
                **{f"recall@{k}": round(100 * sum(any(i < k for i in own) for own in own) / len(own), 1) for k in (1, 10)},
                "s": round(wall, 2), "cpu_s": round(cpu, 2)}
    print(json.dumps(told), flush=True)
