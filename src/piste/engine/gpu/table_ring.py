"""Pinned tables that are rewritten only once no launched kernel and no CUDA graph can read them."""

from __future__ import annotations

from array import array
from typing import Any

from .device import PinnedTable

_seen_by_graphs: list[PinnedTable] = []
"""Tables whose address a CUDA graph holds; it may be replayed at any time, also after its optimizer is gone."""


class TableRing:
    """Tables of one size, of which one holds the current content.

    Args:
        device: allocates tables and records events.
        words: the size of a table.
    """

    def __init__(self, device: Any, words: int) -> None:
        self._device, self._words = device, words
        self._current: PinnedTable | None = None
        self._retired: list[PinnedTable] = []
        self._spare: PinnedTable | None = device.pinned(words)  # a capture should not allocate

    def holding(self, values: array[Any], stream: int, *, is_capturing: bool) -> int:
        """Return the address of a table with this content, for a launch on a stream."""
        table = self._current
        if table is None or table.content != values.tobytes():
            if is_capturing:
                table, self._spare = self._spare or self._device.pinned(self._words), None
            else:
                table = self._free()
            if self._current is not None:
                self._retired.append(self._current)
            table.write(values)
            table.streams, table.events = set(), []
            self._current = table
        if is_capturing:
            _seen_by_graphs.append(table)
            self._current = None  # a graph has seen it: it stays as it is
        else:
            table.streams.add(stream)
            self._spare = self._spare or self._device.pinned(self._words)
        return table.address

    def _free(self) -> PinnedTable:
        """Return a table that nothing reads, or a new one."""
        for table in self._retired:
            if not table.events:
                table.events = [self._device.record(stream) for stream in table.streams]
            if all(event.query() for event in table.events):
                self._retired.remove(table)
                return table
        return self._device.pinned(self._words)
