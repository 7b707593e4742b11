"""Split a step into the scalars of a tensor, computed once in double precision, and the work of each element.

A step that reduces over its tensors has levels. Level 0 depends on no reduction; a reduction has the level after that
of its operand, and the scalars and the work that depend on it have its level.

A step that reduces over rows or columns has values between the two: one for each matrix, row or column of a tensor.
They are hoisted as scalars are. A reduction of such values takes no pass over the elements, so it has the level of its
operand, and the next stage of this level.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from ..formula.expression import Expr, FormulaError, is_condition, topological_order, trace
from ..formula.operations import OPERATIONS
from .specs import StepSpec

POSITION = Expr("input", "position_")
"""The place of an element in its tensor: in memory where all columns lie alike, and otherwise in row-major order."""


PER_TENSOR, PER_MATRIX, PER_ROW, PER_COLUMN, PER_ELEMENT = 0, 1, 3, 5, 7
"""The extents of values: sums of 1 for the matrices of a tensor, 2 for the rows of a matrix, and 4 for its columns."""
LINES = {"row": PER_ROW, "column": PER_COLUMN}
_NAMES = {PER_TENSOR: "h", PER_MATRIX: "q", PER_ROW: "w", PER_COLUMN: "z"}
_REDUCED = {"tensor": PER_ELEMENT, "row": PER_COLUMN - PER_MATRIX, "column": PER_ROW - PER_MATRIX}


def extent_over(node: Expr, operand: int) -> int:
    """Return the extent of a reduction of values of an extent."""
    return operand & ~_REDUCED[node.op.split("_")[0]]


@dataclass(frozen=True)
class TracedStep:
    """The expressions of a step.

    Inputs are named `n_lr` for the number or counter `lr`, `kept_t` for the counter `t` after its update, and `p_`,
    `g_`, `m_` for the element of the parameter, the gradient and the buffer `m`, and `position_` for its place.
    """

    columns: tuple[str, ...]
    counters: Mapping[str, Any]  # the next value of each counter that the rule restates
    results: tuple[Any, ...]  # the new parameter and the new buffers
    extents: Mapping[str, int]  # of the columns

    def hoisted(self) -> Hoisted:
        """Return the scalars of a kernel, none so far."""
        return Hoisted(self.extents)


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
    extents = {name: LINES.get(program.lines.get(name, ""), PER_ELEMENT) for name in columns}
    hoisted = Hoisted(extents)
    return TracedStep(columns, counters, tuple(map(hoisted.with_reciprocals, (new_p, *new_buffers))), extents)


def is_reduction(node: Expr) -> bool:
    """Return whether a node is a value that is reduced over a tensor, a row or a column."""
    return node.op in OPERATIONS and OPERATIONS[node.op].kind in ("reduction", "line")


@cache
def has_lines(program: StepSpec) -> bool:
    """Return whether a program reduces over rows or columns, or keeps a number for each."""
    try:
        step = trace_step(program)
    except FormulaError:  # no kernel can be made of it
        return False
    hoisted = step.hoisted()
    values = {PER_TENSOR, PER_ELEMENT}
    return not values.issuperset(map(hoisted.extent, topological_order(*step.results)))


@cache
def count_passes(program: StepSpec) -> int:
    """Return how many passes over its tensors a program takes: one, and one for each level of its reductions."""
    try:
        step = trace_step(program)
    except FormulaError:  # no kernel can be made of it
        return 1
    return 1 + max(map(step.hoisted().level, step.results))


@dataclass
class Hoisted:
    """The values of a tensor that are computed before its elements are.

    Scalars are named `h0`, `h1`, ... in the order of their first use in a kernel. The values of a matrix are named
    `q0`, ..., those of a row `w0`, ... and those of a column `z0`, ...
    """

    extents: Mapping[str, int]  # of the columns
    values: dict[int, list[Any]] = field(default_factory=lambda: {extent: [] for extent in _NAMES})
    _extents: dict[Expr, int] = field(default_factory=dict)
    _stages: dict[Expr, tuple[int, int]] = field(default_factory=dict)
    _places: dict[Expr, int] = field(default_factory=dict)

    @property
    def scalars(self) -> list[Any]:
        """The scalars of the tensor, in order."""
        return self.values[PER_TENSOR]

    def extent(self, value: Any) -> int:
        """Return the extent of a value: the one number of a tensor, or one for each matrix, row, column or element."""
        if not isinstance(value, Expr):
            return PER_TENSOR
        for node in topological_order(value, stop=self._extents.__contains__):
            if node.op == "input":
                of_columns = PER_ELEMENT if node is POSITION else PER_TENSOR
                self._extents[node] = self.extents.get(str(node.args[0]).removesuffix("_"), of_columns)
            elif is_reduction(node):
                self._extents[node] = extent_over(node, max(map(self.extent, node.args)))
            else:
                self._extents[node] = functools.reduce(operator.or_, (self._extents[x] for x in node.operands), 0)
        return self._extents[value]

    def varies(self, value: Any) -> bool:
        """Return whether a value differs from element to element."""
        return self.extent(value) == PER_ELEMENT

    def level(self, value: Any) -> int:
        """Return how many passes over the elements follow each other before a value is known."""
        return self.stage(value)[0]

    def stage(self, value: Any) -> tuple[int, int]:
        """Return the level of a value, and how many reductions of lines follow that level before it is known."""
        if not isinstance(value, Expr):
            return 0, 0
        for node in topological_order(value, stop=self._stages.__contains__):
            level, stage = max((self._stages[x] for x in node.operands), default=(0, 0))
            if is_reduction(node):
                level, stage = (level + 1, 0) if self.varies(node.args[0]) else (level, stage + 1)
            self._stages[node] = level, stage
        return self._stages[value]

    def place(self, value: Expr) -> int:
        """Return the place of a value among those of its extent, to which it is added if necessary."""
        if value not in self._places:
            alike = self.values[self.extent(value)]
            self._places[value] = len(alike)
            alike.append(value)
        return self._places[value]

    def given(self, value: Expr) -> str | None:
        """Return the name of an input of an element or of a hoisted value; None for other expressions."""
        if self.varies(value):
            return str(value.args[0]) if value.op == "input" else None
        name = f"{_NAMES[self.extent(value)]}{self.place(value)}"
        return f"({name} != 0)" if is_condition(value) else name

    def with_reciprocals(self, value: Any) -> Any:
        """Replace x / c by x * (1 / c), where x alone differs from element to element, and leave out reductions of one.

        The row of a number for each row has one element, so its sum and its mean are this number.
        """
        found: dict[Expr, Any] = {}
        for node in topological_order(value):
            if node.op == "input":
                found[node] = node
                continue
            a, *rest = (found[x] if isinstance(x, Expr) else x for x in node.args)
            if node.op == "/" and self.varies(node) and not self.varies(rest[0]):
                found[node] = Expr("*", a, Expr("/", 1.0, rest[0]))
            elif is_reduction(node) and extent_over(node, self.extent(a)) == self.extent(a):
                found[node] = a
            else:
                found[node] = Expr(node.op, a, *rest)
        return found[value] if isinstance(value, Expr) else value


def given_inputs(value: Expr) -> str | None:
    """Return the name of an input; None for other expressions."""
    return str(value.args[0]) if value.op == "input" else None
