"""The levels of a step that reduces over its tensors: the operands of each pass, and the scalars that follow from it.

A kernel adds the operands of the first level over each tensor, computes the scalars that follow, adds the operands of
the next level, and so on; the last pass steps the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..formula.expression import Expr, is_condition, topological_order
from .emit import Dialect, Emitter
from .hoisting import Hoisted, TracedStep, is_reduction

__all__ = ["Level", "Words", "plan_levels"]


class Level(NamedTuple):
    """The reductions whose operands need the same number of passes before them.

    Attributes:
        is_mean: for each reduction, whether its sum is divided by the number of elements.
        lines: the lines that compute the operands for an element.
        operands: the operand of each reduction.
        scalars: the lines that compute the scalars that follow, from the reductions `r0`, `r1`, ...
    """

    is_mean: list[bool]
    lines: list[str]
    operands: list[str]
    scalars: list[str]


class Words(NamedTuple):
    """The words of a kernel.

    Attributes:
        element: the dialect of the elements.
        scalar: the dialect of the scalars, in double precision.
        load: returns the scalar at a place.
        store: returns the line that keeps a scalar at a place, given its expression and its name.
    """

    element: Dialect
    scalar: Dialect
    load: Callable[[int], str]
    store: Callable[[int, Expr, str], str]


def plan_levels(step: TracedStep, hoisted: Hoisted, words: Words) -> list[Level]:
    """Return the levels of a step, in order; scalars that they need are added to `hoisted`.

    Args:
        step: the step.
        hoisted: the scalars that its last pass needs.
        words: the words of the kernel.
    """
    known = [node for node in topological_order(*step.results) if is_reduction(node)]
    levels: list[Level] = []
    for level in reversed(range(max(map(hoisted.level, step.results)))):
        found = [node for node in known if hoisted.level(node) == level + 1]
        scalars = _scalars_after(level, found, hoisted, words)
        body = Emitter(words.element, "x", hoisted.given)
        operands = [body.name(node.args[0]) for node in found]
        levels.insert(0, Level([node.op == "tensor_mean" for node in found], body.lines, operands, scalars))
    return levels


def _scalars_after(level: int, found: Sequence[Expr], hoisted: Hoisted, words: Words) -> list[str]:
    """Write the scalars that depend on these reductions and on no later ones."""
    sums = {node: f"r{k}" for k, node in enumerate(found)}

    def given(node: Expr) -> str | None:
        if node in sums or hoisted.level(node) > level:
            return sums.get(node)
        at = words.load(hoisted.place(node))
        return f"({at} != 0)" if is_condition(node) else at

    emitter = Emitter(words.scalar, "s", given)
    for slot, value in enumerate(list(hoisted.scalars)):
        if hoisted.level(value) == level + 1:
            emitter.lines.append(words.store(slot, value, emitter.name(value)))
    return emitter.lines
