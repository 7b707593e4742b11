"""The CPU kernel of a step: one call steps all tensors of a group.

A launch is a kernel with the addresses of its tensors; a step rewrites the addresses of the gradients alone.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from ...torch_internals import PLAIN_TYPES
from ..eight_bits import BLOCK
from ..hoisting import has_lines
from ..layout import alike, overlapping, real_dtype, real_size
from ..line_stages import why_not_reduced
from ..native.compiler import load
from ..specs import ParamState, StepSpec, SumSpec
from .formula_comments import step_formula
from .step_reductions import first_items, stages
from .step_source import Layout, source, sum_source
from .tables import step_table
from .work_sharing import make_counters, work

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_COUNTERS = {torch.float32, torch.float64}
MIN_CHUNK, MAX_CHUNK = 1 << 14, 1 << 18  # elements per item, for small and for large totals
CHUNKS_PER_THREAD = 32  # items per thread, so that other threads take over those of a delayed thread
ITEM_OVERHEAD = 64  # the cost of starting an item, in elements
SHARES_OF_SUMS = 8  # threads for which the items of a step with sums are made, whatever their number is
PARALLEL_MIN_ELEMENTS = 1 << 17  # up to this number of elements one thread is faster than the thread pool


def layout_of(spec: StepSpec, slot: ParamState) -> Layout:
    """Return the layout of a slot that `why_not_step` accepts."""
    columns = [slot.p, slot.g, *slot.buffers]
    counter = DTYPES[slot.counters[0].dtype] if slot.counters else "float32"
    kinds = tuple("int8" if x.dtype == torch.int8 else DTYPES[real_dtype(x)] for x in columns)
    is_plain = all(x.is_contiguous() for x in elements_of(spec, slot)) if has_lines(spec) else alike(columns)
    return Layout(kinds, counter, 0 if is_plain else slot.p.dim() + slot.p.is_complex())


def elements_of(spec: StepSpec, slot: ParamState) -> list[torch.Tensor]:
    """Return the parameter, the gradient and the buffers that have a number for each element."""
    buffers = zip(spec.buffers, slot.buffers, strict=False)  # before the first step there are none
    return [slot.p, slot.g, *(x for name, x in buffers if name not in spec.lines)]


def why_not_step(spec: StepSpec, slot: ParamState) -> str | None:
    """Return the reason why the kernel can't step a slot, or None."""
    if slot.g is not slot.p.grad and slot.p.grad is not None:
        return "its gradient is sparse"  # the slot holds a dense copy
    for x in (slot.p, slot.g, *slot.buffers, *slot.counters):
        if type(x) not in PLAIN_TYPES:
            return f"it is a {type(x).__name__}, a tensor subclass with operations of its own"
        if x.device.type != "cpu":
            return f"it is on {x.device.type}"
        if x.layout != torch.strided:
            return "its gradient is sparse" if x.is_sparse else f"its layout is {x.layout}"
        if real_dtype(x) not in DTYPES and not (x.dtype == torch.int8 and slot.scales):
            return f"its dtype is {x.dtype}"
        if x.is_conj() or x.is_neg():
            return "it is a lazy conjugate or negative"
    for x in elements_of(spec, slot):
        if x.shape != slot.p.shape or x.is_complex() != slot.p.is_complex():
            return "its gradient or its state has another shape or kind than it has"
        if x is not slot.g and overlapping(x):
            return "elements of it or of its state overlap in memory"
    if has_lines(spec) and (why := _why_not_lines(spec, slot)):
        return why
    if slot.scales and not alike([slot.p, slot.g, *slot.buffers]):
        return "its state has 8 bits, and it has gaps in memory or other strides than its gradient"
    if any(x.numel() != 1 for x in slot.counters) or len({x.dtype for x in slot.counters} - _COUNTERS) > 0:
        return "its step count is not one floating-point number"
    if len({x.dtype for x in slot.counters}) > 1:
        return "its counters differ in dtype"
    return None


def _why_not_lines(spec: StepSpec, slot: ParamState) -> str | None:
    """Return the reason why the kernel can't reduce over the rows and columns of a slot, or None."""
    if (why := why_not_reduced(spec, slot)) is not None:
        return why
    if slot.scales:
        return "its state has 8 bits, and its rule reduces over rows or columns"
    if spec.uses_position and not all(x.is_contiguous() for x in elements_of(spec, slot)):
        return "it is not contiguous, and its rule reduces over rows or columns and rounds at random"
    return None


def _walk(slot: ParamState, dims: int) -> Iterable[int]:
    """Return shape and strides for a kernel that walks `dims` dimensions; complex numbers are pairs."""
    if not dims:
        return
    pairs = slot.p.is_complex()
    yield from [*slot.p.shape, 2] if pairs else slot.p.shape
    for x in (slot.p, slot.g, *slot.buffers):
        yield from [*(2 * stride for stride in x.stride()), 1] if pairs else x.stride()


