"""The lines of a step whose state has 8 bits: a pass over each block of elements, then one over its new state."""

from __future__ import annotations

from collections.abc import Sequence

from ..eight_bits import BLOCK

__all__ = ["eight_bit_columns", "in_blocks", "in_entry"]

_WORDS = BLOCK // 2  # of 8 bytes, for the float32 numbers of a block


def eight_bit_columns(columns: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Return the names of the columns that have 8 bits, in order."""
    return [name for name, kind in zip(columns, kinds, strict=True) if kind == "int8"]


def in_blocks(names: Sequence[str], element: Sequence[str], results: Sequence[str], seeds: Sequence[str]) -> list[str]:
    """Return the lines of an item.

    Args:
        names: The columns of 8 bits.
        element: The lines of an element: loads, the formula, and the stores of other columns.
        results: The new value of each column of 8 bits.
        seeds: The variables of the key and the step of the noise.
    """
    key, step = seeds
    return [
        *(f"v_{n} = pointer(room_{n}, float32)" for n in names),
        f"for first in range(0, stop - start, {BLOCK}):",
        f"    last = first + {BLOCK} if first + {BLOCK} < stop - start else stop - start",
        *(f"    s_{n} = e_{n}[first // {BLOCK}]" for n in names),
        *(f"    top_{n} = float32(0.0)" for n in names),
        "    for k in range(first, last):",
        *(f"        {line}" for line in element),
        *(f"        v_{n}[k - first] = float32({result})" for n, result in zip(names, results, strict=True)),
        *(f"        top_{n} = larger_size(top_{n}, {result})" for n, result in zip(names, results, strict=True)),
        *(f"    e_{n}[first // {BLOCK}] = top_{n}" for n in names),
        "    for k in range(first, last):",
        *(
            f"        a_{n}[k] = eight_bits(v_{n}[k - first], top_{n}, noise({key} + {j}, {step}, start + k))"
            for j, n in enumerate(names, 1)
        ),
    ]


def in_entry(names: Sequence[str], first_column: int) -> list[str]:
    """Return the lines at the start of the entry: the columns of scales, and room for the numbers of a block."""
    return [
        *(f"    scales_{n} = pointer(table[{first_column + j}], int64)" for j, n in enumerate(names)),
        *(f"    room_{n} = stack_alloc({_WORDS})" for n in names),
    ]
