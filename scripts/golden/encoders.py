"""Small random image and text encoders with their expected features, loss and gradients.

Writes tests/golden/encoders/<case>/ in the file layout of the library that publishes such models:
whole systems of transformers, pairs of separately saved towers (vision/ and text/), and open_clip models.
expected.safetensors has grad.<weight name> with the names in the saved weight file.
Names of cases as arguments write only those.
"""

import contextlib
import copy
import functools
import importlib.metadata
import math
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import open_clip
import timm
import torch
import torch.nn.functional as F
import transformers as hf
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import load_file, save_file
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet as TimmEfficientNet
from torch import nn

from clip import LABEL_SMOOTHING, symmetric_loss
from common import GOLDEN, write_json, write_origin

ROOT = GOLDEN / "encoders"
BATCH = 3
LENGTHS = [4, 9, 7]  # tokens of each text, with begin and end
VOCAB = 64
EMBED_DIM = 10
SIGLIP_CONTEXT = 12  # Texts of SigLIP fill it with padding and attend to all of it.


def redraw(model):
    """Draws every parameter anew, large enough that each one has a visible effect on the features."""
    with torch.no_grad():
        for module in model.modules():
            kind = type(module).__name__
            for name, p in module.named_parameters(recurse=False):
                noise = torch.randn(p.shape)
                if name == "logit_scale":
                    p.fill_(math.log(1 / 0.07))
                elif name == "logit_bias":
                    p.fill_(-2)
                elif kind.endswith("GRN"):
                    p.copy_(0.3 * noise)
                elif "Norm" in kind and name == "weight":
                    p.copy_(1 + 0.2 * noise)
                elif name.endswith("bias"):
                    p.copy_(0.2 * noise)
                elif "lambda" in name or "layer_scale" in name or name == "gamma":
                    p.copy_(0.5 + 0.2 * noise)
                elif isinstance(module, nn.Embedding) or "embedding" in name or "token" in name \
                        or name in ("probe", "latent", "pos_embed", "relative_position_bias_table"):
                    p.copy_(0.5 * noise)
                else:
                    # Convolutions get the gain that keeps the size of what passes a ReLU.
                    gain = math.sqrt(2) if isinstance(module, nn.Conv2d) else 1
                    p.copy_(gain * noise / math.sqrt(p[0].numel()))
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape))
    return model.eval()


def images(side):
    # The large patches keep the images apart where a model averages over many pixels.
    patches = F.interpolate(torch.randn(BATCH, 3, 4, 4), size=(side, side))
    return patches + torch.randn(BATCH, 3, side, side)


def texts(begin, end, pad, length=max(LENGTHS)):
    """begin is None for a family whose texts start with a word."""
    input_ids = torch.full((BATCH, length), pad)
    attention_mask = torch.zeros(BATCH, length, dtype=torch.int64)
    for row, count in enumerate(LENGTHS):
        input_ids[row, :count] = torch.randint(4, 60, (count,))
        input_ids[row, count - 1] = end
        if begin is not None:
            input_ids[row, 0] = begin
        attention_mask[row, :count] = 1
    return dict(input_ids=input_ids, attention_mask=attention_mask)


def similarities(image_features, text_features):
    return F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T


def softmax_loss(model, image_features, text_features):
    return symmetric_loss(model.logit_scale.exp() * similarities(image_features, text_features))


def sigmoid_loss(model, image_features, text_features):
    logits = model.logit_scale.exp() * similarities(image_features, text_features) + model.logit_bias
    sign = 2 * torch.eye(BATCH) - 1
    return -F.logsigmoid(sign * logits).sum() / BATCH


def saved_weights(folder):
    return load_file(folder / "model.safetensors")


