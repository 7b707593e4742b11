"""The words of formulas on numbers, tensors and symbols, and the messages for untraceable formulas."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from piste.errors import PisteError
from piste.formula.evaluate import Evaluator
from piste.formula.expression import Expr, FormulaError, NamedConstant, topological_order, trace
from piste.formula.words import exp, expm1, log, log1p, maximum, minimum, sigmoid, sign, sqrt, where

inf, nan = math.inf, math.nan
NUMBERS = [-inf, -2.5, -1.0, -0.0, 0.0, 0.25, 1.0, 2.5, 800.0, inf, nan]

ONE = {sqrt: torch.sqrt, exp: torch.exp, log: torch.log, log1p: torch.log1p, sigmoid: torch.sigmoid, sign: torch.sign}
TWO = {maximum: torch.maximum, minimum: torch.minimum}


def tensor(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(tensor(a), tensor(b), rtol=1e-15, atol=0, equal_nan=True)


def named(word: Any) -> str:
    return getattr(word, "__name__", str(word))


# --- on numbers and tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ONE, ids=named)
@pytest.mark.parametrize("x", NUMBERS)
def test_a_unary_word_on_numbers_agrees_with_torch(word, x):
    assert isinstance(word(x), float)
    same(word(x), ONE[word](tensor(x)))
    assert word(tensor([x, x])).tolist() == pytest.approx(ONE[word](tensor([x, x])).tolist(), abs=0, nan_ok=True)


@pytest.mark.parametrize("word", TWO, ids=named)
@pytest.mark.parametrize(("a", "b"), list(itertools.product(NUMBERS, NUMBERS)))
def test_a_binary_word_on_numbers_agrees_with_torch(word, a, b):
    wanted = TWO[word](tensor(a), tensor(b))
    same(word(a, b), wanted)
    same(word(tensor(a), b), wanted)
    same(word(a, tensor(b)), wanted)
    same(word(tensor(a), tensor(b)), wanted)


def test_an_argument_outside_the_domain_gives_nan_or_infinity():
    assert math.isnan(sqrt(-1.0)) and math.isnan(log(-1.0)) and math.isnan(log1p(-2.0))
    assert expm1(1000.0) == inf and expm1(-1000.0) == -1.0
    assert log(0.0) == -inf and log1p(-1.0) == -inf
    assert exp(1e6) == inf and exp(-1e6) == 0.0
    assert sqrt(inf) == inf and log(inf) == inf


def test_nan_propagates():
    for word in (sqrt, exp, expm1, log, log1p, sigmoid):
        assert math.isnan(word(nan)) and word(tensor(nan)).isnan()
    for a, b in ((nan, 1.0), (1.0, nan), (nan, nan), (nan, inf), (-inf, nan)):
        for word in (maximum, minimum):
            assert math.isnan(word(a, b)), (word, a, b)
            assert word(tensor(a), b).isnan() and word(a, tensor(b)).isnan()
    assert sign(nan) == 0 and sign(tensor(nan)) == 0  # as in torch


def test_the_sign_of_zero_and_nan():
    assert [sign(x) for x in (-3.0, -0.0, 0.0, 2, inf)] == [-1, 0, 0, 1, 1]


def test_integers_and_bools_are_accepted_as_numbers():
    assert sqrt(4) == 2 and exp(0) == 1 and maximum(2, 3) == 3 and sign(True) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_number_next_to_a_tensor_takes_its_dtype(dtype):
    x = torch.tensor([-1.0, 0.5, 3.0], dtype=dtype)
    for got in (maximum(x, 0.0), maximum(0, x), minimum(x, 2), where(x > 0, x, 0.0), where(x > 0, 1.0, x)):
        assert got.dtype == dtype
    assert maximum(x, 0.0).tolist() == [0.0, 0.5, 3.0]
    assert minimum(2, x).tolist() == [-1.0, 0.5, 2.0]


def test_the_words_stay_on_the_tensors_device():
    x = torch.ones(2, device="meta")
    for got in (maximum(x, 0.0), minimum(1, x), where(x > 0, x, 0.0), sqrt(x), sign(x)):
        assert got.device.type == "meta"


def test_where_selects_by_its_condition():
    assert where(True, 1.0, 2.0) == 1.0 and where(False, 1.0, 2.0) == 2.0
    x = tensor([1.0, nan, 3.0])
    same(where(x > 2, x, 0.0), [0.0, 0.0, 3.0])
    same(where(x > 2, 1.0, 2.0), [2.0, 2.0, 1.0])
    assert where(True, x, 0.0) is x  # a condition that is known chooses, whatever there is to choose from
    assert where(1 > 2, x, 0.0) == 0.0


def test_autograd_goes_through_the_words():
    x = tensor([0.5, 2.0]).requires_grad_()
    for f in (
        sqrt,
        exp,
        expm1,
        log,
        log1p,
        sigmoid,
        lambda x: maximum(x, 1.0),
        lambda x: minimum(1.0, x),
        lambda x: where(x > 1, x, 0.0),
    ):
        assert torch.autograd.gradcheck(f, x)


def test_values_of_another_type_implement_the_words_themselves():
    class Words:
        @staticmethod
        def maximum(a: Any, b: Any) -> str:
            return "my maximum"

    class Mine:
        __words__ = Words

    assert maximum(Mine(), 1.0) == maximum(1.0, Mine()) == "my maximum"


# --- on symbols -----------------------------------------------------------------------------------------------

x, y = Expr("input", "x"), Expr("input", "y")

WRITTEN: dict[str, Any] = {
    "+(x, y)": lambda x, y: x + y,
    "+(1, x)": lambda x, y: 1 + x,
    "-(x, 1)": lambda x, y: x - 1,
    "-(1, x)": lambda x, y: 1 - x,
    "*(2, x)": lambda x, y: 2 * x,
    "/(x, y)": lambda x, y: x / y,
    "/(1, x)": lambda x, y: 1 / x,
    "**(x, 2)": lambda x, y: x**2,
    "**(0.5, x)": lambda x, y: 0.5**x,
    "neg(x)": lambda x, y: -x,
    "abs(x)": lambda x, y: abs(x),
    "<(x, y)": lambda x, y: x < y,
    "<=(x, 0)": lambda x, y: x <= 0,
    ">(x, y)": lambda x, y: x > y,
    "<(x, 0)": lambda x, y: 0 > x,  # noqa: SIM300
    ">=(x, y)": lambda x, y: x >= y,
    "==(x, 1)": lambda x, y: x == 1,
    "!=(x, x)": lambda x, y: x != x,
    "&(>(x, 0), <(x, y))": lambda x, y: (x > 0) & (x < y),
    "|(>(x, 0), <(x, y))": lambda x, y: (x > 0) | (x < y),
    "invert(>(x, 0))": lambda x, y: ~(x > 0),
    "sqrt(x)": lambda x, y: sqrt(x),
    "exp(neg(x))": lambda x, y: exp(-x),
    "expm1(x)": lambda x, y: expm1(x),
    "log(x)": lambda x, y: log(x),
    "log1p(x)": lambda x, y: log1p(x),
    "sigmoid(x)": lambda x, y: sigmoid(x),
    "sign(x)": lambda x, y: sign(x),
    "maximum(x, 0)": lambda x, y: maximum(x, 0),
    "maximum(0, x)": lambda x, y: maximum(0, x),
    "minimum(x, y)": lambda x, y: minimum(x, y),
    "where(>(x, 0), x, 0)": lambda x, y: where(x > 0, x, 0),
}


@pytest.mark.parametrize("wanted", WRITTEN)
def test_a_formula_on_symbols_gives_its_expression(wanted):
    assert repr(WRITTEN[wanted](x, y)) == wanted


@pytest.mark.parametrize("wanted", WRITTEN)
def test_a_traced_formula_evaluates_to_the_value_of_the_formula(wanted):
    f: Callable[..., Any] = WRITTEN[wanted]
    a, b = tensor([-2.0, -0.5, 0.0, 1.0, 3.0]), tensor([1.0, -0.5, 2.0, 3.0, -1.0])
    got = Evaluator({"x": a, "y": b})(trace(f, x, y))
    assert torch.equal(torch.nan_to_num(got.double(), nan=99.0), torch.nan_to_num(f(a, b).double(), nan=99.0))


def test_options_known_at_trace_time_are_ordinary_python_values():
    def rule(g: Any, b: Any, nesterov: bool) -> Any:
        if b is None:
            return g
        return g + b if nesterov else b

    assert trace(rule, x, None, True) is x
    assert repr(trace(rule, x, y, True)) == "+(x, y)"
    assert trace(rule, x, y, nesterov=False) is y


# --- the graph ------------------------------------------------------------------------------------------------


def test_equal_expressions_are_the_same_object():
    assert sqrt(x * x + 1) is sqrt(x * x + 1) and Expr("input", "x") is x
    assert x * y is not y * x and x + 1 is not x + 2
    assert x * 2 is x * 2.0  # every number is a float
    assert x * 0.0 is not x * -0.0 and x * nan is x * nan
    beta, same, other = NamedConstant("beta", 2.0), NamedConstant("beta", 2.0), NamedConstant("beta", 3.0)
    assert x * beta is x * same and x * beta is not x * other and x * beta is not x * 2.0


def test_expressions_are_freed_after_their_last_use():
    z = Expr("input", "used here only")
    key = weakref.ref(z * 7)
    assert key() is None
    kept = z * 7
    assert z * 7 is kept


def test_an_expression_cannot_be_changed():
    with pytest.raises(AttributeError, match="an expression can't be changed"):
        (x + y).args = (y, x)


def test_a_deep_expression_is_abbreviated():
    value = x
    for _ in range(5000):
        value = value * value
    assert len(repr(value)) < 100_000 and "*(...)" in repr(value)


def test_threads_that_build_the_same_expression_share_it():
    def build(k: int) -> Expr:
        value = x
        for i in range(200):
            value = value * y + i
        return value

    with ThreadPoolExecutor(4) as pool:
        assert len({id(value) for value in pool.map(build, range(8))}) == 1


def test_operands_come_before_the_nodes_that_use_them_each_once():
    a, b = x + y, x * y
    assert list(map(id, topological_order(a / b - a, b))) == list(map(id, [x, y, a, b, a / b, a / b - a]))
    assert topological_order(1.0) == []
    assert list(map(id, topological_order(a / b, stop=lambda node: node is a))) == list(map(id, [x, y, b, a / b]))


# --- what can't be read ---------------------------------------------------------------------------------------

WORDS = "use the words of piste.formula"
DECIDED = "a formula was asked to decide with `if`, `and`, `or` or `max` on a value; write where(condition, a, b)"
MATH = f"a function of `math` (or float()) was called on a value; {WORDS}"
ONE_ELEMENT = "a formula works on one element: a value can't be indexed, unpacked or looped over"
NUMPY = f"a function of numpy was called on a value; {WORDS}"


def branch(x: Any) -> Any:
    if x > 0:
        return x
    return -x


def unpack(x: Any) -> Any:
    a, b = x
    return a + b


UNREADABLE: dict[str, tuple[Any, str]] = {
    "if": (branch, DECIDED),
    "and": (lambda x: x > 0 and x < 1, DECIDED),
    "or": (lambda x: x < 0 or x > 1, DECIDED),
    "not": (lambda x: not x, DECIDED),
    "max": (lambda x: max(x, 0.0), DECIDED),
    "chained comparison": (lambda x: 0 < x < 1, DECIDED),
    "math.sqrt": (lambda x: math.sqrt(x), MATH),
    "float": (lambda x: float(x), MATH),
    "int": (lambda x: int(x), MATH),
    "range": (lambda x: range(x), MATH),
    "index": (lambda x: x[0], ONE_ELEMENT),
    "slice": (lambda x: x[:2], ONE_ELEMENT),
    "loop": (lambda x: sum(x), ONE_ELEMENT),
    "unpack": (unpack, ONE_ELEMENT),
    "len": (lambda x: len(x), ONE_ELEMENT),
    "method": (lambda x: x.abs(), f"`.abs` was called on a value, which has no methods; {WORDS}"),
    "attribute": (lambda x: x.shape[0], f"`.shape` was called on a value, which has no methods; {WORDS}"),
    "torch": (lambda x: torch.tanh(x), f"`torch.tanh` was called on a value; {WORDS}"),
    "torch.where": (lambda x: torch.where(x > 0, x, 0), f"`torch.where` was called on a value; {WORDS}"),
    "numpy": (lambda x: numpy.asarray(x), NUMPY),
    "numpy.tanh": (lambda x: numpy.tanh(x), NUMPY),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_the_message_for_an_untraceable_formula_names_the_reason_and_the_line(case):
    f, words = UNREADABLE[case]
    with pytest.raises(FormulaError) as told:
        trace(f, x)
    text = str(told.value)
    assert text.startswith(f"no kernel can be made of `{f.__qualname__}`: {words}")
    first = f.__code__.co_firstlineno
    assert any(f"(line {first + n})" in text for n in range(4))
    assert isinstance(told.value, (PisteError, TypeError))


def test_an_error_raised_by_the_formula_itself_is_not_changed():
    def divides(x: Any) -> Any:
        return x / (1 - 1) + 1 / 0

    with pytest.raises(FormulaError, match=r"no kernel can be made of `.*divides`: division by zero at `return x /"):
        trace(divides, x)
    with pytest.raises(FormulaError, match="unsupported operand"):
        trace(lambda x: x + "1", x)
    with pytest.raises(FormulaError, match="unsupported operand"):
        trace(lambda x: x @ x, x)


def test_the_message_for_an_unsupported_word_names_it():
    from piste.engine.cpu.dialect import numba
    from piste.engine.emit import Emitter

    with pytest.raises(FormulaError, match="no kernel can be made of the word `tan`"):
        Emitter(numba("float32"), "x", lambda symbol: "x" if symbol.op == "input" else None).name(Expr("tan", x))
