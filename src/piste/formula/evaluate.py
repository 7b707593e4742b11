"""Evaluate expressions and gradients on tensors or floats: the interpreter of the graph of a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .differentiate import RowGradient
from .expression import Expr, topological_order
from .operations import apply, in_dtype

__all__ = ["Evaluator", "evaluate_gradient"]


class Evaluator:
    """The values of expressions for given inputs; each node is computed once.

    Args:
        inputs: The tensor or float of each input, by name.
        functions: Operations that `OPERATIONS` does not have, by name.
        known: The values of expressions that are not computed.

    Example:
        >>> x = Expr("input", "x")
        >>> evaluate = Evaluator({"x": 3.0})
        >>> evaluate(x * x + 1)
        10.0
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]] | None = None,
        known: Mapping[Expr, Any] | None = None,
    ) -> None:
        self._inputs, self._functions = inputs, functions or {}
        tensors = [x for x in inputs.values() if isinstance(x, Tensor) and x.is_floating_point()]
        self._dtype = tensors[0].dtype if tensors else None
        self._values: dict[Expr, Any] = dict(known or {})

    def __call__(self, value: Any) -> Any:
        """Return the value of an expression; a number is returned as a float."""
        if not isinstance(value, Expr):
            return float(value)
        if value not in self._values:
            if self._dtype is None:
                self._evaluate_below(value)
            else:
                in_dtype(self._dtype, self._evaluate_below, value)
        return self._values[value]

    def _evaluate_below(self, value: Expr) -> None:
        for node in topological_order(value, stop=self._values.__contains__):
            self._values[node] = self._evaluate(node)

    def _evaluate(self, node: Expr) -> Any:
        if node.op == "input":
            return self._inputs[node.args[0]]
        operands = [self._values[x] if isinstance(x, Expr) else float(x) for x in node.args]
        function = self._functions.get(node.op)
        return apply(node.op, *operands) if function is None else function(*operands)


def evaluate_gradient(gradient: RowGradient, inputs: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Evaluate a gradient by a row in torch operations, which autograd can differentiate again.

    Args:
        gradient: The gradient.
        inputs: The operands of the formula, by name.
        like: The operand that the gradient belongs to, of shape (..., C).

    Returns:
        The gradient, of the shape of `like`.
    """
    evaluate = Evaluator(inputs)
    total = torch.zeros_like(like) + evaluate(gradient.dense)
    for value, index in gradient.at_index:
        is_there = apply("index", like) == apply("each", evaluate(index))
        total = total + torch.where(is_there, apply("each", evaluate(value)), 0)
    return total
