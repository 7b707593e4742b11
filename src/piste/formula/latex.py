"""Write formulas in LaTeX, from the graph that the backends run.

A row is written by its entries: `x_j` under a sum over j, `x_k` where the entry of class k is picked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .expression import Expr, NamedConstant
from .printing import format_number
from .properties import RowTest

__all__ = ["LatexPrinter", "latex_name", "latex_number"]

_GREEK = {
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "pi"),
    *("rho", "sigma", "tau", "phi", "psi", "omega"),
}
_WORDS = {"eps": r"\epsilon", "lambd": r"\lambda", "inf": r"\infty", "plus": "+", "minus": "-"}
_SYMBOLS = {"<": "<", "<=": r"\le", ">": ">", ">=": r"\ge", "==": "=", "!=": r"\ne"}
_INDICES = "jilmn"

_SUM, _PRODUCT, _FRACTION, _POWER, _ATOM = 4, 5, 6, 7, 8
"""How tightly a form binds; an operand that binds less tightly stands in parentheses."""


def latex_name(name: str) -> str:
    r"""Return the LaTeX of a name in a formula: Greek letters, indices and hats; other words stand upright.

    Example:
        >>> [latex_name(name) for name in ("beta1", "m_hat", "eta_plus", "lr")]
        ['\\beta_{1}', '\\hat{m}', '\\eta_{+}', '\\mathrm{lr}']
    """
    name, primes = name.rstrip("'"), "'" * (len(name) - len(name.rstrip("'")))
    stem, _, rest = name.partition("_")
    if rest == "hat":
        return rf"\hat{{{_letter(stem)}}}{primes}"
    digits = re.search(r"\d*$", stem)
    assert digits is not None
    head = stem[: digits.start()]
    if rest and not _is_symbol(head):
        return rf"\mathrm{{{name.replace('_', ' ')}}}{primes}".replace(" ", r"\_")
    subscript = ",".join(x for x in (digits[0], *map(_letter, filter(None, rest.split("_")))) if x)
    return _letter(head) + (f"_{{{subscript}}}" if subscript else "") + primes


def _is_symbol(word: str) -> bool:
    return len(word) == 1 or word in _GREEK or word in _WORDS


def _letter(word: str) -> str:
    if word in _WORDS:
        return _WORDS[word]
    return rf"\{word}" if word in _GREEK else word if len(word) <= 1 else rf"\mathrm{{{word}}}"


def latex_number(value: float) -> str:
    r"""Return the LaTeX of a number with up to six digits.

    Example:
        >>> latex_number(0.5), latex_number(1e-8), latex_number(3.0)
        ('\\frac{1}{2}', '10^{-8}', '3')
    """
    if abs(value) == 0.5:
        return r"\frac{1}{2}" if value > 0 else r"-\frac{1}{2}"
    mantissa, _, exponent = format_number(value).partition("e")
    if not exponent:
        return mantissa.replace("inf", r"\infty")
    power = f"10^{{{int(exponent)}}}"
    return power if mantissa == "1" else f"-{power}" if mantissa == "-1" else rf"{mantissa} \cdot {power}"


class LatexPrinter:
    r"""Writes expressions in LaTeX.

    Args:
        rows: The names of the inputs that are rows.
        names: The LaTeX of inputs and options, by name; of the others it is that of `latex_name`.

    Example:
        >>> x = Expr("input", "x")
        >>> LatexPrinter()(x * x / 2)
        '\\frac{x^{2}}{2}'
    """

    def __init__(self, rows: set[str] = frozenset(), names: Mapping[str, str] | None = None) -> None:  # type: ignore[assignment]
        self._is_row = RowTest(set(rows))
        self._names = dict(names or {})
        self._known: dict[Expr, str] = {}

    def name(self, name: str) -> str:
        """Return the LaTeX of a name."""
        return self._names.get(name) or latex_name(name)

    def define(self, value: Expr, latex: str) -> None:
        """Write a node by this name from now on, instead of by its operands."""
        self._known[value] = latex

    def __call__(self, value: Any, index: str = "", rank: int = 0) -> str:
        """Return the LaTeX of an expression or a number.

        Args:
            value: The expression.
            index: The class at which rows are written; without it a row is written as a vector.
            rank: How tightly the surrounding form binds.
        """
        if not isinstance(value, Expr):
            text = self.name(value.name) if isinstance(value, NamedConstant) else latex_number(value)
            binding = _SUM if text.startswith("-") else _FRACTION if text.startswith(("\\frac", "10^")) else _ATOM
        elif value in self._known:
            text, binding = self._at(self._known[value], value, index), _ATOM
        elif value.op == "input":
            text, binding = self._at(self.name(value.args[0]), value, index), _ATOM
        elif value.op == "each":
            return self(value.args[0], index, rank)
        else:
            text, binding = self._form(value, index)
        return rf"\left({text}\right)" if binding < rank else text

    def _at(self, text: str, value: Expr, index: str) -> str:
        """Return a name with the index of an entry, where it is a row."""
        if not index or not self._is_row(value):
            return text
        return f"{text[:-1]},{index}}}" if text.endswith("}") and "_{" in text else f"{text}_{{{index}}}"

    def _form(self, node: Expr, index: str) -> tuple[str, int]:
        op, args = node.op, node.args
        if op in _FORMS:
            return _FORMS[op](self, node, index)
        if op in _SYMBOLS:
            return f"{self(args[0], index, _SUM)} {_SYMBOLS[op]} {self(args[1], index, _SUM)}", 3
        operands = ", ".join(self(x, index) for x in args)
        return rf"\operatorname{{{op.replace('_', ' ')}}}\left({operands}\right)", _ATOM

    def _product(self, node: Expr, index: str) -> tuple[str, int]:
        """Write a product, with equal factors as a power."""
        counts: dict[Any, int] = {}
        for factor in [*self._factors(node.args[0]), *self._factors(node.args[1])]:
            if not _is_one(factor):
                counts[factor] = counts.get(factor, 0) + 1
        if not counts:
            return "1", _ATOM
        parts = []
        for position, (factor, count) in enumerate(counts.items()):
            is_open = self._is_sum_over_row(factor) and (count > 1 or position < len(counts) - 1)
            text = self(factor, index, _ATOM if count > 1 else _PRODUCT)
            text = rf"\left({text}\right)" if is_open and count == 1 else text
            parts.append(text if count == 1 else _power(text, str(count)))
        text = parts[0]
        for part in parts[1:]:
            text += (r" \cdot " if part[0].isdigit() else r" \, ") + part
        return text, _PRODUCT if len(parts) > 1 or len(counts) == 1 else _POWER

    def _factors(self, value: Any) -> list[Any]:
        """Return the factors of a product; a product that has a name is one."""
        if isinstance(value, Expr) and value.op == "*" and value not in self._known:
            return [*self._factors(value.args[0]), *self._factors(value.args[1])]
        return [value]

    def _is_sum_over_row(self, value: Any) -> bool:
        return isinstance(value, Expr) and value.op in ("total", "top", "hinges") and value not in self._known

    def _picked(self, node: Expr, index: str) -> tuple[str, int]:
        """Write a row at the class that is picked."""
        row, at = node.args[0], self(node.args[1])
        if row.op == "input" or row in self._known:
            return self(row, at), _ATOM
        return self._form(row, at)

    def _cases(self, node: Expr, index: str) -> tuple[str, int]:
        lines, rest = [], node
        while isinstance(rest, Expr) and rest.op == "where" and (rest is node or rest not in self._known):
            condition, value, rest = rest.args
            lines.append(rf"{self(value, index)} & \text{{if }} {self(condition, index)}")
        lines.append(rf"{self(rest, index)} & \text{{otherwise}}")
        return r"\begin{cases} " + r" \\ ".join(lines) + r" \end{cases}", 1

    def _sum_over_row(self, row: Any, index: str, symbol: str) -> str:
        """Write a sum (or maximum) over the entries of a row, under an index that is not in use."""
        inner = next(letter for letter in _INDICES if letter != index)
        return rf"{symbol}_{{{inner}}} {self(row, inner, _PRODUCT)}"

    def _log_softmax(self, node: Expr, index: str) -> tuple[str, int]:
        row = node.args[0]
        inner = next(letter for letter in _INDICES if letter != index)
        return rf"{self(row, index, _SUM)} - \log \sum_{{{inner}}} e^{{{self(row, inner)}}}", _SUM

    def _log1p(self, node: Expr, index: str) -> tuple[str, int]:
        x = node.args[0]
        is_negative = isinstance(x, Expr) and x.op == "neg" and x not in self._known
        inner = f"1 - {self(x.args[0], index, _PRODUCT)}" if is_negative else f"1 + {self(x, index, _SUM + 1)}"
        return rf"\log\left({inner}\right)", _ATOM


def _is_one(value: Any) -> bool:
    if isinstance(value, Expr):
        return value.op == "each" and _is_one(value.args[0])
    return not isinstance(value, NamedConstant) and value == 1


def _power(base: str, exponent: str) -> str:
    """Raise to a power; a prime is an exponent already, so a base that has one stands in braces."""
    return f"{{{base}}}^{{{exponent}}}" if "'" in base else f"{base}^{{{exponent}}}"


def _infix(symbol: str, rank: int, right: int) -> Callable[[LatexPrinter, Expr, str], tuple[str, int]]:
    def form(p: LatexPrinter, node: Expr, index: str) -> tuple[str, int]:
        a, b = node.args
        second = p(b, index, right)
        return f"{p(a, index, rank)} {symbol} {second}", rank

    return form


def _around(before: str, after: str, rank: int = _ATOM) -> Callable[[LatexPrinter, Expr, str], tuple[str, int]]:
    """Return a form that encloses its operands."""

    def form(p: LatexPrinter, node: Expr, index: str) -> tuple[str, int]:
        return f"{before}{', '.join(p(x, index) for x in node.args)}{after}", rank

    return form


_HINGES = r"\sum_{j \in %s} \sum_{i \notin %s} \max\left(0, 1 - %s + %s\right)"

_FORMS: dict[str, Callable[[LatexPrinter, Expr, str], tuple[str, int]]] = {
    "+": lambda p, n, i: (f"{p(n.args[0], i, _SUM)} + {p(n.args[1], i, _SUM + (_is_negative(n.args[1])))}", _SUM),
    "-": _infix("-", _SUM, _SUM + 1),
    "*": LatexPrinter._product,
    "/": lambda p, n, i: (rf"\frac{{{p(n.args[0], i)}}}{{{p(n.args[1], i)}}}", _FRACTION),
    "**": lambda p, n, i: (_power(p(n.args[0], i, _ATOM), p(n.args[1], i)), _POWER),
    "&": _infix(r"\text{ and }", 2, 2),
    "|": _infix(r"\text{ or }", 1, 1),
    "invert": lambda p, n, i: (rf"\text{{not }} {p(n.args[0], i, 3)}", 2),
    "neg": lambda p, n, i: (f"-{p(n.args[0], i, _PRODUCT)}", _SUM),
    "abs": _around(r"\left|", r"\right|"),
    "sqrt": _around(r"\sqrt{", "}"),
    "exp": lambda p, n, i: (f"e^{{{p(n.args[0], i)}}}", _POWER),
    "expm1": lambda p, n, i: (f"e^{{{p(n.args[0], i)}}} - 1", _SUM),
    "log": _around(r"\log\left(", r"\right)"),
    "log1p": LatexPrinter._log1p,
    "sigmoid": _around(r"\operatorname{sigmoid}\left(", r"\right)"),
    "sign": _around(r"\operatorname{sign}\left(", r"\right)"),
    "maximum": _around(r"\max\left(", r"\right)"),
    "minimum": _around(r"\min\left(", r"\right)"),
    "where": LatexPrinter._cases,
    "tensor_total": _around(r"\operatorname{sum}\left(", r"\right)"),
    "row_total": _around(r"\operatorname{row\,sum}\left(", r"\right)"),
    "row_mean": _around(r"\operatorname{row\,mean}\left(", r"\right)"),
    "column_total": _around(r"\operatorname{column\,sum}\left(", r"\right)"),
    "column_mean": _around(r"\operatorname{column\,mean}\left(", r"\right)"),
    "tensor_mean": _around(r"\operatorname{mean}\left(", r"\right)"),
    "total": lambda p, n, i: (p._sum_over_row(n.args[0], i, r"\sum"), _PRODUCT),
    "top": lambda p, n, i: (p._sum_over_row(n.args[0], i, r"\max"), _PRODUCT),
    "norm": lambda p, n, i: (rf"\left\lVert {p(n.args[0])} \right\rVert_{{{p(n.args[1])}}}", _ATOM),
    "size": lambda p, n, i: ("C", _ATOM),
    "index": lambda p, n, i: (i or "c", _ATOM),
    "pick": LatexPrinter._picked,
    "log_softmax": LatexPrinter._log_softmax,
    "hinges": lambda p, n, i: (
        _HINGES % (p(n.args[1]), p(n.args[1]), p(n.args[0], "j", _SUM + 1), p(n.args[0], "i", _SUM)),
        _PRODUCT,
    ),
    "hinge_slopes": _around(r"\operatorname{slopes}\left(", r"\right)"),
    "bfloat16": _around(r"\operatorname{bfloat16}\left(", r"\right)"),
    "float16": _around(r"\operatorname{float16}\left(", r"\right)"),
    "bfloat16_at_random": _around(r"\operatorname{bfloat16}\left(", r"\right)"),
    "float16_at_random": _around(r"\operatorname{float16}\left(", r"\right)"),
    "noise": _around(r"\operatorname{noise}\left(", r"\right)"),
}
"""How each operation is written: its text, and how tightly that binds. `each` is its operand."""


def _is_negative(value: Any) -> bool:
    return value.op == "neg" if isinstance(value, Expr) else value < 0
