"""The lines that verify a `Bound` for many values with one instruction each; `kernels/math32.py` has the words."""

from __future__ import annotations

import math

from ..specs import Bound

__all__ = ["broken", "start", "update"]


def start(bound: Bound, dtype: str) -> str:
    """Return the line before the first value."""
    return f"{_seen(bound)} = {_bits(bound)}({dtype}(0.0))"


def update(bound: Bound, name: str, dtype: str) -> list[str]:
    """Return the lines for the value of a name."""
    seen = _seen(bound)
    if bound.kind == "of size":
        return [f"{seen} = differing_bits({seen}, {name}, {_number(bound, dtype)})"]
    return [f"bits_ = {_bits(bound)}({name})", f"{seen} = bits_ if bits_ > {seen} else {seen}"]


def broken(bound: Bound, dtype: str) -> str:
    """Return the condition that a value was outside the bound."""
    seen = _seen(bound)
    if bound.kind == "of size":  # all bits are the same, apart from the sign
        return f"({seen} != bits({dtype}(0.0)) and {seen} != bits({dtype}(-0.0)))"
    return f"({seen} > {_bits(bound)}({_number(bound, dtype)}))"


def _seen(bound: Bound) -> str:
    return f"seen{bound.operand}"


def _bits(bound: Bound) -> str:
    return "signed_bits" if bound.kind == "up to" else "bits"


def _number(bound: Bound, dtype: str) -> str:
    return f"{dtype}({'math.inf' if bound.number == math.inf else repr(bound.number)})"
