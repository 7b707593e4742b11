"""Words that formulas of several losses are written in."""

from __future__ import annotations

from typing import Any

from ..formula.words import exp, log1p, where

__all__ = ["one_like", "softplus"]


def softplus(z: Any) -> Any:
    """Return log(1 + e^z) without overflow."""
    return where(z > 0, z, 0) + log1p(exp(where(z > 0, -z, z)))  # the derivative at 0 is 1/2


def one_like(z: Any) -> Any:
    """Return 1 in the dtype of `z`, where a constant would have its own; NaN for NaN."""
    return where(z == z, 1, z)
