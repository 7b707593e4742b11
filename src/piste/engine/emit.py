"""From the graph of a formula to the lines of a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..formula.expression import FormulaError, Symbol

_INFIX = {"+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=", "&", "|"}
_PREFIX = {"neg": "-", "invert": "not "}
_CALLS = {
    "sqrt": "math.sqrt",
    "exp": "math.exp",
    "log": "math.log",
    "log1p": "math.log1p",
    "abs": "abs",
    "**": "math.pow",
}


class Lines:
    """Assignments that compute symbols, each subexpression once, in one precision.

    `given` names what is known already: a function of an input's name, or None where a symbol has to be computed.
    """

    def __init__(self, precision: str, prefix: str, given: Callable[[Symbol], str | None]) -> None:
        self.lines: list[str] = []
        self._precision, self._prefix, self._given = precision, prefix, given
        self._done: dict[Any, str] = {}
        self._needs: dict[Any, int] = {}
        self._keys: dict[int, tuple[Symbol, Any]] = {}

    def name(self, value: Any) -> str:
        """The variable that holds a value, after adding the lines it needs."""
        if not isinstance(value, Symbol):
            return self._constant(value)
        key = self.key(value)
        if key not in self._done:
            self._done[key] = self._given(value) or self._assigned(self._expression(value))
        return self._done[key]

    def key(self, value: Any) -> Any:
        """Equal for expressions that are written alike."""
        if not isinstance(value, Symbol):
            return float(value)
        if id(value) not in self._keys:
            operands = value.args if value.op == "input" else tuple(map(self.key, value.args))
            self._keys[id(value)] = value, (value.op, *operands)
        return self._keys[id(value)][1]

    def _need(self, value: Any) -> int:
        """How many registers a value takes to compute (Sethi and Ullman); what needs most goes first."""
        if not isinstance(value, Symbol):
            return 0
        key = self.key(value)
        if key in self._done or value.op == "input":
            return 0
        if key not in self._needs:
            needs = sorted(map(self._need, value.args), reverse=True)
            own = 6 if value.op in ("exp", "log", "log1p") else 1
            self._needs[key] = max(own, *(need + i for i, need in enumerate(needs)))
        return self._needs[key]

    def _assigned(self, expression: str) -> str:
        name = f"{self._prefix}{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def _constant(self, value: Any) -> str:
        number = float(value)
        text = (
            repr(number)
            if math.isfinite(number)
            else f"({'-' if number < 0 else ''}math.{'nan' if number != number else 'inf'})"
        )
        return text if self._precision == "float64" else f"{self._precision}({text})"

    def _expression(self, value: Symbol) -> str:
        op = value.op
        if op == "**" and not isinstance(value.args[1], Symbol) and value.args[1] == 2:
            base = self.name(value.args[0])
            return f"{base} * {base}"
        for x in sorted(value.args, key=self._need, reverse=True):
            self.name(x)
        a, *rest = map(self.name, value.args)
        if op in _INFIX:
            return f"{a} {op} {rest[0]}"
        if op in _PREFIX:
            return f"{_PREFIX[op]}{a}"
        if op in _CALLS:
            return f"{self._precision}({_CALLS[op]}({', '.join([a, *rest])}))"
        if op == "where":
            return f"{rest[0]} if {a} else {rest[1]}"
        if op == "sign":
            zero, one = self._constant(0), self._constant(1)
            negative = self._assigned(f"{self._constant(-1)} if {a} < {zero} else {zero}")
            return f"{one} if {a} > {zero} else {negative}"
        if op in ("maximum", "minimum"):  # NaN, which compares false, falls through to the result
            b, beyond = rest[0], ">" if op == "maximum" else "<"
            if not isinstance(value.args[1], Symbol):
                return f"{b} if {b} {beyond} {a} else {a}"
            other = f"{a} if {a} {beyond} {b} else {b}"
            return other if not isinstance(value.args[0], Symbol) else f"{a} if {a} != {a} else {self._assigned(other)}"
        raise FormulaError(f"no kernel can be made of the word `{op}`")
