"""Tables live as long as a launched kernel may read them, also where their ring is gone."""

from __future__ import annotations

import ctypes
from array import array

import torch

from piste.engine.gpu import table_ring
from piste.engine.gpu.device import Cuda, PinnedTable
from piste.engine.gpu.table_ring import TableRing


class Event:
    is_done = False

    def query(self) -> bool:
        return self.is_done


class Device:
    """Tables in plain memory, and events that end by hand."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def pinned(self, words: int) -> PinnedTable:
        return PinnedTable(words, pin=False)

    def record(self, stream: int) -> Event:
        self.events.append(Event())
        return self.events[-1]


def test_events_are_those_of_the_stream_of_the_launch(monkeypatch):
    """`torch.cuda.ExternalStream(0)` is another stream than the default one, so its events are done at once."""
    recorded, kept = [], []
    record = type("Event", (), {"record": lambda _, stream: recorded.append(stream)})
    table = type("Table", (), {"record_stream": lambda _, stream: kept.append(stream)})()
    monkeypatch.setattr(torch.cuda, "Event", record)
    monkeypatch.setattr(torch.cuda, "ExternalStream", None)
    monkeypatch.setattr(torch.cuda, "get_stream_from_external", lambda *handle: handle)
    for handle in (0, 4096):
        Cuda(1).record(handle)
        Cuda(1).keep([table], handle)
    assert recorded == kept == [(0, torch.device("cuda", 1)), (4096, torch.device("cuda", 1))]


def test_tables_outlive_their_ring_while_a_kernel_may_read_them(monkeypatch):
    monkeypatch.setattr(table_ring, "_outlived", [])
    device, a, b = Device(), array("q", [1, 2]), array("q", [3, 4])
    ring, other = TableRing(device, 2), TableRing(Device(), 2)
    address = ring.holding(a, 0, is_capturing=False)
    del ring
    other.holding(a, 0, is_capturing=False)
    assert [kept.address for _, kept in table_ring._outlived] == [address]
    assert list((ctypes.c_int64 * 2).from_address(address)) == [1, 2]
    (event,) = device.events
    event.is_done = True
    other.holding(b, 0, is_capturing=False)
    assert table_ring._outlived == []
