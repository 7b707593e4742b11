"""The formula of a kernel as lines of text, which `PISTE_DEBUG=source` prints above its source."""

from __future__ import annotations

from typing import Any

from ...formula.expression import Expr, trace
from ...formula.printing import read, render
from ..specs import LossKernelSpec, StepSpec, parameters

__all__ = ["loss_formula", "step_formula"]


def loss_formula(spec: LossKernelSpec) -> list[str]:
    """Write the formula of a loss, its written derivatives and its operands, a step on each line."""
    operands = [None if c is None else c.name for c in spec.columns if c is None or c.kind != "weight"]
    options = dict(spec.options)
    lines = _spell(read(spec.formula, *operands, **options), ["loss"])
    if spec.derivatives is not None and spec.grad_operands:
        wanted = [f"d loss / d {name}" for name in operands]
        lines += _spell(read(spec.derivatives, *operands, **options), wanted)
    columns = (f"{c.name}: {c.kind} {c.storage}" for c in spec.operands)
    return [*lines, f"{', '.join(columns)}; gradients by {', '.join(c.name for c in spec.grad_operands) or 'none'}"]


def step_formula(program: StepSpec) -> list[str]:
    """Write the formula of a step: the scalars of a tensor, the new buffers, and the new parameter (primed)."""
    lines = [f"{program.name}"]
    for name, formula in program.per_step.items():
        value = trace(formula, **{asked: Expr("input", asked) for asked in parameters(formula)})
        lines.append(f"{name} = {render(value, {})}")
    names = (*program.numbers, *program.counters, *program.per_step)
    scalars = {name: Expr("input", name) for name in names}
    p, g, *buffers = (Expr("input", name) for name in ("p", "g", *program.buffers))
    new_p, new_buffers = trace(program.element, p, g, buffers, scalars)
    known: dict[int, str] = {}
    for name, value in (*zip(program.buffers, new_buffers, strict=True), ("p", new_p)):
        lines.append(f"{name}' = {render(value, known)}")
        if isinstance(value, Expr) and value.op != "input":
            known[id(value)] = f"{name}'"
    return lines


def _spell(reading: Any, names: list[str]) -> list[str]:
    lines: list[str] = []
    known: dict[int, str] = {}
    for name, value in (*reading.steps, *zip(names, reading.results, strict=False)):
        if value is not None:
            lines.append(f"{name} = {render(value, known)}")
            known[id(value)] = name
    return lines
