"""Numbers that know how far a computer's rounding may have taken them.

A `Number` holds a value to 50 digits beside a bound on the error that an ordinary evaluation of the same
expression may have gathered, one rounding of relative size `unit` per operation (running error analysis:
Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.3). So an oracle yields the right
answer together with the tolerance that the problem itself demands: tight where nothing cancels, wide where
subtracting must lose digits.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from functools import total_ordering
from typing import Any

DOUBLE, SINGLE, HALF, BRAIN = 2.0**-53, 2.0**-24, 2.0**-11, 2.0**-8
"""The unit roundoff of float64, float32, float16 and bfloat16."""

CONTEXT = decimal.Context(prec=50)


@total_ordering
class Number:
    """A value, a bound on its rounding error, and the unit roundoff of the arithmetic it takes part in."""

    __slots__ = ("error", "unit", "value")

    def __init__(self, value: Any, unit: float = 0.0, error: float = 0.0) -> None:
        self.value = value if isinstance(value, Decimal) else Decimal(value)
        self.unit, self.error = unit, error

    def _result(self, value: Decimal, error: float, *others: Number) -> Number:
        unit = max(self.unit, *(o.unit for o in others)) if others else self.unit
        return Number(value, unit, error + abs(float(value)) * unit)

    def __add__(self, other: Any) -> Number:
        other = number(other)
        return self._result(CONTEXT.add(self.value, other.value), self.error + other.error, other)

    def __sub__(self, other: Any) -> Number:
        other = number(other)
        return self._result(CONTEXT.subtract(self.value, other.value), self.error + other.error, other)

    def __mul__(self, other: Any) -> Number:
        other = number(other)
        error = abs(float(self)) * other.error + abs(float(other)) * self.error + self.error * other.error
        return self._result(CONTEXT.multiply(self.value, other.value), error, other)

    def __truediv__(self, other: Any) -> Number:
        other = number(other)
        value = CONTEXT.divide(self.value, other.value)
        room = abs(float(other)) - other.error
        error = (self.error + abs(float(value)) * other.error) / room if room > 0 else math.inf
        return self._result(value, error, other)

    def __pow__(self, other: Any) -> Number:
        other = number(other)
        value = CONTEXT.power(self.value, other.value)
        relative = abs(float(other)) * self.error / abs(float(self)) if self.value else 0.0
        relative += abs(math.log(float(self))) * other.error if self.value > 0 else 0.0
        return self._result(value, abs(float(value)) * relative, other)

    def __radd__(self, other: Any) -> Number:
        return number(other) + self

    def __rsub__(self, other: Any) -> Number:
        return number(other) - self

    def __rmul__(self, other: Any) -> Number:
        return number(other) * self

    def __rtruediv__(self, other: Any) -> Number:
        return number(other) / self

    def __rpow__(self, other: Any) -> Number:
        return number(other) ** self

    def __neg__(self) -> Number:
        return Number(self.value.copy_negate(), self.unit, self.error)

    def __abs__(self) -> Number:
        return Number(self.value.copy_abs(), self.unit, self.error)

    def __eq__(self, other: object) -> bool:
        return self.value == number(other).value

    def __lt__(self, other: Any) -> bool:
        return self.value < number(other).value

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        return f"{float(self)!r} +- {self.error:.2g}"

    __hash__ = None  # type: ignore[assignment]

    def sqrt(self) -> Number:
        value = CONTEXT.sqrt(self.value)
        slope = float(value) + math.sqrt(max(float(self) - self.error, 0.0))
        return self._result(value, self.error / slope if self.error else 0.0)

    def exp(self) -> Number:
        value = CONTEXT.exp(self.value)
        return self._result(value, float(value) * math.expm1(self.error))

    def log(self) -> Number:
        return self._result(CONTEXT.ln(self.value), self.error / (float(self) - self.error))

    def sign(self) -> int:
        """-1, 0 or 1; asks for an input whose sign rounding can't turn."""
        assert not self.value or abs(float(self)) > self.error, f"the sign of {self} hangs on its rounding"
        return (self.value > 0) - (self.value < 0)

    def rounded(self, unit: float) -> Number:
        """This number put into arithmetic of another unit roundoff."""
        return Number(self.value, unit, self.error + abs(float(self)) * unit)

    def holds(self, computed: float, storage: float = 0.0, floor: float = 0.0, factor: float = 4.0) -> bool:
        """Is `computed` what this number may have become, once stored with one more rounding?

        The store rounds by `storage` relative to the value, or by `floor` where that is more (subnormals).
        `factor` allows for another order of the same operations.
        """
        if not math.isfinite(computed):
            return False
        off = abs(float(CONTEXT.subtract(self.value, Decimal(computed))))
        return off <= factor * self.error + max(abs(float(self)) * storage, floor)


def number(x: Any) -> Number:
    """Integers and floats as they are, exactly."""
    return x if isinstance(x, Number) else Number(x)
