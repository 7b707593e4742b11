"""The words of a formula over a row: the entries of one sample, one for each class.

On tensors a row is the last dimension.
"""

from __future__ import annotations

from typing import Any

from .operations import apply

__all__ = ["each", "hinges", "index", "log_softmax", "norm", "pick", "size", "total"]


def log_softmax(x: Any) -> Any:
    """Return the log-probability of each class: the row minus the logarithm of the sum of its exponentials."""
    return apply("log_softmax", x)


def total(x: Any) -> Any:
    """Return the sum over the row."""
    return apply("total", x)


def norm(x: Any, p: float) -> Any:
    """Return the p-norm of the row: (sum of |x|^p)^(1 / p)."""
    return apply("norm", x, p)


def size(x: Any) -> Any:
    """Return the number of classes."""
    return apply("size", x)


def index(x: Any) -> Any:
    """Return the number of each class: 0, 1, ..., C - 1."""
    return apply("index", x)


def each(v: Any) -> Any:
    """Return a scalar of the sample, broadcast over the classes of its row."""
    return apply("each", v)


def pick(x: Any, k: Any) -> Any:
    """Return the entry of class k. Of a row that all samples share, return one entry for each sample."""
    return apply("pick", x, k)


def hinges(x: Any, k: Any) -> Any:
    """Return the sum of max(0, 1 - x_j + x_i) over the classes j listed in k, up to its first -1, and all other i."""
    return apply("hinges", x, k)
