"""The interpreter of expressions, on floats and tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from piste.formula import exp, where
from piste.formula.differentiate import RowGradient
from piste.formula.evaluate import Evaluator, evaluate_gradient
from piste.formula.expression import Expr, NamedConstant
from piste.formula.row_functions import index, size, total

x, y = Expr("input", "x"), Expr("input", "y")


def test_numbers_evaluate_to_floats() -> None:
    evaluate = Evaluator({})
    assert [evaluate(3), evaluate(NamedConstant("beta", 0.5))] == [3.0, 0.5]
    assert type(evaluate(3)) is type(evaluate(NamedConstant("beta", 0.5))) is float


def test_floats_divide_by_zero_as_tensors_do() -> None:
    evaluate = Evaluator({"x": 1.0, "y": 0.0})
    assert evaluate(x / y) == math.inf
    assert math.isnan(evaluate(y / y))


def test_a_constant_keeps_its_value_next_to_inputs() -> None:
    beta = NamedConstant("beta", 0.9)
    assert Evaluator({"x": 2.0})(beta * x + (1 - beta)) == 0.9 * 2.0 + (1 - 0.9)


def test_each_node_is_computed_once() -> None:
    calls: list[float] = []

    def count(value: float) -> float:
        calls.append(value)
        return 2 * value

    value: Any = Expr("count", x)
    for _ in range(30):  # as a tree it has 2**30 nodes
        value = value + value
    assert Evaluator({"x": 1.0}, {"count": count})(value) == 2.0**31
    assert calls == [1.0]


def test_a_deep_expression_needs_no_deep_stack() -> None:
    value: Any = x
    for _ in range(20_000):
        value = value + 1
    assert Evaluator({"x": 0.0})(value) == 20_000


def test_an_unknown_operation_is_an_error() -> None:
    with pytest.raises(KeyError, match="tan"):
        Evaluator({"x": 1.0})(Expr("tan", x))


def test_words_over_rows_take_the_last_dimension() -> None:
    rows = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 1.0]])
    found = Evaluator({"x": rows})(total(where(index(x) == 1, exp(x), x)) / size(x))
    assert found.tolist() == pytest.approx([(1 + math.exp(2) + 4) / 3, (math.exp(-1) + 1) / 3])


def test_values_at_one_index_are_added_to_the_dense_gradient() -> None:
    rows, k = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 1.0]]), torch.tensor([2, 0])
    gradient = RowGradient(2.0 * x, ((Expr("input", "s"), Expr("input", "k")), (10.0, Expr("input", "k"))))
    found = evaluate_gradient(gradient, {"x": rows, "k": k, "s": torch.tensor([0.5, 0.25])}, rows)
    assert found.tolist() == [[2, 4, 18.5], [10.25, -2, 2]]


def test_a_gradient_of_numbers_alone_has_the_shape_of_its_operand() -> None:
    rows = torch.zeros(2, 3)
    assert evaluate_gradient(RowGradient(), {"x": rows}, rows).tolist() == [[0, 0, 0], [0, 0, 0]]
