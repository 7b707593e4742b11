"""Identities at construction: those that hold bit by bit are applied, and no others."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import pytest

from piste.formula import exp, sign, where
from piste.formula.expression import Expr, NamedConstant
from piste.formula.operations import OPERATIONS

x, y = Expr("input", "x"), Expr("input", "y")
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -1.5, 1e308]


def bits(value: float) -> bytes:
    return struct.pack("d", value)


EXACT: dict[str, tuple[Callable[[Any], Any], Callable[[float], float]]] = {
    "x * 1": (lambda x: x * 1, lambda v: OPERATIONS["*"].on_floats(v, 1.0)),
    "1 * x": (lambda x: 1 * x, lambda v: OPERATIONS["*"].on_floats(1.0, v)),
    "x / 1": (lambda x: x / 1, lambda v: OPERATIONS["/"].on_floats(v, 1.0)),
    "x ** 1": (lambda x: x**1, lambda v: OPERATIONS["**"].on_floats(v, 1.0)),
    "x - 0": (lambda x: x - 0, lambda v: OPERATIONS["-"].on_floats(v, 0.0)),
    "x + -0.0": (lambda x: x + -0.0, lambda v: OPERATIONS["+"].on_floats(v, -0.0)),
    "-0.0 + x": (lambda x: -0.0 + x, lambda v: OPERATIONS["+"].on_floats(-0.0, v)),
    "neg(neg(x))": (lambda x: Expr("neg", Expr("neg", x)), lambda v: math.copysign(v, math.copysign(1, v))),
    "where(x > 0, x, x)": (lambda x: where(x > 0, x, x), lambda v: [v, v][v > 0]),
}
"""By identity: the formula, and its meaning on floats."""


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_identity_gives_the_operand_itself(name: str) -> None:
    formula, on_floats = EXACT[name]
    for operand in (x, exp(x) + y):
        assert formula(operand) is operand
    for value in SPECIAL:
        assert bits(on_floats(value)) == bits(value), value


def test_the_negation_of_a_negated_condition_is_the_condition() -> None:
    assert ~~(x > y) is (x > y)


INEXACT: dict[str, tuple[Callable[[Any], Any], float]] = {
    "x + 0": (lambda x: x + 0, -0.0),
    "0 + x": (lambda x: 0 + x, -0.0),
    "x - -0.0": (lambda x: x - -0.0, -0.0),
    "x * -1": (lambda x: x * -1, 2.0),
    "x / -1": (lambda x: x / -1, 2.0),
    "1 / x": (lambda x: 1 / x, 2.0),
    "0 - x": (lambda x: 0 - x, 2.0),
    "x ** 2": (lambda x: x**2, 3.0),
    "1 ** x": (lambda x: 1**x, 3.0),
    "-abs(-x)": (lambda x: -abs(-x), 2.0),
}
"""By formula: one that must not give x, and a value of x at which it differs in its bits."""


@pytest.mark.parametrize("name", INEXACT)
def test_rewrites_that_could_change_a_bit_are_not_applied(name: str) -> None:
    formula, value = INEXACT[name]
    assert formula(x) is not x
    assert bits(float(formula(value))) != bits(value)


@pytest.mark.parametrize(
    "formula",
    [lambda x: x * 0, lambda x: 0 * x, lambda x: x - x, lambda x: x / x],
    ids=["x * 0", "0 * x", "x - x", "x / x"],
)
def test_infinity_and_nan_keep_the_operations_that_would_lose_them(formula: Callable[[Any], Any]) -> None:
    assert formula(x).op in ("*", "-", "/")
    assert math.isnan(formula(math.inf)) and math.isnan(formula(math.nan))


def test_an_option_stays_in_the_expression_whatever_its_value() -> None:
    one, zero = NamedConstant("beta", 1.0), NamedConstant("eps", 0.0)
    assert [(x * one).op, (one * x).op, (x / one).op, (x - zero).op, (x**one).op] == ["*", "*", "/", "-", "**"]


def test_a_condition_times_one_is_a_number() -> None:
    for value in ((x > 0) * 1, 1 * (x > 0), (x > 0) / 1, (x > 0) - 0, (x > 0) + -0.0, (x > 0) ** 1):
        assert value is not (x > 0) and value.op in ("*", "/", "-", "+", "**")


def test_where_keeps_numbers_and_different_operands() -> None:
    assert where(x > 0, 1, 1).op == "where"
    assert where(x > 0, x, -x).op == "where"


def test_identities_are_applied_below_other_operations() -> None:
    negative = -x
    assert sign(-negative * 1) is sign(x)
