"""The entries of a step that reduces over its tensors: passes that add, and the scalars that follow from the sums.

`reduce0` adds, for each item of work, the values that depend on no other sum. `finish0` adds these partial sums in the
order of the items, and computes the scalars of a tensor that follow; then `reduce1`, and so on. Sums are in double
precision. The items don't depend on the number of threads, and neither do the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...formula.expression import Expr, is_condition, topological_order
from ..emit import Emitter
from ..hoisting import Hoisted, TracedStep, is_reduction
from ..native.tables import word
from .dialect import numba
from .tables import StepTable

__all__ = ["Level", "finish_entry", "first_items", "plan_levels", "stages"]

SCALARS, TENSORS = word(StepTable, "scalars"), word(StepTable, "tensors")


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

    def before(self, place: int) -> list[str]:
        """Return the lines before the elements of an item; `place` is that of the partial sums in the table."""
        return [f"partials = pointer(table[{place}], float64)", *(f"t{k} = 0.0" for k in range(len(self.operands)))]

    def added(self) -> list[str]:
        """Return the lines of an element."""
        return [*self.lines, *(f"t{k} = fast_add(t{k}, float64({x}))" for k, x in enumerate(self.operands))]

    def after(self) -> list[str]:
        """Return the lines after the elements of an item."""
        count = len(self.operands)
        return [f"partials[{count} * item + {k}] = t{k}" for k in range(count)]


def stages(levels: int) -> list[tuple[str, str]]:
    """Return the entries of a step in order, in pairs: one that a single thread runs, and one that all run."""
    serial = ["prepare", *(f"finish{k}" for k in range(levels))]
    return list(zip(serial, [*(f"reduce{k}" for k in range(levels)), "body"], strict=True))


def first_items(tensors: Sequence[int], count: int) -> list[int]:
    """Return the place of the first item of each tensor, and the number of items, given the tensor of each item."""
    places = [0] * (count + 1)
    for tensor in tensors:
        places[tensor + 1] += 1
    for i in range(count):
        places[i + 1] += places[i]
    return places


def plan_levels(step: TracedStep, hoisted: Hoisted, compute: str) -> list[Level]:
    """Return the levels of a step, in order; scalars that they need are added to `hoisted`.

    Args:
        step: the step.
        hoisted: the scalars that its last pass needs.
        compute: the dtype of the computation.
    """
    known = [node for node in topological_order(*step.results) if is_reduction(node)]
    levels: list[Level] = []
    for level in reversed(range(max(map(hoisted.level, step.results)))):
        found = [node for node in known if hoisted.level(node) == level + 1]
        scalars = _scalars_after(level, found, hoisted)
        body = Emitter(numba(compute), "x", hoisted.given)
        operands = [body.name(node.args[0]) for node in found]
        levels.insert(0, Level([node.op == "tensor_mean" for node in found], body.lines, operands, scalars))
    return levels


def _scalars_after(level: int, found: Sequence[Expr], hoisted: Hoisted) -> list[str]:
    """Write the scalars that depend on these reductions and on no later ones."""
    sums = {node: f"r{k}" for k, node in enumerate(found)}

    def given(node: Expr) -> str | None:
        if node in sums or hoisted.level(node) > level:
            return sums.get(node)
        at = f"row[{hoisted.place(node)}]"
        return f"({at} != 0)" if is_condition(node) else at

    emitter = Emitter(numba("float64"), "s", given)
    for slot, value in enumerate(list(hoisted.scalars)):
        if hoisted.level(value) == level + 1:
            emitter.lines.append(f"row[{slot}] = {emitter.name(value)}")
    return emitter.lines


def finish_entry(number: int, level: Level, place: int, width: int) -> list[str]:
    """Write the entry that adds the partial sums of a level and computes the scalars that follow.

    Args:
        number: the number of the level.
        level: the level.
        place: where the table has the addresses of the partial sums, the first items and the sizes of the tensors.
        width: the number of scalars of a tensor.
    """
    names = [f"r{k}" for k in range(len(level.operands))]
    return [
        f"def finish{number}(table):",
        "    reset_counters(table)",
        f"    partials = pointer(table[{place}], float64)",
        f"    firsts = pointer(table[{place + 1}], int64)",
        f"    sizes = pointer(table[{place + 2}], int64)",
        f"    for i in range(table[{TENSORS}]):",
        f"        row = pointer(table[{SCALARS}] + i * {8 * width}, float64)",
        *(f"        {name} = 0.0" for name in names),
        "        for item in range(firsts[i], firsts[i + 1]):",
        *(f"            {name} += partials[{len(names)} * item + {k}]" for k, name in enumerate(names)),
        *(f"        {name} = {name} / sizes[i]" for name, mean in zip(names, level.is_mean, strict=True) if mean),
        *(f"        {line}" for line in level.scalars),
        "",
    ]
