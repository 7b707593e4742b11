"""The hinges between listed classes and others, as functions in Triton's language.

A list is read class by class, for all rows of a tile at once, until the last of them ends.
"""

from __future__ import annotations

__all__ = ["hinge_functions"]

_FUNCTIONS = '''
@triton.jit
def unlisted(lists, serves, c, inside, classes, zero):
    """1 for each class that is not in the list of its row, and 0 for others."""
    other = tl.where(inside, zero + 1.0, zero)
    is_open = serves
    n = tl.full((), 0, tl.int64)
    while (n < classes) & (tl.max(tl.where(is_open, 1, 0)) > 0):
        j = tl.load(lists + n, mask=is_open, other=-1)
        is_open = is_open & (j >= 0)
        other = tl.where(c == j[:, None], zero, other)
        n += 1
    return other


@triton.jit
def hinges(x, x_at, stride, lists, serves, c, inside, classes, zero):
    """For each class of a tile, the sum of its hinges with listed classes, and the slope of all hinges of the tile."""
    other = unlisted(lists, serves, c, inside, classes, zero)
    sums = zero
    slopes = zero
    is_open = serves
    n = tl.full((), 0, tl.int64)
    while (n < classes) & (tl.max(tl.where(is_open, 1, 0)) > 0):
        j = tl.load(lists + n, mask=is_open, other=-1)
        is_open = is_open & (j >= 0)
        x_j = tl.load(x_at + j * stride, mask=is_open, other=0.0).to(zero.dtype)
        z = (1.0 - x_j)[:, None] + x
        counted = tl.where(is_open[:, None], tl.where(z <= 0.0, zero, other), zero)  # NaN counts
        sums += tl.where(counted != 0.0, z, zero)
        slopes += counted{of_listed}
        n += 1
    return sums, slopes
'''
_OF_LISTED = " - tl.where(c == j[:, None], tl.sum(counted, 1)[:, None], zero)"
_OF_LONG_ROWS = '''

@triton.jit
def listed_slopes(x_at, lists, serves, row_inside, c, classes, zero):
    """The slope of all hinges of a row by each class of a tile, as far as the class is listed."""
    slopes = zero
    is_open = serves
    n = tl.full((), 0, tl.int64)
    while (n < classes) & (tl.max(tl.where(is_open, 1, 0)) > 0):
        j = tl.load(lists + n, mask=is_open, other=-1)
        is_open = is_open & (j >= 0)
        here = tl.where(is_open[:, None], tl.where(c == j[:, None], 1, 0), 0)
        if tl.max(here) > 0:
            x_j = tl.load(x_at + j, mask=is_open, other=0.0).to(zero.dtype)
            counts = zero
            start = tl.full((), 0, tl.int32)
            while start < classes:
                d = start + tl.arange(0, {lanes})[None, :]
                inside = row_inside[:, None] & (d < classes)
                x = tl.load(x_at[:, None] + d, mask=inside, other=0.0).to(zero.dtype)
                z = (1.0 - x_j)[:, None] + x
                counts += tl.where(z <= 0.0, zero, unlisted(lists, serves, d, inside, classes, zero))
                start += {lanes}
            slopes -= tl.where(here != 0, tl.sum(counts, 1)[:, None], zero)
        n += 1
    return slopes
'''


def hinge_functions(lanes: int, is_whole: bool) -> str:
    """Return the functions for tiles of some number of classes, which are whole rows or parts of longer ones."""
    if is_whole:
        return _FUNCTIONS.format(of_listed=_OF_LISTED)
    return _FUNCTIONS.format(of_listed="") + _OF_LONG_ROWS.format(lanes=lanes)
