"""The table of operations: each one against an independent statement in mpmath or plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from piste.engine.cpu.dialect import numba
from piste.engine.emit import SPELLED
from piste.engine.gpu.dialect import triton
from piste.errors import InvalidValue
from piste.formula import reductions, row_functions, words
from piste.formula.differentiate import differentiate
from piste.formula.evaluate import Evaluator, evaluate_gradient
from piste.formula.expression import Expr, FormulaError
from piste.formula.floats import divide, power
from piste.formula.operations import OPERATIONS, Operation, apply
from piste.formula.printing import render

from .test_rounding import ROUNDINGS

REAL = [-2.5, -1.0, -0.3, 0.2, 0.75, 1.0, 1.5, 3.0, 20.0]
POSITIVE = [1e-3, 0.25, 1.0, 2.5, 40.0]

ELEMENTWISE: dict[str, tuple[Callable[..., Any], list[float], list[float] | None]] = {
    "+": (lambda a, b: mpmath.fadd(a, b), REAL, REAL),
    "-": (lambda a, b: mpmath.fsub(a, b), REAL, REAL),
    "*": (lambda a, b: mpmath.fmul(a, b), REAL, REAL),
    "/": (lambda a, b: mpmath.fdiv(a, b), REAL, REAL),
    "**": (lambda a, b: mpmath.exp(b * mpmath.log(a)), POSITIVE, [-2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.7]),
    "neg": (lambda a: mpmath.fsub(0, a), REAL, None),
    "abs": (lambda a: mpmath.fabs(a), REAL, None),
    "sqrt": (lambda a: mpmath.root(a, 2), POSITIVE, None),
    "exp": (lambda a: mpmath.power(mpmath.e, a), REAL, None),
    "log": (lambda a: mpmath.ln(a), POSITIVE, None),
    "expm1": (mpmath.expm1, [-40.0, -0.75, -1e-9, 1e-12, 0.5, 30.0], None),
    "log1p": (lambda a: mpmath.ln(1 + mpmath.mpf(a)), [-0.75, -1e-9, 1e-12, 0.5, 30.0], None),
    "sigmoid": (lambda a: 1 / (1 + mpmath.exp(-mpmath.mpf(a))), [*REAL, -40.0, 0.0, 40.0], None),
    "sign": (lambda a: mpmath.sign(a), [*REAL, 0.0], None),
    "maximum": (lambda a, b: max(a, b), REAL, REAL),
    "minimum": (lambda a, b: min(a, b), REAL, REAL),
}
CONDITIONS: dict[str, tuple[Callable[..., bool], list[Any], list[Any] | None]] = {
    "<": (lambda a, b: b - a > 0, REAL, REAL),
    "<=": (lambda a, b: b - a >= 0, REAL, REAL),
    ">": (lambda a, b: a - b > 0, REAL, REAL),
    ">=": (lambda a, b: a - b >= 0, REAL, REAL),
    "==": (lambda a, b: a - b == 0, REAL, REAL),
    "!=": (lambda a, b: abs(a - b) > 0, REAL, REAL),
    "&": (lambda a, b: [a, b].count(True) == 2, [True, False], [True, False]),
    "|": (lambda a, b: [a, b].count(True) > 0, [True, False], [True, False]),
    "invert": (lambda a: a is False, [True, False], None),
}
ROWS: dict[str, Callable[[np.ndarray, int], Any]] = {
    "each": lambda x, k: x[:, :1],
    "total": lambda x, k: [math.fsum(row) for row in x],
    "top": lambda x, k: [max(row) for row in x],
    "norm": lambda x, k: [math.fsum(abs(v) ** 3 for v in row) ** (1 / 3) for row in x],
    "size": lambda x, k: len(x[0]),
    "index": lambda x, k: list(range(len(x[0]))),
    "pick": lambda x, k: [row[k] for row in x],
    "log_softmax": lambda x, k: [[v - math.log(math.fsum(map(math.exp, row))) for v in row] for row in x],
    "hinges": lambda x, k: [sum(max(0, 1 - row[k] + v) for i, v in enumerate(row) if i != k) for row in x],
    "hinge_slopes": lambda x, k: [
        [-sum(1 - row[k] + v > 0 for i, v in enumerate(row) if i != k) if c == k else float(1 - row[k] + row[c] > 0)
         for c in range(len(row))]
        for row in x
    ],
}  # fmt: skip


LINES: dict[str, Callable[[np.ndarray], Any]] = {
    "row_total": lambda x: [[math.fsum(row)] for row in x],
    "row_mean": lambda x: [[math.fsum(row) / len(row)] for row in x],
    "column_total": lambda x: [[math.fsum(column) for column in x.T]],
    "column_mean": lambda x: [[math.fsum(column) / len(column) for column in x.T]],
}
REDUCTIONS: dict[str, Callable[[np.ndarray], float]] = {
    "tensor_total": lambda x: math.fsum(x.flat),
    "tensor_mean": lambda x: math.fsum(x.flat) / x.size,
}


def points(first: list[Any], second: list[Any] | None) -> list[tuple[Any, ...]]:
    return [(a,) for a in first] if second is None else list(itertools.product(first, second))


def test_every_operation_has_an_independent_statement_here() -> None:
    assert {*ELEMENTWISE, *CONDITIONS, *ROWS, *REDUCTIONS, *LINES, *ROUNDINGS, "where"} == set(OPERATIONS)
    assert all(operation.name == name for name, operation in OPERATIONS.items())


def test_every_word_applies_the_operation_of_its_name() -> None:
    a, b, c = (Expr("input", name) for name in "abc")
    functions = {name: getattr(module, name) for module in (words, row_functions) for name in module.__all__}
    for name, word in functions.items():
        count = len(OPERATIONS[name].derivatives or ()) or {"where": 3, "pick": 2, "hinges": 2, "norm": 2}.get(name, 1)
        operands = (a, 2.0) if name == "norm" else (a, b, c)[:count]
        assert word(*operands) is Expr(name, *operands)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elementwise_operation_agrees_with_mpmath_on_floats_and_tensors(name: str) -> None:
    statement, first, second = ELEMENTWISE[name]
    for operands in points(first, second):
        with mpmath.workdps(40):
            expected = float(statement(*map(mpmath.mpf, operands)))
        assert apply(name, *operands) == pytest.approx(expected, rel=4e-16), operands
        tensors = [torch.tensor([x], dtype=torch.float64) for x in operands]
        assert apply(name, *tensors).item() == pytest.approx(expected, rel=1e-15), operands


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_agrees_with_plain_python_on_floats_and_tensors(name: str) -> None:
    statement, first, second = CONDITIONS[name]
    for operands in points(first, second):
        assert apply(name, *operands) is statement(*operands)
        assert apply(name, *(torch.tensor([x]) for x in operands)).tolist() == [statement(*operands)]


def test_where_takes_its_second_operand_where_the_condition_holds() -> None:
    assert (apply("where", True, 1.0, 2.0), apply("where", False, 1.0, 2.0)) == (1.0, 2.0)
    chosen = apply("where", torch.tensor([True, False]), torch.tensor([1.0, 2.0]), 5.0)
    assert chosen.tolist() == [1.0, 5.0]


@pytest.mark.parametrize("name", ROWS)
def test_an_operation_on_rows_agrees_with_plain_python(name: str) -> None:
    torch.manual_seed(0)
    x, k = torch.randn(4, 5, dtype=torch.float64), 2
    indices = torch.full((4,), k)
    lists = torch.tensor([[k, -1, 0, 0, 0]] * 4)
    operands = {"pick": (x, indices), "norm": (x, 3), "hinges": (x, lists), "hinge_slopes": (x, lists)}
    operands["each"] = (x[:, 0],)
    found = apply(name, *operands.get(name, (x,)))
    np.testing.assert_allclose(np.asarray(found), ROWS[name](x.numpy(), k), rtol=1e-14)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_agrees_with_plain_python_and_leaves_a_float_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert apply(name, x).shape == ()
    assert apply(name, x).item() == pytest.approx(REDUCTIONS[name](x.numpy()), rel=1e-14)
    assert apply(name, 3.0) == 3.0


@pytest.mark.parametrize("name", LINES)
def test_a_reduction_over_lines_agrees_with_plain_python_and_keeps_the_dimensions(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, dtype=torch.float64)
    np.testing.assert_allclose(apply(name, x).numpy(), LINES[name](x.numpy()), rtol=1e-14)
    assert apply(name, x.float()).dtype == torch.float32
    assert apply(name, 3.0) == 3.0
    line, word = name.split("_")
    assert getattr(reductions, word)(Expr("input", "x"), over=line) is Expr(name, Expr("input", "x"))


def test_reductions_reject_another_word_for_over() -> None:
    with pytest.raises(InvalidValue, match='`over` must be "tensor", "row" or "column"; received over=\'rows\''):
        reductions.mean(1.0, over="rows")


def test_a_reduction_of_many_float32_numbers_has_the_accuracy_of_one() -> None:
    x = torch.full((1 << 20,), 0.1)
    assert reductions.mean(x).item() == pytest.approx(x[0].item(), rel=1e-7)
    assert reductions.mean(x).dtype == torch.float32


def test_a_norm_is_the_root_of_the_sum_of_squares() -> None:
    x = Expr("input", "x")
    assert reductions.norm(x) is words.sqrt(reductions.total(x * x))
    assert reductions.norm(torch.tensor([[3.0], [4.0]])).item() == 5.0


def test_a_number_for_every_class_is_picked_whatever_the_class() -> None:
    """Derivatives of softcapped cross entropy have such a row."""
    assert apply("pick", -2.5, torch.tensor([0, 1])) == -2.5


def test_operations_on_rows_reject_floats() -> None:
    with pytest.raises(TypeError, match=r"`total` takes a row: a tensor .*; received 3\.0"):
        row_functions.total(3.0)


def test_floats_divide_and_raise_to_a_power_as_ieee_754_does() -> None:
    for a, b in itertools.product([-math.inf, -2.0, -0.0, 0.0, 2.0, math.inf, math.nan], repeat=2):
        with np.errstate(all="ignore"):
            np.testing.assert_equal(divide(a, b), float(np.float64(a) / np.float64(b)))
    for a, b in [(0.0, -1.0), (-2.0, 0.5), (-2.0, 3.0), (10.0, 400.0), (-10.0, 401.0), (2.0, -2000.0), (0.0, 0.0)]:
        with np.errstate(all="ignore"):
            np.testing.assert_equal(power(a, b), float(np.float64(a) ** np.float64(b)))


DIFFERENTIABLE = [name for name, (_, _, second) in ELEMENTWISE.items() if name != "sign"]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_derivative_agrees_with_numerical_differentiation_in_mpmath(name: str) -> None:
    statement, first, second = ELEMENTWISE[name]
    derivatives = OPERATIONS[name].derivatives
    assert derivatives is not None and len(derivatives) == (1 if second is None else 2)
    for operands in points(first, second):
        if name in ("maximum", "minimum") and operands[0] == operands[1]:
            continue
        inputs = {"x": operands[0], "y": operands[-1]}
        symbols = [Expr("input", "x"), Expr("input", "y")][: len(operands)]
        for k, derivative in enumerate(derivatives):
            with mpmath.workdps(40):
                order = tuple(int(i == k) for i in range(len(operands)))
                expected = float(mpmath.diff(statement, operands if len(operands) > 1 else operands[0],
                                             order if len(operands) > 1 else 1))  # fmt: skip
            found = Evaluator(inputs)(derivative(Expr(name, *symbols), *symbols))
            assert found == pytest.approx(expected, rel=1e-13, abs=1e-13), (operands, k)


def test_equal_operands_of_a_maximum_share_the_gradient_as_in_torch() -> None:
    x, y = (torch.tensor(2.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for name, torchs in (("maximum", torch.maximum), ("minimum", torch.minimum)):
        expected = torch.autograd.grad(torchs(x, y), (x, y))
        symbols = Expr("input", "x"), Expr("input", "y")
        evaluate = Evaluator({"x": 2.0, "y": 2.0})
        derivatives = OPERATIONS[name].derivatives
        assert derivatives is not None
        found = [evaluate(derivative(None, *symbols)) for derivative in derivatives]
        assert found == [x.item() for x in expected] == [0.5, 0.5]


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.derivatives is None])
def test_an_operation_without_factors_has_a_rule_or_is_rejected(name: str) -> None:
    x, k = Expr("input", "x"), Expr("input", "k")
    value = {
        "where": lambda: row_functions.total(words.where(x > 0, x, 0)),
        "each": lambda: row_functions.total(x * row_functions.each(row_functions.pick(x, k))),
        "norm": lambda: row_functions.norm(x, 3.0),
        "pick": lambda: row_functions.pick(x, k),
        "hinges": lambda: row_functions.hinges(x, Expr("input", "l")),
        "log_softmax": lambda: row_functions.pick(row_functions.log_softmax(x), k),
    }.get(name, lambda: Expr(name, x))()
    if name == "top" or name in (*REDUCTIONS, *LINES):
        with pytest.raises(FormulaError, match=f"no derivative of the word `{name}` is known"):
            differentiate(value, [x], {"x"})
        return
    torch.manual_seed(0)
    inputs = {
        "x": torch.randn(3, 4, dtype=torch.float64, requires_grad=True),
        "k": torch.tensor([0, 3, 1]),
        "l": torch.tensor([[1, 2, -1, 0]] * 3),
    }
    (expected,) = torch.autograd.grad(Evaluator(inputs)(value).sum(), inputs["x"])
    found = evaluate_gradient(differentiate(value, [x], {"x", "l"})[0], inputs, inputs["x"])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


PRINTED = {
    "+": "a + b",
    "-": "a - b",
    "*": "a * b",
    "/": "a / b",
    "**": "a ** b",
    "<": "a < b",
    "<=": "a <= b",
    ">": "a > b",
    ">=": "a >= b",
    "==": "a == b",
    "!=": "a != b",
    "&": "a and b",
    "|": "a or b",
    "invert": "not a",
    "neg": "-a",
    "abs": "|a|",
    "sqrt": "sqrt(a)",
    "exp": "exp(a)",
    "log": "log(a)",
    "expm1": "exp(a) - 1",
    "log1p": "log(1 + a)",
    "sigmoid": "sigmoid(a)",
    "sign": "sign(a)",
    "maximum": "max(a, b)",
    "minimum": "min(a, b)",
    "where": "(b if a else c)",
    "tensor_total": "sum(a)",
    "tensor_mean": "mean(a)",
    "row_total": "row sum(a)",
    "row_mean": "row mean(a)",
    "column_total": "column sum(a)",
    "column_mean": "column mean(a)",
    "each": "a",
    "total": "sum(a)",
    "top": "max(a)",
    "norm": "norm(a, b)",
    "size": "C",
    "index": "c",
    "pick": "a[b]",
    "log_softmax": "a - log(sum(exp(a)))",
    "hinges": "sum(max(0, 1 - a[j] + a[i]) for j in b, i not in b)",
    "hinge_slopes": "hinge_slopes(a, b)",
    "bfloat16": "bfloat16(a)",
    "float16": "float16(a)",
    "bfloat16_at_random": "bfloat16_at_random(a, b)",
    "float16_at_random": "float16_at_random(a, b)",
    "noise": "noise(a, b, c)",
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_prints_as_mathematics(name: str) -> None:
    operands = [Expr("input", letter) for letter in "abc"]
    used = [x for i, x in enumerate(operands) if f"{{{i}" in OPERATIONS[name].text] or operands[:1]
    assert render(Expr(name, *used), {}) == PRINTED[name]


def test_a_printed_operand_that_binds_less_tightly_stands_in_parentheses() -> None:
    x, y, k = (Expr("input", name) for name in "xyk")
    assert render(row_functions.pick(row_functions.log_softmax(x), k), {}) == "(x - log(sum(exp(x))))[k]"
    assert render(y - row_functions.log_softmax(x), {}) == "y - (x - log(sum(exp(x))))"
    assert render(words.log1p(-x), {}) == "log(1 - x)"
    assert render(~(x > y), {}) == "not x > y"
    assert render(~(x > y) & (x < 1), {}) == "not x > y and x < 1"
    assert render(~((x > y) & (x < 1)), {}) == "not (x > y and x < 1)"


@pytest.mark.parametrize("dialect", [numba("float32"), numba("float64"), triton("float32"), triton("float64")])
def test_every_dialect_spells_every_elementwise_operation(dialect: Any) -> None:
    elementwise = {name for name, operation in OPERATIONS.items() if operation.kind in ("elementwise", "condition")}
    missing = {name for name in elementwise - SPELLED.keys() if name not in dialect and f"{name}(x, x)" not in dialect}
    assert missing == set()


def test_an_operation_is_immutable() -> None:
    with pytest.raises(AttributeError):
        OPERATIONS["+"].rank = 3  # type: ignore[misc]
    assert isinstance(OPERATIONS["+"], Operation)