def _shared_out(sizes: Sequence[int], threads: int) -> tuple[array[int], array[int]]:
    """Return items (tensor, start, stop) and the end of each block of items; a thread takes a block at a time.

    Large items give long sequential reads, which limit the speed of a step of many elements.
    """
    chunk = min(max(MIN_CHUNK, sum(sizes) // (CHUNKS_PER_THREAD * threads)), MAX_CHUNK) // BLOCK * BLOCK
    items, ends, filled = array("q"), array("q", [0]), 0
    for tensor, size in enumerate(sizes):
        for start in range(0, size, chunk):
            stop = min(start + chunk, size)
            items.extend((tensor, start, stop))
            filled += stop - start + ITEM_OVERHEAD
            if filled >= chunk:
                ends.append(len(items) // 3)
                filled = 0
    if filled:
        ends.append(len(items) // 3)
    return items, ends


class StepKernel:
    """A kernel with the tables of its tensors."""

    def __init__(self, program: StepSpec, layout: Layout, slots: Sequence[ParamState]) -> None:
        adds = isinstance(program, SumSpec)
        if isinstance(program, SumSpec):
            text, width, count = sum_source(program, layout)
            sums: tuple[int, ...] = (count,)
            self.stages = [("prepare", "reduce0")]
        else:
            text, width, sums = source(program, layout)
            self.stages = stages(len(sums))
        sizes = [real_size(slot.p) for slot in slots]
        items, ends = _shared_out(sizes, SHARES_OF_SUMS if sums else torch.get_num_threads())
        more = []
        if sums:
            more = [array("q", bytes(8 * max(sums) * (len(items) // 3)))]  # the partial sums, in float64
        self._total = array("d", bytes(8 * max(sums, default=0)))
        totals: list[Any] = [array("q", [len(items) // 3]), self._total]
        if sums:
            more += totals if adds else [array("q", first_items(items[::3], len(slots))), array("q", sizes)]
        shapes = array("q", [n for slot in slots for n in _walk(slot, layout.dims)])
        self._bind(program, layout, slots, text, ["total"] * adds, width, items, ends, shapes, more)

    def _bind(
        self,
        program: StepSpec,
        layout: Layout,
        slots: Sequence[ParamState],
        text: str,
        more_entries: Sequence[str],
        width: int,
        items: array[int],
        ends: array[int],
        shapes: array[int],
        more: Sequence[array[Any]],
    ) -> None:
        """Compile the source and fill the table; `more` are the columns after those of the tensors."""
        self.kernel = load(text, (*chain(*self.stages), *more_entries), lambda: step_formula(program))
        self._tensors = [x for slot in slots for x in (slot.p, *slot.buffers, *slot.counters, *slot.scales)]
        self.elements = sum(real_size(slot.p) for slot in slots)
        self._names = program.numbers
        self._epsilon = torch.finfo(getattr(torch, layout.columns[0])).eps
        self.gradients = array("q", bytes(8 * len(slots)))
        self.numbers = array("d", bytes(8 * len(program.numbers)))
        scalars = array("d", bytes(8 * width * len(slots)))
        columns = [array("q", [slot.p.data_ptr() for slot in slots]), self.gradients]
        kept = zip(*((*slot.buffers, *slot.counters, *slot.scales) for slot in slots), strict=True)
        columns += [array("q", [x.data_ptr() for x in column]) for column in kept]
        columns += more
        # One share per possible thread, because the number of threads may change.
        self.shares = max(torch.get_num_threads(), os.cpu_count() or 1)
        self._counters = make_counters(self.shares)
        self._table = step_table(len(columns))(
            **work(self._counters, len(ends) - 1),
            block_ends=ends.buffer_info()[0],
            items=items.buffer_info()[0],
            scalars=scalars.buffer_info()[0],
            numbers=self.numbers.buffer_info()[0],
            tensors=len(slots),
            shapes=shapes.buffer_info()[0],
            columns=tuple(column.buffer_info()[0] for column in columns),
        )
        self._arrays = [ends, items, scalars, shapes, *columns]
        self.at = ctypes.addressof(self._table)

    def set_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Write the numbers of the group, such as lr, where the kernel reads them."""
        self.numbers[:] = array("d", [self._epsilon if name == "epsilon" else numbers[name] for name in self._names])

    def total(self) -> list[float]:
        """Add the partial sums of the last launch, of a kernel of sums."""
        self.kernel.call["total"](self.at)
        return self._total.tolist()

    def launch(self, gradients: array[int], numbers: Mapping[str, Any]) -> None:
        """Step the tensors, given the addresses of their gradients and the numbers of the group."""
        self.gradients[:] = gradients
        self.set_numbers(numbers)
        threads = torch.get_num_threads() if self.elements > PARALLEL_MIN_ELEMENTS else 1
        self._table.shares = min(threads, self.shares)
        for serial, parallel in self.stages:
            self.kernel.call[serial](self.at)
            self.kernel.parallel(parallel, self.at, threads)
