"""The last part of a loss: add the partial sums and counts in order, whatever number of threads made them."""

from __future__ import annotations

from numba import float32, float64, uint16

from ...native.intrinsics import pointer, to_bfloat16, to_float16, view
from ..tables import LossNumbers, LossTable

FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = 0, 1, 2, 3  # LossTable.result


def finish(block):
    """Store the number of failed value checks, and the scalar result where there is one."""
    table = view(block, LossTable)
    numbers, partials = view(table.numbers, LossNumbers), pointer(table.partials, float64)
    total, faults = 0.0, 0.0
    for k in range(table.blocks):
        total += partials[2 * k]
        faults += partials[2 * k + 1]
    numbers.faults = faults
    result = total / numbers.divisor
    if table.result == FLOAT32:
        pointer(table.out, float32)[0] = float32(result)
    elif table.result == FLOAT64:
        pointer(table.out, float64)[0] = result
    elif table.result == BFLOAT16:
        pointer(table.out, uint16)[0] = to_bfloat16(float32(result))
    elif table.result == FLOAT16:
        pointer(table.out, uint16)[0] = to_float16(float32(result))
