"""The sum of the squares of many tensors, in blocks that threads share."""

from __future__ import annotations

from numba import float32, float64, int64, uint16

from ...native.intrinsics import from_bfloat16, from_float16, inline, pointer, view
from ...native.kernels.math32 import fast_add
from ...native.kernels.work_sharing import take_blocks, thread_number
from ..tables import SquaresTable

FLOAT32, FLOAT64, BFLOAT16 = 0, 1, 2  # kinds of tensors; any other number is float16
LONG = 1 << 10  # elements from which a part is read in four runs


@inline
def _square(x, k):
    v = float64(x[k])
    return v * v


@inline
def _square_bfloat16(x, k):
    v = float64(from_bfloat16(x[k]))
    return v * v


@inline
def _square_float16(x, k):
    v = float64(from_float16(x[k]))
    return v * v


@inline
def _sum(square, x, start, stop):
    """Add the squares of a part, a long one in four runs at once: a core reads a single run at two thirds the speed."""
    run = (stop - start) // 4 if stop - start >= LONG else 0
    a = b = c = d = 0.0
    for k in range(start, start + run):
        a = fast_add(a, square(x, k))
        b = fast_add(b, square(x, k + run))
        c = fast_add(c, square(x, k + 2 * run))
        d = fast_add(d, square(x, k + 3 * run))
    for k in range(start + 4 * run, stop):
        a = fast_add(a, square(x, k))
    return (a + b) + (c + d)


@inline
def _sum_of(kind, address, start, stop):
    if kind == FLOAT32:
        total = _sum(_square, pointer(address, float32), start, stop)
    elif kind == FLOAT64:
        total = _sum(_square, pointer(address, float64), start, stop)
    elif kind == BFLOAT16:
        total = _sum(_square_bfloat16, pointer(address, uint16), start, stop)
    else:
        total = _sum(_square_float16, pointer(address, uint16), start, stop)
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
        is_last = at + 1 == table.blocks or tensors[at + 1] != i
        stop = sizes[i] if is_last else starts[at + 1]
        sums[at] = _sum_of(kinds[i], addresses[i], start, stop)


def finish(block):
    """Add the sums of the blocks in order."""
    table = view(block, SquaresTable)
    sums = pointer(table.sums, float64)
    total = 0.0
    for k in range(table.blocks):
        total += sums[k]
    table.total = total
