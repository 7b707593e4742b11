"""The schedule of a row: the order of its passes, and the results when a plain interpreter runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from piste.engine.row_schedule import RowSchedule, schedule_row
from piste.formula import row_functions as row
from piste.formula.differentiate import differentiate
from piste.formula.expression import Expr, FormulaError, topological_order
from piste.formula.words import exp, log1p, sigmoid, where

X, Y, K, W = (Expr("input", name) for name in "xykw")


def scheduled(loss: Any, *by: Expr, conditions: tuple[Any, ...] = (), **options: Any) -> RowSchedule:
    rows = {"x", "y", "w"}
    slopes = dict(zip((x.args[0] for x in by), differentiate(loss, list(by), rows), strict=True))
    return schedule_row(loss, slopes, conditions, rows=rows, **options)


def smoothed_cross_entropy(x: Any, k: Any, w: Any) -> Any:
    logp = row.log_softmax(x)
    return -0.9 * row.pick(w, k) * row.pick(logp, k) - 0.1 * row.total(w * logp) / row.size(x)


class Interpreter:
    """Run a schedule on the entries of one row, in numpy; a reduction has no value before its pass."""

    def __init__(self, schedule: RowSchedule, **inputs: Any) -> None:
        self.inputs = inputs | {"classes": len(inputs["x"]), "scale": 1.0}
        self.known: dict[Expr, Any] = {}
        self.stored: dict[Expr, Any] = {}
        self.loaded: set[str] = set()
        for row_pass in schedule.passes:
            self.loaded.clear()
            results = {node: self.reduced(node) for node in row_pass.reductions}
            assert self.loaded == set(row_pass.reads)
            if row_pass.stores is not None:
                self.stored[row_pass.stores] = self.of(row_pass.stores)
            self.known |= results

    def reduced(self, node: Expr) -> Any:
        entries = self.of(node.args[0])
        return {"top": np.max, "total": np.sum}[node.op](entries)

    def of(self, value: Any) -> Any:
        if not isinstance(value, Expr):
            return value
        if value in self.stored:
            return self.stored[value]
        if value.op in ("top", "total"):
            return self.known[value]
        if value.op == "input":
            if isinstance(self.inputs[value.args[0]], np.ndarray):
                self.loaded.add(value.args[0])
            return self.inputs[value.args[0]]
        if value.op == "pick":
            x, k = value.args
            return self.inputs[x.args[0]][self.inputs[k.args[0]]]
        if value.op == "index":
            return np.arange(self.inputs["classes"])
        a, *rest = map(self.of, value.args)
        return FUNCTIONS[value.op](a, *rest)

    def gradient(self, schedule: RowSchedule, operand: str) -> Any:
        (found,) = (g for g in schedule.gradients if g.operand == operand)
        gradient = self.of(found.dense) * np.ones(self.inputs["classes"])
        if found.index is not None:
            gradient[self.of(found.index)] = self.of(found.at_index)
        return gradient


FUNCTIONS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": lambda x: np.exp(x) / (1 + np.exp(x)),
    "sign": np.sign,
    "where": np.where,
    "each": lambda scalar: scalar,
    ">": np.greater,
    "<=": np.less_equal,
    "==": np.equal,
    "|": np.logical_or,
}

LOSSES = {
    "cross_entropy": (
        lambda x, k, w: -row.pick(row.log_softmax(x), k),
        lambda x, k, w: functional.cross_entropy(x, k),
    ),
    "smoothed": (
        smoothed_cross_entropy,
        lambda x, k, w: (
            0.9 * w[k] * functional.cross_entropy(x, k) - 0.1 * (w * functional.log_softmax(x, 0)).sum() / 9
        ),
    ),
    "multi_margin": (
        lambda x, k, w: row.total(where((row.index(x) == row.each(k)) | (z(x, k) <= 0), 0, z(x, k))) / row.size(x),
        lambda x, k, w: functional.multi_margin_loss(x, k, margin=0.7),
    ),
    "soft margin": (
        lambda x, k, w: row.total(w * (log1p(exp(-abs(x))) + where(x > 0, x, 0))),
        lambda x, k, w: (w * functional.softplus(x)).sum(),
    ),
    "sigmoids": (
        lambda x, k, w: row.total(w * sigmoid(x)) / row.total(sigmoid(x)),
        lambda x, k, w: (w * x.sigmoid()).sum() / x.sigmoid().sum(),
    ),
    "distance": (
        lambda x, k, w: row.norm(x - w, 3.0) * row.norm(w, 2.0),
        lambda x, k, w: torch.linalg.vector_norm(x - w, 3.0) * torch.linalg.vector_norm(w, 2.0),
    ),
}


def z(x: Any, k: Any) -> Any:
    return 0.7 - row.each(row.pick(x, k)) + x


@pytest.mark.parametrize("stores_exponentials", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_the_passes_compute_the_loss_and_the_gradients_of_torch(name: str, stores_exponentials: bool) -> None:
    ours, torchs = LOSSES[name]
    schedule = scheduled(ours(X, K, W), X, W, stores_exponentials=stores_exponentials)
    torch.manual_seed(0)
    x, w = (torch.rand(9, dtype=torch.float64) * 4 + 0.1 for _ in range(2))
    x, w, k = (x - 2).requires_grad_(), w.requires_grad_(), torch.tensor(5)
    interpreter = Interpreter(schedule, x=x.detach().numpy(), w=w.detach().numpy(), k=5)
    expected = torchs(x, k, w)
    assert interpreter.of(schedule.value) == pytest.approx(expected.item(), rel=1e-13)
    wanted = torch.autograd.grad(expected, [x, w], allow_unused=True, materialize_grads=True)
    for operand, gradient in zip("xw", wanted, strict=True):
        np.testing.assert_allclose(
            interpreter.gradient(schedule, operand), gradient.detach().numpy(), rtol=1e-12, atol=1e-14
        )


def ops(schedule: RowSchedule) -> list[list[str]]:
    return [[node.op for node in row_pass.reductions] for row_pass in schedule.passes]


def test_cross_entropy_takes_the_largest_entry_and_then_one_sum() -> None:
    schedule = scheduled(-row.pick(row.log_softmax(X), K), X, stores_exponentials=True)
    assert ops(schedule) == [["top"], ["total"]]
    assert [row_pass.reads for row_pass in schedule.passes] == [("x",), ("x",)]
    exponential = schedule.passes[1].reductions[0].args[0]
    assert exponential.op == "exp" and schedule.stored is exponential
    (gradient,) = schedule.gradients
    assert gradient.index is K


def test_exponentials_are_stored_on_demand_only() -> None:
    assert scheduled(-row.pick(row.log_softmax(X), K), X).stored is None


def test_a_sum_that_no_reduction_needs_joins_the_last_pass_of_sums() -> None:
    independent = row.total(Y)
    needed = row.total(X)
    last = row.total(X * row.each(needed))
    assert ops(scheduled(independent + last)) == [["total"], ["total", "total"]]
    assert scheduled(independent + last).passes[0].reductions == (needed,)


def test_sums_that_need_nothing_share_one_pass() -> None:
    schedule = scheduled(row.total(X * Y) / (row.norm(X, 2.0) * row.norm(Y, 2.0)))
    assert ops(schedule) == [["total", "total", "total"]]
    assert schedule.passes[0].reads == ("x", "y")


def test_the_first_sums_over_a_row_skip_the_pass_of_its_largest_entry() -> None:
    schedule = scheduled(-row.total(Y * row.log_softmax(X)))
    assert ops(schedule) == [["top"], ["total"], ["total"]]
    assert schedule.first_sums_over("x") is schedule.passes[1]
    assert schedule.first_sums_over("y") is schedule.passes[2]
    assert schedule.first_sums_over("w") is None


def test_conditions_are_lowered_and_their_sums_scheduled() -> None:
    schedule = scheduled(row.total(X), X, conditions=(row.total(Y) > 1,))
    assert ops(schedule) == [["total", "total"]]
    assert schedule.conditions == (Expr(">", Expr("total", Y), 1.0),)


def test_a_norm_of_the_largest_entry_is_rejected() -> None:
    with pytest.raises(FormulaError, match="norm of the largest entry"):
        scheduled(row.norm(X, float("inf")))


def test_parts_of_a_gradient_at_two_indices_are_rejected() -> None:
    j = Expr("input", "j")
    with pytest.raises(FormulaError, match="several single classes"):
        scheduled(row.pick(X, K) * row.pick(X, j), X)


def test_a_gradient_multiplies_its_row_by_one_number():
    """The factors of a softmax, a slope of the row and the scale are multiplied first."""
    logp = row.pick(row.log_softmax(X), K)
    schedule = scheduled(-((1 - exp(logp)) ** 2) * logp, X, stores_exponentials=True)
    (gradient,) = schedule.gradients
    assert gradient.dense.op == "*"
    exponential, factor = gradient.dense.args
    assert exponential is schedule.stored and factor.op == "each"


def test_the_probability_of_a_class_is_read_from_the_exponential_that_its_gradient_reads():
    logp = row.pick(row.log_softmax(X), K)
    schedule = scheduled(-((1 - exp(logp)) ** 2) * logp, X)
    (gradient,) = schedule.gradients
    scalars = topological_order(schedule.value, gradient.at_index)
    assert len([node for node in scalars if node.op == "exp" and not schedule.is_row(node)]) == 1
