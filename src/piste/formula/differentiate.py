"""Differentiate a formula over rows by reverse accumulation: the gradient of its graph, as another graph.

A node is a scalar of the row (a sum, a picked entry, a class index) or a row (a value for each class). The gradient by
a row is a row, plus values at one class alone, which a picked entry leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .expression import Expr, FormulaError, topological_order
from .operations import OPERATIONS
from .properties import RowTest

__all__ = ["RowGradient", "differentiate"]


class RowGradient(NamedTuple):
    """The gradient by a row.

    Attributes:
        dense: The gradient at every class.
        at_index: Pairs (value, index): each value is added to `dense` at the class of its index.
    """

    dense: Any = 0.0
    at_index: tuple[tuple[Any, Any], ...] = ()


def differentiate(result: Expr, by: list[Expr], rows: set[str]) -> list[RowGradient]:
    """Return the gradient of a scalar by each of some rows.

    Args:
        result: The scalar: the loss of a row.
        by: Inputs that are rows.
        rows: The names of all inputs that are rows.

    Returns:
        One gradient for each input of `by`.

    Raises:
        FormulaError: An operation has no known derivative.

    Example:
        >>> from piste.formula.row_functions import total
        >>> x = Expr("input", "x")
        >>> differentiate(total(x * x), [x], {"x"})[0].dense
        +(*(each(1), x), *(each(1), x))
    """
    return _ReverseSweep(result, by, rows).run() if by else []


class _ReverseSweep:
    """One pass over the graph of a result, from the result to the inputs."""

    def __init__(self, result: Expr, by: list[Expr], rows: set[str]) -> None:
        self._result, self._by = result, by
        self._is_row = RowTest(rows)
        self._size = Expr("size", by[0])
        self._order = topological_order(result)
        self._active = set(by)  # the nodes whose gradient is not zero
        for node in self._order:
            is_constant = node.op in OPERATIONS and OPERATIONS[node.op].derivatives == ()
            if not is_constant and not self._active.isdisjoint(node.operands):
                self._active.add(node)

    def run(self) -> list[RowGradient]:
        found = {self._result: RowGradient(1.0)}
        for node in reversed(self._order):
            gradient = found.get(node)
            if gradient is None or node.op == "input":
                continue
            for operand, part in self._parts(node, gradient):
                before = found.get(operand, RowGradient())
                found[operand] = RowGradient(_add(before.dense, part.dense), before.at_index + part.at_index)
        return [found.get(x, RowGradient()) for x in self._by]

    def _parts(self, node: Expr, gradient: RowGradient) -> Iterator[tuple[Expr, RowGradient]]:
        """Give the gradient by each operand of a node."""
        rule = _ROW_RULES.get(node.op)
        if rule is not None:
            if node.args[0] in self._active:
                yield node.args[0], rule(self, node, gradient)
            return
        for k, operand in enumerate(node.args):
            if not isinstance(operand, Expr) or operand not in self._active:
                continue
            part = _choose(node, gradient, k) if node.op == "where" else _multiply_factor(node, gradient, k)
            if self._is_row(node) and not self._is_row(operand):  # a broadcast scalar takes the sum over the row
                part = RowGradient(self.sum(part))
            yield operand, part

    def sum(self, gradient: RowGradient) -> Any:
        """Return the sum of a gradient over the classes."""
        if isinstance(gradient.dense, Expr):
            total = self._total(gradient.dense)
        elif gradient.dense == 0:
            total = 0.0
        else:
            raise FormulaError("a plain number stands for a whole row")
        for value, _ in gradient.at_index:
            total = _add(total, value)
        return total

    def _total(self, row: Expr) -> Any:
        """Return the sum of a row, with factors that are constant along it in front."""
        if row.op == "neg":
            return _negative(self._total(row.args[0]))
        if row.op == "*":
            for this, other in (row.args, row.args[::-1]):
                if isinstance(this, Expr) and this.op == "each":
                    rest = self._total(other) if isinstance(other, Expr) else _multiply(other, self._size)
                    return _multiply(this.args[0], rest)
        if row.op == "each":
            return _multiply(row.args[0], self._size)
        return Expr("total", row)


def _multiply_factor(node: Expr, gradient: RowGradient, k: int) -> RowGradient:
    """Multiply a gradient by the partial derivative of a node by operand k."""
    operation = OPERATIONS.get(node.op)
    if operation is None or operation.derivatives is None:
        raise FormulaError(f"no derivative of the word `{node.op}` is known")
    factor = operation.derivatives[k](node, *node.args)
    return RowGradient(_multiply(gradient.dense, factor), _scale_at_index(gradient, factor))


def _choose(node: Expr, gradient: RowGradient, k: int) -> RowGradient:
    """Choose a gradient where `where` takes operand k, instead of multiplying: 0 times infinity is not 0."""
    condition = node.args[0]
    dense: Any = 0.0
    if not _is(gradient.dense, 0):
        dense = Expr("where", condition, *((gradient.dense, 0.0) if k == 1 else (0.0, gradient.dense)))
    factor = Expr("where", condition, *((1.0, 0.0) if k == 1 else (0.0, 1.0)))
    return RowGradient(dense, _scale_at_index(gradient, factor))


def _scale_at_index(gradient: RowGradient, factor: Any) -> tuple[tuple[Any, Any], ...]:
    """Return the values at single classes, each times the factor at its class."""
    return tuple(
        (_multiply(value, Expr("pick", factor, k) if isinstance(factor, Expr) else factor), k)
        for value, k in gradient.at_index
    )


def _each(value: Any) -> Expr:
    return Expr("each", value)


def _by_log_softmax(sweep: _ReverseSweep, node: Expr, gradient: RowGradient) -> RowGradient:
    pulled = _multiply(Expr("exp", node), _each(_negative(sweep.sum(gradient))))
    return RowGradient(_add(gradient.dense, pulled), gradient.at_index)


def _by_norm(sweep: _ReverseSweep, node: Expr, gradient: RowGradient) -> RowGradient:
    """|x|_p has the gradient sign(x) (|x| / |x|_p)^(p - 1), taken as 0 where the norm is 0."""
    x, p = node.args
    if p == math.inf:
        raise FormulaError("no derivative of the largest entry is known")
    if p == 1:
        return RowGradient(_multiply(Expr("sign", x), _each(gradient.dense)))
    is_zero = Expr("==", node, 0.0)
    if p == 2:
        return RowGradient(_multiply(x, _each(Expr("where", is_zero, 0.0, Expr("/", gradient.dense, node)))))
    rising = Expr("**", Expr("abs", x), p - 1)
    power = Expr("where", Expr("==", x, 0.0), 0.0, _multiply(Expr("sign", x), rising))
    over = Expr("where", is_zero, 0.0, Expr("/", gradient.dense, Expr("**", node, p - 1)))
    return RowGradient(_multiply(power, _each(over)))


_ROW_RULES: dict[str, Callable[[_ReverseSweep, Expr, RowGradient], RowGradient]] = {
    "each": lambda sweep, node, gradient: RowGradient(sweep.sum(gradient)),
    "total": lambda sweep, node, gradient: RowGradient(_each(gradient.dense)),
    "pick": lambda sweep, node, gradient: RowGradient(0.0, ((gradient.dense, node.args[1]),)),
    "log_softmax": _by_log_softmax,
    "norm": _by_norm,
    "hinges": lambda sweep, node, gradient: RowGradient(
        _multiply(_each(gradient.dense), Expr("hinge_slopes", *node.args))
    ),
}
"""The gradient by the first operand of each word over rows."""


def _is(value: Any, number: float) -> bool:
    return not isinstance(value, Expr) and value == number


def _add(a: Any, b: Any) -> Any:
    return b if _is(a, 0) else a if _is(b, 0) else a + b


def _multiply(a: Any, b: Any) -> Any:
    if _is(a, 0) or _is(b, 0):
        return 0.0
    if _is(a, 1) or _is(b, 1):
        return b if _is(a, 1) else a
    if _is(a, -1) or _is(b, -1):
        return _negative(b if _is(a, -1) else a)
    return a * b


def _negative(a: Any) -> Any:
    return a.args[0] if isinstance(a, Expr) and a.op == "neg" else -a
