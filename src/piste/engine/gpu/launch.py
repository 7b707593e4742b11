"""A compiled step with its tensors: the tables of a launch, and the scalars that it takes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ...formula.expression import Expr
from ..backend import captured_counts
from ..layout import real_size
from ..specs import ParamState, StepSpec, SumSpec
from .counters import HostCounters
from .driver import Launch
from .host_scalars import host_scalars, plain_numbers
from .step_kernel import CHUNK, HEAD, KernelSource, Layout, reduce_source, step_source
from .step_scalars import finish_source, prepare_source
from .step_split import Split, split
from .table_ring import TableRing, keep_for_graphs

OWN = "rounding_key"
"""The counter that each parameter has for itself. It seeds noise, and no formula of scalars reads it."""


def chunks(sizes: Sequence[int]) -> array[int]:
    """Return an entry for each chunk of each tensor: the tensor in the high half, the chunk in the low half."""
    entries = array("q")
    for tensor, size in enumerate(sizes):
        first = tensor << 32
        entries.extend(range(first, first + -(-size // CHUNK)))
    return entries


class GpuStepKernel:
    """The kernel of one layout with the tensors that it steps.

    Args:
        spec: the step.
        layout: the layout of the tensors.
        states: the parameters with their state, on one device.
        device: launches kernels and allocates tables.
    """

    def __init__(self, spec: StepSpec, layout: Layout, states: Sequence[ParamState], device: Any) -> None:
        self._spec, self._layout, self._device = spec, layout, device
        self._count = len(states)
        self._tensors = [(s.p, *s.buffers, *s.scales, *s.counters) for s in states]  # a table holds their addresses
        sizes = array("q", [real_size(s.p) for s in states])
        self.elements = sum(sizes)
        blocks = self._divide(states, sizes)
        self._blocks = len(blocks)
        kept = zip(*((s.p, *s.buffers, *s.scales) for s in states), strict=True)
        addresses = array("q", [x.data_ptr() for column in kept for x in column])
        self._static = [device.upload(table) for table in (blocks, sizes, addresses)]
        self._static_addresses = [table.data_ptr() for table in self._static]
        self._streams: set[int] = set()
        parts = split(spec, layout.columns)
        width = len(parts.scalars)
        self.gradients = array("q", bytes(8 * self._count))  # machine code leaves the addresses here
        self._gradients = TableRing(device, self._count)
        self._launches: dict[bool, list[tuple[Launch, int, int]]] = {}  # without and with rows: see _make_launches
        self._prepares: dict[tuple[Any, ...], Launch] = {}  # by the dtypes of numbers that a device holds
        self._kept = [spec.counters.index(letter) for letter, _ in parts.counters]  # that the rule restates
        self._epsilon = torch.finfo(getattr(torch, layout.columns[0])).eps
        columns = list(zip(*(s.counters for s in states), strict=True))
        self._counters: HostCounters | None = None
        self._rows: TableRing | Tensor
        if layout.counts_on_device:
            self._counter_table = device.upload(array("q", [x.data_ptr() for column in columns for x in column]))
            self._rows = device.doubles(HEAD + self._count * width)
        else:
            own = [spec.counters.index(OWN)] if OWN in spec.counters else []
            self._counters = HostCounters(columns, layout.counter, own)
            self._own = array("d", [x.item() for k in own for x in columns[k]])
            self._own_places = [k for k, value in enumerate(parts.scalars) if value is Expr("input", f"n_{OWN}")]
            self._scalars = host_scalars(spec, layout.columns, layout.counter)
            self._rows = TableRing(device, HEAD + self._count * width)
        self._on_device = list(self._static)
        self._sums: list[int] = []  # the addresses of `partials`, `firsts` and `found`
        self._allocate(parts, sizes)
        if layout.counts_on_device:
            self._on_device += [self._counter_table, self._rows]

    def _divide(self, states: Sequence[ParamState], sizes: Sequence[int]) -> array[int]:
        """Return the part of a tensor that each block takes."""
        return chunks(sizes)

    def _allocate(self, parts: Split, sizes: Sequence[int]) -> None:
        """Allocate the tables of the sums of a step that reduces."""
        if not parts.levels:
            return
        firsts = array("q", accumulate((-(-size // CHUNK) for size in sizes), initial=0))
        if isinstance(self._spec, SumSpec):
            firsts = array("q", [0, self._blocks])  # of all tensors, as if they were one
        most = max(len(level.operands) for level in parts.levels)
        self._found = self._device.doubles((len(firsts) - 1) * parts.width)
        made = [self._device.doubles(self._blocks * most), self._device.upload(firsts), self._found]
        self._on_device += made
        self._sums = [table.data_ptr() for table in made]

    def launch(self, gradients: array[int], numbers: Mapping[str, Any]) -> None:
        """Step the tensors, given the addresses of their gradients and the numbers of the group."""
        if self._blocks or self._spec.counters:  # tensors without elements count their steps
            if "epsilon" in self._spec.numbers:
                numbers = {**numbers, "epsilon": self._epsilon}
            self._device.run(self._launch, gradients, numbers)

    def total(self) -> Tensor:
        """Return the sums of the last launch, on the device, of a kernel of sums."""
        (sums,) = split(self._spec, self._layout.columns).later
        found = self._found[: len(sums)]
        return found if self._blocks else found.zero_()

    def _launch(self, gradients: array[int], numbers: Mapping[str, Any]) -> None:
        stream, is_capturing = self._device.stream(), self._device.is_capturing()
        found_inf = numbers.get("found_inf")
        if self._counters is not None and not is_capturing and found_inf is not None and found_inf.item():
            return
        if stream not in self._streams:
            self._streams.add(stream)
            self._device.keep(self._on_device, stream)
        if is_capturing:
            keep_for_graphs(self._on_device)
        scalars, by_rows = self._prepared(numbers, stream, is_capturing)
        if not self._blocks:
            return
        at = self._gradients.holding(gradients, stream, is_capturing=is_capturing)
        arguments = (*self._static_addresses[1:], at, self._count, *scalars, *self._sums)
        if by_rows not in self._launches:
            self._launches[by_rows] = self._make_launches(by_rows)
        for launch, blocks, table in self._launches[by_rows]:
            launch(blocks, stream, (table, *arguments))

    def _make_launches(self, by_rows: bool) -> list[tuple[Launch, int, int]]:
        """Return the kernels of a step in order, other than `prepare`, with their blocks and the table of these."""
        table = self._static_addresses[0]
        sources = self._sources(by_rows)
        return [(self._device.launcher(source), blocks, at or table) for source, blocks, at in sources]

    def _sources(self, by_rows: bool) -> list[tuple[KernelSource, int, int | None]]:
        """Return the kernels of a step in order, with their blocks, and the address of their table if it is another."""
        sources: list[tuple[KernelSource, int, int | None]] = []
        given = self._spec, self._layout, by_rows
        finishes = 1 if isinstance(self._spec, SumSpec) else self._count
        for level in range(len(split(self._spec, self._layout.columns).levels)):
            sources.append((reduce_source(*given, level), self._blocks, None))
            sources.append((finish_source(*given, level), finishes, None))
        if not isinstance(self._spec, SumSpec):
            sources.append((step_source(*given), self._blocks, None))
        return sources

    def _prepared(
        self, numbers: Mapping[str, Any], stream: int, is_capturing: bool
    ) -> tuple[tuple[float, ...] | tuple[int], bool]:
        """Advance the counters; return the scalars, or the address of the rows that hold them, and which of the two."""
        if not (self._spec.numbers or self._spec.counters):  # sums of nothing but the tensors
            return (), False
        if self._counters is None:
            return (self._prepare_on_device(numbers, stream),), True
        if is_capturing:
            raise captured_counts(self._spec.name)
        values = plain_numbers(self._spec, numbers)
        grad_scale = numbers.get("grad_scale")
        factor = 1.0 if grad_scale is None else 1.0 / grad_scale.item()
        rows = array("d", [0.0, factor])
        assert isinstance(self._rows, TableRing)
        if self._counters.advance():
            kept, scalars = self._scalars(*values, *self._counters.read(0))
            if kept:
                self._counters.store(self._kept, kept)
            if factor == 1.0 and not self._own_places:
                return scalars, False
            rows.extend(array("d", scalars) * self._count)
            for place in self._own_places:
                rows[HEAD + place :: len(scalars)] = self._own
            return (self._rows.holding(rows, stream, is_capturing=False),), True
        known: dict[tuple[float, ...], Any] = {}
        for tensor in range(self._count):
            counters = self._counters.read(tensor)
            if counters not in known:
                known[counters] = self._scalars(*values, *counters)
            kept, scalars = known[counters]
            if kept:
                self._counters.store(self._kept, kept, tensor)
            rows.extend(map(float, scalars))
        return (self._rows.holding(rows, stream, is_capturing=False),), True

    def _prepare_on_device(self, numbers: Mapping[str, Any], stream: int) -> int:
        """Advance the counters and compute the rows on the device; return the address of the rows."""
        assert isinstance(self._rows, Tensor)
        values = [self._device.local(numbers[name]) for name in self._spec.numbers]
        on_device = [isinstance(x, Tensor) and x.device.type != "cpu" for x in values]
        values = [
            (x.double() if not x.is_floating_point() else x.resolve_neg()) if is_tensor else x
            for x, is_tensor in zip(values, on_device, strict=True)
        ]
        given = [x.data_ptr() if is_tensor else float(x) for x, is_tensor in zip(values, on_device, strict=True)]
        amp = [self._device.local(numbers.get(name)) for name in ("found_inf", "grad_scale")]
        dtypes = tuple(x.dtype if is_tensor else None for x, is_tensor in zip(values, on_device, strict=True))
        kind = dtypes, *(x if x is None else x.dtype for x in amp)
        if kind not in self._prepares:
            of_numbers = tuple("value" if dtype is None else _name(dtype) for dtype in dtypes)
            of_amp = (x if x is None else _name(x.dtype) for x in amp)
            source = prepare_source(self._spec, self._layout, of_numbers, *of_amp)
            self._prepares[kind] = self._device.launcher(source)
        rows: int = self._rows.data_ptr()
        pointers = (x.data_ptr() for x in amp if x is not None)
        arguments = (self._counter_table.data_ptr(), rows, self._count, *given, *pointers)
        self._prepares[kind](1, stream, arguments)
        return rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
