"""The source of the CPU kernel of a step, in one pass over memory and without temporaries.

The source has two entries. `prepare` counts the steps and computes the scalars of each tensor in double precision.
`body` takes blocks of elements until none is left; every thread of the pool calls it. A step that reduces over its
tensors has more entries between the two (see step_reductions.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ...formula.expression import Expr
from ..eight_bits import BLOCK, NOISE_SEEDS
from ..emit import Emitter
from ..hoisting import given_inputs, trace_step
from ..native.tables import columns_from, word
from ..specs import StepSpec, SumSpec
from ..step_levels import Level, early_buffers, given_after, plan_levels
from .dialect import numba
from .eight_bit_lines import eight_bit_columns, in_blocks, in_entry
from .step_reductions import cpu_words, finish_entry, lines_after, lines_before, lines_of_element, total_entry
from .tables import StepTable
from .work_sharing import shared_lines

__all__ = ["Layout", "source", "sum_source"]

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
    hoisted = step.hoisted()
    kinds = dict(zip(step.columns, layout.columns, strict=True))
    early = early_buffers(step, hoisted, [name for name, kind in kinds.items() if kind == layout.compute])
    body = Emitter(numba(layout.compute), "x", given_after(early, hoisted))
    new = zip(_without_gradient(step.columns), step.results, strict=True)
    results = {name: body.name(value) for name, value in new if name not in early.values()}
    levels = plan_levels(step, hoisted, cpu_words(layout.compute), early)
    eight = eight_bit_columns(step.columns, layout.columns)
    seeds = [str(hoisted.given(Expr("input", name))) for name in NOISE_SEEDS] if eight else []
    width = len(hoisted.scalars)

    prepare = Emitter(numba("float64"), "s", given_inputs)
    for letter, value in step.counters.items():
        prepare.lines += _store(letter, prepare.name(value), layout)
    prepare.lines += [
        f"row[{slot}] = {prepare.name(value)}" for slot, value in enumerate(hoisted.scalars) if not hoisted.level(value)
    ]
    lines = prepare_lines(program, layout, prepare.lines, width)
    scales_at = COLUMNS + len(step.columns) + len(program.counters)
    place = scales_at + len(eight)
    entry = in_entry(eight, scales_at)
    for number, level in enumerate(levels):
        stores = [_stored_at(name, value, layout, kinds) for name, value in level.buffers]
        before, element = lines_before(level, place), [*lines_of_element(level), *stores]
        lines += _pass(f"reduce{number}", step.columns, layout, element, width, before, lines_after(level), entry)
        lines += finish_entry(number, level, place, width)
    stores = [_stored_at(name, value, layout, kinds) for name, value in results.items() if kinds[name] != "int8"]
    codes = [value for name, value in results.items() if kinds[name] == "int8"]
    element = [*_position(program, layout), *body.lines, *stores]
    lines += _pass("body", step.columns, layout, element, width, entry=entry, new=codes, seeds=seeds)
    return "\n".join(lines), width, tuple(len(level.operands) for level in levels)


@cache
def sum_source(program: SumSpec, layout: Layout) -> tuple[str, int, int]:
    """Return the kernel of sums over all tensors, and the numbers of scalars and of sums."""
    step = trace_step(program)
    hoisted = step.hoisted()
    body = Emitter(numba(layout.compute), "x", hoisted.given)
    terms = [body.name(value) for value in step.results[1:]]
    level = Level([False for _ in terms], body.lines, terms, [])
    eight = eight_bit_columns(step.columns, layout.columns)
    width = len(hoisted.scalars)
    prepare = Emitter(numba("float64"), "s", given_inputs)
    prepare.lines += [f"row[{slot}] = {prepare.name(value)}" for slot, value in enumerate(hoisted.scalars)]
    scales_at = COLUMNS + len(step.columns)
    place = scales_at + len(eight)
    lines = prepare_lines(program, layout, prepare.lines, width)
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


def prepare_lines(program: StepSpec, layout: Layout, lines: list[str], width: int) -> list[str]:
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


def _stored_at(name: str, value: str, layout: Layout, kinds: Mapping[str, str]) -> str:
    return f"a_{name}[{_place(layout, name)}] = {stored(kinds[name], value)}"


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
        f"{n}_ = {load(n, kind, _place(layout, n), layout.compute, f's_{n}' if new else f'e_{n}[k // {BLOCK}]')}"
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
            f"    a_{n} = pointer(col_{n}[i]{start.format(size=SIZE_OF[kind])}, {STORAGE_OF[kind]})"
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


SIZE_OF = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
STORAGE_OF = {"float64": "float64", "float32": "float32", "bfloat16": "uint16", "float16": "uint16", "int8": "int8"}


def load(name: str, kind: str, index: str, compute: str, scale: str) -> str:
    place = f"a_{name}[{index}]"
    if kind == "int8":
        return f"{compute}(from_eight_bits({place}, {scale}))"
    value = f"from_{kind}({place})" if SIZE_OF[kind] == 2 else place
    return value if kind == compute else f"{compute}({value})"


def stored(kind: str, value: str) -> str:
    return f"to_{kind}(float32({value}))" if SIZE_OF[kind] == 2 else f"{kind}({value})"


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
