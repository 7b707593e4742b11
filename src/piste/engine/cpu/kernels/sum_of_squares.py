"""The sum of the squares of many tensors, in blocks that threads share."""

from __future__ import annotations

from numba import float32, float64, int64, uint16

from ...native.intrinsics import from_bfloat16, from_float16, inline, pointer, view
from ...native.kernels.math32 import fast_add
from ...native.kernels.work_sharing import take_blocks, thread_number
from ..tables import SquaresTable

FLOAT32, FLOAT64, BFLOAT16 = 0, 1, 2  # kinds of tensors; any other number is float16
BLOCK = 1 << 14  # elements


@inline
def _sum(kind, address, start, stop):
    total = 0.0
    if kind == FLOAT32:
        x32 = pointer(address, float32)
        for k in range(start, stop):
            total = fast_add(total, float64(x32[k]) * float64(x32[k]))
    elif kind == FLOAT64:
        x64 = pointer(address, float64)
        for k in range(start, stop):
            total = fast_add(total, x64[k] * x64[k])
    elif kind == BFLOAT16:
        x16 = pointer(address, uint16)
        for k in range(start, stop):
            b = float64(from_bfloat16(x16[k]))
            total = fast_add(total, b * b)
    else:
        h16 = pointer(address, uint16)
        for k in range(start, stop):
            h = float64(from_float16(h16[k]))
            total = fast_add(total, h * h)
    return total


def sum_blocks(block):
    """Leave the sum of each block."""
    table = view(block, SquaresTable)
    tensors, starts, sizes = pointer(table.tensors, int64), pointer(table.starts, int64), pointer(table.sizes, int64)
    addresses, kinds = pointer(table.addresses, int64), pointer(table.kinds, int64)
    sums = pointer(table.sums, float64)
    own, turn, at, end = thread_number(block), 0, 0, 0
    while True:
        turn, at, end = take_blocks(block, own, turn, 1)
        if at == end:
            break
        i, start = tensors[at], starts[at]
        stop = start + BLOCK if start + BLOCK < sizes[i] else sizes[i]
        sums[at] = _sum(kinds[i], addresses[i], start, stop)


def finish(block):
    """Add the sums of the blocks in order."""
    table = view(block, SquaresTable)
    sums = pointer(table.sums, float64)
    total = 0.0
    for k in range(table.blocks):
        total += sums[k]
    table.total = total
