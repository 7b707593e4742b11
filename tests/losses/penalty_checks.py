"""Penalties of the gradients of discriminators whose gradients are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from piste.errors import PisteError

REAL = torch.tensor([[[3.0, -1.0]], [[0.5, 2.0]], [[-4.0, 0.25]]]).double()
FAKE = torch.tensor([[[0.0, 1.0]], [[-2.0, 0.5]], [[1.5, -3.0]]]).double()
SLOPE = torch.tensor([[1.5, -2.0]]).double()  # of norm 2.5


def line(x: Tensor) -> Tensor:
    """The gradient is SLOPE everywhere."""
    return (x * SLOPE).sum((1, 2))


def bowl(x: Tensor) -> Tensor:
    """The gradient is the sample, for scores of single places."""
    return x**2 / 2


def find_penalty_mismatch(gradient_penalty: Callable[..., Tensor], r1_penalty: Callable[..., Tensor]) -> str | None:
    """Return the first penalty that differs from the one computed by hand, or None."""
    return next(_mismatches(gradient_penalty, r1_penalty), None)


def _mismatches(gradient_penalty: Callable[..., Tensor], r1_penalty: Callable[..., Tensor]) -> Iterator[str]:
    u = torch.rand((3, 1, 1), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    between = u * REAL + (1 - u) * FAKE
    squares, norms = (REAL**2).sum((1, 2)), (between**2).sum((1, 2)).sqrt()
    for name, found, expected in (
        ("WGAN-GP of a line", gradient_penalty(line, REAL, FAKE), 10 * 1.5**2),
        ("WGAN-GP of a flat line", gradient_penalty(lambda x: 0 * line(x), REAL, FAKE, weight=2.0), 2.0),
        ("WGAN-GP of a bowl", _seeded(gradient_penalty, weight=0.5), 0.5 * ((norms - 1) ** 2).mean().item()),
        ("R1 of a line", r1_penalty(line, REAL), 5 * 2.5**2),
        ("R1 of a bowl", r1_penalty(bowl, REAL, weight=0.5), 0.25 * squares.mean().item()),
    ):
        if not math.isclose(found.item(), expected, rel_tol=1e-13):
            yield f"{name}: {found.item()!r}, expected {expected!r}"
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for name, penalty, expected in (  # by the scale c: 2 (2.5 c - 1) 2.5 and c 2.5^2
        ("WGAN-GP", gradient_penalty(lambda x: scale * line(x), REAL, FAKE, weight=1.0), 20.0),
        ("R1", r1_penalty(lambda x: scale * line(x), REAL, weight=1.0), 12.5),
    ):
        (slope,) = torch.autograd.grad(penalty, scale)
        if not math.isclose(slope.item(), expected, rel_tol=1e-13):
            yield f"the gradient of {name} is {slope.item()!r}, expected {expected!r}"
    with torch.no_grad():
        if r1_penalty(lambda x: scale * line(x), REAL).requires_grad:
            yield "a penalty without gradients requires one"
    for independent in (lambda x: line(x).detach(), lambda x: scale * torch.ones(3)):
        try:
            r1_penalty(independent, REAL)
        except PisteError as refusal:
            if not str(refusal).startswith("r1_penalty: the scores of `discriminator` must depend on the samples"):
                yield f"scores without a gradient: {refusal}"
        else:
            yield "scores without a gradient are accepted"


def _seeded(gradient_penalty: Callable[..., Tensor], **options: Any) -> Tensor:
    return gradient_penalty(bowl, REAL, FAKE, generator=torch.Generator().manual_seed(3), **options)
