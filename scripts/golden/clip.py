"""Small random CLIP models with their expected features, gradients and AdamW losses.

Writes tests/golden/clip/<case>/ (config.json, model.safetensors, expected.safetensors)
and tests/golden/clip_formats/<name>/ (the weights of the first case in other file formats).
"""

import math
import os
import pickle
import shutil
import zipfile

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from common import GOLDEN, write_origin

BATCH = 4
LABEL_SMOOTHING = 0.1
MAX_LOGIT_SCALE = math.log(100)
BOS, EOS = 62, 63

# Every case is: config, side of the input images, and the pad id of each text of the batch.
CASES = {
    "quick_gelu_legacy_eos": dict(
        vision=dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
                    image_size=32, patch_size=8, hidden_act="quick_gelu"),
        text=dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
                  hidden_act="quick_gelu", eos_token_id=2, bos_token_id=0, pad_token_id=1),
        projection_dim=12, input_side=32, pads=[0, EOS, 0, EOS],
    ),
    "gelu_one_head_uneven_patch": dict(
        vision=dict(hidden_size=20, num_attention_heads=1, num_hidden_layers=1, intermediate_size=40,
                    image_size=30, patch_size=8, hidden_act="gelu"),
        text=dict(hidden_size=12, num_attention_heads=1, num_hidden_layers=3, intermediate_size=24,
                  hidden_act="gelu", eos_token_id=EOS, bos_token_id=BOS, pad_token_id=EOS),
        projection_dim=12, input_side=30, pads=[EOS] * BATCH,
    ),
    "odd_widths": dict(
        vision=dict(hidden_size=15, num_attention_heads=3, num_hidden_layers=2, intermediate_size=37,
                    image_size=28, patch_size=7, hidden_act="quick_gelu"),
        text=dict(hidden_size=21, num_attention_heads=3, num_hidden_layers=2, intermediate_size=29,
                  hidden_act="quick_gelu", eos_token_id=EOS, bos_token_id=BOS, pad_token_id=1),
        projection_dim=9, input_side=28, pads=[1] * BATCH,
    ),
    "interpolated": dict(
        vision=dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
                    image_size=24, patch_size=8, hidden_act="quick_gelu"),
        text=dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
                  hidden_act="quick_gelu", eos_token_id=2, bos_token_id=0, pad_token_id=1),
        projection_dim=12, input_side=40, pads=[0, EOS, 0, EOS],
    ),
}


def build_model(case):
    shared_text = dict(vocab_size=64, max_position_embeddings=16)
    config = CLIPConfig(text_config={**case["text"], **shared_text}, vision_config=case["vision"],
                        projection_dim=case["projection_dim"])
    config._attn_implementation = "eager"
    model = CLIPModel(config).eval()
    # Draw every parameter anew, large enough that each one has a visible effect on the features.
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif "norm" in name or name.endswith("bias"):
                p.copy_(0.2 * noise)
            elif name == "logit_scale":
                p.fill_(math.log(1 / 0.07))
            elif "embedding" in name and "patch" not in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise / math.sqrt(p[0].numel()))
    return model


def build_batch(case):
    side = case["input_side"]
    pixel_values = torch.randn(BATCH, 3, side, side)
    lengths = [4, 16, 7, 11]  # with bos and eos; 16 fills the whole context
    input_ids = torch.empty(BATCH, 16, dtype=torch.int64)
    attention_mask = torch.zeros(BATCH, 16, dtype=torch.int64)
    for row, (length, pad) in enumerate(zip(lengths, case["pads"])):
        words = torch.randint(3, 62, (length - 2,))
        input_ids[row] = pad
        input_ids[row, :length] = torch.cat([torch.tensor([BOS]), words, torch.tensor([EOS])])
        attention_mask[row, :length] = 1
    return dict(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask)


def symmetric_loss(logits_per_image):
    target = torch.arange(len(logits_per_image))
    rows = F.cross_entropy(logits_per_image, target, label_smoothing=LABEL_SMOOTHING)
    columns = F.cross_entropy(logits_per_image.T, target, label_smoothing=LABEL_SMOOTHING)
    return (rows + columns) / 2


