"""Checks exported ONNX files with onnx.checker and onnxruntime.

    python scripts/golden/check_onnx.py ONNX_DIR EMBEDS.safetensors MANIFEST.csv [--limit 1e-5] [--recall RECALL.json]
    python scripts/golden/check_onnx.py --fixtures FOLDER

The first compares with what `reportclip embed --data MANIFEST.csv` wrote: images through the folder's own
preprocessor_config.json (`transformers`' image processor), reports through its tokenizer.json. Take PNGs of the model's
own size: other decoders of JPEGs give pixels that differ by 1 of 255. With RECALL.json, what
`export onnx --int8 --data … --json` printed, recall of the 8-bit files is compared with what was told, too.

The second takes what `REPORTCLIP_ONNX_OUT=FOLDER cargo test --release --test it onnx::` wrote there: for each tiny
family its three graphs with inputs and what reportclip makes of them, in f32 and in 8 bits.

Needs `pip install onnx onnxruntime numpy safetensors`, the first also transformers, tokenizers and pillow.
Exits 1 if an embedding differs by more than the limit.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file


def session(path):
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(model, inputs):
    wanted = {port.name: inputs[port.name] for port in model.get_inputs()}
    return dict(zip([port.name for port in model.get_outputs()], model.run(None, wanted)))


def normalised(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def fixtures(folder):
    failed = False
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        io = load_file(case / "io.safetensors")
        line = [f"{case.name:<24}"]
        for suffix, limit in (("", 1e-5), ("_quantized", 2e-2)):
            worst = 0.0
            for name in ("vision_model", "text_model", "model"):
                made = run(session(case / f"{name}{suffix}.onnx"), io)
                for output, got in made.items():
                    expected = io[f"{name}{suffix}.{output}"]
                    if name != "model":
                        got, expected = normalised(got), normalised(expected)
                    if output.startswith("logits"):
                        continue
                    worst = max(worst, float(np.abs(got - expected).max()))
            # Alone, an item gives what it gives among others: batch and sequence are dynamic.
            if not suffix:
                one = {key: io[key][:1] for key in ("pixel_values", "input_ids", "attention_mask")}
                alone = run(session(case / "model.onnx"), one)["image_embeds"]
                worst = max(worst, float(np.abs(alone - io["model.image_embeds"][:1]).max()))
            line.append(f"{'int8' if suffix else 'f32'} {worst:.2e}")
            failed |= not worst <= limit
        print("  ".join(line))
    return failed


def recall(queries, gallery, pairs, k):
    """Share of the distinct queries of which a right item is among the first k distinct ones; pairs: (query, item)."""
    firsts = [sorted({pair[side]: i for i, pair in reversed(list(enumerate(pairs)))}.items(), key=lambda x: x[1])
              for side in (0, 1)]
    order = {item: n for n, (item, _) in enumerate(firsts[1])}
    similarity = queries[[i for _, i in firsts[0]]] @ gallery[[i for _, i in firsts[1]]].T
    found = 0
    for scores, (query, _) in zip(similarity, firsts[0]):
        right = [order[item] for q, item in pairs if q == query]
        best = scores[right].max()
        found += 1 + (scores >= best).sum() - (scores[right] >= best).sum() <= k
    return found / len(similarity)


def manifest(args):
    from tokenizers import Tokenizer
    from transformers import AutoImageProcessor

    from common import open_image

    folder, root = args.onnx_dir, args.image_root or args.manifest.parent
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer.enable_truncation(config["model_max_length"])
    pad = config.get("pad_token", "[PAD]")
    pad = pad["content"] if isinstance(pad, dict) else pad
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
    with open(args.manifest, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    ours = load_file(args.embeds)
    failed = False
    for suffix, limit in (("", args.limit), ("_quantized", None)):
        if not (folder / f"onnx/vision_model{suffix}.onnx").exists():
            continue
        vision, text = (session(folder / f"onnx/{name}{suffix}.onnx") for name in ("vision_model", "text_model"))
        images, texts = [], []
        for row in rows:
            pixels = processor(open_image(root / row["image"]).convert("RGB"), return_tensors="np").pixel_values
            images.append(next(iter(run(vision, {"pixel_values": pixels.astype(np.float32)}).values())))
            encoded = tokenizer.encode_batch([row["report"]])
            inputs = {"input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
                      "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64)}
            texts.append(next(iter(run(text, inputs).values())))
        images, texts = normalised(np.concatenate(images)), normalised(np.concatenate(texts))
        for name, got in (("image_embeds", images), ("text_embeds", texts)):
            worst = float(np.abs(got - ours[name]).max())
            print(f"{suffix or 'f32'}: {name}: {len(got)} rows, largest absolute difference {worst:.3g}")
            failed |= limit is not None and not worst <= limit
        pairs = [(row["image"], row["report"]) for row in rows]
        back = [(text, image) for image, text in pairs]
        figures = {f"image→text recall@{k}": recall(images, texts, pairs, k) for k in (1, 5, 10)}
        figures |= {f"text→image recall@{k}": recall(texts, images, back, k) for k in (1, 5, 10)}
        told = {r["figure"]: r for r in json.loads(args.recall.read_text())["recall"]} if args.recall else {}
        for figure, value in figures.items():
            said = told.get(figure, {}).get("int8" if suffix else "f32")
            print(f"{suffix or 'f32'}: {figure}: onnxruntime {value:.4f}, reportclip {said}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx_dir", type=Path, nargs="?")
    parser.add_argument("embeds", type=Path, nargs="?")
    parser.add_argument("manifest", type=Path, nargs="?")
    parser.add_argument("--image-root", type=Path, help="default: the folder of the manifest")
    parser.add_argument("--limit", type=float, default=1e-5)
    parser.add_argument("--recall", type=Path)
    parser.add_argument("--fixtures", type=Path)
    args = parser.parse_args()
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
    sys.exit(1 if (fixtures(args.fixtures) if args.fixtures else manifest(args)) else 0)


if __name__ == "__main__":
    main()
