"""The scalars of a step computed by the host in double precision, as the eager backend computes them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ...formula.floats import divide, power
from ...formula.words import exp, expm1, log, log1p, maximum, minimum, sign, sqrt
from ..emit import INFIX, Dialect, Emitter
from ..hoisting import given_inputs
from ..specs import StepSpec
from .step_split import split

_WORDS = (exp, expm1, log, log1p, maximum, minimum, sign, sqrt)
_ROUNDED = {"float32": ctypes.c_float, "float64": ctypes.c_double}

PYTHON: Dialect = {
    "constant": "{0}",
    "inf": "math.inf",
    "nan": "math.nan",
    **{op: f"{{0}} {op} {{1}}" for op in INFIX},
    "/": "divide({0}, {1})",
    "**": "power({0}, {1})",
    "neg": "-{0}",
    "invert": "not {0}",
    "abs": "abs({0})",
    "where": "{1} if {0} else {2}",
    **{word.__name__: f"{word.__name__}({{0}})" for word in (exp, expm1, log, log1p, sign, sqrt)},
    **{word.__name__: f"{word.__name__}({{0}}, {{1}})" for word in (maximum, minimum)},
}


Scalars = Callable[..., tuple[tuple[float, ...], tuple[float, ...]]]


@cache
def host_scalars(spec: StepSpec, kinds: tuple[str, ...], counter: str) -> Scalars:
    """Return a function of the numbers and counters, in order, that returns the counters it restates and the scalars.

    The step count `t` is already that of this step.
    """
    parts = split(spec, kinds)
    emitter = Emitter(PYTHON, "s", given_inputs)
    for letter, value in parts.counters:
        emitter.lines.append(f"kept_{letter} = rounded({emitter.name(value)}).value")
    results = [emitter.name(value) for value in parts.scalars]
    kept = "".join(f"kept_{letter}, " for letter, _ in parts.counters)
    lines = [
        f"def scalars({', '.join(f'n_{name}' for name in (*spec.numbers, *spec.counters))}):",
        *(f"    {line}" for line in emitter.lines),
        f"    return ({kept}), ({''.join(f'{name}, ' for name in results)})",
    ]
    scope: dict[str, Any] = {"math": math, "divide": divide, "power": power, "rounded": _ROUNDED[counter]}
    scope |= {word.__name__: word for word in _WORDS}
    exec("\n".join(lines), scope)
    function: Scalars = scope["scalars"]
    return function


def plain_numbers(spec: StepSpec, numbers: Mapping[str, Any]) -> list[float]:
    """Return the numbers of a group in the order of the spec."""
    return [float(numbers[name]) for name in spec.numbers]
