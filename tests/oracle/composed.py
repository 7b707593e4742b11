"""The losses that torch lacks as compositions of torch operations, from the definitions of their papers.

They stand where tests compare with torch's function of the same name: values, gradients, shapes and reductions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def _elementwise(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a formula of elements as a function with a weight and a reduction; the mean divides by the weights."""

    @wraps(formula)
    def function(*operands: Tensor, weight: Tensor | None = None, reduction: str = "mean", **options: Any) -> Tensor:
        values = formula(*operands, **options)
        weights = torch.ones_like(values) if weight is None else weight.expand(values.shape)
        values = values * weights
        if reduction == "none":
            return values
        return values.sum() / weights.sum() if reduction == "mean" else values.sum()

    return function


def cross_entropy(input: Tensor, target: Tensor, z_loss: float = 0.0, softcap: float = 0.0, **options: Any) -> Tensor:
    """torch's, of bounded logits, with the square of their log-sum-exp; of rows without weights and ignored ones."""
    dim, reduction = min(1, input.dim() - 1), options.pop("reduction", "mean")
    if softcap:
        input = softcap * torch.tanh(input / softcap)
    values = torch.nn.functional.cross_entropy(input, target, reduction="none", **options)
    values = values + z_loss * input.logsumexp(dim) ** 2
    return values if reduction == "none" else getattr(values, reduction)()


@_elementwise
def log_cosh_loss(input: Tensor, target: Tensor) -> Tensor:
    return torch.log(torch.cosh(input - target))


@_elementwise
def charbonnier_loss(input: Tensor, target: Tensor, eps: float = 1e-3) -> Tensor:
    return ((input - target) ** 2 + eps**2).sqrt()


@_elementwise
def general_robust_loss(input: Tensor, target: Tensor, alpha: float = 1.0, scale: float = 1.0) -> Tensor:
    """Barron 2019, eq. 8."""
    z = ((input - target) / scale) ** 2
    if alpha == 2:
        return z / 2
    if alpha == 0:
        return torch.log(z / 2 + 1)
    if abs(alpha) == math.inf:
        return -torch.expm1(-z / 2) if alpha < 0 else torch.expm1(z / 2)
    return abs(alpha - 2) / alpha * ((z / abs(alpha - 2) + 1) ** (alpha / 2) - 1)


@_elementwise
def quantile_loss(input: Tensor, target: Tensor, quantile: float = 0.5, quantiles: Tensor | None = None) -> Tensor:
    q = quantile if quantiles is None else quantiles
    return torch.maximum(q * (target - input), (q - 1) * (target - input))


@_elementwise
def expectile_loss(input: Tensor, target: Tensor, expectile: float = 0.5) -> Tensor:
    return (expectile - (target < input).to(input.dtype)).abs() * (target - input) ** 2


@_elementwise
def sigmoid_focal_loss(
    input: Tensor, target: Tensor, alpha: float | Tensor | None = 0.25, gamma: float = 2.0
) -> Tensor:
    """Lin et al. 2017, section 3, as torchvision.ops composes it."""
    p = input.sigmoid()
    focus = (1 - (p * target + (1 - p) * (1 - target))) ** gamma
    loss = focus * torch.nn.functional.binary_cross_entropy_with_logits(input, target, reduction="none")
    return loss if alpha is None else (alpha * target + (1 - alpha) * (1 - target)) * loss


@_elementwise
def asymmetric_loss(
    input: Tensor, target: Tensor, gamma_negative: float = 4.0, gamma_positive: float = 1.0, margin: float = 0.05
) -> Tensor:
    """Ridnik et al. 2021, eq. 4 to 7."""
    p = input.sigmoid()
    q = (p - margin).relu()
    positive = (1 - p) ** gamma_positive * p.log()
    return -target * positive - (1 - target) * q**gamma_negative * (1 - q).log()


def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Lin et al. 2017, section 3, of the softmax; the mean divides by the number of rows."""
    dim = min(1, input.dim() - 1)
    logs = torch.log_softmax(input, dim).movedim(dim, -1)
    weights = torch.ones_like(logs[..., 0, None]) if weight is None else weight.to(logs.dtype)
    terms = -weights * (1 - logs.exp()) ** gamma * logs
    if target.is_floating_point():
        values, count = (target.movedim(dim, -1) * terms).sum(-1), logs[..., 0].numel()
    else:
        keep = target != ignore_index
        values = terms.gather(-1, torch.where(keep, target, 0).unsqueeze(-1)).squeeze(-1) * keep
        count = int(keep.sum())
    if reduction == "none":
        return values
    return values.sum() / count if reduction == "mean" else values.sum()


def _sum_of(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a formula of elements or rows as a function with a reduction; the mean divides by their number."""

    @wraps(formula)
    def function(*operands: Tensor, reduction: str = "mean", **options: Any) -> Tensor:
        values = formula(*operands, **options)
        return values if reduction == "none" else getattr(values, reduction)()

    return function