def forward_results(model, batch, interpolate):
    texts = {k: batch[k] for k in ("input_ids", "attention_mask")}
    images = model.get_image_features(batch["pixel_values"], interpolate_pos_encoding=interpolate)
    out = model(**batch, interpolate_pos_encoding=interpolate)
    return {
        "image_features": images.pooler_output,
        "text_features": model.get_text_features(**texts).pooler_output,
        "image_embeds": out.image_embeds,
        "text_embeds": out.text_embeds,
        "logits_per_image": out.logits_per_image,
    }


def gradients(model, batch):
    loss = symmetric_loss(model(**batch).logits_per_image)
    loss.backward()
    result = {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return {"loss": loss.detach(), **result}


def adamw_losses(model, batch, steps=10):
    """The loss before each step. Changes the model."""
    def decays(name, p):
        return p.ndim >= 2 and "position_embedding" not in name

    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": 0.2},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = symmetric_loss(model(**batch).logits_per_image)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    return torch.tensor(losses)


def write_case(name, case, seed):
    torch.manual_seed(seed)
    folder = GOLDEN / "clip" / name
    model = build_model(case)
    batch = build_batch(case)
    model.save_pretrained(folder)

    interpolate = name == "interpolated"
    with torch.no_grad():
        expected = {**batch, **forward_results(model, batch, interpolate)}
    if not interpolate:
        expected.update(gradients(model, batch))
        expected["adamw_losses"] = adamw_losses(model, batch)
        print("  AdamW losses", [round(x, 4) for x in expected["adamw_losses"].tolist()])
        flat = [k for k, v in expected.items() if k.startswith("grad.") and v.abs().max() < 1e-6]
        print("  gradients that are zero up to rounding:", flat)
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    count = sum(p.numel() for p in model.parameters())
    print(f"{name}: {count} parameters, logits\n{expected['logits_per_image']}")


def write_formats():
    source = GOLDEN / "clip" / "quick_gelu_legacy_eos"
    weights = load_file(source / "model.safetensors")
    root = GOLDEN / "clip_formats"

    def folder(name):
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "config.json", root / name)
        return root / name

    model = CLIPModel.from_pretrained(source)
    model.save_pretrained(folder("sharded"), max_shard_size="32KB")
    # state_dict() is an OrderedDict with a _metadata attribute, as in published pytorch_model.bin files.
    torch.save(model.state_dict(), folder("torch_bin") / "pytorch_model.bin")
    torch.save(model.half().state_dict(), folder("torch_bin_f16") / "pytorch_model.bin")

    # Checkpoints saved before transformers 4.31 carry these two integer buffers.
    position_ids = {
        "text_model.embeddings.position_ids": torch.arange(16).unsqueeze(0),
        "vision_model.embeddings.position_ids": torch.arange(17).unsqueeze(0),
    }
    save_file({**weights, **position_ids}, folder("old_position_ids") / "model.safetensors",
              metadata={"format": "pt"})

    # A file that would run a command if something unpickled it. A safe reader must refuse it.
    class RunsACommand:
        def __reduce__(self):
            return os.system, ("touch /tmp/reportclip-pickle-executed",)

    with zipfile.ZipFile(folder("pickle_exec") / "pytorch_model.bin", "w", zipfile.ZIP_STORED) as archive:
        for name, data in [("data.pkl", pickle.dumps(RunsACommand(), protocol=2)),
                           ("byteorder", b"little"), ("version", b"3\n")]:
            archive.writestr(zipfile.ZipInfo(f"pytorch_model/{name}"), data)
    write_origin(root, "clip.py", weights="the same as clip/quick_gelu_legacy_eos, except pickle_exec (none)")


if __name__ == "__main__":
    for seed, (name, case) in enumerate(CASES.items()):
        write_case(name, case, seed)
    write_origin(GOLDEN / "clip", "clip.py", label_smoothing=LABEL_SMOOTHING)
    write_formats()
    print("\n".join(sorted(load_file(GOLDEN / "clip" / "quick_gelu_legacy_eos" / "model.safetensors"))))
