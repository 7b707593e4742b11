"""The words of formulas that reduce over a tensor: the value is the same number for every element.

A step that holds them runs in passes. Kernels reduce first, then compute what follows from the results, then step the
elements. A formula only says the words.
"""

from __future__ import annotations

from typing import Any

from .operations import apply

__all__ = ["mean", "norm", "total"]


def total(x: Any) -> Any:
    """Return the sum over all elements of a tensor.

    Args:
        x: A number, which is a tensor of one element; a tensor; or an expression.

    Returns:
        A number, a 0-d tensor or an expression.

    Example:
        >>> import torch
        >>> from piste.formula import total
        >>> total(torch.tensor([1.0, 2.0]))
        tensor(3.)
    """
    return apply("tensor_total", x)


def mean(x: Any) -> Any:
    """Return the mean over all elements of a tensor.

    Args:
        x: A number, which is a tensor of one element; a tensor; or an expression.

    Returns:
        A number, a 0-d tensor or an expression.

    Example:
        >>> import torch
        >>> from piste.formula import mean
        >>> mean(torch.tensor([1.0, 2.0]))
        tensor(1.5000)
    """
    return apply("tensor_mean", x)


def norm(x: Any) -> Any:
    """Return the 2-norm of a tensor.

    Args:
        x: A number, which is a tensor of one element; a tensor; or an expression.

    Returns:
        A number, a 0-d tensor or an expression.

    Example:
        >>> import torch
        >>> from piste.formula import norm
        >>> norm(torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
    return apply("sqrt", total(x * x))
