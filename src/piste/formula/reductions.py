"""The words of formulas that reduce: over a tensor, or over each of its rows or columns.

A step that reduces over a tensor runs in passes. Kernels reduce first, then compute the scalars that follow, then step
the elements. A row lies along the last dimension, a column along the one before it; a reduced dimension keeps size 1.
A vector is one row. Kernels reduce over the rows and columns of matrices, and the eager backend over those of vectors.
"""

from __future__ import annotations

from typing import Any

from ..errors import InvalidValue
from .operations import apply

__all__ = ["mean", "norm", "total"]


def total(x: Any, over: str = "tensor") -> Any:
    """Return the sum over all elements of a tensor, or of each of its rows or columns.

    Args:
        x: A number, which is a tensor of one element; a tensor; or an expression.
        over: "tensor", "row" or "column".

    Returns:
        A number, a tensor or an expression.

    Raises:
        InvalidValue: `over` is another word.

    Example:
        >>> import torch
        >>> from piste.formula import total
        >>> total(torch.tensor([1.0, 2.0]))
        tensor(3.)
    """
    return apply(f"{_checked(over)}_total", x)


def mean(x: Any, over: str = "tensor") -> Any:
    """Return the mean over all elements of a tensor, or of each of its rows or columns.

    Args:
        x: A number, which is a tensor of one element; a tensor; or an expression.
        over: "tensor", "row" or "column".

    Returns:
        A number, a tensor or an expression.

    Raises:
        InvalidValue: `over` is another word.

    Example:
        >>> import torch
        >>> from piste.formula import mean
        >>> mean(torch.tensor([1.0, 2.0]))
        tensor(1.5000)
    """
    return apply(f"{_checked(over)}_mean", x)


def norm(x: Any, over: str = "tensor") -> Any:
    """Return the 2-norm of a tensor, or of each of its rows or columns.

    Args:
        x: A number, which is a tensor of one element; a tensor; or an expression.
        over: "tensor", "row" or "column".

    Returns:
        A number, a tensor or an expression.

    Raises:
        InvalidValue: `over` is another word.

    Example:
        >>> import torch
        >>> from piste.formula import norm
        >>> norm(torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
    return apply("sqrt", total(x * x, over))


def _checked(over: str) -> str:
    if over not in ("tensor", "row", "column"):
        raise InvalidValue(f'`over` must be "tensor", "row" or "column"; received over={over!r}.')
    return over
