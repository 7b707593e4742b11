"""The tables of a launch: what they hold, and when they may be rewritten."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
import torch

import piste
from piste.engine.gpu import table_ring
from piste.engine.gpu.backend import layout_of
from piste.engine.gpu.counters import HostCounters
from piste.engine.gpu.device import PinnedTable
from piste.engine.gpu.launch import chunks
from piste.engine.gpu.line_kernel import make_step_kernel
from piste.engine.gpu.step_kernel import CHUNK
from piste.engine.gpu.table_ring import TableRing
from piste.engine.native.native_guard import native_guard
from piste.engine.specs import ParamState
from piste.formula.floats import divide, power
from piste.optim.composition import step_spec

from .recording import recording


class Event:
    def __init__(self, stream: int) -> None:
        self.stream, self.is_done = stream, False

    def query(self) -> bool:
        return self.is_done


class Device:
    """Counts what is allocated and recorded."""

    def __init__(self) -> None:
        self.tables: list[PinnedTable] = []
        self.events: list[Event] = []

    def pinned(self, words: int) -> PinnedTable:
        self.tables.append(PinnedTable(words, pin=False))
        return self.tables[-1]

    def record(self, stream: int) -> Event:
        self.events.append(Event(stream))
        return self.events[-1]


A, B, C = array("q", [1, 2]), array("q", [3, 4]), array("q", [5, 6])


def test_equal_content_keeps_its_table():
    ring = TableRing(Device(), 2)
    assert ring.holding(A, 0, is_capturing=False) == ring.holding(array("q", A), 0, is_capturing=False)


def test_a_table_is_rewritten_only_after_every_stream_that_read_it():
    device = Device()
    ring = TableRing(device, 2)
    first = ring.holding(A, 1, is_capturing=False)
    ring.holding(A, 2, is_capturing=False)
    second = ring.holding(B, 1, is_capturing=False)
    third = ring.holding(C, 1, is_capturing=False)
    assert len({first, second, third}) == 3
    assert {event.stream for event in device.events[:2]} == {1, 2}
    device.events[0].is_done = True
    assert ring.holding(A, 1, is_capturing=False) not in (first, second, third)  # the other stream is still busy
    device.events[1].is_done = True
    assert ring.holding(B, 1, is_capturing=False) == first


def test_a_table_that_a_graph_has_seen_is_never_rewritten(monkeypatch):
    monkeypatch.setattr(table_ring, "_seen_by_graphs", [])
    device = Device()
    ring = TableRing(device, 2)
    ring.holding(A, 1, is_capturing=False)
    allocated = len(device.tables)
    seen = ring.holding(B, 1, is_capturing=True)
    assert len(device.tables) == allocated  # a capture does not allocate
    for _ in range(4):
        for content in (A, B, C):
            assert ring.holding(content, 1, is_capturing=False) != seen
            for event in device.events:
                event.is_done = True
    (kept,) = table_ring._seen_by_graphs
    assert kept.address == seen and kept.content == B.tobytes()


def test_graphs_and_launches_of_the_same_content_share_a_table(monkeypatch):
    """PyTorch's allocator may have to ask the driver for pinned memory, which a capture forbids."""
    monkeypatch.setattr(table_ring, "_seen_by_graphs", [])
    device = Device()
    ring = TableRing(device, 2)
    first = ring.holding(A, 1, is_capturing=False)
    allocated = len(device.tables)
    assert {ring.holding(A, stream, is_capturing=True) for stream in (2, 3, 2)} == {first}
    assert ring.holding(A, 1, is_capturing=False) == first
    assert len(device.tables) == allocated and len(table_ring._seen_by_graphs) == 1
    assert ring.holding(B, 1, is_capturing=False) != first
    assert ring.holding(C, 1, is_capturing=False) != first


def test_every_chunk_of_every_tensor_has_an_entry():
    sizes = [0, 1, CHUNK, CHUNK + 1]
    entries = [(entry >> 32, entry & 0xFFFFFFFF) for entry in chunks(sizes)]
    assert entries == [(1, 0), (2, 0), (3, 0), (3, 1)]


@pytest.mark.parametrize("numba", ["compiles", "is missing", "is off"])
def test_counters_advance_together_and_differences_are_noticed(numba, monkeypatch):
    import torch

    if numba == "is missing":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    elif numba == "is off":
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert (native_guard.__wrapped__() is not None) == (numba == "compiles")
    columns = [[torch.tensor(3.0), torch.tensor(3.0)], [torch.tensor(0.5), torch.tensor(0.5)]]
    counters = HostCounters(columns, "float32")
    assert (counters._native is not None) == (numba == "compiles")
    assert counters.advance() and counters.read(1) == (4.0, 0.5)
    counters.store([1, 0], [0.25, 5.0])
    assert counters.read(0) == counters.read(1) == (5.0, 0.25)
    counters.store([1], [0.5], 0)
    assert [x.item() for x in columns[1]] == [0.5, 0.25]
    columns[0][1].fill_(9.0)
    assert not counters.advance() and counters.read(1) == (10.0, 0.25)
    columns = [[torch.tensor(3.0), torch.tensor(3.0)], [torch.tensor(1.0), torch.tensor(2.0)]]
    counters = HostCounters(columns, "float32", own=[1])
    assert counters.advance()
    counters.store([0], [7.0])
    assert (counters.read(0), counters.read(1)) == ((7.0, 1.0), (7.0, 2.0))


def test_the_host_divides_and_raises_to_powers_as_the_device_does():
    inf = float("inf")
    assert divide(1.0, 0.0) == inf and divide(-1.0, 0.0) == -inf and divide(0.0, 0.0) != divide(0.0, 0.0)
    assert power(0.0, -1.0) == inf and power(10.0, 400.0) == inf
    assert power(-2.0, 0.5) != power(-2.0, 0.5) and power(-2.0, 3.0) == -8.0


def test_whole_numbers_on_the_device_are_read_as_numbers():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    with recording() as backend:
        state = ParamState(p, p.grad, [], [torch.zeros(())])
        spec = step_spec(piste.optim.SGD, piste.optim.SGD([p]).param_groups[0])
        layout = replace(layout_of(spec, state), counts_on_device=True)
        kernel = make_step_kernel(spec, layout, [state], backend.device)
        numbers = dict.fromkeys(spec.numbers, 0.5) | {"lr": torch.ones((), dtype=torch.int64, device="meta")}
        kernel.launch(array("q", [p.grad.data_ptr()]), numbers)
    assert [entry for entry, *_ in backend.device.launches] == ["prepare", "step"]
