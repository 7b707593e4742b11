"""The emitter of losses: options are read at run time, and value and derivative share subexpressions.

What a formula computes of its options alone is computed in double precision, and rounded once: alpha - 2 is 0 in single
precision where alpha is 2.00000001.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..formula.expression import Expr, NamedConstant, is_condition, topological_order
from ..formula.operations import OPERATIONS
from .emit import Dialect, Emitter, known_power

__all__ = ["LossEmitter"]

ELEMENTWISE = {name for name, operation in OPERATIONS.items() if operation.kind in ("elementwise", "condition")}


class OptionEmitter(Emitter):
    """An emitter of double precision of values of options; an option `beta` is the variable `d_beta` of the kernel."""

    def name(self, value: Any) -> str:
        """Return the variable that holds a value, after adding the lines that compute it."""
        return f"d_{value.name}" if isinstance(value, NamedConstant) else super().name(value)


class LossEmitter(Emitter):
    """An emitter of a loss; an option `beta` is the variable `o_beta` of the kernel, and `d_beta` in double precision.

    Args:
        dialect: the words of the language.
        prefix: the start of every variable name.
        given: the name of an expression whose value exists already, or None.
        double: the words of the language in double precision; None where `dialect` is that already.
        rounded: a template that converts a number in double precision.
    """

    def __init__(
        self,
        dialect: Dialect,
        prefix: str,
        given: Callable[[Expr], str | None],
        double: Dialect | None = None,
        rounded: str = "{0}",
    ) -> None:
        super().__init__(dialect, prefix, self._given_or_of_options)
        self._given_by_caller, self._rounded = given, rounded
        self._of_options = None if double is None else OptionEmitter(double, f"{prefix}o", lambda _: None)
        self._keys: dict[Expr, Expr] = {}
        self._known: dict[Expr, bool] = {}  # whether a value depends on options alone

    def _given_or_of_options(self, value: Expr) -> str | None:
        if self._of_options is None or is_condition(value) or not self._is_of_options(value):
            return self._given_by_caller(value)
        known = len(self._of_options.lines)
        number = self._of_options.name(value)
        self.lines += self._of_options.lines[known:]
        return self._assigned(self._rounded.format(number))

    def _is_of_options(self, value: Expr) -> bool:
        """Return whether a value is a number computed of options alone."""
        for node in topological_order(value, stop=self._known.__contains__):
            self._known[node] = node.op in ELEMENTWISE and all([self._known[x] for x in node.operands])
        return self._known[value]

    def name(self, value: Any) -> str:
        """Return the variable that holds a value, after adding the lines that compute it."""
        return f"o_{value.name}" if isinstance(value, NamedConstant) else super().name(value)

    def _expression(self, value: Expr) -> str:
        if value.op == "**" and known_power(value) is None and _is_one_or_other(value.args[0]):
            (condition, one, x), exponent = value.args[0].args, value.args[1]
            value = Expr("where", condition, one, Expr("**", x, exponent))  # powers of x share its logarithm
        return super()._expression(value)

    def key(self, value: Expr) -> Expr:
        """Return a common form: the derivative's where(x > 0, -x, x) is -abs(x) in the value."""
        for node in topological_order(value, stop=self._keys.__contains__):
            same = node
            if node.operands:
                same = Expr(node.op, *(self._keys[x] if isinstance(x, Expr) else x for x in node.args))
            self._keys[node] = Expr("neg", Expr("abs", same.args[2])) if _is_negative_abs(same) else same
        return self._keys[value]


def _is_one_or_other(value: Any) -> bool:
    """Return whether a value is where(condition, 1, x)."""
    if not isinstance(value, Expr) or value.op != "where" or isinstance(value.args[1], Expr):
        return False
    return bool(value.args[1] == 1)


def _is_negative_abs(value: Expr) -> bool:
    """Return whether a value is where(x > 0, -x, x)."""
    if value.op != "where" or not isinstance(x := value.args[2], Expr):
        return False
    return value is Expr("where", Expr(">", x, 0.0), Expr("neg", x), x)
