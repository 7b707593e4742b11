"""What a kernel of a loss is made of, and the table that it is called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ...formula.expression import Expr, NamedConstant, is_number, topological_order
from ..emit import Emitter
from ..range_guards import Bound
from .dialect import numba
from .tables import LossNumbers, LossTable, columns_from, word

__all__ = [
    "BLOCK",
    "BYTES",
    "FEW",
    "GRAIN",
    "PARTS",
    "STORAGES",
    "Column",
    "Form",
    "LossLines",
    "loaded",
    "options_lines",
    "pointed",
    "stored",
]

BLOCK = 1 << 13  # elements whose sum is kept apart, whoever makes it
PARTS = 8  # that each thread gets of the whole: runs of blocks, as memory is read best in one go
GRAIN = 1 << 15  # elements from which on a team is worth waking, as in torch
FEW = 1 << 18  # elements up to which a call keeps Python's lock: a third of a millisecond
ROWS, CLASSES, PER_BLOCK, PARTIALS, OUT, NUMBERS, IGNORED, SCRATCH, RUN = (
    word(LossTable, name)
    for name in ("rows", "classes", "per_block", "partials", "out", "numbers", "ignored", "scratch", "run")
)
COLUMNS = columns_from(LossTable)
SCALE, OPTIONS = word(LossNumbers, "scale"), columns_from(LossNumbers)
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2, "int64": 8}
STORAGES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_NARROW = ("bfloat16", "float16")


class Column(NamedTuple):
    """An operand.

    `kind` is element or weight (of an element); or row, shared (one row for all samples), number, index, or labels (a
    row of indices).
    """

    name: str
    kind: str
    storage: str


class Form(NamedTuple):
    """All that a kernel is made of; hashable, so that it can be found again."""

    formula: Callable[..., Any]
    derivatives: Callable[..., Any] | None  # of a loss of elements; a loss of rows has those of its formula
    columns: tuple[Column | None, ...]
    options: tuple[tuple[str, Any], ...]
    faults: tuple[Callable[..., Any], ...]  # conditions on the operands that refuse them
    wanted: tuple[bool, ...]  # of which columns the gradient is wanted
    bounds: tuple[Bound, ...]
    mode: str  # "sum": one number; "none": one for each element or row
    divisor: str  # what `prepare` finds: "given", "count", or "weights" (the last column's, at the index)

    @property
    def storage(self) -> str:
        """What the result is stored in."""
        return next(c.storage for c in self.columns if c is not None)

    @property
    def result(self) -> int:
        """The place of `storage` among the dtypes of a scalar result, as `kernels/finish.py` counts them; -1: none."""
        return list(STORAGES.values()).index(self.storage) if self.mode == "sum" else -1

    @property
    def dtype(self) -> str:
        """What it is computed in."""
        return "float32" if self.storage in _NARROW else self.storage

    @property
    def given(self) -> list[Column]:
        return [c for c in self.columns if c is not None]

    @property
    def marks(self) -> list[bool]:
        """Of which of what is given the gradient is wanted."""
        return [is_wanted for c, is_wanted in zip(self.columns, self.wanted, strict=True) if c is not None]

    @property
    def by(self) -> list[Column]:
        """The columns whose gradient is wanted."""
        return [c for c, is_wanted in zip(self.columns, self.wanted, strict=True) if is_wanted and c is not None]


class LossLines(Emitter):
    """An emitter whose exp and log vectorise, and whose options are read when the kernel runs."""

    def __init__(self, precision: str, prefix: str, given: Callable[[Expr], str | None]) -> None:
        super().__init__(numba(precision), prefix, given)
        self._precision = precision
        self._keys: dict[Expr, Expr] = {}

    def name(self, value: Any) -> str:
        return f"o_{value.name}" if isinstance(value, NamedConstant) else super().name(value)

    def key(self, value: Expr) -> Expr:
        """The derivative's where(x > 0, -x, x) is -abs(x) in the value."""
        for node in topological_order(value, stop=self._keys.__contains__):
            same = node
            if node.operands:
                same = Expr(node.op, *(self._keys[x] if isinstance(x, Expr) else x for x in node.args))
            self._keys[node] = Expr("neg", Expr("abs", same.args[2])) if _is_negative_abs(same) else same
        return self._keys[value]

    def _expression(self, value: Expr) -> str:
        if self._precision == "float32" and value.op in ("exp", "log", "log1p"):
            match value.op, self.key(value).args[0]:
                case ("exp", within) if _is_never_positive(within):
                    word = "exp32_nonpositive"
                case ("log1p", Expr(op="exp", args=(within,))) if _is_never_positive(within):
                    word = "log1p32_unit_interval"
                case op, _:
                    word = f"{op}32"
            return f"{word}({self.name(value.args[0])})"
        return super()._expression(value)


def _is_negative_abs(value: Expr) -> bool:
    """Return whether a value is where(x > 0, -x, x)."""
    if value.op != "where" or not isinstance(x := value.args[2], Expr):
        return False
    return value is Expr("where", Expr(">", x, 0.0), Expr("neg", x), x)


def _is_never_positive(value: Any) -> bool:
    match value:
        case Expr(op="neg", args=(Expr(op="abs"),)):
            return True
        case Expr(op="-", args=(x, Expr(op="each", args=(Expr(op="top", args=(y,)),)))):
            return x is y
    return False


def loaded(column: Column, at: str, dtype: str) -> str:
    """An entry of a column in the precision of the computation."""
    entry = f"a_{column.name}[{at}]"
    if column.storage in _NARROW:
        entry = f"from_{column.storage}({entry})"
    return entry if column.storage == dtype else f"{dtype}({entry})"


def stored(storage: str, value: str) -> str:
    """A value as it is stored, rounded once."""
    return f"to_{storage}(float32({value}))" if storage in _NARROW else f"{storage}({value})"


def pointed(storage: str) -> str:
    """The type of what a pointer to a column points to."""
    return "uint16" if storage in _NARROW else storage


def options_lines(options: Sequence[tuple[str, Any]], dtype: str) -> list[str]:
    """The options that are numbers, in the precision of the computation (o_) and in double (d_)."""
    names = [k for k, v in options if is_number(v)]
    lines = [f"    given = pointer(table[{NUMBERS}], float64)"]
    for i, name in enumerate(names):
        lines += [f"    d_{name} = given[{OPTIONS + i}]", f"    o_{name} = {dtype}(d_{name})"]
    return lines
