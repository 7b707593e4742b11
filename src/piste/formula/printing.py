"""Formulas as people read them: traced from the function that runs, with the names its code gives to its steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NamedTuple

from .expression import Expr, NamedConstant, is_number, topological_order, trace

__all__ = ["Reading", "number", "read", "render"]


class Reading(NamedTuple):
    """A formula that was read: its results, and the steps on the way that its code has a name for."""

    results: tuple[Any, ...]
    steps: tuple[tuple[str, Expr], ...]


def read(formula: Callable[..., Any], *operands: Any, **options: Any) -> Reading:
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
    return Reading(results, steps)


def number(value: float) -> str:
    """A number with up to six digits; a whole number without a point."""
    return f"{float(value) + 0.0:.6g}"  # adding 0 makes a negative zero a plain one


_RANK = {
    "|": 1,
    "&": 2,
    "<": 3,
    "<=": 3,
    ">": 3,
    ">=": 3,
    "==": 3,
    "!=": 3,
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "neg": 6,
    "**": 7,
}
_WORDS = {"&": "and", "|": "or", "maximum": "max", "minimum": "min", "total": "sum"}


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
    op, args = value.op, value.args
    if op == "input":
        return str(args[0])

    def part(x: Any, at: int = 0) -> str:
        return render(x, known, branch, at)

    if op == "where":
        holds = branch(args[0]) if branch is not None else None
        if holds is not None:
            return part(args[1] if holds else args[2], rank)
        return f"({part(args[1])} if {part(args[0])} else {part(args[2])})"
    if op == "abs":
        return f"|{part(args[0])}|"
    if op == "log_softmax":
        return f"{part(args[0])} - log(sum(exp({part(args[0])})))"
    if op == "log1p":
        inner = args[0]
        minus = isinstance(inner, Expr) and inner.op == "neg" and id(inner) not in known
        return f"log(1 - {part(inner.args[0], 5)})" if minus else f"log(1 + {part(inner, 5)})"
    if op == "pick":
        return f"{part(args[0], 8)}[{part(args[1])}]"
    if op == "each":  # a number of the row, beside each of its entries
        return part(args[0], rank)
    if op == "hinges":
        x, k = part(args[0], 8), part(args[1])
        return f"sum(max(0, 1 - {x}[j] + {x}[i]) for j in {k}, i not in {k})"
    if op in ("size", "index"):
        return "C" if op == "size" else "c"
    if op not in _RANK:
        return f"{_WORDS.get(op, op)}({', '.join(map(part, args))})"
    at = _RANK[op]
    if op == "neg":
        text = f"-{part(args[0], at)}"
    else:
        text = f"{part(args[0], at)} {_WORDS.get(op, op)} {part(args[1], at + (op in '-/'))}"
    return f"({text})" if at < rank else text