def saved_gradients(model):
    """Gradients under the names on disk: a copy of the model whose weights are the gradients is saved."""
    carrier = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in carrier.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
        for target, source in zip(carrier.parameters(), model.parameters()):
            if source.grad is not None:
                target.copy_(source.grad)
    with tempfile.TemporaryDirectory() as folder:
        carrier.save_pretrained(folder)
        found = saved_weights(Path(folder))
    return {name: g for name, g in found.items() if g.is_floating_point() and not g.isnan().any()}


def write_expected(folder, expected, weights):
    """weights: every tensor on disk, by the name that its gradient has."""
    gradients = {name[5:]: g for name, g in expected.items() if name.startswith("grad.")}
    for name, gradient in gradients.items():
        assert gradient.shape == weights[name].shape, name
        assert gradient.isfinite().all(), name
    distances = [torch.pdist(F.normalize(expected[name])).min().item() for name in ("image_features", "text_features")]
    assert min(distances) > 0.05, (folder.name, distances)
    save_file({k: v.detach().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")

    count = sum(w.numel() for w in weights.values())
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.name}: {count} numbers in {len(weights)} weights, {size / 1024:.0f} KB, "
          f"loss {expected['loss'].item():.4f}, distances of the features {[round(d, 2) for d in distances]}")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    print("  no gradient:", [n for n in weights if n not in gradients and not n.endswith(statistics)])
    print("  gradient zero up to rounding:", [n for n, g in gradients.items() if g.abs().max() < 1e-6])


# --- Whole systems of transformers ---

def bert(**changes):
    return hf.BertConfig(**{**dict(
        vocab_size=VOCAB, hidden_size=18, num_attention_heads=3, num_hidden_layers=2, intermediate_size=30,
        max_position_embeddings=16, hidden_act="gelu", pad_token_id=0), **changes})


def roberta(kind=hf.RobertaConfig):
    return kind(vocab_size=VOCAB, hidden_size=14, num_attention_heads=2, num_hidden_layers=2, intermediate_size=26,
                max_position_embeddings=18, type_vocab_size=1, hidden_act="gelu", layer_norm_eps=1e-5,
                bos_token_id=0, pad_token_id=1, eos_token_id=2)


def vit(kind=hf.ViTConfig, **changes):
    return kind(**{**dict(
        hidden_size=20, num_attention_heads=2, num_hidden_layers=2, intermediate_size=28,
        image_size=24, patch_size=8, hidden_act="gelu"), **changes})


def dinov2(kind=hf.Dinov2Config, **changes):
    return kind(hidden_size=15, num_attention_heads=3, num_hidden_layers=2, mlp_ratio=2,
                image_size=21, patch_size=7, hidden_act="gelu", **changes)


def swin():
    return hf.SwinConfig(image_size=32, patch_size=4, embed_dim=10, depths=[2, 2], num_heads=[2, 4], window_size=4,
                         mlp_ratio=2.0, hidden_act="gelu")


def beit(**changes):
    return vit(hf.BeitConfig, **{**dict(
        hidden_size=18, num_attention_heads=3, use_relative_position_bias=True,
        use_shared_relative_position_bias=False, use_mean_pooling=True, layer_scale_init_value=0.1), **changes})


BERT_TEXTS = dict(begin=62, end=63, pad=0)
ROBERTA_TEXTS = dict(begin=0, end=2, pad=1)


def chinese_clip():
    config = hf.ChineseCLIPConfig(
        vision_config=dict(hidden_size=20, num_attention_heads=2, num_hidden_layers=2, intermediate_size=28,
                           image_size=24, patch_size=8, hidden_act="quick_gelu"),
        text_config=dict(vocab_size=VOCAB, hidden_size=18, num_attention_heads=3, num_hidden_layers=2,
                         intermediate_size=30, max_position_embeddings=16, hidden_act="gelu"),
        projection_dim=EMBED_DIM)
    return hf.ChineseCLIPModel(config), BERT_TEXTS


