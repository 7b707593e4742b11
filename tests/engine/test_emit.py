"""The lines of powers: products, a root and a reciprocal where the exponent is known, and a power elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest

from piste.engine.cpu.dialect import numba
from piste.engine.emit import Emitter
from piste.formula.expression import Expr, NamedConstant

X = Expr("input", "x")
float64 = float  # a word of the lines


def lines_of(value: Any) -> tuple[list[str], str]:
    emitter = Emitter(numba("float64"), "v", lambda node: "x" if node is X else None)
    name = emitter.name(value)
    return emitter.lines, name


def run(value: Any, x: float) -> float:
    lines, name = lines_of(value)
    scope = {"x": x, "math": math, "float64": float64}
    exec("\n".join(lines), scope)
    return float(scope.get(name, x if name == "x" else math.nan)) if not name[0].isdigit() else float(name)


@pytest.mark.parametrize("exponent", [k / 2 for k in range(-4, 9)])
def test_multiples_of_a_half_from_minus_2_to_4_take_no_power(exponent: float) -> None:
    power = X**exponent
    assert "pow" not in "\n".join(lines_of(power)[0])
    for x in (0.3, 1.0, 7.5):
        assert run(power, x) == pytest.approx(x**exponent, rel=1e-15)


@pytest.mark.parametrize("exponent", [-2.5, -0.3, 1.7, 4.5, math.inf, math.nan])
def test_other_exponents_take_a_power(exponent: float) -> None:
    assert "pow" in "\n".join(lines_of(X**exponent)[0])


def test_an_exponent_of_options_is_known() -> None:
    gamma = NamedConstant("gamma", 2.5)
    assert run(X ** (gamma - 1), 3.0) == pytest.approx(3.0**1.5, rel=1e-15)
    assert run(X ** (0.5 * gamma - 1.75), 3.0) == pytest.approx(3.0**-0.5, rel=1e-15)
    assert "pow" in "\n".join(lines_of(X**X)[0])


def test_constants_have_powers_too() -> None:
    gamma = NamedConstant("gamma", 2.0)
    assert run(X + Expr("**", 0.0, gamma), 3.0) == 3.0
    assert run(X + Expr("**", 3.0, gamma - 1), 3.0) == 6.0
