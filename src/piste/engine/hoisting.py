"""Split a step into the scalars of a tensor, computed once in double precision, and the work of each element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..formula.expression import Expr, is_condition, topological_order, trace
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


@dataclass
class Hoisted:
    """The scalars of a tensor, named `h0`, `h1`, ... in the order of their first use in a kernel."""

    columns: tuple[str, ...]
    scalars: list[Any] = field(default_factory=list)
    _varies: dict[Expr, bool] = field(default_factory=dict)

    def varies(self, value: Any) -> bool:
        """Return whether a value differs from element to element."""
        if not isinstance(value, Expr):
            return False
        for node in topological_order(value, stop=self._varies.__contains__):
            if node.op == "input":
                self._varies[node] = node is POSITION or node.args[0] in {f"{name}_" for name in self.columns}
            else:
                self._varies[node] = any(self._varies[x] for x in node.operands)
        return self._varies[value]

    def given(self, value: Expr) -> str | None:
        """Return the name of an input or a scalar; None for other expressions. An emitter calls it once per node."""
        if self.varies(value):
            return str(value.args[0]) if value.op == "input" else None
        self.scalars.append(value)
        name = f"h{len(self.scalars) - 1}"
        return f"({name} != 0)" if is_condition(value) else name

    def with_reciprocals(self, value: Any) -> Any:
        """Replace x / c by x * (1 / c), where c is a scalar."""
        found: dict[Expr, Expr] = {}
        for node in topological_order(value):
            if not self.varies(node) or node.op == "input":
                found[node] = node
                continue
            a, *rest = (found[x] if isinstance(x, Expr) else x for x in node.args)
            if node.op == "/" and not self.varies(rest[0]):
                found[node] = Expr("*", a, Expr("/", 1.0, rest[0]))
            else:
                found[node] = Expr(node.op, a, *rest)
        return found[value] if isinstance(value, Expr) else value


def given_inputs(value: Expr) -> str | None:
    """Return the name of an input; None for other expressions."""
    return str(value.args[0]) if value.op == "input" else None
