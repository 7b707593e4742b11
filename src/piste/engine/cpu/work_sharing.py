"""Blocks of work for the threads of a kernel: each thread begins with its own share, then helps with the others.

The share of a thread is the same in every call, and the part that PyTorch's own operations give to this thread: its
core has that data in the cache. On servers, whose cores have no cache in common, a loss of 100,000 elements takes half
as long again if any thread takes any block.

`kernels/work_sharing.py` has the machine code; a table begins with the fields of `WorkTable`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from ..native.openmp import thread_num_address

__all__ = ["COUNTER_STRIDE", "make_counters", "shared_lines", "work"]

COUNTER_STRIDE = 8  # words from one counter to the next: a cache line each


def make_counters(shares: int) -> array[int]:
    """Return a counter for each share, at 0."""
    return array("q", bytes(8 * COUNTER_STRIDE * shares))


def work(counters: array[int], blocks: int) -> dict[str, int]:
    """Return the fields of a WorkTable by name."""
    shares = len(counters) // COUNTER_STRIDE
    address = counters.buffer_info()[0]
    return {"counters": address, "shares": shares, "thread_num": thread_num_address(), "blocks": blocks}


def shared_lines(body: Sequence[str], run: str = "1") -> list[str]:
    """Return lines of an entry that run `body` for each `block`; a thread takes `run` of them at a time.

    `own` is the thread's number; all other names end in an underscore.
    """
    return [
        "    own, turn_ = thread_number(table), 0",
        "    while True:",
        f"        turn_, block, end_ = take_blocks(table, own, turn_, {run})",
        "        if block == end_:",
        "            break",
        "        while block < end_:",
        *(f"            {line}" for line in body),
        "            block += 1",
    ]
