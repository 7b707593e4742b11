"""How the threads of a parallel kernel take blocks of work."""

from __future__ import annotations

from numba import int64

from ..intrinsics import call_address, fetch_add, inline, pointer, view
from ..tables import WorkTable

__all__ = ["reset_counters", "take_blocks", "thread_number"]

COUNTER_BYTES = 64  # from one counter to the next: a cache line each, so that threads don't slow each other down


@inline
def reset_counters(table):
    """Set the counter of each share to 0."""
    work = view(table, WorkTable)
    for share in range(work.shares):
        pointer(work.counters + share * COUNTER_BYTES, int64)[0] = 0


@inline
def thread_number(table):
    """The share that the calling thread begins with."""
    work = view(table, WorkTable)
    if work.shares > 1 and work.thread_num != 0:
        return (call_address(work.thread_num) & 0xFFFFFFFF) % work.shares
    return 0


@inline
def take_blocks(table, own, turn, run):
    """Take up to `run` blocks for a thread: from its own share, then from the others in turn.

    Returns the turn to continue with, the first block taken and the end of the blocks; they are none (0, 0) where all
    blocks are taken.
    """
    work = view(table, WorkTable)
    shares, blocks = work.shares, work.blocks
    first, end = 0, 0
    while turn < shares and first == end:
        share = (own + turn) % shares
        start, stop = share * blocks // shares, (share + 1) * blocks // shares
        counter = pointer(work.counters + share * COUNTER_BYTES, int64)
        if start + counter[0] * run < stop:
            taken = start + fetch_add(counter) * run
            if taken < stop:
                first = taken
                end = taken + run if taken + run < stop else stop
        if first == end:
            turn += 1
    return turn, first, end
