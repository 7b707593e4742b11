"""The words a formula may use, and what a formula is turned into so that an engine can run it.

A formula is a plain Python function of arithmetic and the words below. What it means depends on what is put in:
torch tensors give the reference, numbers give a number, and `Symbol`s give the formula itself, as a graph that an
engine turns into a kernel and that prints as mathematics. Any other kind of value can join by carrying its own
vocabulary as `__words__`.

A formula chooses with `where`, never with `if` on a value. Options that are known when the formula is read
(`nesterov`, a buffer that is `None`) are ordinary Python.
"""

from __future__ import annotations

import math
import operator
import traceback
from collections.abc import Callable
from typing import Any

import torch

from ..errors import PisteError

__all__ = [
    "FormulaError",
    "Symbol",
    "exp",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "sign",
    "sqrt",
    "trace",
    "where",
]


def sqrt(x: Any) -> Any:
    """The square root."""
    return _words(x).sqrt(x)


def exp(x: Any) -> Any:
    """e to the power of x."""
    return _words(x).exp(x)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return _words(x).log(x)


def log1p(x: Any) -> Any:
    """log(1 + x), exact for small x."""
    return _words(x).log1p(x)


def sign(x: Any) -> Any:
    """-1, 0 or 1; 0 of NaN, as in torch."""
    return _words(x).sign(x)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two; NaN where either is."""
    return _words(a, b).maximum(a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two; NaN where either is."""
    return _words(a, b).minimum(a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, b elsewhere."""
    return _words(condition, a, b).where(condition, a, b)


def _words(*values: Any) -> Any:
    """The vocabulary of the first value that brings one; tensors speak torch, and numbers math."""
    for value in values:
        if isinstance(value, torch.Tensor):
            return _Torch
        if hasattr(value, "__words__"):
            return value.__words__
    return _Numbers


class _Torch:
    sqrt, exp, log, log1p, sign = torch.sqrt, torch.exp, torch.log, torch.log1p, torch.sign

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, torch.Tensor):
            return torch.where(condition, a, b)
        return a if condition else b

    @staticmethod
    def maximum(a: Any, b: Any) -> torch.Tensor:
        return torch.maximum(*_as_tensors(a, b))

    @staticmethod
    def minimum(a: Any, b: Any) -> torch.Tensor:
        return torch.minimum(*_as_tensors(a, b))


def _as_tensors(a: Any, b: Any) -> tuple[torch.Tensor, torch.Tensor]:
    like = a if isinstance(a, torch.Tensor) else b
    return tuple(
        x if isinstance(x, torch.Tensor) else torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in (a, b)
    )  # type: ignore[return-value]


class _Numbers:
    """Floating-point numbers as torch treats them: out of the domain is NaN or infinity, not an exception."""

    @staticmethod
    def sqrt(x: float) -> float:
        return math.sqrt(x) if x >= 0 else math.nan

    @staticmethod
    def exp(x: float) -> float:
        try:
            return math.exp(x)
        except OverflowError:
            return math.inf

    @staticmethod
    def log(x: float) -> float:
        return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)

    @staticmethod
    def log1p(x: float) -> float:
        return math.log1p(x) if x > -1 else (-math.inf if x == -1 else math.nan)

    @staticmethod
    def sign(x: float) -> float:
        return float((x > 0) - (x < 0))

    @staticmethod
    def maximum(a: float, b: float) -> float:
        return a if a > b or a != a else b

    @staticmethod
    def minimum(a: float, b: float) -> float:
        return a if a < b or a != a else b

    @staticmethod
    def where(condition: bool, a: float, b: float) -> float:
        return a if condition else b


class FormulaError(PisteError, TypeError):
    """A formula used something that no kernel can be made of; the message names it."""


class Symbol:
    """A value of a formula that is being read: an operation and its operands, or a named input (`op` is "input").

    `==` makes a symbol too; engines tell equal expressions by how they are written.
    """

    __slots__ = ("args", "op")
    __array_priority__ = 1000  # numpy scalars leave the operation to us
    __hash__ = object.__hash__

    def __init__(self, op: str, *args: Any) -> None:
        self.op, self.args = op, args

    __words__: Any = None  # set below: every word makes a Symbol of its own name

    def __repr__(self) -> str:
        if self.op == "input":
            return str(self.args[0])
        return f"{self.op}({', '.join(map(repr, self.args))})"

    def __bool__(self) -> bool:
        raise FormulaError(
            "a formula was asked to decide with `if`, `and`, `or` or `max` on a value; write where(condition, a, b)"
        )

    def __float__(self) -> float:
        raise FormulaError("a function of `math` (or float()) was called on a value; use the words of piste.formula")

    __int__ = __index__ = __float__

    def __getitem__(self, *index: Any) -> Any:
        raise FormulaError("a formula works on one element: a value can't be indexed, unpacked or looped over")

    __iter__ = __len__ = __getitem__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise FormulaError(f"`.{name}` was called on a value, which has no methods; use the words of piste.formula")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise FormulaError("a function of numpy was called on a value; use the words of piste.formula")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", str(function))
        raise FormulaError(f"`torch.{name}` was called on a value; use the words of piste.formula")


def _operator(name: str, op: str, reflected: bool = False) -> None:
    def method(self: Symbol, other: Any) -> Symbol:
        if not isinstance(other, (Symbol, int, float)):
            return NotImplemented
        return Symbol(op, other, self) if reflected else Symbol(op, self, other)

    setattr(Symbol, name, method)


for _name, _op in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}.items():
    _operator(f"__{_name}__", _op)
    _operator(f"__r{_name}__", _op, reflected=True)
for _name, _op in {
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "and": "&",
    "or": "|",
}.items():
    _operator(f"__{_name}__", _op)
for _name in ("neg", "abs", "invert"):
    setattr(Symbol, f"__{_name}__", lambda self, op=_name: Symbol(op, self))


class _SymbolWords:
    def __getattr__(self, word: str) -> Callable[..., Symbol]:
        return lambda *args: Symbol(word, *args)


Symbol.__words__ = _SymbolWords()


def trace(formula: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Read a formula: call it on symbols, and say which word it stumbled on where it can't be read."""
    try:
        return formula(*args, **kwargs)
    except Exception as error:
        where_ = next(
            (f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename != __file__),
            None,
        )
        line = f" at `{where_.line}` (line {where_.lineno})" if where_ and where_.line else ""
        name = getattr(formula, "__qualname__", repr(formula))
        raise FormulaError(f"no kernel can be made of `{name}`: {error}{line}") from error


OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "&": operator.and_,
    "|": operator.or_,
    "neg": operator.neg,
    "abs": operator.abs,
    "invert": operator.invert,
    "sqrt": sqrt,
    "exp": exp,
    "log": log,
    "log1p": log1p,
    "sign": sign,
    "maximum": maximum,
    "minimum": minimum,
    "where": where,
}
"""What each operation of a `Symbol` does to values."""