def siglip_text(pad):
    return dict(vocab_size=VOCAB, hidden_size=20, num_attention_heads=2, num_hidden_layers=2, intermediate_size=30,
                max_position_embeddings=SIGLIP_CONTEXT, projection_size=20,
                bos_token_id=2, eos_token_id=1, pad_token_id=pad)


def siglip():
    # Also the type of google/siglip2-base-patch16-224 and the other checkpoints of one resolution.
    config = hf.SiglipConfig(
        vision_config=dict(hidden_size=20, num_attention_heads=2, num_hidden_layers=2, intermediate_size=28,
                           image_size=16, patch_size=8),
        text_config=siglip_text(pad=1))
    return hf.SiglipModel(config), dict(begin=None, end=1, pad=1)


def siglip2():
    config = hf.Siglip2Config(
        vision_config=dict(hidden_size=20, num_attention_heads=2, num_hidden_layers=2, intermediate_size=28,
                           num_patches=9, patch_size=8),
        text_config=siglip_text(pad=0))
    return hf.Siglip2Model(config), dict(begin=None, end=1, pad=0)


def dual(vision, text, ids):
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=EMBED_DIM)
    return hf.VisionTextDualEncoderModel(config), ids


SYSTEMS = {
    "chinese_clip": chinese_clip,
    "siglip": siglip,
    "siglip2": siglip2,
    "dual_vit_bert": lambda: dual(vit(), bert(), BERT_TEXTS),
    "dual_clip_roberta": lambda: dual(vit(hf.CLIPVisionConfig, hidden_act="quick_gelu"), roberta(), ROBERTA_TEXTS),
    "dual_deit_bert": lambda: dual(vit(hf.DeiTConfig), bert(), BERT_TEXTS),
    "dual_dinov2_xlmr": lambda: dual(dinov2(), roberta(hf.XLMRobertaConfig), ROBERTA_TEXTS),
    "dual_swin_bert": lambda: dual(swin(), bert(), BERT_TEXTS),
    "dual_beit_bert": lambda: dual(beit(), bert(), BERT_TEXTS),
}


