"""The CPU kernel of a step: one call steps all tensors of a group, in one pass over memory and without temporaries.

The source has two entries. `prepare` counts the steps and computes the scalars of each tensor in double precision.
`body` takes blocks of elements until none is left; every thread of the pool calls it. A launch is a kernel with the
addresses of its tensors; a step rewrites the addresses of the gradients alone. A step that reduces over its tensors has
more entries between the two (see step_reductions.py).
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import torch

from ...formula.expression import Expr
from ...torch_internals import PLAIN_TYPES
from ..eight_bits import BLOCK, NOISE_SEEDS
from ..emit import Emitter
from ..hoisting import Hoisted, given_inputs, trace_step
from ..layout import alike, overlapping, real_dtype, real_size
from ..native.compiler import load
from ..native.tables import columns_from, word
from ..specs import ParamState, StepSpec, SumSpec
from ..step_levels import Level, plan_levels
from .dialect import numba
from .eight_bit_lines import eight_bit_columns, in_blocks, in_entry
from .formula_comments import step_formula
from .step_reductions import (
    cpu_words,
    finish_entry,
    first_items,
    lines_after,
    lines_before,
    lines_of_element,
    stages,
    total_entry,
)
from .tables import StepTable, step_table
from .work_sharing import make_counters, shared_lines, work

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_COUNTERS = {torch.float32, torch.float64}
MIN_CHUNK, MAX_CHUNK = 1 << 14, 1 << 18  # elements per item, for small and for large totals
CHUNKS_PER_THREAD = 32  # items per thread, so that other threads take over those of a delayed thread
ITEM_OVERHEAD = 64  # the cost of starting an item, in elements
SHARES_OF_SUMS = 8  # threads for which the items of a step with sums are made, whatever their number is
PARALLEL_MIN_ELEMENTS = 1 << 17  # up to this number of elements one thread is faster than the thread pool

# The fields of a kernel's table.
BLOCK_ENDS, ITEMS, SCALARS, NUMBERS, TENSORS, SHAPES = (
    word(StepTable, name) for name in ("block_ends", "items", "scalars", "numbers", "tensors", "shapes")
)
COLUMNS = columns_from(StepTable)


@dataclass(frozen=True)
class Layout:
    """The properties of the tensors that the machine code depends on."""

    columns: tuple[str, ...]  # dtypes of the parameter, the gradient and the buffers
    counter: str  # dtype of the counters
    dims: int = 0  # 0: all columns lie alike in memory; otherwise the number of dimensions to walk

    @property
    def compute(self) -> str:
        """The dtype of the computation."""
        return "float64" if self.columns[0] == "float64" else "float32"


@cache
def source(program: StepSpec, layout: Layout) -> tuple[str, int, tuple[int, ...]]:
    """Return the kernel as Python that Numba compiles, and the numbers of scalars and of each level's sums."""
    step = trace_step(program)
    hoisted = Hoisted(step.columns)
    body = Emitter(numba(layout.compute), "x", hoisted.given)
    results = [body.name(value) for value in step.results]
    levels = plan_levels(step, hoisted, cpu_words(layout.compute))
    eight = eight_bit_columns(step.columns, layout.columns)
    seeds = [str(hoisted.given(Expr("input", name))) for name in NOISE_SEEDS] if eight else []
    width = len(hoisted.scalars)

    prepare = Emitter(numba("float64"), "s", given_inputs)
    for letter, value in step.counters.items():
        prepare.lines += _store(letter, prepare.name(value), layout)
    prepare.lines += [
        f"row[{slot}] = {prepare.name(value)}" for slot, value in enumerate(hoisted.scalars) if not hoisted.level(value)
    ]
    lines = _prepare(program, layout, prepare.lines, width)
    scales_at = COLUMNS + len(step.columns) + len(program.counters)
    place = scales_at + len(eight)
    entry = in_entry(eight, scales_at)
    for number, level in enumerate(levels):
        before, element = lines_before(level, place), lines_of_element(level)
        lines += _pass(f"reduce{number}", step.columns, layout, element, width, before, lines_after(level), entry)
        lines += finish_entry(number, level, place, width)
    kept = list(zip(_without_gradient(step.columns), _without_gradient(layout.columns), results, strict=True))
    stores = [f"a_{n}[{_place(layout, n)}] = {_stored(kind, result)}" for n, kind, result in kept if kind != "int8"]
    new = [result for _, kind, result in kept if kind == "int8"]
    element = [*_position(program, layout), *body.lines, *stores]
    lines += _pass("body", step.columns, layout, element, width, entry=entry, new=new, seeds=seeds)
    return "\n".join(lines), width, tuple(len(level.operands) for level in levels)


