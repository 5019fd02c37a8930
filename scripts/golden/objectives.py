"""Every objective in PyTorch, value and gradients in float64, on random features. Seed 0.

Writes tests/golden/objectives.json: cases {kind, label_smoothing, image, text, sentences, counts, classes, weights,
findings, alike, log_scale, bias, loss, hard, grads}; of local also {form, temperature, attention_temperature, lengths,
of_pairs, patches, false_negatives}.
"""

import torch
import torch.nn.functional as F

from common import GOLDEN, versions, write_json

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
B, D = 6, 5


def unit(x):
    return F.normalize(x, dim=-1)


def directions(sentences, counts):
    return unit(torch.stack([unit(part).mean(0) for part in sentences.split(counts)]))


def f32(*shape):
    return torch.randn(*shape).float().double().requires_grad_()


def found(patches, sentences, options):
    """(images, sentences): the cosine of each sentence with what it attends to among an image's patches."""
    rows = []
    for part in patches.split(options["lengths"]):
        keys = unit(part)
        shares = (unit(sentences) @ keys.T / options["attention_temperature"]).softmax(-1)
        pooled = shares @ (keys if options["form"] == "map" else part)
        rows.append((unit(pooled) * unit(sentences)).sum(-1))
    return torch.stack(rows)


def rows_loss(z, has, alike, how, eps):
    """Row by row over the candidates that count; those without anything right do not."""
    losses = []
    for z, has, alike in zip(z, has, alike):
        if how == "positive":
            if alike.sum() > 0:
                losses.append(F.cross_entropy(z, (1 - eps) * alike / alike.sum() + eps / len(z)))
            continue
        if has.sum() == 0:
            continue
        others = int(((alike > 0) & (has == 0)).sum())
        kept = 0.0 if how == "remove" else 1.0 / max(others, 1)
        w = torch.where(has > 0, 1.0, 1 - alike * (1 - kept))
        p = (1 - eps) * has / has.sum() + eps * w / w.sum()
        counts = w > 0
        if bool((w[counts] == 1).all()):
            losses.append(F.cross_entropy(z[counts], p[counts]))
        else:
            whole = torch.logsumexp(z[counts] + w[counts].log(), 0)
            losses.append((p[counts] * (whole - z[counts])).sum())
    return torch.stack(losses).mean()


def local_loss(patches, sentences, options, eps):
    z = found(patches, sentences, options) / options["temperature"]
    has = torch.zeros_like(z)
    for image, own in enumerate(options["of_pairs"]):
        has[image, own] = 1.0
    if "false_negatives" in options:
        # The most alike report that has a sentence says how alike that is.
        alike = torch.zeros_like(z)
        for image in range(B):
            for other, own in enumerate(options["of_pairs"]):
                for sentence in own:
                    alike[image, sentence] = max(alike[image, sentence], options["alike"][image][other])
        alike = torch.maximum(alike, has)
        how = options["false_negatives"]
        return (rows_loss(z, has, alike, how, eps) + rows_loss(z.T, has.T, alike.T, how, eps)) / 2

    def one(z, has):
        counted = has.sum(1) > 0
        z, has = z[counted], has[counted]
        return F.cross_entropy(z, (1 - eps) * has / has.sum(1, keepdim=True) + eps / z.shape[1])

    return (one(z, has) + one(z.T, has.T)) / 2


