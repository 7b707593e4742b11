"""Print the graph of a formula as the lines of a kernel, in the words of a dialect.

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

from ..formula.expression import FormulaError, Symbol

Dialect = Mapping[str, str | tuple[str, ...]]

INFIX = ("+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=", "&", "|")


class Emitter:
    """Assignments that compute expressions in one precision, each subexpression once.

    Args:
        dialect: the words of the language.
        prefix: the start of every variable name.
        given: the name of an expression whose value exists already, or None.
    """

    def __init__(self, dialect: Dialect, prefix: str, given: Callable[[Symbol], str | None]) -> None:
        self.lines: list[str] = []
        self._dialect, self._prefix, self._given = dialect, prefix, given
        self._done: dict[Any, str] = {}
        self._needs: dict[Any, int] = {}
        self._keys: dict[int, tuple[Symbol, Any]] = {}
        self._constants = {"zero": self._constant(0.0), "one": self._constant(1.0), "minus_one": self._constant(-1.0)}

    def name(self, value: Any) -> str:
        """Return the variable that holds a value, after adding the lines that compute it."""
        if not isinstance(value, Symbol):
            return self._constant(value)
        key = self.key(value)
        if key not in self._done:
            self._done[key] = self._given(value) or self._assigned(self._expression(value))
        return self._done[key]

    def key(self, value: Any) -> Any:
        """Return a key that is equal for equal expressions."""
        if not isinstance(value, Symbol):
            return float(value)
        if id(value) not in self._keys:
            operands = value.args if value.op == "input" else tuple(map(self.key, value.args))
            self._keys[id(value)] = value, (value.op, *operands)
        return self._keys[id(value)][1]

    def _need(self, value: Any) -> int:
        """Count the registers that a value takes to compute (Sethi and Ullman); the neediest operand goes first."""
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
        if math.isfinite(number):
            text = repr(number)
        else:
            text = f"({'-' if number < 0 else ''}{self._dialect['nan' if number != number else 'inf']})"
        return str(self._dialect["constant"]).format(text)

    def _expression(self, value: Symbol) -> str:
        op = value.op
        if op == "**" and not isinstance(value.args[1], Symbol) and value.args[1] == 2:
            base = self.name(value.args[0])
            return str(self._dialect["*"]).format(base, base)
        for x in sorted(value.args, key=self._need, reverse=True):
            self.name(x)
        operands = [self.name(x) for x in value.args]
        *lines, result = self._templates(value)
        names = dict(self._constants)
        for line in lines:
            names["last"] = self._assigned(line.format(*operands, **names))
        return result.format(*operands, **names)

    def _templates(self, value: Symbol) -> tuple[str, ...]:
        kinds = ", ".join("x" if isinstance(x, Symbol) else "constant" for x in value.args)
        found = self._dialect.get(f"{value.op}({kinds})") or self._dialect.get(value.op)
        if found is None:
            raise FormulaError(f"no kernel can be made of the word `{value.op}`")
        return (found,) if isinstance(found, str) else found
