"""The entries of a step that reduces over its tensors: passes that add, and the scalars that follow from the sums.

`reduce0` adds, for each item of work, the values that depend on no other sum. `finish0` adds these partial sums in the
order of the items, and computes the scalars of a tensor that follow; then `reduce1`, and so on. Sums are in double
precision. The items don't depend on the number of threads, and neither do the results.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..native.tables import word
from ..step_levels import Level, Words
from .dialect import numba
from .tables import StepTable

__all__ = [
    "cpu_words",
    "finish_entry",
    "first_items",
    "lines_after",
    "lines_before",
    "lines_of_element",
    "stages",
    "total_entry",
]

SCALARS, TENSORS = word(StepTable, "scalars"), word(StepTable, "tensors")


def cpu_words(compute: str) -> Words:
    """Return the words of the kernel, for a dtype of the computation."""
    return Words(
        numba(compute),
        numba("float64"),
        lambda place: f"row[{place}]",
        lambda place, value, name: f"row[{place}] = {name}",
    )


def lines_before(level: Level, place: int) -> list[str]:
    """Return the lines before the elements of an item; `place` is that of the partial sums in the table."""
    return [f"partials = pointer(table[{place}], float64)", *(f"t{k} = 0.0" for k in range(len(level.operands)))]


def lines_of_element(level: Level) -> list[str]:
    """Return the lines of an element."""
    return [*level.lines, *(f"t{k} = fast_add(t{k}, float64({x}))" for k, x in enumerate(level.operands))]


def lines_after(level: Level) -> list[str]:
    """Return the lines after the elements of an item."""
    count = len(level.operands)
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


def total_entry(count: int, place: int) -> list[str]:
    """Write the entry that adds the partial sums of all tensors.

    Args:
        count: the number of sums.
        place: where the table has the addresses of the partial sums, the number of items and the sums.
    """
    return [
        "def total(table):",
        f"    partials = pointer(table[{place}], float64)",
        f"    items = pointer(table[{place + 1}], int64)[0]",
        f"    found = pointer(table[{place + 2}], float64)",
        *(f"    r{k} = 0.0" for k in range(count)),
        "    for item in range(items):",
        *(f"        r{k} += partials[{count} * item + {k}]" for k in range(count)),
        *(f"    found[{k}] = r{k}" for k in range(count)),
        "",
    ]