def patchified(pixel_values, patch):
    """What Siglip2's image processor gives for images that fill their grid: patches as rows of (y, x, channel)."""
    grid = pixel_values.shape[-1] // patch
    rows = pixel_values.reshape(BATCH, 3, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
    return dict(pixel_values=rows.reshape(BATCH, grid * grid, patch * patch * 3),
                pixel_attention_mask=torch.ones(BATCH, grid * grid, dtype=torch.int64),
                spatial_shapes=torch.full((BATCH, 2), grid))


def system_features(model, name, batch):
    image_input = {"pixel_values": batch["pixel_values"]}
    if name == "siglip2":
        image_input = patchified(batch["pixel_values"], model.config.vision_config.patch_size)
    image_features = model.get_image_features(**image_input).pooler_output
    text_input = {k: batch[k] for k in ("input_ids", "attention_mask")}
    return image_features, model.get_text_features(**text_input).pooler_output


def write_system(name):
    model, ids = SYSTEMS[name]()
    model.set_attn_implementation("eager")
    redraw(model)
    vision = model.config.vision_config
    side = vision.image_size if name != "siglip2" else math.isqrt(vision.num_patches) * vision.patch_size
    is_siglip = name.startswith("siglip")
    batch = {"pixel_values": images(side), **texts(**ids, length=SIGLIP_CONTEXT if is_siglip else max(LENGTHS))}
    if is_siglip:
        batch["attention_mask"][:] = 1
    folder = ROOT / name
    model.save_pretrained(folder)

    image_features, text_features = system_features(model, name, batch)
    loss = (sigmoid_loss if is_siglip else softmax_loss)(model, image_features, text_features)
    loss.backward()
    gradients = {f"grad.{k}": g for k, g in saved_gradients(model).items()}

    again = type(model).from_pretrained(folder, attn_implementation="eager").eval()
    torch.testing.assert_close(system_features(again, name, batch), (image_features, text_features))
    write_expected(folder, {**batch, "image_features": image_features, "text_features": text_features,
                            "loss": loss, **gradients}, saved_weights(folder))


def write_nested_names(name):
    """transformers 4 put a second vision_model into these names, as in published files; transformers 5 reads both."""
    source, folder = ROOT / name.removesuffix("_v4"), ROOT / name
    folder.mkdir(exist_ok=True)
    shutil.copy(source / "config.json", folder)

    def nested(tensors, prefix):
        old, new = f"{prefix}vision_model.", f"{prefix}vision_model.vision_model."
        return {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in tensors.items()}

    weights = nested(saved_weights(source), "")
    expected = nested(load_file(source / "expected.safetensors"), "grad.")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    again = hf.VisionTextDualEncoderModel.from_pretrained(folder, attn_implementation="eager").eval()
    torch.testing.assert_close(system_features(again, name, expected),
                               (expected["image_features"], expected["text_features"]))
    write_expected(folder, expected, weights)


# --- Pairs of towers that were saved separately ---

class Pair(nn.Module):
    def __init__(self, vision, text, projection):
        super().__init__()
        self.vision_model = vision_model(vision)
        self.text_model = hf.AutoModel.from_config(text, attn_implementation="eager")
        image_width = vision.hidden_dim if hasattr(vision, "hidden_dim") else \
            vision.hidden_sizes[-1] if hasattr(vision, "hidden_sizes") else vision.hidden_size
        self.visual_projection = PROJECTIONS[projection](image_width)
        self.text_projection = PROJECTIONS[projection](text.hidden_size)
        self.logit_scale = nn.Parameter(torch.zeros(()))


def vision_model(config, folder=None):
    if isinstance(config, LiteConfig):
        return Lite(config, folder)
    if folder is None:
        return hf.AutoModel.from_config(config, attn_implementation="eager")
    return hf.AutoModel.from_pretrained(folder, attn_implementation="eager")


class LiteConfig:
    """A tiny EfficientNet-Lite. timm's published ones have their numbers in its code; here they are in the config."""
    image_size = 37  # Odd, and its first map has an odd side too.
    hidden_dim = 20
    json = {"architecture": "tf_efficientnet_lite0", "num_classes": 0, "in_channels": [8, 8, 16],
            "out_channels": [8, 16, 16], "kernel_sizes": [3, 3, 5], "strides": [1, 2, 2], "expand_ratios": [1, 3, 2],
            "num_block_repeats": [1, 2, 1], "hidden_dim": hidden_dim}


class Lite(TimmEfficientNet):
    def __init__(self, config, folder=None):
        stages = [["ds_r1_k3_s1_e1_c8"], ["ir_r2_k3_s2_e3_c16"], ["ir_r1_k5_s2_e2_c16"]]
        super().__init__(
            decode_arch_def(stages), num_classes=0, num_features=config.hidden_dim, stem_size=8, fix_stem=True,
            pad_type="same", act_layer=nn.ReLU6, norm_layer=functools.partial(nn.BatchNorm2d, eps=1e-3))
        self.config = config
        if folder is not None:
            self.load_state_dict(load_file(folder / "model.safetensors"))

    def forward(self, pixel_values):
        return hf.modeling_outputs.BaseModelOutputWithPooling(pooler_output=super().forward(pixel_values))

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "config.json", self.config.json)
        save_file(self.state_dict(), Path(folder) / "model.safetensors", metadata={"format": "pt"})


def linear(width):
    return nn.Linear(width, EMBED_DIM, bias=False)


def mlp(width):
    hidden = (width + EMBED_DIM) // 2
    return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, EMBED_DIM, bias=False))


PROJECTIONS = {"linear": linear, "mlp": mlp}


def distilbert():
    return hf.DistilBertConfig(vocab_size=VOCAB, dim=16, n_heads=4, n_layers=2, hidden_dim=22,
                               max_position_embeddings=16, activation="gelu", pad_token_id=0)


