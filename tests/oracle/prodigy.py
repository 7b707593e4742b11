"""Prodigy over all weights of a model, as algorithm 4 of Mishchenko and Defazio 2023 states it."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

__all__ = ["prodigy"]


def prodigy(
    start: Sequence[float],
    gradients: Sequence[Sequence[float]],
    *,
    lr: Sequence[float],
    d0: float = 1e-6,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Return the weights `x`, the averages `m` and `v`, the sum `s` and the estimate `d` after each step.

    The authors' code departs from the paper in two places, which are kept here: the next d multiplies eps, and s lacks
    the factors (1 - sqrt(beta2)) and d0, which cancel in d.
    """
    x, d, r = list(start), d0, 0.0
    m, v, s = ([0.0] * len(x) for _ in range(3))
    root, found = sqrt(beta2), []
    for gamma, g in zip(lr, gradients, strict=True):
        r = root * r + (1 - root) * gamma * d**2 * sum(gi * (x0 - xi) for gi, x0, xi in zip(g, start, x, strict=True))
        s = [root * si + (1 - root) * gamma * d**2 * gi for si, gi in zip(s, g, strict=True)]
        m = [beta1 * mi + (1 - beta1) * d * gi for mi, gi in zip(m, g, strict=True)]
        v = [beta2 * vi + (1 - beta2) * d**2 * gi**2 for vi, gi in zip(v, g, strict=True)]
        length = sum(map(abs, s))
        next_d = max(d, r / length if length else 0.0)
        x = [xi - gamma * d * (decay * xi + mi / (sqrt(vi) + next_d * eps)) for xi, mi, vi in zip(x, m, v, strict=True)]
        d = next_d
        found.append({"x": x, "m": m, "v": v, "s": [si / (1 - root) / d0 for si in s], "d": d})
    return found
