"""The emitter of losses: options are read at run time, and value and derivative share subexpressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..formula.expression import Expr, NamedConstant, topological_order
from .emit import Dialect, Emitter

__all__ = ["LossEmitter"]


class LossEmitter(Emitter):
    """An emitter of a loss; an option `beta` is the variable `o_beta` of the kernel."""

    def __init__(self, dialect: Dialect, prefix: str, given: Callable[[Expr], str | None]) -> None:
        super().__init__(dialect, prefix, given)
        self._keys: dict[Expr, Expr] = {}

    def name(self, value: Any) -> str:
        """Return the variable that holds a value, after adding the lines that compute it."""
        return f"o_{value.name}" if isinstance(value, NamedConstant) else super().name(value)

    def key(self, value: Expr) -> Expr:
        """Return a common form: the derivative's where(x > 0, -x, x) is -abs(x) in the value."""
        for node in topological_order(value, stop=self._keys.__contains__):
            same = node
            if node.operands:
                same = Expr(node.op, *(self._keys[x] if isinstance(x, Expr) else x for x in node.args))
            self._keys[node] = Expr("neg", Expr("abs", same.args[2])) if _is_negative_abs(same) else same
        return self._keys[value]


def _is_negative_abs(value: Expr) -> bool:
    """Return whether a value is where(x > 0, -x, x)."""
    if value.op != "where" or not isinstance(x := value.args[2], Expr):
        return False
    return value is Expr("where", Expr(">", x, 0.0), Expr("neg", x), x)