def modernbert():
    # Layers 0 and 2 see the whole text, layers 1 and 3 two tokens to each side.
    return hf.ModernBertConfig(vocab_size=VOCAB, hidden_size=18, num_attention_heads=3, num_hidden_layers=4,
                               intermediate_size=20, max_position_embeddings=32, global_attn_every_n_layers=2,
                               local_attention=4, hidden_activation="gelu", pad_token_id=61, bos_token_id=62,
                               eos_token_id=63, cls_token_id=62, sep_token_id=63)


def convnext(kind=hf.ConvNextConfig):
    return kind(hidden_sizes=[8, 14], depths=[1, 2], num_stages=2, patch_size=4, image_size=32, hidden_act="gelu")


def resnet(layer_type, hidden_sizes):
    return hf.ResNetConfig(embedding_size=8, hidden_sizes=hidden_sizes, depths=[2, 2], layer_type=layer_type,
                           hidden_act="relu")


def efficientnet():
    # Twice the usual form of a map's margins: block 2 has those for a map of odd sides.
    return hf.EfficientNetConfig(image_size=34, width_coefficient=0.0125, depth_coefficient=1.0, depth_divisor=4,
                                 in_channels=[32, 640, 960], out_channels=[640, 960, 1280], kernel_sizes=[3, 3, 5],
                                 strides=[1, 2, 2], expand_ratios=[1, 3, 2], num_block_repeats=[1, 1, 2],
                                 depthwise_padding=[2], hidden_dim=16)


# Vision, text, image pooling, text pooling, projection, text ids.
PAIRS = {
    "pair_vit_bert": (vit(), bert(), "pooler", "pooler", "linear", BERT_TEXTS),
    "pair_deit_distilbert": (vit(hf.DeiTConfig), distilbert(), "cls", "mean", "linear", BERT_TEXTS),
    "pair_dinov2_roberta": (dinov2(), roberta(), "pooler", "cls", "mlp", ROBERTA_TEXTS),
    "pair_dinov2reg_xlmr": (dinov2(hf.Dinov2WithRegistersConfig, num_register_tokens=4), roberta(hf.XLMRobertaConfig),
                            "mean", "eos", "linear", ROBERTA_TEXTS),
    "pair_convnext_bert": (convnext(), bert(), "pooler", "mean", "linear", BERT_TEXTS),
    "pair_convnextv2_bert": (convnext(hf.ConvNextV2Config), bert(), "pooler", "cls", "linear", BERT_TEXTS),
    "pair_resnet_bert": (resnet("bottleneck", [16, 28]), bert(), "pooler", "mean", "linear", BERT_TEXTS),
    "pair_resnetbasic_bert": (resnet("basic", [8, 14]), bert(), "pooler", "mean", "linear", BERT_TEXTS),
    "pair_swin_bert": (swin(), bert(), "pooler", "mean", "linear", BERT_TEXTS),
    "pair_beit_bert": (beit(), bert(), "pooler", "pooler", "linear", BERT_TEXTS),
    "pair_vit_modernbert": (vit(), modernbert(), "cls", "cls", "linear", dict(begin=62, end=63, pad=61)),
}


# Later than open_clip's cases, so that their seeds stay.
MORE_PAIRS = {
    "pair_efficientnet_bert": (efficientnet(), bert(), "pooler", "mean", "linear", BERT_TEXTS),
    "pair_lite_modernbert": (LiteConfig(), modernbert(), "mean", "mean", "linear", dict(begin=62, end=63, pad=61)),
}


