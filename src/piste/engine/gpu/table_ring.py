"""Pinned tables that are rewritten only once no launched kernel and no CUDA graph can read them."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .device import PinnedTable

_seen_by_graphs: list[PinnedTable | Tensor] = []
"""Tables whose address a CUDA graph holds; it may be replayed at any time, also after its optimizer is gone."""

_outlived: list[tuple[Any, PinnedTable]] = []
"""Tables of rings that are gone; a launched kernel may still read them."""


def keep_for_graphs(tables: Iterable[Tensor]) -> None:
    """Keep tables on the device whose address is captured in a CUDA graph."""
    _seen_by_graphs.extend(tables)


def _is_read(device: Any, table: PinnedTable) -> bool:
    """Return whether a launched kernel may still read a table that no new launch is given."""
    if not table.events:
        table.events = [device.record(stream) for stream in table.streams]
    return not all(event.query() for event in table.events)


def _outlive(device: Any, tables: Iterable[PinnedTable]) -> None:
    """Keep the tables of a ring that is gone."""
    _outlived.extend((device, table) for table in tables)


class TableRing:
    """Tables of one size, of which one holds the current content.

    Args:
        device: allocates tables and records events.
        words: the size of a table.
    """

    def __init__(self, device: Any, words: int) -> None:
        self._device, self._words = device, words
        self._current: PinnedTable | None = None
        self._given: list[PinnedTable] = []  # to launches
        weakref.finalize(self, _outlive, device, self._given).atexit = False
        self._spare: PinnedTable | None = device.pinned(words)  # a capture should not allocate

    def holding(self, values: array[Any], stream: int, *, is_capturing: bool) -> int:
        """Return the address of a table with this content, for a launch on a stream."""
        table = self._current
        if table is None or table.content != values.tobytes():
            if is_capturing:
                table, self._spare = self._spare or self._device.pinned(self._words), None
            else:
                table = self._free()
            table.write(values)
            table.streams, table.events = set(), []
            self._current = table
        if is_capturing:
            self._keep_as_it_is(table)
        elif not table.is_in_graphs:
            if not table.streams:
                self._given.append(table)
            table.streams.add(stream)
        if not is_capturing:
            self._spare = self._spare or self._device.pinned(self._words)
        return table.address

    def _keep_as_it_is(self, table: PinnedTable) -> None:
        """Keep a table that a CUDA graph reads; other graphs and launches may read it, as long as it is current."""
        if not table.is_in_graphs:
            table.is_in_graphs = True
            _seen_by_graphs.append(table)
            if table in self._given:
                self._given.remove(table)

    def _free(self) -> PinnedTable:
        """Return a table that nothing reads, or a new one; drop those of other rings that nothing reads."""
        _outlived[:] = [entry for entry in _outlived if _is_read(*entry)]
        for table in self._given:
            if table is not self._current and not _is_read(self._device, table):
                self._given.remove(table)
                return table
        return self._device.pinned(self._words)
