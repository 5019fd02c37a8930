#!/usr/bin/env python3
"""reportclip's reading of Parquet and tar shards beside PyTorch's `datasets` and `webdataset`, in turn, and the ratios.

  loaders.py --python peer-venv/bin/python --images DIR [--rows 4000] [--workers 2] [--rounds 3]
The images of DIR, again and again, are written as shards and Parquet by those libraries themselves. Each side decodes,
resizes (bicubic) and crops to 224, normalises and batches by 32, shuffled, with the same number of workers: PyTorch's
DataLoader has processes, reportclip threads. Needs torch, torchvision, datasets, webdataset in the peer's environment.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time


def make(images, out, rows):
    import datasets
    import webdataset as wds
    names = sorted(n for n in os.listdir(images) if n.lower().endswith((".png", ".jpg", ".jpeg")))
    blobs = [(n, open(os.path.join(images, n), "rb").read()) for n in names]
    sample = lambda i: blobs[i % len(blobs)]
    features = datasets.Features({"image": datasets.Image(), "report": datasets.Value("string")})
    for part in range(4):
        span = range(part * rows // 4, (part + 1) * rows // 4)
        with wds.TarWriter(f"{out}/shard-{part:06d}.tar") as sink:
            for i in span:
                name, blob = sample(i)
                sink.write({"__key__": f"{i:08d}", name.rsplit(".", 1)[1].lower(): blob, "txt": f"report {i}"})
        data = [{"image": {"bytes": sample(i)[1], "path": sample(i)[0]}, "report": f"report {i}"} for i in span]
        datasets.Dataset.from_list(data, features=features).to_parquet(f"{out}/train-{part:05d}.parquet")


def transform():
    from torchvision import transforms
    return transforms.Compose([
        transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ])


def peer(kind, folder, workers, rounds):
    import torch
    torch.set_num_threads(1)
    change = transform()
    if kind == "webdataset":
        import webdataset as wds
        urls = sorted(f"{folder}/{n}" for n in os.listdir(folder) if n.endswith(".tar"))
        data = wds.WebDataset(urls, shardshuffle=4).shuffle(1000).decode("pilrgb").to_tuple("jpg;jpeg;png", "txt")
        data = data.map_tuple(change, lambda t: t)
        load = lambda: torch.utils.data.DataLoader(data, batch_size=32, num_workers=workers)
    else:
        import datasets
        files = sorted(f"{folder}/{n}" for n in os.listdir(folder) if n.endswith(".parquet"))
        stream = kind == "datasets streaming"
        data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=stream)
        one = lambda image: change(image.convert("RGB"))
        if stream:
            data = data.shuffle(seed=0, buffer_size=1000).map(lambda row: {"image": one(row["image"]), "report": row["report"]})
        else:
            data.set_transform(lambda rows: {"image": [one(i) for i in rows["image"]], "report": rows["report"]})
        load = lambda: torch.utils.data.DataLoader(data, batch_size=32, num_workers=workers, shuffle=not stream)
    rates = []
    for _ in range(rounds + 1):
        started, count = time.perf_counter(), 0
        for batch in load():
            images = batch[0] if isinstance(batch, (list, tuple)) else batch["image"]
            count += len(images)
        rates.append(count / (time.perf_counter() - started))
    rates = rates[1:]
    print(json.dumps({"images_per_s": statistics.median(rates), "min": min(rates), "max": max(rates), "images": count}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--reportclip", default="target/release/reportclip")
    parser.add_argument("--images")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.make:
        return make(a.images, a.make, a.rows)
    if a.peer:
        return peer(a.peer[0], a.peer[1], a.workers, 1)
    with tempfile.TemporaryDirectory() as folder:
        me = [a.python, os.path.abspath(__file__), "--workers", str(a.workers)]
        environment = os.environ | {"HF_DATASETS_CACHE": folder + "/cache", "HF_HUB_OFFLINE": "1"}
        subprocess.run(me + ["--images", a.images, "--rows", str(a.rows), "--make", folder], check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        def run(command):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            return json.loads(done.stdout.strip().splitlines()[-1])
        cases = [("webdataset", "*.tar"), ("datasets", "*.parquet"), ("datasets streaming", "*.parquet")]
        ours = lambda pattern: [a.reportclip, "bench", "loader", f"{folder}/{pattern}", "--workers", str(a.workers), "--rounds", "1", "--json"]
        print(f"| images a second, {a.workers} workers, {a.rows} rows | PyTorch: median (lowest to highest) | reportclip | ratio | peak MiB of reportclip |\n|---|---|---|---|---|")
        for kind, pattern in cases:
            theirs, mine, memory = [], [], []
            for _ in range(a.rounds):
                theirs.append(run(me + ["--peer", kind, folder])["images_per_s"])
                line = run(ours(pattern))
                mine.append(line["images_per_s"]["median"])
                memory.append(line["peak_rss_mib"])
            text = lambda v: f"{statistics.median(v):.0f} ({min(v):.0f} to {max(v):.0f})"
            print(f"| {kind} | {text(theirs)} | {text(mine)} | {statistics.median(mine) / statistics.median(theirs):.2f} | {max(memory)} |", flush=True)


if __name__ == "__main__":
    main()
