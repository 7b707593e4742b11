"""Properties of expressions that follow from their form: whether a value is a row, or never positive."""

from __future__ import annotations

from typing import Any

from .expression import Expr, topological_order
from .operations import OPERATIONS

__all__ = ["RowTest", "is_never_positive"]


class RowTest:
    """Tells rows from scalars.

    Args:
        rows: The names of the inputs that are rows.
    """

    def __init__(self, rows: set[str]) -> None:
        self._rows = rows
        self._known: dict[Expr, bool] = {}

    def __call__(self, value: Any) -> bool:
        """Return whether a value has an entry for each class."""
        if not isinstance(value, Expr):
            return False
        for node in topological_order(value, stop=self._known.__contains__):
            kind = OPERATIONS[node.op].kind if node.op in OPERATIONS else "elementwise"
            if node.op == "input":
                self._known[node] = node.args[0] in self._rows
            elif kind in ("scalar", "row"):
                self._known[node] = kind == "row"
            else:
                self._known[node] = any(self._known[x] for x in node.operands)
        return self._known[value]


def is_never_positive(value: Any) -> bool:
    """Return whether a value has a form that is never above 0: -|x|, or entries of a row, or one, minus the largest.

    Other values that are never positive are not recognized.

    Example:
        >>> x = Expr("input", "x")
        >>> is_never_positive(-abs(x)), is_never_positive(x)
        (True, False)
    """
    match value:
        case Expr(op="neg", args=(Expr(op="abs"),)):
            return True
        case Expr(op="-", args=(x, Expr(op="each", args=(Expr(op="top", args=(y,)),)))):
            return x is y
        case Expr(op="-", args=(Expr(op="pick", args=(x, _)), Expr(op="top", args=(y,)))):
            return x is y
    return False
