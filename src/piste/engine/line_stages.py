"""The passes and stages of a step that reduces over rows or columns of its tensors, or keeps a number for each.

A pass over the elements adds the operands of the reductions of a level. The stages after it compute the values that
follow: those of the tensor, of each matrix, of each row and of each column. The values of a stage are known once the
reductions of matrices, rows and columns in front of it are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..formula.expression import Expr, FormulaError, is_condition, topological_order
from .emit import Dialect, Emitter
from .hoisting import (
    PER_COLUMN,
    PER_ELEMENT,
    PER_MATRIX,
    PER_ROW,
    PER_TENSOR,
    Hoisted,
    TracedStep,
    is_reduction,
)
from .specs import ParamState, StepSpec

__all__ = ["LINE_EXTENTS", "LinePass", "LinePlan", "LineWords", "Reduction", "Stage", "plan_lines", "why_not_reduced"]

LINE_EXTENTS = (PER_MATRIX, PER_ROW, PER_COLUMN)


def why_not_reduced(spec: StepSpec, state: ParamState) -> str | None:
    """Return the reason why no kernel can reduce over the rows and columns of a parameter, or None."""
    if state.p.dim() < 2:
        return "it has fewer than two dimensions, and its rule reduces over rows or columns"
    if state.p.is_complex():
        return "it is complex, and its rule reduces over rows or columns"
    *outer, height, breadth = state.p.shape
    line = {"row": [*outer, height, 1], "column": [*outer, 1, breadth]}
    for name, x in zip(spec.buffers, state.buffers, strict=False):  # before the first step there are none
        if name in spec.lines and (list(x.shape) != line[spec.lines[name]] or not x.is_contiguous()):
            return "a part of its state has another shape or layout than its rows or columns"
    return None


class LineWords(NamedTuple):
    """The words of a kernel.

    Attributes:
        element: the dialect of the elements.
        scalar: the dialect of other values, in double precision.
        load: returns the value of an extent at a place.
        store: returns the line that keeps a value of an extent at a place, given its expression and its name.
        keep: returns the line that stores the new number of a buffer, given its letter, its extent and its name.
    """

    element: Dialect
    scalar: Dialect
    load: Callable[[int, int], str]
    store: Callable[[int, int, Expr, str], str]
    keep: Callable[[str, int, str], str]


class Reduction(NamedTuple):
    """A reduction, with the variable of its operand.

    Attributes:
        extent: the extent of the result.
        place: the place of the result.
        is_mean: whether the sum is divided by the number of values.
        operand: the variable that is added.
        of: the extent of the operand.
    """

    extent: int
    place: int
    is_mean: bool
    operand: str
    of: int


@dataclass(frozen=True)
class LinePass:
    """A pass over the elements: the lines of one, and the reductions of their results."""

    lines: list[str]
    reductions: list[Reduction]

    def over(self, extent: int) -> list[Reduction]:
        """Return the reductions whose results have an extent."""
        return [x for x in self.reductions if x.extent == extent]


@dataclass(frozen=True)
class Stage:
    """The lines that compute the values of each extent, and the reductions of these values."""

    lines: dict[int, list[str]] = field(default_factory=dict)
    reductions: list[Reduction] = field(default_factory=list)

    def of(self, extent: int) -> list[Reduction]:
        """Return the reductions whose operands have an extent."""
        return [x for x in self.reductions if x.of == extent]


class LinePlan(NamedTuple):
    """The work of a step.

    Attributes:
        passes: the passes over the elements in order, other than the last one, which steps.
        stages: the stages in front of the first pass, and after each pass. The scalars of the first stage of all are
            left to the caller.
        body: the lines of the last pass.
        results: the variables of the new parameter and of the new buffers of elements, by name.
    """

    passes: list[LinePass]
    stages: list[list[Stage]]
    body: list[str]
    results: dict[str, str]


def plan_lines(step: TracedStep, hoisted: Hoisted, words: LineWords) -> LinePlan:
    """Return the passes and stages of a step; the values that they keep are added to `hoisted`.

    Raises:
        FormulaError: A buffer of a number for each row or column has a new value for each element, or each line of the
            other kind.
    """
    names = [step.columns[0], *step.columns[2:]]
    new = dict(zip(names, step.results, strict=True))
    kept = {name: value for name, value in new.items() if step.extents[name] != PER_ELEMENT}
    for name, value in kept.items():
        if hoisted.extent(value) | step.extents[name] != step.extents[name]:
            kind = "row" if step.extents[name] == PER_ROW else "column"
            raise FormulaError(f"the new value of the buffer `{name}` must be one number for each {kind}")
    body = Emitter(words.element, "x", hoisted.given)
    results = {name: body.name(value) for name, value in new.items() if name not in kept}
    reductions = [node for node in topological_order(*step.results) if is_reduction(node)]
    last = max(map(hoisted.level, step.results))
    passes: list[LinePass] = []
    stages: list[list[Stage]] = []
    for level in reversed(range(last + 1)):
        found = [node for node in reductions if hoisted.level(node) == level]
        count = 1 + max((hoisted.stage(node)[1] for node in found), default=0)
        stages.insert(0, [])
        for number in reversed(range(count)):
            is_last = (level, number) == (last, count - 1)
            after = [node for node in found if hoisted.stage(node)[1] == number + 1]
            maker = _StageMaker(hoisted, words, (level, number))
            stages[0].insert(0, maker.make(after, {n: (step.extents[n], x) for n, x in kept.items() if is_last}))
        if level:
            first = [node for node in found if not hoisted.stage(node)[1]]
            emitter = Emitter(words.element, "x", hoisted.given)
            operands = [emitter.name(node.args[0]) for node in first]
            passes.insert(0, LinePass(emitter.lines, _reductions(first, operands, hoisted)))
    return LinePlan(passes, stages, body.lines, results)


def _reductions(nodes: Sequence[Expr], operands: Sequence[str], hoisted: Hoisted) -> list[Reduction]:
    return [
        Reduction(
            hoisted.extent(node), hoisted.place(node), node.op.endswith("mean"), name, hoisted.extent(node.args[0])
        )
        for node, name in zip(nodes, operands, strict=True)
    ]


class _StageMaker:
    """Writes a stage; values of earlier stages are loaded."""

    def __init__(self, hoisted: Hoisted, words: LineWords, stage: tuple[int, int]) -> None:
        self._hoisted, self._words, self._stage = hoisted, words, stage

    def make(self, after: Sequence[Expr], kept: dict[str, tuple[int, Any]]) -> Stage:
        """Return the stage, given the reductions of its values and the buffers whose new values are stored at its end.

        The values of rows and columns come first, as they ask for scalars of earlier stages.
        """
        stage = Stage()
        for extent in reversed((PER_TENSOR, *LINE_EXTENTS)):
            is_first_of_all = self._stage == (0, 0) and extent == PER_TENSOR
            emitter = Emitter(self._words.scalar, f"s{extent}_", self._given)
            nodes = [node for node in after if self._hoisted.extent(node.args[0]) == extent]
            stage.reductions.extend(_reductions(nodes, [emitter.name(x.args[0]) for x in nodes], self._hoisted))
            new = [(name, emitter.name(value)) for name, (of, value) in kept.items() if of == extent]
            if not is_first_of_all:
                for place, value in enumerate(list(self._hoisted.values[extent])):
                    if self._hoisted.stage(value) == self._stage and not is_reduction(value):
                        name = emitter.name(value)
                        emitter.lines.append(self._words.store(extent, place, value, name))
            stage.lines[extent] = emitter.lines + [self._words.keep(name, extent, x) for name, x in new]
        return stage

    def _given(self, node: Expr) -> str | None:
        extent = self._hoisted.extent(node)
        if node.op == "input" and extent in LINE_EXTENTS:
            return str(node.args[0])
        is_known = is_reduction(node) or self._hoisted.stage(node) < self._stage
        if not is_known and not (self._stage == (0, 0) and extent == PER_TENSOR):
            return None
        at = self._words.load(extent, self._hoisted.place(node))
        return f"({at} != 0)" if is_condition(node) else at