def image_state(model, pixel_values, pooling):
    out = model(pixel_values=pixel_values)
    if pooling == "pooler" or isinstance(model, Lite):
        return out.pooler_output.flatten(1)
    if pooling == "cls":
        return out.last_hidden_state[:, 0]
    config = model.config
    patches = (config.image_size // config.patch_size) ** 2
    return out.last_hidden_state[:, -patches:].mean(dim=1)


def text_state(model, input_ids, attention_mask, pooling):
    out = model(input_ids=input_ids, attention_mask=attention_mask)
    if pooling == "pooler":
        return out.pooler_output
    if pooling == "cls":
        return out.last_hidden_state[:, 0]
    if pooling == "eos":
        return out.last_hidden_state[torch.arange(BATCH), attention_mask.sum(dim=1) - 1]
    weights = attention_mask[:, :, None] / attention_mask.sum(dim=1)[:, None, None]
    return (weights * out.last_hidden_state).sum(dim=1)


def pair_features(model, batch, image_pooling, text_pooling):
    image = image_state(model.vision_model, batch["pixel_values"], image_pooling)
    text = text_state(model.text_model, batch["input_ids"], batch["attention_mask"], text_pooling)
    return model.visual_projection(image), model.text_projection(text)


def write_pair(name):
    vision, text, image_pooling, text_pooling, projection, ids = {**PAIRS, **MORE_PAIRS}[name]
    model = redraw(Pair(vision, text, projection))
    batch = {"pixel_values": images(getattr(vision, "image_size", 32)), **texts(**ids)}
    folder = ROOT / name
    towers = {"vision": model.vision_model, "text": model.text_model}
    for kind, tower in towers.items():
        tower.save_pretrained(folder / kind)
    write_json(folder / "case.json", {"image_pooling": image_pooling, "text_pooling": text_pooling,
                                      "projection": projection, "embed_dim": EMBED_DIM})

    image_features, text_features = pair_features(model, batch, image_pooling, text_pooling)
    loss = softmax_loss(model, image_features, text_features)
    loss.backward()
    # The names of the projections and of logit_scale are the same in memory.
    own = {k: p for k, p in model.named_parameters() if not k.startswith(("vision_model.", "text_model."))}
    gradients = {f"grad.{k}": p.grad for k, p in own.items()}
    weights = dict(own)
    for kind, tower in towers.items():
        gradients.update({f"grad.{kind}_model.{k}": g for k, g in saved_gradients(tower).items()})
        weights.update({f"{kind}_model.{k}": w for k, w in saved_weights(folder / kind).items()})

    again = copy.deepcopy(model)
    again.vision_model = vision_model(vision, folder / "vision").eval()
    again.text_model = hf.AutoModel.from_pretrained(folder / "text", attn_implementation="eager").eval()
    torch.testing.assert_close(pair_features(again, batch, image_pooling, text_pooling),
                               (image_features, text_features))
    write_expected(folder, {**batch, **own, "image_features": image_features, "text_features": text_features,
                            "loss": loss, **gradients}, weights)


# --- open_clip ---

NATIVE_TEXT = dict(context_length=12, vocab_size=VOCAB, width=18, heads=3, layers=2)
NATIVE_TEXTS = dict(begin=62, end=63, pad=0, length=12)

# model_cfg, what makes the timm model tiny, and the texts.
OPEN_CLIP = {
    "oc_vit": (
        dict(embed_dim=EMBED_DIM,
             vision_cfg=dict(image_size=24, layers=2, width=20, head_width=5, patch_size=8),
             text_cfg=NATIVE_TEXT),
        {}, NATIVE_TEXTS),
    "oc_vit_quickgelu_bin": (
        dict(embed_dim=EMBED_DIM, quick_gelu=True,
             vision_cfg=dict(image_size=28, layers=1, width=15, head_width=5, patch_size=7),
             text_cfg=NATIVE_TEXT),
        {}, NATIVE_TEXTS),
    # heads = width * 32 / head_width, which is 64 where the config has none.
    "oc_rn50": (
        dict(embed_dim=EMBED_DIM,
             vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=4, patch_size=None),
             text_cfg=NATIVE_TEXT),
        {}, NATIVE_TEXTS),
    # The form of BiomedCLIP. The folder text_config stands for a repository on the hub.
    "oc_timm_bert": (
        dict(embed_dim=EMBED_DIM,
             vision_cfg=dict(timm_model_name="vit_tiny_patch16_224", timm_model_pretrained=False, timm_pool="",
                             timm_proj="linear", image_size=32),
             text_cfg=dict(hf_model_name="text_config", hf_tokenizer_name="text_config", hf_proj_type="mlp",
                           hf_pooler_type="cls_last_hidden_state_pooler", context_length=16)),
        dict(img_size=32, embed_dim=18, depth=2), dict(**BERT_TEXTS, length=16)),
    "oc_siglip": (
        dict(embed_dim=24, init_logit_bias=-10, custom_text=True,
             vision_cfg=dict(image_size=32, timm_model_name="vit_base_patch16_siglip_224",
                             timm_model_pretrained=False, timm_pool="map", timm_proj="none"),
             text_cfg=dict(context_length=SIGLIP_CONTEXT, vocab_size=VOCAB, hf_tokenizer_name="timm/ViT-B-16-SigLIP",
                           tokenizer_kwargs=dict(clean="canonicalize"), width=18, heads=3, layers=2,
                           no_causal_mask=True, proj_bias=True, pool_type="last", norm_kwargs=dict(eps=1e-6))),
        dict(img_size=32, embed_dim=24, depth=2, mlp_ratio=2), dict(begin=None, end=1, pad=1, length=SIGLIP_CONTEXT)),
}


