"""Split a step into the scalars of a tensor, computed once in double precision, and the work of each element.

A step that reduces over its tensors has levels. Level 0 depends on no reduction; a reduction has the level after that
of its operand, and the scalars and the work that depend on it have its level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from ..formula.expression import Expr, FormulaError, is_condition, topological_order, trace
from ..formula.operations import OPERATIONS
from .specs import StepSpec

POSITION = Expr("input", "position_")
"""The place of an element in its tensor: in memory where all columns lie alike, and otherwise in row-major order."""


@dataclass(frozen=True)
class TracedStep:
    """The expressions of a step.

    Inputs are named `n_lr` for the number or counter `lr`, `kept_t` for the counter `t` after its update, and `p_`,
    `g_`, `m_` for the element of the parameter, the gradient and the buffer `m`, and `position_` for its place.
    """

    columns: tuple[str, ...]
    counters: Mapping[str, Any]  # the next value of each counter that the rule restates
    results: tuple[Any, ...]  # the new parameter and the new buffers


def trace_step(program: StepSpec) -> TracedStep:
    """Trace a program on symbols; each division by a scalar becomes a multiplication by its reciprocal."""
    columns = ("p", "g", *program.buffers)
    counters: dict[str, Any] = {}

    def store(letter: str, value: Any) -> Expr:
        counters[letter] = value
        return Expr("input", f"kept_{letter}")

    inputs = {name: Expr("input", f"n_{name}") for name in (*program.numbers, *program.counters)}
    per_step = partial(program.scalars, inputs, {}, store)
    per_step.__qualname__ = f"{program.name}.per_step"  # type: ignore[attr-defined]  # for messages
    scalars = {**trace(per_step), "position": POSITION}
    p, g, *buffers = (Expr("input", f"{name}_") for name in columns)
    new_p, new_buffers = trace(program.element, p, g, buffers, scalars)
    hoisted = Hoisted(columns)
    return TracedStep(columns, counters, tuple(map(hoisted.with_reciprocals, (new_p, *new_buffers))))


def is_reduction(node: Expr) -> bool:
    """Return whether a node is a value that is reduced over a tensor."""
    return node.op in OPERATIONS and OPERATIONS[node.op].kind == "reduction"


@cache
def reduces_over_lines(program: StepSpec) -> bool:
    """Return whether a program reduces over rows or columns."""
    try:
        nodes = topological_order(*trace_step(program).results)
    except FormulaError:  # no kernel can be made of it
        return False
    return any(node.op in OPERATIONS and OPERATIONS[node.op].kind == "line" for node in nodes)


@cache
def count_passes(program: StepSpec) -> int:
    """Return how many passes over its tensors a program takes: one, and one for each level of its reductions."""
    try:
        step = trace_step(program)
    except FormulaError:  # no kernel can be made of it
        return 1
    return 1 + max(map(Hoisted(step.columns).level, step.results))


@dataclass
class Hoisted:
    """The scalars of a tensor, named `h0`, `h1`, ... in the order of their first use in a kernel."""

    columns: tuple[str, ...]
    scalars: list[Any] = field(default_factory=list)
    _varies: dict[Expr, bool] = field(default_factory=dict)
    _levels: dict[Expr, int] = field(default_factory=dict)
    _places: dict[Expr, int] = field(default_factory=dict)

    def varies(self, value: Any) -> bool:
        """Return whether a value differs from element to element."""
        if not isinstance(value, Expr):
            return False
        for node in topological_order(value, stop=self._varies.__contains__):
            if node.op == "input":
                self._varies[node] = node is POSITION or node.args[0] in {f"{name}_" for name in self.columns}
            else:
                self._varies[node] = not is_reduction(node) and any(self._varies[x] for x in node.operands)
        return self._varies[value]

    def level(self, value: Any) -> int:
        """Return how many reductions follow each other before a value is known."""
        if not isinstance(value, Expr):
            return 0
        for node in topological_order(value, stop=self._levels.__contains__):
            self._levels[node] = max((self._levels[x] for x in node.operands), default=0) + is_reduction(node)
        return self._levels[value]

    def place(self, value: Expr) -> int:
        """Return the place of a scalar among the scalars, to which it is added if necessary."""
        if value not in self._places:
            self._places[value] = len(self.scalars)
            self.scalars.append(value)
        return self._places[value]

    def given(self, value: Expr) -> str | None:
        """Return the name of an input or a scalar; None for other expressions."""
        if self.varies(value):
            return str(value.args[0]) if value.op == "input" else None
        name = f"h{self.place(value)}"
        return f"({name} != 0)" if is_condition(value) else name

    def with_reciprocals(self, value: Any) -> Any:
        """Replace x / c by x * (1 / c), where c is a scalar."""
        found: dict[Expr, Expr] = {}
        for node in topological_order(value):
            if node.op == "input" or not (self.varies(node) or self.level(node)):
                found[node] = node
                continue
            a, *rest = (found[x] if isinstance(x, Expr) else x for x in node.args)
            if node.op == "/" and self.varies(node) and not self.varies(rest[0]):
                found[node] = Expr("*", a, Expr("/", 1.0, rest[0]))
            else:
                found[node] = Expr(node.op, a, *rest)
        return found[value] if isinstance(value, Expr) else value


def given_inputs(value: Expr) -> str | None:
    """Return the name of an input; None for other expressions."""
    return str(value.args[0]) if value.op == "input" else None
