"""The table of bytes per parameter is the one that is measured."""

from __future__ import annotations

from tools.docs import memory


def test_the_table_in_the_docs_is_the_measured_one():
    for page in memory.PAGES:
        (shown,) = memory.TABLE.findall(page.read_text(encoding="utf-8"))
        assert shown.strip() == memory.table()


def test_state_is_counted_once_for_each_element():
    row = next(line for line in memory.table().splitlines() if line.startswith("| float32 | | "))
    assert row == "| float32 | | 4 | 8 | 8 | 12 |"  # the weights, with 0, 1, 1 and 2 buffers
