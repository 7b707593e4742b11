"""Prints the graph of a formula as the lines of a kernel, in a dialect.

A dialect is a table from operations to templates, one table per language and precision:

- `{0}`, `{1}`, ... are the operands; `{zero}`, `{one}` and `{minus_one}` are constants of the dialect;
- a tuple of templates takes one line each; `{last}` is the variable of the line before;
- a key such as `"maximum(x, constant)"` holds for operands of these kinds and precedes `"maximum"`;
- `"constant"` prints a finite number, `"inf"` and `"nan"` the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..formula.evaluate import Evaluator
from ..formula.expression import Expr, FormulaError, topological_order
from ..formula.operations import OPERATIONS
from ..formula.properties import is_never_positive
from ..formula.words import exp, sqrt, where

Dialect = Mapping[str, str | tuple[str, ...]]

INFIX = tuple(op for op in OPERATIONS if not op.isidentifier() and op != "**")
LOADED = ("input", "pick")  # operations whose results are loaded, not computed


def _spelled_sigmoid(x: Any) -> Any:
    if is_never_positive(x):
        e = exp(x)
        return e / (1 + e)
    e = exp(where(x > 0, -x, x))
    return where(x > 0, 1, e) / (1 + e)


SPELLED: Mapping[str, Callable[..., Any]] = {"sigmoid": _spelled_sigmoid}
"""Operations that are written in others, so that they share subexpressions with what stands next to them."""


class Emitter:
    """Assignments that compute expressions in one precision, each subexpression once.

    Args:
        dialect: the words of the language.
        prefix: the start of every variable name.
        given: the name of an expression whose value exists already, or None.
    """

    def __init__(self, dialect: Dialect, prefix: str, given: Callable[[Expr], str | None]) -> None:
        self.lines: list[str] = []
        self._dialect, self._prefix, self._given = dialect, prefix, given
        self._done: dict[Expr, str] = {}
        self._needs: dict[Expr, int] = {}
        self._constants = {"zero": self._constant(0.0), "one": self._constant(1.0), "minus_one": self._constant(-1.0)}

    def name(self, value: Any) -> str:
        """Return the variable that holds a value, after adding the lines that compute it."""
        if not isinstance(value, Expr):
            return self._constant(value)
        opened: set[Expr] = set()
        stack = [value]
        while stack:
            node = stack[-1]
            key = self.key(node)
            if key in self._done:
                stack.pop()
            elif node in opened:
                self._done[key] = self._assigned(self._expression(node))
                stack.pop()
            elif (known := self._given(node)) is not None:
                self._done[key] = known
                stack.pop()
            else:
                opened.add(node)
                stack += reversed(self._order(node))
        return self._done[self.key(value)]

    def key(self, value: Expr) -> Expr:
        """Return the expression that represents all expressions with the same code as this one."""
        return value

    def _order(self, value: Expr) -> list[Expr]:
        """Return the operands in the order of computation, that with the most registers first."""
        self._find_needs(value)
        operands = value.operands if known_power(value) is None else value.operands[:1]
        return sorted(operands, key=self._need, reverse=True)

    def _need(self, value: Any) -> int:
        return 0 if not isinstance(value, Expr) or self.key(value) in self._done else self._needs[self.key(value)]

    def _is_counted(self, value: Expr) -> bool:
        return self.key(value) in self._done or self.key(value) in self._needs

    def _find_needs(self, value: Expr) -> None:
        """Count the registers that each node below a value takes to compute (Sethi and Ullman)."""
        for node in topological_order(value, stop=self._is_counted):
            is_loaded = node.op in LOADED
            needs = [] if is_loaded else sorted(map(self._need, node.args), reverse=True)
            own = 0 if is_loaded else _registers(node)
            self._needs[self.key(node)] = max([own, *(need + i for i, need in enumerate(needs))])

    def _assigned(self, expression: str) -> str:
        name = f"{self._prefix}{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def _constant(self, value: Any) -> str:
        number = float(value)
        if math.isfinite(number):
            text = repr(number)
        else:
            text = f"({'-' if number < 0 else ''}{self._dialect['nan' if number != number else 'inf']})"
        return str(self._dialect["constant"]).format(text)

    def _expression(self, value: Expr) -> str:
        if value.op in SPELLED:
            return self._expression(SPELLED[value.op](*value.args))
        exponent = known_power(value)
        if exponent is not None:
            power = _spelled_power(value.args[0], exponent)
            return self._expression(power) if isinstance(power, Expr) and exponent != 1 else self.name(power)
        operands = [self.name(x) for x in value.args]
        *lines, result = self._templates(value)
        names = dict(self._constants)
        for line in lines:
            names["last"] = self._assigned(line.format(*operands, **names))
        return result.format(*operands, **names)

    def _templates(self, value: Expr) -> tuple[str, ...]:
        kinds = ", ".join("x" if isinstance(x, Expr) else "constant" for x in value.args)
        found = self._dialect.get(f"{value.op}({kinds})") or self._dialect.get(value.op)
        if found is None:
            raise FormulaError(f"no kernel can be made of the word `{value.op}`")
        return (found,) if isinstance(found, str) else found


def _registers(node: Expr) -> int:
    return OPERATIONS[node.op].registers if node.op in OPERATIONS else 1


def known_power(value: Expr) -> float | None:
    """Return the exponent of a power that is spelled in products, a root and a reciprocal; None for other expressions.

    It is known when the kernel is made, and a multiple of 1/2 from -2 to 4.
    """
    if value.op != "**":
        return None
    exponent = value.args[1]
    if isinstance(exponent, Expr):  # gamma - 1, of a derivative
        is_known = all(node.op in OPERATIONS for node in topological_order(exponent))
        exponent = Evaluator({})(exponent) if is_known else math.nan
    return float(exponent) if exponent in _SPELLED_POWERS else None


_SPELLED_POWERS = [k / 2 for k in range(-4, 9)]


def _spelled_power(x: Any, exponent: float) -> Any:
    """Return a power as products, a root and a reciprocal, which vectorise where other powers may not."""
    if exponent < 0:
        return 1 / _spelled_power(x, -exponent)
    if exponent % 1:
        root = sqrt(x)
        return root if exponent < 1 else _spelled_power(x, exponent - 0.5) * root
    if exponent > 2:
        square = x * x
        return square * (x if exponent == 3 else square)
    return (1.0, x, x * x)[int(exponent)]
