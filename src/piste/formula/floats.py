"""The operations on Python's floats, with the results of IEEE 754 where Python raises."""

from __future__ import annotations

import math
from typing import Any

__all__ = [
    "divide",
    "exp",
    "expm1",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "power",
    "sigmoid",
    "sign",
    "sqrt",
    "where",
]


def divide(a: float, b: float) -> float:
    """Divide as IEEE 754 does: by zero is infinity or NaN."""
    if b == 0:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def power(a: float, b: float) -> float:
    """Raise to a power as IEEE 754 does: NaN outside of the domain, infinity beyond the largest number."""
    try:
        return math.pow(a, b)
    except OverflowError:
        return math.inf if a > 0 or b % 2 == 0 else -math.inf
    except ValueError:
        return math.inf if a == 0 else math.nan


def sqrt(x: float) -> float:
    """Return the square root, NaN of a number below 0."""
    return math.sqrt(x) if x >= 0 else math.nan


def exp(x: float) -> float:
    """Return e^x, infinity beyond the largest number."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def expm1(x: float) -> float:
    """Return e^x - 1, infinity beyond the largest number."""
    try:
        return math.expm1(x)
    except OverflowError:
        return math.inf


def log(x: float) -> float:
    """Return the natural logarithm, -infinity of 0 and NaN below."""
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def log1p(x: float) -> float:
    """Return log(1 + x), -infinity at -1 and NaN below."""
    return math.log1p(x) if x > -1 else (-math.inf if x == -1 else math.nan)


def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^-x) without overflow."""
    e = exp(-abs(x))
    return (e if x < 0 else 1.0) / (1.0 + e)


def sign(x: float) -> float:
    """Return -1, 0 or 1."""
    return float((x > 0) - (x < 0))


def maximum(a: float, b: float) -> float:
    """Return the larger number, or NaN if one is NaN."""
    return a if a > b or a != a else b


def minimum(a: float, b: float) -> float:
    """Return the smaller number, or NaN if one is NaN."""
    return a if a < b or a != a else b


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return a or b."""
    return a if condition else b
