"""Formulas in LaTeX: a reader of the text computes what the formula computes."""

from __future__ import annotations

import math
import random
import re

import pytest

from piste.formula import OPERATIONS, Expr, exp, expm1, log, log1p, maximum, minimum, sigmoid, sign, sqrt, where
from piste.formula.evaluate import Evaluator
from piste.formula.latex import _FORMS, _SYMBOLS, LatexPrinter, latex_name, latex_number
from piste.formula.row_functions import each, log_softmax, pick, total

x, y, z = (Expr("input", name) for name in "xyz")


class Reader:
    """Computes a formula from its LaTeX alone, by the usual precedence of mathematics."""

    FUNCTIONS = {r"\log": math.log, r"\max": max, r"\min": min, r"\sign": lambda v: (v > 0) - (v < 0)}
    FUNCTIONS |= {r"\sigmoid": lambda v: 1 / (1 + math.exp(-v))}
    TOKEN = re.compile(
        r"\s*(\\left[|(]|\\right[|)]|\\begin\{cases\}|\\end\{cases\}|\\text\{[^}]*\}|\\\\|\\,|\\[a-z]+"
        r"|\d+\.?\d*|[a-z]|.)"
    )

    def __init__(self, text: str, values: dict[str, float]) -> None:
        text = re.sub(r"\\operatorname{(sign|sigmoid)}", r"\\\1", text)
        self.tokens, self.values = self.TOKEN.findall(text), values

    def compute(self) -> float:
        result = self.sum()
        assert not self.tokens, self.tokens
        return result

    def take(self, *expected: str) -> str:
        token = self.tokens.pop(0)
        assert not expected or token in expected, (token, expected, self.tokens)
        return token

    def next_is(self, *tokens: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in tokens

    def sum(self) -> float:
        result = -self.product() if self.next_is("-") and self.take("-") else self.product()
        while self.next_is("+", "-"):
            result = result + self.product() if self.take() == "+" else result - self.product()
        return result

    def product(self) -> float:
        result = self.power()
        while self.next_is(r"\,", r"\cdot"):
            self.take()
            result *= self.power()
        return result

    def power(self) -> float:
        base = self.atom()
        return base ** self.group() if self.next_is("^") and self.take("^") else base

    def group(self) -> float:
        self.take("{")
        result = self.sum()
        self.take("}")
        return result

    def atom(self) -> float:
        token = self.take()
        if token == r"\left(":
            result = self.sum()
            self.take(r"\right)")
            return result
        if token == r"\left|":
            result = abs(self.sum())
            self.take(r"\right|")
            return result
        if token == r"\frac":
            top = self.group()
            return top / self.group()
        if token == r"\sqrt":
            return math.sqrt(self.group())
        if token == r"\begin{cases}":
            return self.cases()
        if token in self.FUNCTIONS:
            self.take(r"\left(")
            operands = [self.sum()]
            while self.next_is(","):
                self.take(",")
                operands.append(self.sum())
            self.take(r"\right)")
            return self.FUNCTIONS[token](*operands)
        return math.e if token == "e" else self.values[token] if token in self.values else float(token)

    def cases(self) -> float:
        chosen = None
        while True:
            value = self.sum()
            self.take("&")
            if self.take() == r"\text{otherwise}":
                self.take(r"\end{cases}")
                return value if chosen is None else chosen
            a = self.sum()
            comparison = self.take("<", r"\le", ">", r"\ge")
            b = self.sum()
            holds = {"<": a < b, r"\le": a <= b, ">": a > b, r"\ge": a >= b}[comparison]
            chosen = value if holds and chosen is None else chosen
            self.take(r"\\")


GROWTH = [
    lambda a, b, c, d: a + b,
    lambda a, b, c, d: a - b,
    lambda a, b, c, d: a * b,
    lambda a, b, c, d: a * a,
    lambda a, b, c, d: a / (abs(b) + 1),
    lambda a, b, c, d: maximum(a, b),
    lambda a, b, c, d: minimum(a, b),
    lambda a, b, c, d: where(a < b, c, d),
    lambda a, b, c, d: -a,
    lambda a, b, c, d: abs(a),
    lambda a, b, c, d: sigmoid(a),
    lambda a, b, c, d: sign(a),
    lambda a, b, c, d: a**2.0,
    lambda a, b, c, d: sqrt(abs(a)),
    lambda a, b, c, d: exp(-abs(a)),
    lambda a, b, c, d: expm1(a),
    lambda a, b, c, d: log(abs(a) + 1),
    lambda a, b, c, d: log1p(abs(a)),
]


def grow(draw: random.Random, size: int) -> Expr:
    """Return an expression of random operations."""
    values = [x, y, z, x + 1, 2 * y, z - 0.5]
    for _ in range(size):
        values.append(draw.choice(GROWTH)(*draw.choices(values, k=4)))
    return values[-1]


@pytest.mark.parametrize("seed", range(300))
def test_a_reader_of_the_text_computes_the_value_of_the_formula(seed):
    draw = random.Random(seed)
    expression, values = grow(draw, draw.randint(1, 8)), {"x": 0.75, "y": -1.5, "z": 2.25}
    expected = Evaluator(values)(expression)
    assert Reader(LatexPrinter()(expression), values).compute() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_every_operation_has_a_form():
    assert {*_FORMS, *_SYMBOLS, "each"} == set(OPERATIONS)


def test_a_negative_operand_of_a_product_or_a_sum_stands_in_parentheses():
    assert LatexPrinter()(x * -y) == r"x \, \left(-y\right)"
    assert LatexPrinter()(x + -y) == r"x + \left(-y\right)"


def test_a_value_with_a_name_is_written_by_its_name():
    printer = LatexPrinter()
    printer.define(x * y, r"\hat{m}")
    assert printer((x * y) * z) == r"\hat{m} \, z"
    assert printer((x * y) * (x * y)) == r"\hat{m}^{2}"


def test_a_primed_name_is_raised_in_braces():
    printer = LatexPrinter(names={"x": "x'"})
    assert printer(x * x) == "{x'}^{2}"
    assert printer(x**3.0) == "{x'}^{3}"


def test_a_factor_of_one_is_left_out():
    assert LatexPrinter()(x * each(1.0)) == "x"
    assert LatexPrinter()((x + y) * each(1.0) * z) == r"\left(x + y\right) \, z"


def test_rows_are_written_by_their_entries():
    k = Expr("input", "k")
    printer = LatexPrinter({"x", "y"})
    assert printer(-pick(log_softmax(x), k)) == r"-\left(x_{k} - \log \sum_{j} e^{x_{j}}\right)"
    assert printer(-pick(x, k)) == "-x_{k}"
    assert printer(total(x * y)) == r"\sum_{j} x_{j} \, y_{j}"
    assert printer(total(x) * total(y)) == r"\left(\sum_{j} x_{j}\right) \, \sum_{j} y_{j}"
    assert printer(total(x - each(total(x)))) == r"\sum_{j} \left(x_{j} - \sum_{i} x_{i}\right)"


@pytest.mark.parametrize(
    ("name", "latex"),
    [
        ("x", "x"),
        ("beta1", r"\beta_{1}"),
        ("s_min", r"s_{\mathrm{min}}"),
        ("rho_inf", r"\rho_{\infty}"),
        ("v_hat", r"\hat{v}"),
        ("m'", "m'"),
        ("eps", r"\epsilon"),
        ("weight_decay", r"\mathrm{weight\_decay}"),
    ],
)
def test_names_become_letters_with_indices(name, latex):
    assert latex_name(name) == latex


def test_numbers_have_no_e_notation():
    assert latex_number(2.5e-5) == r"2.5 \cdot 10^{-5}"
    assert latex_number(-1e-6) == "-10^{-6}"
    assert latex_number(float("inf")) == r"\infty"
