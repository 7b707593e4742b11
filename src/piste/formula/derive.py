"""The derivatives of a formula as a function, for losses that do not state them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .differentiate import differentiate
from .evaluate import Evaluator
from .expression import Expr

__all__ = ["derivatives_of"]


def derivatives_of(formula: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Return the derivatives of a formula of one element by each of its operands, as a function of the same arguments.

    Args:
        formula: A function of one or more operands, with options by name.

    Returns:
        A function that takes expressions, tensors or floats, as the formula does. It has the attribute `is_derived`.
        At a corner it takes the derivative of the branch that the formula takes.

    Raises:
        FormulaError: At a call, if an operation of the formula has no known derivative.

    Example:
        >>> derivatives_of(lambda x, y: x * x * y)(3.0, 2.0)
        (12.0, 9.0)
    """
    kinds = inspect.signature(formula).parameters
    names = [name for name, p in kinds.items() if p.kind is p.POSITIONAL_OR_KEYWORD]

    def derivatives(*operands: Any, **options: Any) -> tuple[Any, ...]:
        if any(isinstance(operand, Expr) for operand in operands):
            return _differentiate(formula, operands, options)
        return _evaluate(formula, dict(zip(names, operands, strict=False)), options)

    derivatives.is_derived = True  # type: ignore[attr-defined]
    return derivatives


def _differentiate(
    formula: Callable[..., Any], operands: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[Any, ...]:
    return tuple(g.dense for g in differentiate(formula(*operands, **options), [*operands], set()))


def _evaluate(formula: Callable[..., Any], operands: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
    found = _differentiate(formula, tuple(Expr("input", name) for name in operands), options)
    tensors = [x for x in operands.values() if isinstance(x, Tensor)]
    if not tensors:
        return tuple(map(Evaluator(operands), found))
    like = tensors[0]

    evaluate = Evaluator(operands)
    return tuple(torch.zeros_like(like) + evaluate(x) for x in found)