def case(kind, eps, seed, **options):
    torch.manual_seed(seed)
    v = {"image": f32(B, D), "text": f32(B, D), "log_scale": torch.tensor(1.5).float().double().requires_grad_(),
         "bias": torch.tensor(-2.0).requires_grad_()}
    counts = options.get("counts", [])
    if counts:
        v["sentences"] = f32(sum(counts), D)

    if kind == "local":
        v["patches"], v["sentences"] = f32(sum(options["lengths"]), D), f32(7, D)

    def loss(eps, v=v):
        if kind == "local":
            return local_loss(v["patches"], v["sentences"], options, eps)
        scale = v["log_scale"].exp()
        sims = scale * unit(v["image"]) @ unit(v["text"]).T
        if kind == "clip":
            y = torch.arange(B)
            return (F.cross_entropy(sims, y, label_smoothing=eps) + F.cross_entropy(sims.T, y, label_smoothing=eps)) / 2
        if kind == "multi_positive":
            p = torch.tensor(options["alike"])
            p = p / p.sum(1, keepdim=True)
            t = (1 - eps) * p + eps / B
            return (F.cross_entropy(sims, t) + F.cross_entropy(sims.T, t)) / 2
        if kind == "distill":
            # open_clip's DistillClipLoss without its contrastive part, mean of both directions.
            teacher = torch.tensor(options["teacher"])
            one = -(teacher.softmax(1) * sims.log_softmax(1)).sum(1).mean()
            return (one - (teacher.T.softmax(1) * sims.T.log_softmax(1)).sum(1).mean()) / 2
        if kind == "siglip":
            z = sims + v["bias"]
            t = (1 - eps) * torch.eye(B) + eps / 2
            return F.binary_cross_entropy_with_logits(z, t, reduction="sum") / B
        logits = scale * unit(v["image"]) @ directions(v["sentences"], counts).T
        if kind == "class":
            y = torch.tensor([-100 if c is None else c for c in options["classes"]])
            w = torch.tensor(options["weights"]) if options.get("weights") else None
            return F.cross_entropy(logits, y, weight=w, label_smoothing=eps)
        if kind == "multi_label":
            pairs = logits.reshape(-1, 2)
            y = torch.tensor([-100 if f is None else int(not f) for row in options["findings"] for f in row])
            return F.cross_entropy(pairs, y, label_smoothing=eps)
        raise ValueError(kind)

    value = loss(eps)
    value.backward()
    grads = {name: x.grad.flatten().tolist() for name, x in v.items() if x.grad is not None}
    with torch.no_grad():
        hard = loss(0.0).item()
    return {"kind": kind, "label_smoothing": eps, **options, "loss": value.item(), "hard": hard, "grads": grads,
            **{name: x.detach().tolist() for name, x in v.items()}}


def main():
    same_report = [[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1],
                   [1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 1, 1]]
    soft = (torch.rand(B, B) + torch.eye(B)).round(decimals=2)
    soft = ((soft + soft.T) / 2).tolist()
    cases = []
    for seed, eps in enumerate([0.0, 0.1, 0.3]):
        cases += [
            case("clip", eps, seed),
            case("siglip", eps, seed),
            case("multi_positive", eps, seed, alike=[[float(x) for x in row] for row in same_report]),
            case("multi_positive", eps, seed, alike=soft),
            case("class", eps, seed, counts=[2, 1, 3], classes=[0, 2, None, 1, 1, 2]),
            case("class", eps, seed, counts=[1, 1, 1, 2], classes=[3, None, 0, 1, 1, 2], weights=[0.5, 2.0, 1.0, 0.25]),
            case("multi_label", eps, seed, counts=[1, 2, 2, 1],
                 findings=[[True, False], [None, True], [False, False], [True, None], [None, None], [True, True]]),
        ]
        cases += [case("local", eps, seed, form=form, temperature=0.1, attention_temperature=0.25,
                       lengths=[4, 1, 9, 4, 3, 4], of_pairs=[[0, 1], [2], [3, 0, 4], [], [5, 6], [0]])
                  for form in ["attention", "map"]]
    numbers = [[float(x) for x in row] for row in same_report]
    graded = [[1., 0., .5, 0., 0., 0.], [0., 1., 0., 0., .25, 0.], [.5, 0., 1., 0., .75, 0.],
              [0., 0., 0., 1., 0., 0.], [0., .25, .75, 0., 1., 0.], [0., 0., 0., 0., 0., 1.]]
    for seed, (form, eps) in enumerate([("attention", 0.0), ("map", 0.1)]):
        cases += [case("local", eps, seed, form=form, temperature=0.1, attention_temperature=0.25,
                       lengths=[4, 1, 9, 4, 3, 4], of_pairs=[[0, 1], [2], [3, 0, 4], [], [5, 6], [0]],
                       alike=alike, false_negatives=how)
                  for how in ["remove", "soften", "positive"] for alike in [numbers, graded]]
    torch.manual_seed(7)
    cases.append(case("distill", 0.0, 7, teacher=(10 * torch.randn(B, B)).round(decimals=2).tolist()))
    write_json(GOLDEN / "objectives.json",
               {"script": "scripts/golden/objectives.py", "versions": versions(), "cases": cases}, indent=None)


main()
