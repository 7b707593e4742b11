"""Reports of rejected values, by kernels that can't decline a call after its launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["ValueCheck", "Violation"]


class Violation(NamedTuple):
    """The values that break a value check.

    Attributes:
        number: their number; 0 reports that a mean has no rows, and the rest is 0 too.
        first: the position of the first, in a contiguous tensor of the checked values.
        value: the first.
        farthest: the position of the one farthest from 0.
        farthest_value: that value; NaN if any of the values is NaN.
        shape: the shape of the loss's first operand, the classes last in a loss of rows.
    """

    number: int
    first: int
    value: float
    farthest: int
    farthest_value: float
    shape: tuple[int, ...]


class ValueCheck(NamedTuple):
    """A condition on which a loss rejects values.

    Attributes:
        fails: the condition, as a formula of the operands: of an element, of a class of a row, or of a whole row.
        value: the number that the message shows, as a formula of the operands.
        error: returns the error for violations.
    """

    fails: Callable[..., Any]
    value: Callable[..., Any]
    error: Callable[[Violation], Exception]
