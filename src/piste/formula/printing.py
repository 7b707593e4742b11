"""Formulas as people read them: traced from the function that runs, with the names its code gives to its steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NamedTuple

from .expression import Symbol, trace

__all__ = ["Letter", "Reading", "is_number", "number", "read", "render"]


class Letter(float):
    """An option of a formula: compares as the number it is, and enters the formula under its name."""

    name: str

    def __new__(cls, name: str, value: float) -> Letter:
        self = super().__new__(cls, value)
        self.name = name
        return self

    def __repr__(self) -> str:
        return self.name


def _enters(op: str, reflected: bool) -> Callable[[Letter, Any], Any]:
    def method(self: Letter, other: Any) -> Any:
        a, b = (other, self) if reflected else (self, other)
        return Symbol(op, a, b) if isinstance(other, (int, float)) else NotImplemented

    return method


for _name, _op in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}.items():
    setattr(Letter, f"__{_name}__", _enters(_op, reflected=False))
    setattr(Letter, f"__r{_name}__", _enters(_op, reflected=True))


class Reading(NamedTuple):
    """A formula that was read: its results, and the steps on the way that its code has a name for."""

    results: tuple[Any, ...]
    steps: tuple[tuple[str, Symbol], ...]


def read(formula: Callable[..., Any], *operands: Any, **options: Any) -> Reading:
    """Read a formula on letters; numbers among the options enter by name."""
    letters = [None if name is None else Symbol("input", name) for name in operands]
    named = {k: Letter(k, v) if is_number(v) else v for k, v in options.items()}
    found: dict[int, tuple[str, Symbol]] = {}

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return":
            for name, value in frame.f_locals.items():
                if isinstance(value, Symbol) and value.op != "input":
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
    order: list[int] = []
    for result in results:
        _visit(result, order)
    steps = tuple(found[i] for i in order if i in found and all(found[i][1] is not r for r in results))
    return Reading(results, steps)


def _visit(value: Any, order: list[int]) -> None:
    """The symbols of a graph, operands before what is made of them."""
    if isinstance(value, Symbol) and id(value) not in order:
        for operand in value.args if value.op != "input" else ():
            _visit(operand, order)
        order.append(id(value))


def is_number(value: Any) -> bool:
    """Whether an option enters a formula as a number: True and False are choices."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
    value: Any, known: Mapping[int, str], branch: Callable[[Symbol], bool | None] | None = None, rank: int = 0
) -> str:
    """An expression in plain text. `known` writes a symbol as a name or a number instead of spelling it out.

    With `branch`, which says whether a condition holds, the options too are numbers, and a choice is written as the
    branch that is taken, unless it is None: undecided.
    """
    if not isinstance(value, Symbol):
        text = value.name if isinstance(value, Letter) and branch is None else number(value)
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
        minus = isinstance(inner, Symbol) and inner.op == "neg" and id(inner) not in known
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
