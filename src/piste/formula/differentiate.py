"""The gradient of a formula over rows, as a formula: reverse differentiation of its graph.

A symbol is a number of the row (a sum, a picked entry, a class index) or a row (a number for each class). The gradient
by a row is a row too, plus numbers that belong at one class alone: that is what picking an entry leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import row_functions as words
from .expression import OPERATIONS, Expr, FormulaError, topological_order

__all__ = ["RowTest", "Slope", "gradients", "on_tensors"]

_NUMBERS = {"total", "norm", "pick", "size", "hinges", "top"}
_ROWS = {"each", "index", "log_softmax", "hinge_slopes"}
_FLAT = {"<", "<=", ">", ">=", "==", "!=", "&", "|", "invert", "sign", "size", "index"}


class Slope(NamedTuple):
    """The gradient by a row: `dense` at every class, and each of `single`, (number, class), at its class besides."""

    dense: Any
    single: tuple[tuple[Any, Any], ...]


class RowTest:
    """Tells the values that have an entry for each class from those that are one number of the sample.

    Args:
        rows: The names of the inputs that have an entry for each class.
    """

    def __init__(self, rows: set[str]) -> None:
        self._rows = rows
        self._known: dict[Expr, bool] = {}

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, Expr):
            return False
        for node in topological_order(value, stop=self._known.__contains__):
            if node.op == "input":
                self._known[node] = node.args[0] in self._rows
            elif node.op in _NUMBERS:
                self._known[node] = False
            else:
                self._known[node] = node.op in _ROWS or any(self._known[x] for x in node.operands)
        return self._known[value]


def gradients(result: Expr, by: list[Expr], rows: set[str]) -> list[Slope]:
    """The gradient of a number by each of some rows that it is made of."""
    order = topological_order(result)
    active = set(by)
    for node in order:
        if node.op not in _FLAT and not active.isdisjoint(node.operands):
            active.add(node)
    is_row = RowTest(rows)
    found: dict[Expr, Slope] = {result: Slope(1.0, ())}
    for node in reversed(order):
        slope = found.get(node)
        if slope is None or node.op == "input":
            continue
        for argument, part in _parts(node, slope, is_row, active):
            before = found.get(argument, Slope(0.0, ()))
            found[argument] = Slope(_add(before.dense, part.dense), before.single + part.single)
    return [found.get(x, Slope(0.0, ())) for x in by]


def _parts(symbol: Expr, slope: Slope, is_row: RowTest, active: set[Expr]) -> Any:
    """What a symbol's gradient comes to at each of its operands."""
    op, args = symbol.op, symbol.args
    if op in ("each", "total", "pick", "log_softmax", "norm", "hinges"):
        if args[0] in active:
            yield args[0], _BY_WORD[op](symbol, slope)
        return
    if op == "where":
        for k in (1, 2):
            if isinstance(args[k], Expr) and args[k] in active:
                chosen = [slope.dense, 0.0] if k == 1 else [0.0, slope.dense]
                dense = 0.0 if _is(slope.dense, 0) else Expr("where", args[0], *chosen)
                factor = Expr("where", args[0], *((1.0, 0.0) if k == 1 else (0.0, 1.0)))
                yield args[k], _gathered(Slope(dense, _at(slope, factor)), args[k], symbol, is_row)
        return
    if op not in _DERIVATIVES:
        raise FormulaError(f"no derivative of the word `{op}` is known")
    for k, argument in enumerate(args):
        if isinstance(argument, Expr) and argument in active:
            local = _DERIVATIVES[op][k](symbol, *args)
            part = Slope(_multiply(slope.dense, local), _at(slope, local))
            yield argument, _gathered(part, argument, symbol, is_row)


def _at(slope: Slope, factor: Any) -> tuple[tuple[Any, Any], ...]:
    """The numbers that belong at one class, each times the factor there."""
    return tuple(
        (_multiply(v, Expr("pick", factor, k) if isinstance(factor, Expr) else factor), k) for v, k in slope.single
    )


def _gathered(part: Slope, argument: Expr, symbol: Expr, is_row: RowTest) -> Slope:
    """A number that stands beside every entry of a row takes the sum of what it brings there."""
    if is_row(symbol) and not is_row(argument):
        return Slope(_sum(part), ())
    return part


def _sum(slope: Slope) -> Any:
    total = _total(slope.dense) if isinstance(slope.dense, Expr) else 0.0
    if not isinstance(slope.dense, Expr) and slope.dense != 0:
        raise FormulaError("a plain number stands for a whole row")
    for v, _ in slope.single:
        total = _add(total, v)
    return total


