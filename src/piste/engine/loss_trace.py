"""The graphs of a loss and of its gradients, traced from its formula: the input of every code generator."""

from __future__ import annotations

from ..formula.differentiate import RowGradient, differentiate
from ..formula.expression import Expr, FormulaError, NamedConstant, is_number, trace
from .specs import OF_REGIONS, LossKernelSpec

__all__ = ["trace_elements", "trace_rows"]


def trace_elements(spec: LossKernelSpec) -> tuple[Expr, list[Expr], list[Expr]]:
    """Trace a loss of elements; the inputs are the names of the operands, with "_" behind them.

    Returns:
        The loss of an element, its required gradients and its faults, all multiplied by the weight of the element.
    """
    assert spec.derivatives is not None
    given = {k: NamedConstant(k, v) if is_number(v) else v for k, v in spec.options}
    symbols = [Expr("input", f"{c.name}_") for c in spec.operands if c.kind == "element"]
    value = trace(spec.formula, *symbols, **given)
    all_slopes = trace(spec.derivatives, *symbols, **given) if spec.grad_operands else ()
    slopes = [s for s, is_wanted in zip(all_slopes, spec.wanted, strict=False) if is_wanted]
    if any(slope is None for slope in slopes):
        raise FormulaError("a derivative is not stated")
    faults = [b for b in (trace(fault, *symbols) for fault in spec.faults) if isinstance(b, Expr)]
    if spec.operands[-1].kind == "weight":
        weight = Expr("input", f"{spec.operands[-1].name}_")
        value, slopes = value * weight, [slope * weight for slope in slopes]
    return value, slopes, faults


def trace_rows(spec: LossKernelSpec) -> tuple[Expr, list[RowGradient], list[Expr], set[str]]:
    """Trace a loss of rows; the inputs are the names of the operands.

    Returns:
        The loss of a row, its required gradients, its faults, and the names of the inputs that are rows.
    """
    symbols = [None if c is None else Expr("input", c.name) for c in spec.columns]
    rows = {c.name for c in spec.columns if c is not None and c.kind in ("row", "shared", "labels", *OF_REGIONS)}
    options = {k: NamedConstant(k, v) if is_number(v) else v for k, v in spec.options}
    value = trace(spec.formula, *symbols, **options)
    by = [x for x, is_wanted in zip(symbols, spec.wanted, strict=True) if is_wanted and x is not None]
    slopes = differentiate(value, by, rows)
    faults = [trace(fault, *symbols) for fault in spec.faults]
    return value, slopes, faults, rows
