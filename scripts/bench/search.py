#!/usr/bin/env python3
"""Exact search beside FAISS, in turn on the same vectors: queries a second of both, and their ratio.

  search.py REPORTCLIP [--rows 100000] [--width 512] [--queries 1000] [-k 10] [--threads 2] [--repeats 3] [--seed 0]
            [--approximate [--hnsw]] [--clusters N]
REPORTCLIP: the program. Vectors are random, of length 1. FAISS is PyPI's faiss-cpu, IndexFlatIP, which looks at every
row as `reportclip search` does; both hold the vectors in memory, and only the search is timed. It also says how many of
FAISS's rows ours has (all but ties of the last digit). --approximate: beside it our graphs, on an index in a folder,
and the time that making them took; of few queries the vectors that graphs name are read from their files. --hnsw:
FAISS's IndexHNSWFlat too, with as many neighbours and as many looked at while it is made and searched. --clusters:
vectors around so many directions, as those of images are, not all over the sphere. CPU seconds are of all threads, ours
of the whole program, which also opens the index and prints: on a machine that does other work they are what to read.
Needs numpy, safetensors, faiss-cpu.
"""
import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import tempfile
import time

import faiss
import numpy as np
from safetensors.numpy import save_file

COLUMNS = {f"{name}_column": name for name in ["image", "report", "patient_id", "study_id", "split", "label"]}


def unit(rng, count, width, centres=None):
    x = rng.standard_normal((count, width), dtype=np.float32)
    if centres is not None:
        x = centres[rng.integers(0, len(centres), count)] + x * np.float32(0.6 / np.sqrt(width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write_index(folder, rows, shard_rows=10_000):
    """As `reportclip embed --out FOLDER/` writes them, of rows that are of nothing."""
    source = {"model": "none", "manifest": None, "image_root": None, "split": None, "columns": COLUMNS, "texts": None}
    os.makedirs(f"{folder}/rows")
    for number, start in enumerate(range(0, len(rows), shard_rows)):
        save_file({"image_embeds": rows[start : start + shard_rows]}, f"{folder}/shard-{number:05}.safetensors")
        json.dump({"fingerprint": "bench", "rows": None}, open(f"{folder}/rows/rows-{number:05}.json", "w"))
    index = {"fingerprint": "bench", "complete": True, "format": "safetensors", "shard_rows": shard_rows}
    json.dump(index | {"images": len(rows), "texts": 0, "source": source}, open(f"{folder}/index.json", "w"))


def cpu_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# As src/search/graph.rs makes ours.
NEIGHBOURS, LOOKED_AT = 16, 128


def hnsw_of_faiss(a, rows, queries):
    """Wall and CPU seconds of making and of searching FAISS's graph, and what it finds."""
    graph = faiss.IndexHNSWFlat(a.width, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = LOOKED_AT, LOOKED_AT
    began, cpu = time.perf_counter(), time.process_time()
    graph.add(rows)
    made = (time.perf_counter() - began, time.process_time() - cpu)
    of = []
    for _ in range(a.repeats):
        began, cpu = time.perf_counter(), time.process_time()
        _, hits = graph.search(queries, a.k)
        of.append((a.queries / (time.perf_counter() - began), time.process_time() - cpu))
    return made, of, hits


def ours(a, folder, queries, more):
    command = [a.reportclip, "-v", "search", "--index", folder, "--queries", queries, "-k", str(a.k), "--json", *more]
    env = os.environ | {"RAYON_NUM_THREADS": str(a.threads)}
    before = cpu_of_children()
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    took = sum(float(s) for s in re.findall(r"rows in ([0-9.]+) s", done.stderr))
    hits = [[hit["row"] for hit in json.loads(line)["hits"]] for line in done.stdout.splitlines()]
    told = [line for line in done.stderr.splitlines() if "approximate:" in line]
    return took, np.array(hits), told, cpu_of_children() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reportclip")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--hnsw", action="store_true")
    parser.add_argument("--clusters", type=int)
    a = parser.parse_args()
    rng = np.random.default_rng(a.seed)
    centres = unit(rng, a.clusters, a.width) if a.clusters else None
    rows, queries = unit(rng, a.rows, a.width, centres), unit(rng, a.queries, a.width, centres)
    faiss.omp_set_num_threads(a.threads)
    flat = faiss.IndexFlatIP(a.width)
    flat.add(rows)
    with tempfile.TemporaryDirectory() as folder:
        write_index(f"{folder}/index", rows)
        np.save(f"{folder}/queries.npy", queries)
        flat.search(queries[:10], a.k)
        of_faiss, of_ours, of_graphs, cpu = [], [], [], {"FAISS": [], "exact": [], "approximate": []}
        began = time.perf_counter()
        if a.approximate:
            *_, cpu_of_making = ours(a, f"{folder}/index", f"{folder}/queries.npy", ["--approximate"])
        making = time.perf_counter() - began
        for _ in range(a.repeats):
            began, before = time.perf_counter(), time.process_time()
            _, expected = flat.search(queries, a.k)
            of_faiss.append(a.queries / (time.perf_counter() - began))
            cpu["FAISS"].append(time.process_time() - before)
            took, hits, _, used = ours(a, f"{folder}/index", f"{folder}/queries.npy", ["--exact"])
            of_ours.append(a.queries / took)
            cpu["exact"].append(used)
            if a.approximate:
                took, near, told, used = ours(a, f"{folder}/index", f"{folder}/queries.npy", ["--approximate"])
                of_graphs.append(a.queries / took)
                cpu["approximate"].append(used)
    if a.hnsw:
        made, of_hnsw, found = hnsw_of_faiss(a, rows, queries)

    def same(hits):
        return statistics.mean(len(set(x) & set(y)) / a.k for x, y in zip(expected.tolist(), hits.tolist()))

    def spread(of):
        return f"{statistics.median(of):.0f} queries/s ({min(of):.0f}–{max(of):.0f})"

    print(f"{a.rows} × {a.width}, {a.queries} queries, k = {a.k}, {a.threads} threads, {a.repeats} runs in turn")
    seconds = lambda of: f"{statistics.median(of):.1f} s of CPU ({min(of):.1f}–{max(of):.1f})"
    print(f"FAISS {faiss.__version__} IndexFlatIP: {spread(of_faiss)}, {seconds(cpu['FAISS'])}")
    print(f"reportclip search: {spread(of_ours)}, {seconds(cpu['exact'])}; {100 * same(hits):.2f} % of FAISS's rows")
    print(f"ratio of the medians: {statistics.median(of_ours) / statistics.median(of_faiss):.2f}")
    if a.approximate:
        told_of = f"{spread(of_graphs)}, {seconds(cpu['approximate'])}; {100 * same(near):.2f} % of FAISS's rows"
        print(f"reportclip search --approximate: {told_of}\n{told[-1]}")
        print(f"the first search, which made the graphs: {making:.0f} s, {cpu_of_making:.0f} s of CPU")
    if a.hnsw:
        told_of = f"{spread([speed for speed, _ in of_hnsw])}, {seconds([used for _, used in of_hnsw])}"
        print(f"FAISS IndexHNSWFlat: {told_of}; {100 * same(found):.2f} % of the rows")
        print(f"making it: {made[0]:.0f} s, {made[1]:.0f} s of CPU")


if __name__ == "__main__":
    main()
