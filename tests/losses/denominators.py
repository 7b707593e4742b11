"""The denominator of the mean of each loss, computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from piste import losses
from piste.errors import PisteError

from .domains import Function


def find_mean_mismatch(function: Function) -> str | None:
    """Return the first mean that is not the sum over its denominator, computed here by hand, or None."""
    x = torch.tensor([[0.5, -1.0, 2.0], [0.25, 0.75, 3.0]]).double()
    y = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.25]]).double()
    w, logs = torch.tensor([0.5, 2.0, 1.0]).double(), -x.abs()
    k, lists, signs = torch.tensor([2, 1]), torch.tensor([[0, -1, 1], [2, 1, -1]]), torch.tensor([1, -1])
    soft_rows = x.softmax(1)
    deep = torch.stack([x, x + 1, x - 1, x * 2], -1)  # (2, 3, 4)
    places = torch.tensor([[0, 1, 2, 1], [2, 2, 0, -100]])
    soft = deep.softmax(1)
    rows = (soft.sum((0, 2)) * w).sum()
    cases = [  # the loss, its operands and options; what torch divides by, the sum of the weights, the count
        ("mse", (x, y), {"weight": w}, 7, 7, 6),
        ("l1", (x, y), {"weight": w.expand(2, 3)}, 7, 7, 6),
        ("l1", (x, y), {}, 6, 6, 6),
        ("huber", (x, y), {"weight": w}, 6, 7, 6),
        ("bce", (y, y), {"weight": torch.tensor([[0.5], [0.25]]).double()}, 6, 2.25, 6),
        ("bce_with_logits", (x, y), {"weight": w, "pos_weight": w}, 6, 7, 6),
        ("kl_div", (logs, soft_rows), {}, 6, 6, 6),
        ("nll", (logs, k), {"weight": w}, 3, 3, 2),
        ("cross_entropy", (x, k), {"ignore_index": 1}, 1, 1, 1),
        ("cross_entropy", (x, k), {"label_smoothing": 0.5, "weight": w}, 3, 3, 2),
        ("cross_entropy", (deep, places), {}, 7, 7, 7),
        ("cross_entropy", (deep, places), {"weight": w}, 0.5 * 2 + 2 * 2 + 1 * 3, 8, 7),
        ("cross_entropy", (deep, places.clamp_min(1)), {"weight": w, "ignore_index": 2}, 10, 10, 5),
        ("cross_entropy", (deep, soft), {}, 8, 8, 8),
        ("cross_entropy", (deep, soft), {"weight": w}, 8, rows, 8),
        ("dice", (deep.sigmoid(), deep.softmax(2)), {}, 6, 6, 6),
        ("dice", (deep.sigmoid(), deep.softmax(2)), {"batch": True}, 3, 3, 3),
        ("jaccard", (deep.sigmoid(), torch.tensor([[0, 2, 2, 0], [2, 2, 2, 2]])), {"absent": "skip"}, 3, 3, 3),
        ("cosface", (y, k), {"ignore_index": 1}, 1, 1, 1),
        ("coral", (x, k), {}, 2, 2, 2),
        ("corn", (x, torch.tensor([0, 3])), {}, 4, 4, 2),
        ("distillation", (deep, deep + 1), {}, 6, 6, 6),
        ("sigmoid_focal", (x, y), {"weight": w, "alpha": w / 4}, 7, 7, 6),
        ("discriminator", (x, y), {"kind": "hinge"}, 6, 6, 6),
        ("generator", (x,), {}, 6, 6, 6),
        ("dpo", (logs, logs * 2, logs * 3, logs), {}, 6, 6, 6),
        ("grpo", (logs, logs * 2, x), {}, 6, 6, 6),
        ("grpo", (logs, logs * 2, x), {"weight": w, "reference": -w, "beta": 0.5}, 7, 7, 6),
        ("asymmetric", (x, y), {"weight": w}, 7, 7, 6),
        ("focal", (x, k), {"weight": w}, 2, 3, 2),
        ("focal", (deep, places), {"weight": w, "ignore_index": -100}, 7, 8, 7),
        ("focal", (deep, soft), {"weight": w}, 8, rows, 8),
        ("multi_margin", (x, k), {"weight": w}, 2, 3, 2),
        ("multi_margin", (x[0], k[0]), {}, 1, 1, 1),
        ("multilabel_margin", (x, lists), {}, 2, 2, 2),
        ("multilabel_margin", (deep, torch.tensor([2, 0, -1, 1]).expand(2, 3, 4)), {}, 6, 6, 6),
        ("multilabel_soft_margin", (deep, deep.sigmoid()), {}, 6, 6, 6),
        ("multilabel_soft_margin", (x[0], y[0]), {"weight": w}, 1, 1, 1),
        ("cosine_embedding", (x, y, signs), {}, 2, 2, 2),
        ("triplet_margin", (deep, deep + 2, deep - 1), {}, 6, 6, 6),
        ("triplet_margin", (x[:, :0], x[:, :0], x[:, :0]), {}, 2, 2, 2),
    ]
    for name, operands, options, usual, weights, count in cases:
        loss = function(name)
        total = loss(*operands, **options, reduction="none").sum().item()
        found = loss(*operands, **options, reduction="sum").item()
        if not math.isclose(found, total, rel_tol=1e-14):
            return f"{name}{options}: the sum is {found!r}, expected {total!r}"
        for normalizer, divisor in (
            (None, usual),
            ("weights", weights),
            ("count", count),
            (5, 5),
            (0.5, 0.5),
            (torch.tensor(3.0), 3),
        ):
            for settings in ({}, {"empty": "zero"}, {"empty": "raise"}, {"check": "nan"}):
                found = loss(*operands, **options, normalizer=normalizer, **settings).item()
                if not math.isclose(found, total / float(divisor), rel_tol=1e-14):
                    return f"{name}{options} with {normalizer}, {settings}: {found!r}, expected {total / divisor!r}"
    if function("cross_entropy")(x.float(), y.softmax(1)).dtype != torch.float64:
        return "cross_entropy of float32 logits and float64 probabilities is not float64"
    return _find_batchmean_mismatch(function("kl_div"), logs, soft_rows) or _find_empty_mismatch(function)


def _find_batchmean_mismatch(loss: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> str | None:
    for operands, batch in (((x, y), 2), ((x[0], y[0]), 3), ((x[0, 0], y[0, 1]), 1), ((x[:0], y[:0]), 0)):
        total = loss(*operands, reduction="sum").item()
        found = loss(*operands, reduction="batchmean", empty="nan" if batch else "zero").item()
        if found != total / max(batch, 1):
            return f"kl_div with batchmean: {found!r}, expected {total!r} / {batch}"
    return None


def _find_empty_mismatch(function: Function) -> str | None:
    x, ignored = torch.ones(2, 3).double(), torch.full((2,), -100)
    for name, operands, options in [
        ("mse", (x[:0], x[:0]), {}),
        ("mse", (x, x), {"weight": torch.zeros(3)}),
        ("bce", (x, x), {"weight": torch.zeros(3), "normalizer": "weights"}),
        ("cross_entropy", (x, ignored), {}),
        ("cross_entropy", (x, ignored), {"normalizer": "count"}),
        ("cross_entropy", (x[:0], x[:0]), {}),
        ("nll", (-x, ignored), {"weight": torch.ones(3).double()}),
        ("multi_margin", (x[:0], ignored[:0]), {}),
        ("multilabel_margin", (x[:0], ignored[:0, None].expand(0, 3)), {}),
        ("multilabel_soft_margin", (x[:0], x[:0]), {}),
        ("cosine_embedding", (x[:0], x[:0], ignored[:0]), {}),
        ("triplet_margin", (x[:0], x[:0], x[:0]), {}),
        ("kl_div", (x[:0], x[:0]), {"reduction": "batchmean"}),
    ]:
        loss = function(name)
        found = [loss(*operands, **options).item(), loss(*operands, **options, empty="zero").item()]
        try:
            found.append(loss(*operands, **options, empty="raise").item())
        except PisteError as refusal:
            said = f"{losses.named(name).__name__}: there is nothing to take the mean of"
            if said in str(refusal) and math.isnan(found[0]) and found[1] == 0:
                continue
        return f"{name} of nothing, {options}: {found}"
    return None
