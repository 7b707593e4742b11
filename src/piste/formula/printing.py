"""Print formulas: traced from the function that runs, with the names that its code gives to intermediate values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from string import Formatter
from types import FrameType
from typing import Any, NamedTuple

from .expression import Expr, NamedConstant, is_number, topological_order, trace
from .operations import OPERATIONS

__all__ = ["TracedFormula", "format_number", "named_values", "read", "render"]


class TracedFormula(NamedTuple):
    """The results of a formula, and the intermediate values that its code has a name for, with their names."""

    results: tuple[Any, ...]
    steps: tuple[tuple[str, Expr], ...]


def read(formula: Callable[..., Any], *operands: Any, **options: Any) -> TracedFormula:
    """Trace a formula on inputs of some names; numbers among the options enter by name."""
    symbols = [None if name is None else Expr("input", name) for name in operands]
    constants = {k: NamedConstant(k, v) if is_number(v) else v for k, v in options.items()}
    with named_values(formula) as names:
        outcome = trace(formula, *symbols, **constants)
    results = outcome if isinstance(outcome, tuple) else (outcome,)
    steps = tuple((names[x], x) for x in topological_order(*results) if x in names and all(x is not r for r in results))
    return TracedFormula(results, steps)


@contextmanager
def named_values(formula: Callable[..., Any]) -> Iterator[dict[Expr, str]]:
    """Collect the names that the code of a formula gives to expressions, while the formula is traced."""
    names: dict[Expr, str] = {}

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code is formula.__code__:
            for name, value in frame.f_locals.items():
                if isinstance(value, Expr) and value.op != "input":
                    names.setdefault(value, name)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield names
    finally:
        sys.setprofile(before)


def format_number(value: float) -> str:
    """Write a number with up to six digits; a whole number without a point."""
    return f"{float(value) + 0.0:.6g}"  # adding 0 makes a negative zero a plain one


def render(
    value: Any, known: Mapping[int, str], branch: Callable[[Expr], bool | None] | None = None, rank: int = 0
) -> str:
    """Write an expression as text.

    Args:
        value: An expression or a number.
        known: The text of nodes that are not spelled out, such as a name or a number, by the `id` of the node.
        branch: Returns whether a condition holds, or None where that is undecided. With it options are written as
            numbers, and a decided `where` as the operand that it takes.
        rank: The binding strength of the surrounding text; an operand that binds less tightly stands in parentheses.
    """
    if not isinstance(value, Expr):
        text = value.name if isinstance(value, NamedConstant) and branch is None else format_number(value)
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
