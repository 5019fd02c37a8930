#!/usr/bin/env python3
"""What reportclip is measured against: the same work in PyTorch, as a practitioner would write it.

  torch_peer.py train-step --batch-size 8 --steps 5 --threads 2 [--tokens 77] [--freeze-image] [--image-size 224]
  torch_peer.py train-step --model resnet-50+bert-base [--channels-last] [--batch-norm train]
  torch_peer.py encode --batch-size 32 --steps 5 --threads 2 [--precision bf16]
  torch_peer.py data --images DIR
  torch_peer.py start --model DIR --batch-size 8
Each prints one JSON line with the keys of `reportclip bench`. Random weights of CLIP ViT-B/32's size (151.3 M), f32,
symmetric label-smoothed cross-entropy, AdamW over all parameters, texts padded to 77 tokens as transformers' CLIPProcessor
does in most recipes. --precision bf16 adds what is usual for it: torch.autocast around model and loss, and AdamW(fused=True). Needs torch, transformers, torchvision and pillow; the environment decides the versions, and every
line names them.
"""
import argparse
import json
import os
import resource
import statistics
import time

START = time.perf_counter()


def peak_rss_mib():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def process_age():
    """Seconds since this process was started, the interpreter's own start included."""
    ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
    uptime = float(open("/proc/uptime").read().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def autocast(arguments):
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.precision == "bf16")


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def with_bert(arguments):
    """ViT-B/16 or ResNet-50 beside BERT-base, first tokens' states through linear projections; no dropout."""
    import torch
    from types import SimpleNamespace

    from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

    class DualEncoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.is_vit = arguments.model.startswith("vit")
            if self.is_vit:
                self.image = ViTModel._from_config(ViTConfig(), attn_implementation="sdpa", add_pooling_layer=False)
            else:
                self.image = ResNetModel(ResNetConfig())
            text = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            self.text = BertModel._from_config(text, attn_implementation="sdpa", add_pooling_layer=False)
            self.visual_projection = torch.nn.Linear(768 if self.is_vit else 2048, 512, bias=False)
            self.text_projection = torch.nn.Linear(768, 512, bias=False)
            self.logit_scale = torch.nn.Parameter(torch.tensor(2.6593))

        def train(self, mode=True):
            super().train(mode)
            if arguments.batch_norm == "frozen":
                norms = (m for m in self.image.modules() if isinstance(m, torch.nn.BatchNorm2d))
                for norm in norms:
                    norm.eval()
            return self

        def forward(self, input_ids, pixel_values):
            if arguments.channels_last:
                pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
            out = self.image(pixel_values)
            image = out.last_hidden_state[:, 0] if self.is_vit else out.pooler_output.flatten(1)
            text = self.text(input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state[:, 0]
            image = torch.nn.functional.normalize(self.visual_projection(image))
            text = torch.nn.functional.normalize(self.text_projection(text))
            sims = self.logit_scale.exp() * image @ text.T
            return SimpleNamespace(logits_per_image=sims, logits_per_text=sims.T)

    model = DualEncoder()
    return model.to(memory_format=torch.channels_last) if arguments.channels_last else model


def clip(arguments):
    if arguments.model.endswith("+bert-base"):
        return with_bert(arguments)
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig()
    config.vision_config.image_size = arguments.image_size
    return CLIPModel._from_config(config, attn_implementation="sdpa")


def inputs(arguments):
    import torch

    pixel_values = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    bert = arguments.model.endswith("+bert-base")
    tokens = arguments.tokens or (128 if bert else 77)
    input_ids = torch.randint(1, 30000 if bert else 49000, (arguments.batch_size, tokens))
    input_ids[:, -1] = 102 if bert else 49407
    return pixel_values, input_ids


def train(model, batches, arguments):
    """Seconds of each step, and seconds from the process's start to the end of the first."""
    import torch
    import torch.nn.functional as F

    trained = [p for p in model.parameters() if p.requires_grad]
    fused = True if arguments.precision == "bf16" else None
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.2, fused=fused)
    seconds, first = [], 0.0
    for step in range(arguments.steps):
        pixel_values, input_ids = batches[step % len(batches)]
        targets = torch.arange(len(input_ids))
        started = time.perf_counter()
        with autocast(arguments):
            out = model(input_ids=input_ids, pixel_values=pixel_values)
            loss = (
                F.cross_entropy(out.logits_per_image, targets, label_smoothing=0.1)
                + F.cross_entropy(out.logits_per_text, targets, label_smoothing=0.1)
            ) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        if step == 0:
            first = process_age()
    return seconds, first, loss.item()


