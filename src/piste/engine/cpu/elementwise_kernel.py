"""Generates the kernel of an elementwise loss: value, gradients and checks in one pass."""

from __future__ import annotations

from ...formula.expression import Expr
from ..loss_trace import trace_elements
from ..specs import LossKernelSpec
from . import range_guards
from .loss_lines import (
    BYTES,
    COLUMNS,
    OUT,
    PARTIALS,
    PER_BLOCK,
    ROWS,
    RUN,
    SCALE,
    LossLines,
    load_expr,
    options_lines,
    storage_type,
    store_expr,
)
from .work_sharing import shared_lines

__all__ = ["source"]

TILE = 1 << 10  # elements summed in their own precision before the sum is added in double


def source(spec: LossKernelSpec) -> str:
    """Return the kernel as Python that Numba compiles."""
    dtype = spec.dtype
    value, slopes, broken = trace_elements(spec)
    body = LossLines(dtype, "v", lambda symbol: symbol.args[0] if symbol.op == "input" else None)
    for i, column in enumerate(spec.operands):
        body.lines.append(f"{column.name}_ = {load_expr(column, 'k', dtype)}")
        for bound in spec.bounds:
            body.lines += range_guards.update(bound, f"{column.name}_", dtype) if bound.operand == i else ()
    if broken:
        fault = " | ".join(f"({body.name(condition)})" for condition in broken)
        body.lines.append(f"faults = fast_add(faults, {dtype}(1.0) if {fault} else {dtype}(0.0))")
    result = body.name(value)
    body.lines.append(
        f"out[k] = {store_expr(spec.storage, result)}" if spec.mode == "none" else f"part = fast_add(part, {result})"
    )
    for column, slope in zip(spec.grad_operands, slopes, strict=True):
        made = body.name(Expr("*", slope, Expr("input", "scale")))
        body.lines.append(f"g_{column.name}[k] = {store_expr(column.storage, made)}")
    return "\n".join(_run(spec, body.lines))


def _run(spec: LossKernelSpec, body: list[str]) -> list[str]:
    """Return the lines of the kernel, which adds blocks in tiles; no `min`, whose error path costs code."""
    dtype = spec.dtype
    columns = [(f"a_{c.name}", c.storage, COLUMNS + i) for i, c in enumerate(spec.operands)]
    columns += [(f"g_{c.name}", c.storage, COLUMNS + len(spec.operands) + i) for i, c in enumerate(spec.grad_operands)]
    if spec.mode == "none":
        columns.append(("out", spec.storage, OUT))
    places = [f"{name} = column(table[{at}] + at * {BYTES[s]}, {storage_type(s)}, {at})" for name, s, at in columns]
    block = [
        f"at = block * table[{PER_BLOCK}]",
        f"left = table[{ROWS}] - at",
        f"size = table[{PER_BLOCK}] if left > table[{PER_BLOCK}] else left",
        *places,
        "total = 0.0",
        f"faults = zero = {dtype}(0.0)",
        "first = 0",
        "while first < size:",
        f"    last = first + {TILE} if first + {TILE} < size else size",
        f"    part = {dtype}(0.0)",
        *(f"    {range_guards.start(bound, dtype)}" for bound in spec.bounds),
        "    for k in range(first, last):",
        *(f"        {line}" for line in body),
        "    total += float64(part)",
        *(f"    faults += {dtype}(1.0) if {range_guards.broken(bound, dtype)} else zero" for bound in spec.bounds),
        "    first = last",
        "partials[2 * block] = total",
        "partials[2 * block + 1] = float64(faults)",
    ]
    return [
        "def run(table):",
        *options_lines(spec.options, dtype),
        f"    scale = {dtype}(given[{SCALE}])",
        f"    partials = pointer(table[{PARTIALS}], float64)",
        *shared_lines(block, f"table[{RUN}]"),
        "",
    ]
