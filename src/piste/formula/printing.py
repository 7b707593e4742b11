"""Formulas as people read them: traced from the function that runs, with the names its code gives to its steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from string import Formatter
from types import FrameType
from typing import Any, NamedTuple

from .expression import Expr, NamedConstant, is_number, topological_order, trace
from .operations import OPERATIONS

__all__ = ["TracedFormula", "number", "read", "render"]


class TracedFormula(NamedTuple):
    """A formula that was read: its results, and the steps on the way that its code has a name for."""

    results: tuple[Any, ...]
    steps: tuple[tuple[str, Expr], ...]


def read(formula: Callable[..., Any], *operands: Any, **options: Any) -> TracedFormula:
    """Read a formula on letters; numbers among the options enter by name."""
    letters = [None if name is None else Expr("input", name) for name in operands]
    named = {k: NamedConstant(k, v) if is_number(v) else v for k, v in options.items()}
    found: dict[int, tuple[str, Expr]] = {}

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return":
            for name, value in frame.f_locals.items():
                if isinstance(value, Expr) and value.op != "input":
                    found.setdefault(id(value), (name, value))

    before = sys.getprofile()
    sys.setprofile(
        lambda frame, event, argument: watch(frame, event, argument) if frame.f_code is formula.__code__ else None
    )  # type: ignore[attr-defined]
    try:
        outcome = trace(formula, *letters, **named)
    finally:
        sys.setprofile(before)
    results = outcome if isinstance(outcome, tuple) else (outcome,)
    steps = tuple(
        found[id(x)] for x in topological_order(*results) if id(x) in found and all(x is not r for r in results)
    )
    return TracedFormula(results, steps)


def number(value: float) -> str:
    """A number with up to six digits; a whole number without a point."""
    return f"{float(value) + 0.0:.6g}"  # adding 0 makes a negative zero a plain one


def render(
    value: Any, known: Mapping[int, str], branch: Callable[[Expr], bool | None] | None = None, rank: int = 0
) -> str:
    """An expression in plain text. `known` writes a symbol as a name or a number instead of spelling it out.

    With `branch`, which says whether a condition holds, the options too are numbers, and a choice is written as the
    branch that is taken, unless it is None: undecided.
    """
    if not isinstance(value, Expr):
        text = value.name if isinstance(value, NamedConstant) and branch is None else number(value)
        return f"({text})" if text.startswith("-") and rank > 4 else text
    if id(value) in known:
        text = known[id(value)]
        return f"({text})" if text.startswith("-") and rank > 4 else text
    if value.op == "input":
        return str(value.args[0])

    def operand(x: Any, at: int = 0) -> str:
        return render(x, known, branch, at)

    op, args = value.op, value.args
    if op == "each":
        return operand(args[0], rank)
    if op == "where" and branch is not None and (holds := branch(args[0])) is not None:
        return operand(args[1] if holds else args[2], rank)
    if op == "log1p" and isinstance(args[0], Expr) and args[0].op == "neg" and id(args[0]) not in known:
        return f"log(1 - {operand(args[0].args[0], 5)})"
    operation = OPERATIONS.get(op)
    if operation is None:
        return f"{op}({', '.join(map(operand, args))})"
    text = "".join(
        literal + ("" if field is None else operand(args[int(field)], int(spec or 0)))
        for literal, field, spec, _ in Formatter().parse(operation.text)
    )
    return f"({text})" if operation.rank < rank else text
