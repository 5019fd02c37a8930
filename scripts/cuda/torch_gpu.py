#!/usr/bin/env python3
"""The same work in PyTorch on a GPU, as a practitioner would write it: transformers' model with sdpa, autocast to bf16,
fused AdamW, TF32 allowed where numbers are f32.

  torch_gpu.py train-step --model clip-vit-base-patch32 --batch-size 256 [--compile] [--open-clip]
  torch_gpu.py encode --model clip-vit-base-patch32 --batch-size 256 [--compile]
Prints one line of JSON with the keys of `reportclip bench`. --device cpu is for tests of this script.
"""
import argparse
import json
import statistics
import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F

OPEN_CLIP = {
    "clip-vit-base-patch32": "ViT-B-32", "clip-vit-base-patch16": "ViT-B-16", "clip-vit-large-patch14": "ViT-L-14",
}


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


class Pair(torch.nn.Module):
    """ViT-B/16 and BERT-base, first tokens' states through linear projections; no dropout."""

    def __init__(self):
        super().__init__()
        from transformers import BertConfig, BertModel, ViTConfig, ViTModel

        self.vit = ViTModel._from_config(ViTConfig(), attn_implementation="sdpa", add_pooling_layer=False)
        text = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        self.bert = BertModel._from_config(text, attn_implementation="sdpa", add_pooling_layer=False)
        self.visual_projection = torch.nn.Linear(768, 512, bias=False)
        self.text_projection = torch.nn.Linear(768, 512, bias=False)
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.6593))

    def image(self, pixels):
        return self.visual_projection(self.vit(pixels).last_hidden_state[:, 0])

    def text(self, ids):
        return self.text_projection(self.bert(ids).last_hidden_state[:, 0])

    def forward(self, ids, pixels):
        image, text = F.normalize(self.image(pixels)), F.normalize(self.text(ids))
        return self.logit_scale.exp() * image @ text.T


class Clip(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        config = CLIPConfig()
        vision, text = config.vision_config, config.text_config
        vision.patch_size = {"32": 32, "16": 16, "14": 14}[name[-2:]]
        if "large" in name:
            vision.hidden_size, vision.intermediate_size = 1024, 4096
            vision.num_hidden_layers, vision.num_attention_heads = 24, 16
            text.hidden_size, text.intermediate_size, text.num_attention_heads = 768, 3072, 12
            config.projection_dim = vision.projection_dim = text.projection_dim = 768
        self.clip = CLIPModel._from_config(config, attn_implementation="sdpa")

    def image(self, pixels):
        return features(self.clip.get_image_features(pixel_values=pixels))

    def text(self, ids):
        return features(self.clip.get_text_features(input_ids=ids))

    def forward(self, ids, pixels):
        return self.clip(input_ids=ids, pixel_values=pixels).logits_per_image


class OpenClip(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        import open_clip

        self.clip = open_clip.create_model(OPEN_CLIP[name], pretrained=None)

    def image(self, pixels):
        return self.clip.encode_image(pixels)

    def text(self, ids):
        return self.clip.encode_text(ids)

    def forward(self, ids, pixels):
        image, text, scale = self.clip(pixels, ids)
        return scale * image @ text.T


def features(out):
    """transformers 5 gives an output object where 4 gave a tensor."""
    return out if torch.is_tensor(out) else out.pooler_output


def build(a):
    if a.open_clip:
        return OpenClip(a.model)
    return Pair() if a.model.endswith("+bert-base") else Clip(a.model)


def inputs(a):
    bert = a.model.endswith("+bert-base")
    tokens = a.tokens or (128 if bert else 77)
    pixels = torch.randn(a.batch_size, 3, 224, 224, device=a.device)
    ids = torch.randint(1, 30000 if bert else 49000, (a.batch_size, tokens), device=a.device)
    ids[:, -1] = 102 if bert else 49407
    return ids, pixels


def wait(a):
    if a.device.startswith("cuda"):
        torch.cuda.synchronize()


def train_step(a):
    model = build(a).to(a.device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.2, fused=True)
    forward = torch.compile(model) if a.compile else model
    ids, pixels = inputs(a)
    targets = torch.arange(len(ids), device=a.device)
    seconds = []
    for _ in range(a.warmup + a.steps):
        wait(a)
        started = time.perf_counter()
        with torch.autocast(a.device.split(":")[0], dtype=torch.bfloat16):
            sims = forward(ids, pixels)
            loss = (
                F.cross_entropy(sims, targets, label_smoothing=0.1)
                + F.cross_entropy(sims.T, targets, label_smoothing=0.1)
            ) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wait(a)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[a.warmup:])
    return {
        "first_step_s": seconds[0], "median_step_s": median, "min_step_s": min(seconds[a.warmup:]),
        "samples_per_s": a.batch_size / median, "loss": loss.item(),
    }


def encode(a):
    model = build(a).to(a.device).eval()
    image, text = (torch.compile(model.image), torch.compile(model.text)) if a.compile else (model.image, model.text)
    ids, pixels = inputs(a)
    images, texts = [], []
    with torch.inference_mode(), torch.autocast(a.device.split(":")[0], dtype=torch.bfloat16):
        for step in range(a.warmup + a.steps):
            wait(a)
            started = time.perf_counter()
            image(pixels)
            wait(a)
            between = time.perf_counter()
            text(ids)
            wait(a)
            if step >= a.warmup:
                images.append(a.batch_size / (between - started))
                texts.append(a.batch_size / (time.perf_counter() - between))
    return {"images_per_s": spread(images), "texts_per_s": spread(texts)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train-step", "encode"])
    parser.add_argument("--model", default="clip-vit-base-patch32")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--open-clip", action="store_true")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda:"):
        torch.cuda.set_device(arguments.device)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    figures = train_step(arguments) if arguments.command == "train-step" else encode(arguments)
    if arguments.device.startswith("cuda"):
        figures["gpu"] = {"peak_memory_mib": torch.cuda.max_memory_allocated() >> 20}
    print(json.dumps(figures | {"torch": torch.__version__}))