def train_step(arguments):
    model = clip(arguments).train()
    if arguments.freeze_image:
        model.vision_model.requires_grad_(False)
    if arguments.checkpoint_activations:
        model.gradient_checkpointing_enable()
    seconds, first, loss = train(model, [inputs(arguments)], arguments)
    rest = seconds[1:] or seconds
    median = statistics.median(rest)
    return {
        "first_step_s": seconds[0], "median_step_s": median, "min_step_s": min(rest), "max_step_s": max(rest),
        "start_to_first_step_s": first, "samples_per_s": arguments.batch_size / median, "loss": loss,
    }


def encode(arguments):
    import torch

    model = clip(arguments).eval()
    pixel_values, input_ids = inputs(arguments)
    images, texts = [], []
    with torch.inference_mode(), autocast(arguments):
        for step in range(arguments.steps + 1):
            started = time.perf_counter()
            model.get_image_features(pixel_values=pixel_values)
            between = time.perf_counter()
            model.get_text_features(input_ids=input_ids)
            if step > 0:
                images.append(len(input_ids) / (between - started))
                texts.append(len(input_ids) / (time.perf_counter() - between))
    return {"images_per_s": spread(images), "texts_per_s": spread(texts)}


def data(arguments):
    """torchvision's transforms over PIL images, on one core."""
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    size = arguments.image_size
    transform = transforms.Compose([
        transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ])
    names = sorted(n for n in os.listdir(arguments.images) if n.lower().endswith((".png", ".jpg", ".jpeg")))
    paths = [os.path.join(arguments.images, n) for n in names]
    rates = []
    for step in range(arguments.steps + 1):
        started = time.perf_counter()
        for path in paths:
            transform(Image.open(path).convert("RGB"))
        if step > 0:
            rates.append(len(paths) / (time.perf_counter() - started))
    return {"images": len(paths), "images_per_s": spread(rates)}


def start(arguments):
    """From the start of the process to the end of the first step on real files, as a script of a few lines does it."""
    import csv

    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(arguments.model).train()
    processor = CLIPProcessor.from_pretrained(arguments.model)
    folder = os.path.dirname(arguments.manifest)
    rows = list(csv.DictReader(open(arguments.manifest, newline="")))[: arguments.batch_size]
    images = [Image.open(os.path.join(folder, r["image"])).convert("RGB") for r in rows]
    batch = processor(
        text=[r["report"] for r in rows], images=images, return_tensors="pt", padding="max_length", truncation=True,
        max_length=77,
    )
    begins = process_age()
    arguments.steps = 1
    _, first, loss = train(model, [(batch["pixel_values"], batch["input_ids"])], arguments)
    return {"start_to_step_s": begins, "start_to_first_step_s": first, "loss": loss}


def save(arguments):
    """A random CLIP ViT-B/32 with open_clip's vocabulary, as a folder that both sides load."""
    import open_clip
    from transformers import CLIPImageProcessor, CLIPTokenizer

    model = clip(arguments)
    model.save_pretrained(arguments.model)
    CLIPImageProcessor().save_pretrained(arguments.model)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    unicode_bytes = tokenizer.encoder
    merges = [" ".join(pair) for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda kv: kv[1])]
    vocab = {token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): i
             for token, i in unicode_bytes.items()}
    json.dump(vocab, open(os.path.join(arguments.model, "vocab.json"), "w"))
    open(os.path.join(arguments.model, "merges.txt"), "w").write("#version: 0.2\n" + "\n".join(merges) + "\n")
    CLIPTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.model)
    return {"saved": arguments.model}


COMMANDS = {"train-step": train_step, "encode": encode, "data": data, "start": start, "save": save}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, help="length that texts are padded to; default 77, BERT 128")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--freeze-image", action="store_true")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of train-step and encode")
    parser.add_argument("--images", help="folder of image files")
    parser.add_argument("--model", default="clip-vit-base-patch32", help="architecture, or for start and save a folder")
    parser.add_argument("--channels-last", action="store_true", help="memory format of the ResNet")
    parser.add_argument("--batch-norm", choices=["frozen", "train"], default="frozen")
    parser.add_argument("--manifest", help="CSV with the columns image and report")
    arguments = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    figures = COMMANDS[arguments.command](arguments)
    figures |= {"precision": arguments.precision, "peak_rss_mib": peak_rss_mib(), "torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(figures))
