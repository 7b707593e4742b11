"""The constants and the source lines that all loss kernels share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...formula.expression import Expr, NamedConstant, is_number
from ...formula.properties import is_never_positive
from ..loss_emitter import LossEmitter
from ..native.tables import columns_from, word
from ..specs import STORAGES, LossKernelSpec, Operand
from .dialect import numba
from .tables import LossNumbers, LossTable

__all__ = [
    "BLOCK",
    "BYTES",
    "CHUNKS_PER_THREAD",
    "FAST_MAX_ELEMENTS",
    "PARALLEL_MIN_ELEMENTS",
    "LossLines",
    "ScalarLines",
    "load_expr",
    "options_lines",
    "result_code",
    "storage_type",
    "store_expr",
]

BLOCK = 1 << 13  # elements per partial sum, for any number of threads
CHUNKS_PER_THREAD = 8  # runs of blocks: sequential reads are fastest
PARALLEL_MIN_ELEMENTS = 1 << 15  # elements from which the thread pool is faster, as in torch
FAST_MAX_ELEMENTS = 1 << 18  # elements up to which a call holds the GIL: a third of a millisecond
ROWS, CLASSES, PER_BLOCK, PARTIALS, OUT, NUMBERS, IGNORED, SCRATCH, RUN = (
    word(LossTable, name)
    for name in ("rows", "classes", "per_block", "partials", "out", "numbers", "ignored", "scratch", "run")
)
COLUMNS = columns_from(LossTable)
SCALE, OPTIONS = word(LossNumbers, "scale"), columns_from(LossNumbers)
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2, "int64": 8}
_NARROW = ("bfloat16", "float16")
_VECTORISED = {"exp": "exp32", "expm1": "expm1_32", "log": "log32", "log1p": "log1p32"}


def result_code(spec: LossKernelSpec) -> int:
    """Return the index of the dtype of a scalar result, as in `kernels/finish.py`; -1 where the result is no scalar."""
    return list(STORAGES.values()).index(spec.storage) if spec.mode == "sum" else -1


class LossLines(LossEmitter):
    """An emitter of exponentials, logarithms and powers that vectorise."""

    def __init__(self, precision: str, prefix: str, given: Callable[[Expr], str | None]) -> None:
        double = None if precision == "float64" else numba("float64")
        words = numba(precision) if double is None else {**numba(precision), "**": "pow32({0}, {1})"}
        super().__init__(words, prefix, given, double, f"{precision}({{0}})")
        self._precision = precision

    def _expression(self, value: Expr) -> str:
        if self._precision == "float32" and value.op in _VECTORISED:
            match value.op, self.key(value).args[0]:
                case ("exp", within) if is_never_positive(within):
                    word = "exp32_nonpositive"
                case ("log1p", Expr(op="exp", args=(within,))) if is_never_positive(within):
                    word = "log1p32_unit_interval"
                case op, _:
                    word = _VECTORISED[op]
            return f"{word}({self.name(value.args[0])})"
        return super()._expression(value)


class ScalarLines(LossLines):
    """Lines of double precision, for the scalars of a row."""

    def name(self, value: Any) -> str:
        return f"d_{value.name}" if isinstance(value, NamedConstant) else super().name(value)


def load_expr(column: Operand, at: str, dtype: str) -> str:
    """Return the expression of an entry of a column, in the precision of the computation."""
    entry = f"a_{column.name}[{at}]"
    if column.storage in _NARROW:
        entry = f"from_{column.storage}({entry})"
    return entry if column.storage == dtype else f"{dtype}({entry})"


def store_expr(storage: str, value: str) -> str:
    """Return the expression of a value in its storage type, rounded once."""
    return f"to_{storage}(float32({value}))" if storage in _NARROW else f"{storage}({value})"


def storage_type(storage: str) -> str:
    """Return the element type of a pointer to a column."""
    return "uint16" if storage in _NARROW else storage


def options_lines(options: Sequence[tuple[str, Any]], dtype: str) -> list[str]:
    """Return the lines that load the numeric options, in the precision of the computation (o_) and in double (d_)."""
    names = [k for k, v in options if is_number(v)]
    lines = [f"    given = pointer(table[{NUMBERS}], float64)"]
    for i, name in enumerate(names):
        lines += [f"    d_{name} = given[{OPTIONS + i}]", f"    o_{name} = {dtype}(d_{name})"]
    return lines
