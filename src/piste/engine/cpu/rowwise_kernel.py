"""Generates the kernel of a row-wise loss, whose loops run over the contiguous classes of a sample."""

from __future__ import annotations

from ...formula.expression import FormulaError
from ..loss_trace import trace_rows
from ..row_schedule import schedule_row
from ..specs import LossKernelSpec, Operand
from . import range_guards
from .loss_lines import (
    BYTES,
    CLASSES,
    COLUMNS,
    IGNORED,
    OUT,
    PARTIALS,
    PER_BLOCK,
    ROWS,
    RUN,
    SCALE,
    SCRATCH,
    load_expr,
    options_lines,
    storage_type,
    store_expr,
)
from .row_lines import RowLines
from .work_sharing import shared_lines

__all__ = ["divisor_constants", "source"]


def source(spec: LossKernelSpec) -> tuple[str, int]:
    """Return the kernel as Python that Numba compiles, and the number of scratch rows per thread."""
    value, slopes, faults, rows = trace_rows(spec)
    wanted = spec.grad_operands
    own = bool(wanted) and wanted[0].storage != spec.dtype
    # The row of the gradient, if it has the precision of the computation. One name lets LLVM treat it as one row.
    stored_at = ("kept" if own else f"g_{wanted[0].name}") if wanted else None
    gradients_by = {c.name: slope for c, slope in zip(wanted, slopes, strict=True)}
    schedule = schedule_row(value, gradients_by, faults, rows=rows, stores_exponentials=bool(wanted))
    for bound in spec.bounds:
        if schedule.first_sums_over(spec.operands[bound.operand].name) is None:
            raise FormulaError("a bound is on a row that is never summed")
    row = RowLines(spec, schedule, stored_at)
    row.reduce()
    broken = [range_guards.broken(bound, spec.dtype) for bound in spec.bounds]
    refused = " or ".join([row.scalar(condition) for condition in schedule.conditions] + broken)
    row.lines.append(f"result = {row.scalar(schedule.value)}")
    if wanted:
        row.write_gradients()
    if own and schedule.stored is not None:
        row.scratch_rows = 1
    return "\n".join(_run(spec, row, refused)), row.scratch_rows


def _run(spec: LossKernelSpec, row: RowLines, refused: str) -> list[str]:
    """Return the lines of the kernel, which adds a block row by row."""
    shared = [c for c in spec.operands if c.kind == "shared"]
    lines = [
        "def run(table):",
        *options_lines(spec.options, spec.dtype),
        f"    scale_ = given[{SCALE}]",
        f"    partials = pointer(table[{PARTIALS}], float64)",
        f"    out = pointer(table[{OUT}], {storage_type(spec.storage)})",
        f"    classes = table[{CLASSES}]",
        "    classes_ = float64(classes)",
        *(
            f"    a_{c.name} = column(table[{_place(spec, c)}], {storage_type(c.storage)}, {_place(spec, c)})"
            for c in shared
        ),
    ]
    scratch = f"scratch = table[{SCRATCH}] + own * classes * {row.scratch_rows * BYTES[spec.dtype]}"
    ended = f"out[r] = {store_expr(spec.storage, 'result')}" if spec.mode == "none" else "total += result"
    block = [
        *([scratch] if row.scratch_rows else []),
        f"r = block * table[{PER_BLOCK}]",
        f"stop = r + table[{PER_BLOCK}]",
        f"stop = stop if stop < table[{ROWS}] else table[{ROWS}]",
        "total = 0.0",
        "faults = 0",
        "while r < stop:",
        *(f"    {line}" for line in (*_operands(spec, row), *_picked(spec), *row.lines)),
        *([f"    if {refused}:", "        faults += 1"] if refused else []),
        f"    {ended}",
        "    r += 1",
        "partials[2 * block] = total",
        "partials[2 * block + 1] = float64(faults)",
    ]
    return [*lines, *shared_lines(block, f"table[{RUN}]"), ""]


def _place(spec: LossKernelSpec, column: Operand) -> int:
    return COLUMNS + spec.operands.index(column)


def _operands(spec: LossKernelSpec, row: RowLines) -> list[str]:
    """Return the lines that find the operands and gradients of row r in memory."""
    lines = []
    for c in spec.operands:
        if c.kind in ("row", "labels"):
            lines.append(f"a_{c.name} = {_row_of(_place(spec, c), c)}")
        elif c.kind == "number":
            lines.append(f"{c.name}_ = float64(pointer(table[{_place(spec, c)}], {c.storage})[r])")
    for i, c in enumerate(spec.grad_operands):
        lines.append(f"g_{c.name} = {_row_of(COLUMNS + len(spec.operands) + i, c)}")
    if row.stored_at == "kept" and row.schedule.stored is not None:
        lines.append(f"kept = column(scratch, {spec.dtype}, {SCRATCH})")
    return lines


def _row_of(place: int, column: Operand) -> str:
    return f"column(table[{place}] + r * classes * {BYTES[column.storage]}, {storage_type(column.storage)}, {place})"


def _picked(spec: LossKernelSpec) -> list[str]:
    """Return the lines that read the class index of row r and its entries, and end a row that is ignored or invalid."""
    index = next((c for c in spec.operands if c.kind == "index"), None)
    if index is None:
        return []
    k = f"{index.name}_"
    cleared = [f"    out[r] = {store_expr(spec.storage, '0.0')}"] if spec.mode == "none" else []
    for c in spec.grad_operands:
        cleared += ["    for c in range(classes):", f"        g_{c.name}[c] = {_zero(c)}"]
    return [
        f"{k} = pointer(table[{_place(spec, index)}], int64)[r]",
        f"if {k} == table[{IGNORED}]:",
        *cleared,
        "    r += 1",
        "    continue",
        f"if {k} < 0 or {k} >= classes:",
        "    faults += 1",
        "    r += 1",
        "    continue",
        *(
            f"at_{c.name}_{index.name} = float64({load_expr(c, k, spec.dtype)})"
            for c in spec.operands
            if c.kind in ("row", "shared")
        ),
    ]


def _zero(column: Operand) -> str:
    return "uint16(0)" if storage_type(column.storage) == "uint16" else f"{column.storage}(0.0)"


def divisor_constants(spec: LossKernelSpec) -> dict[str, int | str]:
    """Return the constants of `kernels/mean_divisor.py`: the columns of the class indices and of the weights."""
    index, last = next(c for c in spec.operands if c.kind == "index"), spec.operands[-1]
    constants: dict[str, int | str] = {"INDEX": _place(spec, index)}
    return constants | ({"WEIGHTS": _place(spec, last), "WEIGHT": last.storage} if spec.divisor == "weights" else {})
