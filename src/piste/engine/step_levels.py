"""The levels of a step that reduces over its tensors: the operands of each pass, and the scalars that follow from it.

A kernel adds the operands of the first level over each tensor, computes the scalars that follow, adds the operands of
the next level, and so on; the last pass steps the elements. Where the passes after the first would read the gradient
for new buffers alone, the first pass stores these buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..formula.expression import Expr, is_condition, topological_order
from .emit import Dialect, Emitter
from .hoisting import Hoisted, TracedStep, is_reduction

__all__ = ["Level", "Words", "early_buffers", "given_after", "plan_levels"]


class Level(NamedTuple):
    """The reductions whose operands need the same number of passes before them.

    Attributes:
        is_mean: for each reduction, whether its sum is divided by the number of elements.
        lines: the lines that compute the operands for an element.
        operands: the operand of each reduction.
        scalars: the lines that compute the scalars that follow, from the reductions `r0`, `r1`, ...
        buffers: the buffers that this pass stores, each with its new value.
    """

    is_mean: list[bool]
    lines: Sequence[str]
    operands: list[str]
    scalars: list[str]
    buffers: Sequence[tuple[str, str]] = ()


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


def early_buffers(step: TracedStep, hoisted: Hoisted, exact: Sequence[str]) -> dict[Expr, str]:
    """Return the buffers that the first pass stores, by their new value: all that it computes, or none.

    Each later pass reads them in place of the old ones. It is done where these passes then need no gradient, so that
    a step of LAMB takes 40 bytes for each float32 element instead of 44.

    Args:
        step: the step.
        hoisted: the scalars of its kernel.
        exact: the columns that are stored in the dtype of the computation; others would be rounded in between.
    """
    first = {node for node in topological_order(*step.results) if is_reduction(node) and hoisted.level(node) == 1}
    computed = set(topological_order(*first))
    new = zip(step.columns[2:], step.results[1:], strict=True)
    early = {value: name for name, value in new if name in exact and value in computed and hoisted.varies(value)}
    later = topological_order(*step.results, stop=lambda node: node in early or node in first)
    needed = {node.args[0] for node in later if node.op == "input"}
    return {} if needed.intersection(f"{name}_" for name in ("g", *early.values())) else early


def given_after(early: Mapping[Expr, str], hoisted: Hoisted) -> Callable[[Expr], str | None]:
    """Return what the passes after the first are given: the new values of the buffers that it stored, and scalars."""
    return lambda node: f"{early[node]}_" if node in early else hoisted.given(node)


def plan_levels(step: TracedStep, hoisted: Hoisted, words: Words, early: Mapping[Expr, str]) -> list[Level]:
    """Return the levels of a step, in order; scalars that they need are added to `hoisted`.

    Args:
        step: the step.
        hoisted: the scalars that its last pass needs.
        words: the words of the kernel.
        early: the buffers that the first pass stores, by their new value.
    """
    known = [node for node in topological_order(*step.results) if is_reduction(node)]
    levels: list[Level] = []
    for level in reversed(range(max(map(hoisted.level, step.results)))):
        found = [node for node in known if hoisted.level(node) == level + 1]
        scalars = _scalars_after(level, found, hoisted, words)
        body = Emitter(words.element, "x", given_after(early, hoisted) if level else hoisted.given)
        operands = [body.name(node.args[0]) for node in found]
        buffers = [] if level else [(name, body.name(value)) for value, name in early.items()]
        levels.insert(0, Level([node.op == "tensor_mean" for node in found], body.lines, operands, scalars, buffers))
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
