"""Work sharing: each block is computed once, by its own thread unless that is late."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest

from piste.engine.cpu import work_sharing as shares
from piste.engine.native import compiler, openmp
from piste.engine.native.tables import WorkTable, columns_from

DONE, WHO, RUN, BEGUN, OTHERS, SPINS = range(columns_from(WorkTable), columns_from(WorkTable) + 6)
LONG = 100_000_000


def source(*body: str) -> str:
    return "\n".join(
        [
            "def run(table):",
            f"    done, who = pointer(table[{DONE}], int64), pointer(table[{WHO}], int64)",
            *shares.shared_lines([*body, "done[block] += 1", "who[block] = own"], f"table[{RUN}]"),
            "",
            "def again(table):",
            "    reset_counters(table)",
            "",
        ]
    )


def shared(
    blocks: int, many: int, threads: int, run: int = 1, times: int = 1, body: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Return the number of runs of each block, and its last thread."""
    kernel = compiler.load(source(*body), ("run", "again"))
    counters, done, who = shares.make_counters(many), array("q", bytes(8 * blocks)), array("q", [-1] * blocks)
    words = array("q", [0, 0, 0])
    at = words.buffer_info()[0]
    table = array("q", [*shares.work(counters, blocks).values(), done.buffer_info()[0], who.buffer_info()[0], run])
    table.extend((at, at + 8, at + 16))
    for _ in range(times):
        kernel.call["again"](table.buffer_info()[0])
        kernel.parallel("run", table.buffer_info()[0], threads)
    return list(done), list(who)


@pytest.mark.parametrize("run", [1, 3])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("many", [1, 2, 5])
@pytest.mark.parametrize("blocks", [0, 1, 4, 7, 100])
def test_every_block_is_computed_once(blocks: int, many: int, threads: int, run: int) -> None:
    done, _ = shared(blocks, many, threads, run, times=10)
    assert done == [10] * blocks


def test_one_thread_computes_the_chunks_of_all_threads() -> None:
    assert shared(10, 4, 1) == ([1] * 10, [0] * 10)


def test_a_thread_computes_its_own_chunk_first_and_then_steals_blocks() -> None:
    """The first thread waits in its first block while the other computes its own chunk and the rest of the first."""
    body = [
        f"begun, others = pointer(table[{BEGUN}], int64), pointer(table[{OTHERS}], int64)",
        f"spins = pointer(table[{SPINS}], int64)",
        "if own == 0:",
        "    fetch_add(begun)",
        f"    while others[0] < 19 and fetch_add(spins) < {LONG}:",
        "        continue",
        "else:",
        f"    while begun[0] == 0 and fetch_add(spins) < {LONG}:",
        "        continue",
        "    fetch_add(others)",
    ]
    assert shared(20, 2, 2, body=body) == ([1] * 20, [0] + [1] * 19)


def test_the_counters_are_on_separate_cache_lines() -> None:
    counters = shares.make_counters(3)
    assert len(counters) * counters.itemsize == 3 * 64
    head = WorkTable(**shares.work(counters, 7))
    assert (head.counters, head.shares, head.blocks) == (counters.buffer_info()[0], 3, 7)
    assert head.thread_num == openmp.thread_num_address()
