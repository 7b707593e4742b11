"""Blocks of work, shared out among threads: each begins with its own share, and then helps those that are not done.

Its share is the same in every call, and is the part that torch's own operations give this thread: what they left in the
cache of its core is near. Where the cores have no cache in common, as on most servers, a loss of 100,000 elements takes
half as long again if any thread takes any block.

A kernel's table begins with `COUNTERS` (where one counter lies for each share), `SHARES`, `MEMBER` (the function that
tells a thread its number in the team) and `BLOCKS`; what it holds besides comes from `HEAD` on.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from .openmp import thread_num_address

__all__ = ["APART", "BLOCKS", "COUNTERS", "HEAD", "MEMBER", "SHARES", "counters", "head", "reset_lines", "shared_lines"]

COUNTERS, SHARES, MEMBER, BLOCKS, HEAD = range(5)
APART = 8  # words from one counter to the next: a line of the cache, so that taking one's own disturbs nobody


def counters(shares: int) -> array[int]:
    """A counter for each share, at 0."""
    return array("q", bytes(8 * APART * shares))


def head(counters: array[int], blocks: int) -> list[int]:
    """What a table begins with."""
    return [counters.buffer_info()[0], len(counters) // APART, thread_num_address(), blocks]


def reset_lines() -> list[str]:
    """Lines of an entry that set the counters to 0 again."""
    return [
        f"    for share in range(table[{SHARES}]):",
        f"        pointer(table[{COUNTERS}] + share * {8 * APART}, int64)[0] = 0",
    ]


def shared_lines(body: Sequence[str], run: str = "1") -> list[str]:
    """Lines of an entry that run `body` for each `block`, of which `run` are taken at a time.

    `own` is the thread's number; all other names end in an underscore.
    """
    return [
        f"    shares_, blocks_, member_ = table[{SHARES}], table[{BLOCKS}], table[{MEMBER}]",
        f"    own = (call0(member_) & {0xFFFFFFFF}) % shares_ if shares_ > 1 and member_ != 0 else 0",
        "    for turn_ in range(shares_):",
        "        share_ = (own + turn_) % shares_",
        "        first_, last_ = share_ * blocks_ // shares_, (share_ + 1) * blocks_ // shares_",
        f"        taken_ = pointer(table[{COUNTERS}] + share_ * {8 * APART}, int64)",
        f"        block = first_ + taken_[0] * {run}",
        "        while block < last_:",
        f"            block = first_ + claim(taken_) * {run}",
        f"            end_ = block + {run} if block + {run} < last_ else last_",
        "            while block < end_:",
        *(f"                {line}" for line in body),
        "                block += 1",
    ]
