"""Losses of regions as compositions of torch operations, from the definitions of their papers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def _of_regions(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a formula of regions (N, C, P) as a function of (N, C, d1, ...) with the options of region losses."""

    @wraps(formula)
    def function(
        input: Tensor,
        target: Tensor,
        *,
        activation: str | None = None,
        batch: bool = False,
        absent: str = "count",
        reduction: str = "mean",
        **options: Any,
    ) -> Tensor:
        p = {None: lambda x: x, "sigmoid": torch.sigmoid, "softmax": lambda x: torch.softmax(x, 1)}[activation](input)
        if target.shape != input.shape:
            target = torch.nn.functional.one_hot(target, input.shape[1]).movedim(-1, 1)
        p, y = p.flatten(2), target.to(p.dtype).flatten(2)
        if batch:
            p, y = (torch.cat(list(z), dim=-1) for z in (p, y))
        values = formula(p, y, **options)
        is_present = y.sum(-1) > 0 if absent == "skip" else torch.ones_like(values, dtype=torch.bool)
        values = values * is_present
        if reduction == "none":
            return values
        return values.sum() / is_present.sum() if reduction == "mean" else values.sum()

    return function


@_of_regions
def dice_loss(p: Tensor, y: Tensor, smooth: float = 1.0, squared: bool = False) -> Tensor:
    """Milletari et al. 2016, section 3."""
    power = 2 if squared else 1
    return 1 - (2 * (p * y).sum(-1) + smooth) / ((p**power).sum(-1) + (y**power).sum(-1) + smooth)


@_of_regions
def jaccard_loss(p: Tensor, y: Tensor, smooth: float = 1.0) -> Tensor:
    """Rahman and Wang 2016, eq. 3: the intersection over p + y - p y."""
    return 1 - ((p * y).sum(-1) + smooth) / ((p + y - p * y).sum(-1) + smooth)


def _tversky_index(p: Tensor, y: Tensor, smooth: float, alpha: float, beta: float) -> Tensor:
    """Salehi et al. 2017, eq. 4."""
    hits = (p * y).sum(-1) + smooth
    return hits / (hits + alpha * (p * (1 - y)).sum(-1) + beta * ((1 - p) * y).sum(-1))


@_of_regions
def tversky_loss(p: Tensor, y: Tensor, smooth: float = 1.0, alpha: float = 0.5, beta: float = 0.5) -> Tensor:
    return 1 - _tversky_index(p, y, smooth, alpha, beta)


@_of_regions
def focal_tversky_loss(
    p: Tensor, y: Tensor, smooth: float = 1.0, alpha: float = 0.5, beta: float = 0.5, gamma: float = 0.75
) -> Tensor:
    """Abraham and Khan 2019, eq. 4, with the power itself as gamma."""
    return (1 - _tversky_index(p, y, smooth, alpha, beta)) ** gamma


def _jaccard_loss(is_wrong: Tensor, y: Tensor) -> float:
    """The share of wrong places in those that are labelled or wrong: the set function that is extended."""
    union = int((is_wrong | y).sum())
    return int(is_wrong.sum()) / union if union else 0.0


def _lovasz_extension(errors: Tensor, y: Tensor) -> Tensor:
    """Berman et al. 2018, eq. 8 and 9: each error, from the largest on, times what it adds to the set function."""
    order, is_wrong, before = errors.argsort(descending=True), torch.zeros_like(y), 0.0
    value = errors.sum() * 0
    for i in order.tolist():
        is_wrong[i] = True
        after = _jaccard_loss(is_wrong, y)
        value, before = value + errors[i] * (after - before), after
    return value


def _mean_of_samples(values: list[Tensor], counted: list[bool], reduction: str) -> Tensor:
    losses = torch.stack(values)
    if reduction == "none":
        return losses
    return losses.sum() / sum(counted) if reduction == "mean" else losses.sum()


def lovasz_hinge_loss(
    input: Tensor, target: Tensor, *, per_image: bool = True, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Berman et al. 2018, section 3.2, of the hinges of the places that are not ignored."""
    samples = list(zip(input, target, strict=True)) if per_image else [(input, target)]
    values, counted = [], []
    for x, y in samples:
        keep = y != ignore_index
        counted.append(bool(keep.any()))
        hinges = (1 - x[keep] * (2 * y[keep] - 1)).clamp_min(0)
        values.append(_lovasz_extension(hinges, y[keep] == 1) if counted[-1] else x.sum() * 0)
    return _mean_of_samples(values, counted, reduction)


def lovasz_softmax_loss(
    input: Tensor,
    target: Tensor,
    *,
    activation: str | None = "softmax",
    per_image: bool = False,
    classes: str = "present",
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Berman et al. 2018, section 3.3: the mean of the extensions of the classes."""
    p = input.softmax(1) if activation else input
    samples = list(zip(p, target, strict=True)) if per_image else [(p.transpose(0, 1), target)]
    values, counted = [], []
    for q, y in samples:
        keep = y != ignore_index
        q, y = q[:, keep], y[keep]
        chosen = [c for c in range(len(q)) if classes == "all" or (y == c).any()] if len(y) else []
        parts = [_lovasz_extension(((y == c).to(q.dtype) - q[c]).abs(), y == c) for c in chosen]
        counted.append(bool(parts))
        values.append(torch.stack(parts).mean() if parts else q.sum() * 0)
    return _mean_of_samples(values, counted, reduction)
