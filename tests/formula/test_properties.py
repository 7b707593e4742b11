"""Properties of expressions, against their values on random rows."""

from __future__ import annotations

import pytest
import torch

from piste.formula.evaluate import Evaluator
from piste.formula.expression import Expr, is_condition
from piste.formula.properties import RowTest, is_never_positive
from piste.formula.row_functions import each, index, log_softmax, norm, pick, size, total

x, y, k = (Expr("input", name) for name in "xyk")
ROWS = [x, x + 1, each(total(x)), index(x), log_softmax(x), each(k) * y, Expr("hinge_slopes", x, k)]
SCALARS = [k, total(x), norm(x, 2.0), size(x), pick(x, k), total(x) * k, Expr("top", x), Expr("hinges", x, k)]


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_rows_are_recognized(row: Expr) -> None:
    assert RowTest({"x", "y"})(row)


@pytest.mark.parametrize("scalar", [*SCALARS, 2.0], ids=repr)
def test_scalars_are_recognized(scalar: Expr) -> None:
    assert not RowTest({"x", "y"})(scalar)


@pytest.mark.parametrize(
    "value", [-abs(x), -abs(x - y), x - each(Expr("top", x)), pick(x, k) - Expr("top", x)], ids=repr
)
def test_a_value_that_is_never_positive_is_recognized(value: Expr) -> None:
    assert is_never_positive(value)
    torch.manual_seed(0)
    inputs = {"x": torch.randn(20, 7) * 10, "y": torch.randn(20, 7), "k": torch.arange(20) % 7}
    assert (Evaluator(inputs)(value) <= 0).all()


MAYBE = [x, -x, abs(x), x - y, y - each(Expr("top", x)), each(Expr("top", x)) - x, pick(y, k) - Expr("top", x), -1.0]


@pytest.mark.parametrize("value", MAYBE, ids=repr)
def test_a_value_that_may_be_positive_is_not_recognized(value: Expr) -> None:
    assert not is_never_positive(value)


def test_comparisons_and_their_combinations_are_conditions() -> None:
    for condition in (x > 0, x == y, (x > 0) & (y > 0), ~(x <= y), (x != y) | (x < y)):
        assert is_condition(condition)
    for value in (x, abs(x), (x > 0) * 1, 1.0, True):
        assert not is_condition(value)
