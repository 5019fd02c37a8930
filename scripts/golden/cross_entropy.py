"""Cross entropy cases with every option of torch.nn.functional.cross_entropy.

Writes tests/golden/cross_entropy.json: {"versions", "cases": [...]}. In each case `grad` is the
derivative of sum(loss) with respect to the logits; loss and grad are float32, loss_f64 is float64.
"""

import itertools

import torch
import torch.nn.functional as F

from common import GOLDEN, versions, write_json

CASES = []


def shortest(tensor):
    """Float32 numbers with just enough digits (9) to read back the same float32."""
    if tensor.ndim:
        return [shortest(row) for row in tensor]
    return float(f"{tensor.item():.9g}")


def add(name, logits, targets, weight=None, ignore_index=None, reduction="mean", label_smoothing=0.0):
    def loss_of(z):
        t = torch.tensor(targets)
        t = t.to(z.dtype) if t.is_floating_point() else t
        w = None if weight is None else torch.tensor(weight, dtype=z.dtype)
        ignore = -100 if ignore_index is None else ignore_index
        return F.cross_entropy(z, t, weight=w, ignore_index=ignore, reduction=reduction,
                               label_smoothing=label_smoothing)

    z = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    loss = loss_of(z)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(z.grad).all(), name
    loss_f64 = loss_of(torch.tensor(logits, dtype=torch.float64))
    CASES.append(dict(name=name, logits=logits, targets=targets, weight=weight, ignore_index=ignore_index,
                      reduction=reduction, label_smoothing=label_smoothing, loss=shortest(loss.detach()),
                      grad=shortest(z.grad), loss_f64=loss_f64.tolist()))


def random_rows(n, k, scale=2.0):
    return [[round(x, 3) for x in row] for row in (scale * torch.randn(n, k)).tolist()]


def main():
    torch.manual_seed(0)
    design = [[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]]
    add("design", design, [0, 1], label_smoothing=0.1)
    add("design, no smoothing", design, [0, 1])

    logits = random_rows(4, 5)
    probabilities = [[0.7, 0.1, 0.1, 0.1, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0],
                     [0.2, 0.2, 0.2, 0.2, 0.2], [0.05, 0.5, 0.15, 0.25, 0.05]]
    # name -> (targets, ignore_index)
    index_targets = {
        "indices": ([3, 0, 1, 4], None),
        "indices, rows ignored by -100": ([3, -100, 1, -100], -100),
        "indices, class 1 ignored": ([3, 1, 1, 4], 1),
    }
    all_targets = {**index_targets, "probabilities": (probabilities, None)}
    weights = {"no weight": None, "weighted": [0.5, 1.25, 0.0, 2.0, 0.75]}
    for target_name, weight_name, eps, reduction in itertools.product(
            all_targets, weights, [0.0, 0.1, 0.3, 1.0], ["mean", "sum", "none"]):
        targets, ignore_index = all_targets[target_name]
        add(f"{target_name}, {weight_name}, eps {eps}, {reduction}", logits, targets,
            weights[weight_name], ignore_index, reduction, eps)
    # A target whose own class has weight zero.
    for reduction in ["mean", "sum", "none"]:
        add(f"zero-weight target, {reduction}", logits, [2, 0, 2, 4], weights["weighted"], None, reduction, 0.1)

    add("all rows ignored, sum", logits, [-100] * 4, ignore_index=-100, reduction="sum", label_smoothing=0.1)
    add("all rows ignored, none", logits, [-100] * 4, ignore_index=-100, reduction="none", label_smoothing=0.1)
    for eps in [0.0, 0.1]:
        add(f"logits of 80, eps {eps}", [[80.0, -80.0, 0.0], [-80.0, 80.0, 79.5]], [1, 1], label_smoothing=eps)
        add(f"logits of 1000, eps {eps}", [[1000.0, 0.0, -1000.0], [1000.0, 1000.0, 999.0]], [0, 2],
            label_smoothing=eps)
        add(f"one class, eps {eps}", [[1.5], [-3.0]], [0, 0], label_smoothing=eps)
        add(f"one row, eps {eps}", [[0.3, -1.2, 2.2, 0.0]], [2], label_smoothing=eps)
        add(f"17x17 diagonal, eps {eps}", random_rows(17, 17, scale=4.0), list(range(17)), label_smoothing=eps)

    print(len(CASES), "cases; design example:", CASES[0]["loss"], CASES[0]["loss_f64"])
    write_json(GOLDEN / "cross_entropy.json", {"versions": versions(), "cases": CASES}, indent=None)


if __name__ == "__main__":
    main()