@_sum_of
def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "logistic") -> Tensor:
    labelled = torch.nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    return {
        "logistic": lambda: labelled(real, ones, reduction="none") + labelled(fake, zeros, reduction="none"),
        "least_squares": lambda: ((real - 1) ** 2 + fake**2) / 2,
        "wasserstein": lambda: fake - real,
        "hinge": lambda: (1 - real).relu() + (1 + fake).relu(),
        "relativistic": lambda: labelled(real - fake, ones, reduction="none"),
    }[kind]()


@_sum_of
def generator_loss(fake: Tensor, kind: str = "non_saturating") -> Tensor:
    return {
        "non_saturating": lambda: -fake.sigmoid().log(),
        "minimax": lambda: (1 - fake.sigmoid()).log(),
        "least_squares": lambda: (fake - 1) ** 2 / 2,
    }.get(kind, lambda: -fake)()


@_sum_of
def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen0: Tensor,
    rejected0: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    variant: str = "sigmoid",
) -> Tensor:
    h, e = (chosen - rejected) - (chosen0 - rejected0), label_smoothing
    yes, no = -(beta * h).sigmoid().log(), -(-beta * h).sigmoid().log()
    return {
        "sigmoid": lambda: (1 - e) * yes + e * no,
        "robust": lambda: ((1 - e) * yes - e * no) / (1 - 2 * e),
        "hinge": lambda: (1 - beta * h).relu(),
        "ipo": lambda: (h - 1 / (2 * beta)) ** 2,
    }[variant]()


@_elementwise
def grpo_loss(
    input: Tensor,
    old: Tensor,
    advantage: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    beta: float = 0.0,
    reference: Tensor | None = None,
) -> Tensor:
    ratio = (input - old).exp()
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if reference is None:
        return loss
    return loss + beta * ((reference - input).exp() - (reference - input) - 1)


@_sum_of
def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    divergence: str = "forward",
    beta: float = 0.5,
    scale: bool = True,
) -> Tensor:
    q, p = ((x / temperature).softmax(-1) for x in (student, teacher))
    m = beta * p + (1 - beta) * q

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a / b).log()).sum(-1)

    loss = {"forward": lambda: kl(p, q), "reverse": lambda: kl(q, p)}.get(
        divergence, lambda: beta * kl(p, m) + (1 - beta) * kl(q, m)
    )()
    return loss * temperature**2 if scale else loss


def _with_margin(turn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return cross entropy of scaled cosines, of which that of the target is turned."""

    @wraps(turn)
    def function(
        input: Tensor, target: Tensor, *, margin: float, scale: float, reduction: str = "mean", **options: Any
    ) -> Tensor:
        dim = min(1, input.dim() - 1)
        k = target.unsqueeze(dim)
        turned = input.scatter(dim, k, turn(input.gather(dim, k), margin))
        return torch.nn.functional.cross_entropy(scale * turned, target, reduction=reduction, **options)

    return function


@_with_margin
def arcface_loss(cosine: Tensor, margin: float) -> Tensor:
    angle = cosine.acos() + margin
    return torch.where(angle < math.pi, angle.cos(), cosine - margin * math.sin(margin))


@_with_margin
def cosface_loss(cosine: Tensor, margin: float) -> Tensor:
    return cosine - margin


def _of_steps(reaches: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return binary cross entropy of the steps below each rank, of the steps that a rank reaches."""

    def function(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
        step = torch.arange(input.shape[-1])
        labels = (target.unsqueeze(-1) > step).to(input.dtype)
        terms = torch.nn.functional.binary_cross_entropy_with_logits(input, labels, reduction="none")
        values = (terms * reaches(target.unsqueeze(-1), step)).sum(-1)
        if reduction != "mean":
            return values if reduction == "none" else values.sum()
        rows = torch.ones_like(target) if reaches is _all else reaches(target.unsqueeze(-1), step).sum(-1)
        return values.sum() / rows.sum()

    return function


def _all(rank: Tensor, step: Tensor) -> Tensor:
    return rank >= 0


coral_loss = _of_steps(_all)
corn_loss = _of_steps(lambda rank, step: rank >= step)