def write_open_clip(name):
    config, tiny, ids = OPEN_CLIP[name]
    folder = ROOT / name
    folder.mkdir(exist_ok=True)
    if name == "oc_timm_bert":
        bert().save_pretrained(folder / "text_config")
    create_timm = timm.create_model

    def create(**options):
        # open_clip passes no sizes on to timm, and looks for text_config in the current folder.
        patch = mock.patch("timm.create_model", lambda *args, **kwargs: create_timm(*args, **tiny, **kwargs))
        with contextlib.chdir(folder), patch:
            return open_clip.create_model(f"local-dir:{folder}", **options)

    write_json(folder / "open_clip_config.json", {"model_cfg": config})
    model = redraw(create(load_weights=False, pretrained_text=False))
    save_config_for_hf(model, folder / "open_clip_config.json", config)
    if name.endswith("_bin"):
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")

    batch = {"pixel_values": images(config["vision_cfg"]["image_size"]), **texts(**ids)}
    if name == "oc_siglip":
        batch["attention_mask"][:] = 1

    def features(model):
        return model.encode_image(batch["pixel_values"]), model.encode_text(batch["input_ids"])

    image_features, text_features = features(model)
    loss = (sigmoid_loss if name == "oc_siglip" else softmax_loss)(model, image_features, text_features)
    loss.backward()
    gradients = {f"grad.{k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
    again = create(require_pretrained=True).eval()
    torch.testing.assert_close(features(again), (image_features, text_features))
    print("reloaded with open_clip:", folder.name)
    write_expected(folder, {**batch, "image_features": image_features, "text_features": text_features,
                            "loss": loss, **gradients}, model.state_dict())


if __name__ == "__main__":
    torch.set_num_threads(1)
    hf.utils.logging.disable_progress_bar()
    cases = {**dict.fromkeys(SYSTEMS, write_system), "dual_clip_roberta_v4": write_nested_names,
             **dict.fromkeys(PAIRS, write_pair), **dict.fromkeys(OPEN_CLIP, write_open_clip),
             **dict.fromkeys(MORE_PAIRS, write_pair)}
    for seed, (name, write) in enumerate(cases.items()):
        if not sys.argv[1:] or name in sys.argv[1:]:
            torch.manual_seed(seed)
            write(name)
    more = {name: importlib.metadata.version(name) for name in ("open_clip_torch", "timm")}
    write_origin(ROOT, "encoders.py", label_smoothing=LABEL_SMOOTHING, more_versions=more)
