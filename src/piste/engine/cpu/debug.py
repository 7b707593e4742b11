"""`PISTE_DEBUG=source` prints each kernel to stderr when a process first loads it, from disk or compiled."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ...formula.expression import Expr, trace
from ...formula.printing import read, render
from ..specs import LossKernelSpec, StepSpec, parameters

__all__ = ["file_comments", "is_source_wanted", "loss_formula", "print_source", "step_formula"]


def is_source_wanted() -> bool:
    """Return whether `PISTE_DEBUG` asks for the source of kernels."""
    return os.environ.get("PISTE_DEBUG") == "source"


def print_source(key: str, source: str, comments: Iterable[str]) -> None:
    """Print a kernel, with its formula and its cache key as comments above it."""
    lines = [f"# kernel {key}", *(f"# {line}" for line in comments), *source.splitlines()]
    print("\n".join(lines).rstrip(), end="\n\n", file=sys.stderr, flush=True)


def loss_formula(form: LossKernelSpec) -> list[str]:
    """Write the formula of a loss, its written derivatives and its operands, a step on each line."""
    operands = [None if c is None else c.name for c in form.columns if c is None or c.kind != "weight"]
    options = dict(form.options)
    lines = _spell(read(form.formula, *operands, **options), ["loss"])
    if form.derivatives is not None and form.by:
        wanted = [f"d loss / d {name}" for name in operands]
        lines += _spell(read(form.derivatives, *operands, **options), wanted)
    columns = (f"{c.name}: {c.kind} {c.storage}" for c in form.given)
    return [*lines, f"{', '.join(columns)}; gradients by {', '.join(c.name for c in form.by) or 'none'}"]


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


def file_comments(name: str, constants: Mapping[str, int | str]) -> list[str]:
    """Write the name of a file in kernels/ and the values of its constants."""
    return [f"kernels/{name}.py", *(f"{constant} = {value}" for constant, value in sorted(constants.items()))]