@cache
def sum_source(program: SumSpec, layout: Layout) -> tuple[str, int, int]:
    """Return the kernel of sums over all tensors, and the numbers of scalars and of sums."""
    step = trace_step(program)
    hoisted = Hoisted(step.columns)
    body = Emitter(numba(layout.compute), "x", hoisted.given)
    terms = [body.name(value) for value in step.results[1:]]
    level = Level([False for _ in terms], body.lines, terms, [])
    eight = eight_bit_columns(step.columns, layout.columns)
    width = len(hoisted.scalars)
    prepare = Emitter(numba("float64"), "s", given_inputs)
    prepare.lines += [f"row[{slot}] = {prepare.name(value)}" for slot, value in enumerate(hoisted.scalars)]
    scales_at = COLUMNS + len(step.columns)
    place = scales_at + len(eight)
    lines = _prepare(program, layout, prepare.lines, width)
    lines += _pass(
        "reduce0", step.columns, layout, lines_of_element(level), width, lines_before(level, place), lines_after(level),
        in_entry(eight, scales_at),
    )  # fmt: skip
    return "\n".join([*lines, *total_entry(len(terms), place)]), width, len(terms)


def _position(program: StepSpec, layout: Layout) -> list[str]:
    return [f"position_ = {'n - run' if layout.dims else 'start'} + k"] * program.uses_position


def _store(letter: str, value: str, layout: Layout) -> list[str]:
    """Store a counter, and continue with the value rounded to its dtype."""
    return [f"c_{letter}[0] = {layout.counter}({value})", f"kept_{letter} = float64(c_{letter}[0])"]


def _prepare(program: StepSpec, layout: Layout, lines: list[str], width: int) -> list[str]:
    first = 2 + len(program.buffers)
    columns = [f"col_{c} = pointer(table[{COLUMNS + first + k}], int64)" for k, c in enumerate(program.counters)]
    counters = []
    for letter in program.counters:
        counters.append(f"c_{letter} = pointer(col_{letter}[i], {layout.counter})")
        if letter == "t":
            counters.append("c_t[0] += 1")
        counters.append(f"n_{letter} = float64(c_{letter}[0])")
    return [
        "def prepare(table):",
        "    reset_counters(table)",
        f"    numbers = pointer(table[{NUMBERS}], float64)",
        *(f"    n_{name} = numbers[{k}]" for k, name in enumerate(program.numbers)),
        *(f"    {line}" for line in columns),
        f"    for i in range(table[{TENSORS}]):",
        f"        row = pointer(table[{SCALARS}] + i * {8 * width}, float64)",
        *(f"        {line}" for line in (*counters, *lines)),
        "",
    ]


def _place(layout: Layout, column: str) -> str:
    """Return the place of an element in a column."""
    return f"o_{column}" if layout.dims else "k"


def _pass(
    name: str,
    columns: Sequence[str],
    layout: Layout,
    lines: Sequence[str],
    width: int,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    entry: Sequence[str] = (),
    new: Sequence[str] = (),
    seeds: Sequence[str] = (),
) -> list[str]:
    """Write an entry that runs some lines for each element, and others before and after those of an item.

    `entry` are lines at its start; `new` and `seeds` are the new values of columns of 8 bits, and their random seeds.
    """
    start = "" if layout.dims else " + start * {size}"
    walk, indent = (_strided(columns, layout.dims), 12) if layout.dims else (["for k in range(stop - start):"], 8)
    loads = [
        f"{n}_ = {_load(n, kind, _place(layout, n), layout.compute, f's_{n}' if new else f'e_{n}[k // {BLOCK}]')}"
        for n, kind in zip(columns, layout.columns, strict=True)
    ]
    inner = [f"{' ' * (indent - 4)}{line}" for line in (*loads, *lines)]
    eight = eight_bit_columns(columns, layout.columns)
    walk = in_blocks(eight, (*loads, *lines), new, seeds) if new else [*walk, *inner]
    before = [*(f"e_{n} = pointer(scales_{n}[i] + start // {BLOCK} * 4, float32)" for n in eight), *before]
    block = [
        "for item in range(ends[block], ends[block + 1]):",
        "    i, start, stop = items[3 * item], items[3 * item + 1], items[3 * item + 2]",
        f"    row = pointer(table[{SCALARS}] + i * {8 * width}, float64)",
        *(f"    h{k} = {layout.compute}(row[{k}])" for k in range(width)),
        *(
            f"    a_{n} = pointer(col_{n}[i]{start.format(size=_SIZE[kind])}, {_STORAGE[kind]})"
            for n, kind in zip(columns, layout.columns, strict=True)
        ),
        *(f"    {line}" for line in (*before, *walk, *after)),
    ]
    return [
        f"def {name}(table):",
        f"    ends = pointer(table[{BLOCK_ENDS}], int64)",
        f"    items = pointer(table[{ITEMS}], int64)",
        *(f"    col_{n} = pointer(table[{COLUMNS + k}], int64)" for k, n in enumerate(columns)),
        *entry,
        *shared_lines(block),
        "",
    ]


def _without_gradient(columns: Sequence[str]) -> Sequence[str]:
    return [columns[0], *columns[2:]]


_SIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_STORAGE = {"float64": "float64", "float32": "float32", "bfloat16": "uint16", "float16": "uint16", "int8": "int8"}


def _load(name: str, kind: str, index: str, compute: str, scale: str) -> str:
    place = f"a_{name}[{index}]"
    if kind == "int8":
        return f"{compute}(from_eight_bits({place}, {scale}))"
    value = f"from_{kind}({place})" if _SIZE[kind] == 2 else place
    return value if kind == compute else f"{compute}({value})"


def _stored(kind: str, value: str) -> str:
    return f"to_{kind}(float32({value}))" if _SIZE[kind] == 2 else f"{kind}({value})"


def _strided(columns: Sequence[str], dims: int) -> list[str]:
    """Walk columns that differ in their strides; `shape` holds the shape, then each column's strides in elements."""
    width = dims * (1 + len(columns))
    inner = dims - 1
    return [
        f"shape = pointer(table[{SHAPES}] + i * {8 * width}, int64)",
        "n = start",
        "while n < stop:",
        "    rest = n",
        *(f"    o_{name} = 0" for name in columns),
        f"    k{inner} = rest % shape[{inner}]",
        f"    rest = rest // shape[{inner}]",
        *(
            line
            for d in reversed(range(inner))
            for line in (
                f"    k{d} = rest % shape[{d}]",
                f"    rest = rest // shape[{d}]",
                *(f"    o_{name} += k{d} * shape[{dims * (c + 1) + d}]" for c, name in enumerate(columns)),
            )
        ),
        f"    run = shape[{inner}] - k{inner}",
        "    if run > stop - n:",
        "        run = stop - n",
        *(f"    b_{name} = o_{name} + k{inner} * shape[{dims * (c + 1) + inner}]" for c, name in enumerate(columns)),
        *(f"    d_{name} = shape[{dims * (c + 1) + inner}]" for c, name in enumerate(columns)),
        "    n += run",
        "    for k in range(run):",
        *(f"        o_{name} = b_{name} + k * d_{name}" for name in columns),
    ]


def layout_of(slot: ParamState) -> Layout:
    """Return the layout of a slot that `why_not_step` accepts."""
    columns = [slot.p, slot.g, *slot.buffers]
    counter = DTYPES[slot.counters[0].dtype] if slot.counters else "float32"
    kinds = tuple("int8" if x.dtype == torch.int8 else DTYPES[real_dtype(x)] for x in columns)
    return Layout(kinds, counter, 0 if alike(columns) else slot.p.dim() + slot.p.is_complex())


def why_not_step(slot: ParamState) -> str | None:
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
    for x in (slot.p, slot.g, *slot.buffers):
        if x.shape != slot.p.shape or x.is_complex() != slot.p.is_complex():
            return "its gradient or its state has another shape or kind than it has"
        if x is not slot.g and overlapping(x):
            return "elements of it or of its state overlap in memory"
    if slot.scales and not alike([slot.p, slot.g, *slot.buffers]):
        return "its state has 8 bits, and it has gaps in memory or other strides than its gradient"
    if any(x.numel() != 1 for x in slot.counters) or len({x.dtype for x in slot.counters} - _COUNTERS) > 0:
        return "its step count is not one floating-point number"
    if len({x.dtype for x in slot.counters}) > 1:
        return "its counters differ in dtype"
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
        entries = (*chain(*self.stages), *(["total"] if adds else []))
        self.kernel = load(text, entries, lambda: step_formula(program))
        self._tensors = [x for slot in slots for x in (slot.p, *slot.buffers, *slot.counters, *slot.scales)]
        sizes = [real_size(slot.p) for slot in slots]
        self.elements = sum(sizes)
        self._names = program.numbers
        self._epsilon = torch.finfo(getattr(torch, layout.columns[0])).eps
        items, ends = _shared_out(sizes, SHARES_OF_SUMS if sums else torch.get_num_threads())
        self.gradients = array("q", bytes(8 * len(slots)))
        self.numbers = array("d", bytes(8 * len(program.numbers)))
        scalars = array("d", bytes(8 * width * len(slots)))
        shapes = array("q", [n for slot in slots for n in _walk(slot, layout.dims)])
        columns = [array("q", [slot.p.data_ptr() for slot in slots]), self.gradients]
        kept = zip(*((*slot.buffers, *slot.counters, *slot.scales) for slot in slots), strict=True)
        columns += [array("q", [x.data_ptr() for x in column]) for column in kept]
        if sums:
            columns += [array("q", bytes(8 * max(sums) * (len(items) // 3)))]  # the partial sums, in float64
        self._total = array("d", bytes(8 * max(sums, default=0)))
        totals: list[Any] = [array("q", [len(items) // 3]), self._total]
        if sums:
            columns += totals if adds else [array("q", first_items(items[::3], len(slots))), array("q", sizes)]
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