def _total(row: Expr) -> Any:
    """The sum of a row, with what doesn't change along it in front."""
    if row.op == "neg":
        return _negative(_total(row.args[0]))
    if row.op == "*":
        for this, other in (row.args, row.args[::-1]):
            if isinstance(this, Expr) and this.op == "each":
                rest = _total(other) if isinstance(other, Expr) else _multiply(other, Expr("size"))
                return _multiply(this.args[0], rest)
    if row.op == "each":
        return _multiply(row.args[0], Expr("size"))
    return Expr("total", row)


def _each(v: Any) -> Any:
    return Expr("each", v)


def _by_log_softmax(symbol: Expr, slope: Slope) -> Slope:
    pulled = _multiply(Expr("exp", symbol), _each(_negative(_sum(slope))))
    return Slope(_add(slope.dense, pulled), slope.single)


def _by_norm(symbol: Expr, slope: Slope) -> Slope:
    """|x|_p has the slope sign(x) (|x| / |x|_p)^(p - 1), taken as 0 where the norm is 0."""
    x, p = symbol.args
    if p == math.inf:
        raise FormulaError("no derivative of the largest entry is known")
    if p == 1:
        return Slope(Expr("sign", x) * _each(slope.dense), ())
    if p == 2:
        return Slope(_multiply(x, _each(Expr("where", symbol == 0, 0.0, slope.dense / symbol))), ())
    rising = Expr("**", Expr("abs", x), p - 1)
    power = Expr("where", x == 0, 0.0, _multiply(Expr("sign", x), rising))
    over = Expr("where", symbol == 0, 0.0, slope.dense / Expr("**", symbol, p - 1))
    return Slope(power * _each(over), ())


_BY_WORD: dict[str, Callable[[Expr, Slope], Slope]] = {
    "each": lambda symbol, slope: Slope(_sum(slope), ()),
    "total": lambda symbol, slope: Slope(_each(slope.dense), ()),
    "pick": lambda symbol, slope: Slope(0.0, ((slope.dense, symbol.args[1]),)),
    "log_softmax": _by_log_softmax,
    "norm": _by_norm,
    "hinges": lambda symbol, slope: Slope(_each(slope.dense) * Expr("hinge_slopes", *symbol.args), ()),
}

_HALF = 0.5
_DERIVATIVES: dict[str, list[Callable[..., Any]]] = {
    "+": [lambda r, a, b: 1.0, lambda r, a, b: 1.0],
    "-": [lambda r, a, b: 1.0, lambda r, a, b: -1.0],
    "*": [lambda r, a, b: b, lambda r, a, b: a],
    "/": [lambda r, a, b: 1.0 / b, lambda r, a, b: _negative(r / b)],
    "**": [lambda r, a, b: 2.0 * a if b == 2 else b * Expr("**", a, b - 1)],
    "neg": [lambda r, a: -1.0],
    "abs": [lambda r, a: Expr("sign", a)],
    "sqrt": [lambda r, a: _HALF / r],
    "exp": [lambda r, a: r],
    "log": [lambda r, a: 1.0 / a],
    "log1p": [lambda r, a: 1.0 / (1.0 + a)],
    # of equal numbers each takes half, as in torch
    "maximum": [lambda r, a, b: _share(a > b, a == b), lambda r, a, b: _share(a < b, a == b)],
    "minimum": [lambda r, a, b: _share(a < b, a == b), lambda r, a, b: _share(a > b, a == b)],
}


def _share(is_chosen: Expr, is_tie: Expr) -> Expr:
    return Expr("where", is_chosen, 1.0, Expr("where", is_tie, _HALF, 0.0))


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


def on_tensors(slope: Slope, inputs: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """A gradient in torch operations: for a second backward, or a backward once more."""
    values: dict[Expr, Any] = {}

    def value(x: Any) -> Any:
        return values[x] if isinstance(x, Expr) else float(x)

    for node in topological_order(slope.dense, *(x for single in slope.single for x in single)):
        values[node] = _made(node, value, inputs, like)
    total = torch.zeros_like(like) + value(slope.dense)
    for number, place in slope.single:
        is_there = words.index(like) == words.each(value(place))
        factor = value(number)
        total = total + torch.where(is_there, words.each(factor) if isinstance(factor, Tensor) else factor, 0)
    return total


def _made(node: Expr, value: Callable[[Any], Any], inputs: Mapping[str, Tensor], like: Tensor) -> Any:
    if node.op == "input":
        return inputs[node.args[0]]
    if node.op == "size":
        return like.shape[-1]
    if node.op == "index":
        return words.index(like)
    if node.op == "each":
        number = value(node.args[0])
        return words.each(number) if isinstance(number, Tensor) else number
    word = OPERATIONS.get(node.op) or getattr(words, node.op)
    return word(*map(value, node.args))
