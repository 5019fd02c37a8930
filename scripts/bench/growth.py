#!/usr/bin/env python3
"""How the cost of a training step of CLIP ViT-B/32 grows, beside what its multiply-adds would take at this machine's peak.

  growth.py [--reportclip target/release/reportclip] [--largest 512] [--out lines.jsonl]
The floor counts the multiply-adds of the textbook step (forward once, backward twice, every token of every block) over the
peak that `reportclip bench matmul` finds in a large product just before. A step may beat it: the last block works out only
the pooled token. Batches over 64 go in chunks of 64, whose second forward pass the floor counts too.
"""
import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CHUNK = 64


def multiply_adds(batch, tokens, image_size, chunks):
    def tower(rows, width, layers=12):
        return layers * rows * (12 * width * width + 2 * rows * width)

    patches = (image_size // 32) ** 2
    image = tower(1 + patches, 768) + patches * 3 * 32 * 32 * 768 + 768 * 512
    text = tower(tokens, 512) + 512 * 512
    passes = 3 if chunks == 1 else 4 - 1 / chunks
    return batch * passes * (image + text)


def run(program, *arguments):
    result = subprocess.run([program, "bench", *arguments, "--json"], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reportclip", default=os.path.join(HERE, "../../target/release/reportclip"))
    parser.add_argument("--largest", type=int, default=512)
    parser.add_argument("--out", default="/dev/null")
    a = parser.parse_args()
    cases = [(b, 77, 224, 2, []) for b in (4, 8, 16, 32, 64, 128, 512) if b <= a.largest]
    cases += [(8, tokens, 224, 2, []) for tokens in (16, 32, 64)]
    cases += [(8, 77, size, 2, []) for size in (336, 448)]
    cases += [(8, 77, 224, 1, []), (32, 77, 224, 2, ["--checkpoint-activations"])]
    print("| batch | tokens | image | threads | seconds a step | floor | share of the floor's speed | peak MiB |")
    print("|---|---|---|---|---|---|---|---|")
    with open(a.out, "a") as out:
        for batch, tokens, size, threads, more in cases:
            chunks = max(1, batch // CHUNK)
            peak = run(a.reportclip, "matmul", "--threads", str(threads))["gflops"]
            steps = 4 if batch <= 32 else 2
            figures = run(
                a.reportclip, "train-step", "--batch-size", str(batch // chunks), "--accum-freq", str(chunks), "--tokens",
                str(tokens), "--image-size", str(size), "--threads", str(threads), "--steps", str(steps), *more,
            )
            floor = 2 * multiply_adds(batch, tokens, size, chunks) / peak / 1e9
            note = " (checkpointed)" if more else f" ({chunks} chunks)" if chunks > 1 else ""
            seconds = figures["median_step_s"]
            print(
                f"| {batch}{note} | {tokens} | {size} | {threads} | {seconds:.2f} | {floor:.2f} at {peak:.0f} GFLOP/s "
                f"| {floor / seconds:.0%} | {figures['peak_rss_mib']} |",
                flush=True,
            )
            case = {"batch": batch, "chunks": chunks, "tokens": tokens, "image_size": size, "threads": threads}
            print(json.dumps(case | {"options": more, "gflops": peak, "floor_s": floor} | figures), file=out, flush=True)


if __name__ == "__main__":
    main()
