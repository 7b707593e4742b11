"""The source of the CPU kernel of a step that reduces over rows or columns of its tensors.

The items of work are tiles: a range of rows and columns of a matrix, or some whole matrices. `reduce0` leaves the sums
of each tile; `finish0` adds those of a tensor in the order of the tiles, and computes the values that follow (see
line_stages.py); then `reduce1`, and so on. Sums, and values of matrices, rows and columns, are in double precision. The
tiles don't depend on the number of threads, and neither do the results.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from ...formula.expression import Expr
from ..emit import Emitter
from ..hoisting import PER_COLUMN, PER_ELEMENT, PER_MATRIX, PER_ROW, PER_TENSOR, Hoisted, given_inputs, trace_step
from ..line_stages import LINE_EXTENTS, LinePass, LineWords, Stage, plan_lines
from ..specs import StepSpec
from .dialect import numba
from .step_reductions import SCALARS, TENSORS
from .step_source import BLOCK_ENDS, COLUMNS, ITEMS, SHAPES, SIZE_OF, STORAGE_OF, Layout, load, prepare_lines, stored
from .work_sharing import shared_lines

__all__ = ["LineSource", "line_source"]

ITEM = ("i", "m_first", "m_last", "r_first", "r_last", "c_first", "c_last")
"""The words of an item: its tensor, and the ranges of matrices, of rows and of columns."""
PLACES = (
    "matrices",
    "height",
    "breadth",
    "down",
    "across",
    "tall",
    "wide",
    "at_q",
    "at_w",
    "at_z",
    "at_rows",
    "at_columns",
)
"""The words of a tensor: its sizes, the tiles of a matrix down and across, the rows and the columns of a tile, the
addresses of the values of matrices, rows and columns, and those of the sums of the rows and the columns of tiles."""
_POINTERS = {PER_MATRIX: ("at_q", "v_q"), PER_ROW: ("at_w", "v_w"), PER_COLUMN: ("at_z", "v_z")}
_VALUES = {
    PER_MATRIX: ("q", "v_q", "matrices", "m"),
    PER_ROW: ("w", "v_w", "rows", "j"),
    PER_COLUMN: ("z", "v_z", "columns", "j"),
}


class LineSource(NamedTuple):
    """A kernel as Python that Numba compiles.

    Attributes:
        text: the source.
        counts: the number of values of each extent.
        sums: for each pass, the number of sums of each extent.
    """

    text: str
    counts: dict[int, int]
    sums: list[dict[int, int]]


@cache
def line_source(program: StepSpec, layout: Layout) -> LineSource:
    """Return the kernel of a step."""
    step = trace_step(program)
    hoisted = step.hoisted()
    kinds = dict(zip(step.columns, layout.columns, strict=True))
    words = LineWords(
        numba(layout.compute), numba("float64"), _loaded, _kept, lambda n, _, x: f"a_{n}[j] = {stored(kinds[n], x)}"
    )
    plan = plan_lines(step, hoisted, words)
    prepare = Emitter(numba("float64"), "s", given_inputs)
    for letter, value in step.counters.items():
        name = prepare.name(value)
        prepare.lines += [f"c_{letter}[0] = {layout.counter}({name})", f"kept_{letter} = float64(c_{letter}[0])"]
    for place, value in enumerate(hoisted.scalars):
        if hoisted.stage(value) == (0, 0):
            prepare.lines.append(f"row[{place}] = {prepare.name(value)}")
    width = len(hoisted.scalars)
    writer = _Writer(program, layout, hoisted, dict(step.extents), kinds)
    lines = prepare_lines(program, layout, [*prepare.lines, *writer.first(plan.stages[0])], width)
    for number, each in enumerate(plan.passes):
        lines += writer.sums(number, each)
        lines += writer.finish(number, each, plan.stages[number + 1])
    stores = [f"a_{n}[{writer.index(n)}] = {stored(kinds[n], x)}" for n, x in plan.results.items()]
    lines += writer.elements("body", [*plan.body, *stores])
    counts = {extent: len(values) for extent, values in hoisted.values.items()}
    sums = [{extent: len(each.over(extent)) for extent in (PER_TENSOR, PER_ROW, PER_COLUMN)} for each in plan.passes]
    return LineSource("\n".join(lines), counts, sums)


def _words(lines: Sequence[str]) -> set[str]:
    """Return the names in some lines."""
    return set(re.findall(r"\w+", " ".join(lines)))


def _loaded(extent: int, place: int) -> str:
    if extent == PER_TENSOR:
        return f"row[{place}]"
    _, vector, count, index = _VALUES[extent]
    return f"{vector}[{place} * {count} + {index}]"


def _kept(extent: int, place: int, value: Expr, name: str) -> str:
    return f"{_loaded(extent, place)} = {name}"


class _Writer:
    """Writes the entries of a kernel."""

    def __init__(
        self, program: StepSpec, layout: Layout, hoisted: Hoisted, extents: dict[str, int], kinds: dict[str, str]
    ) -> None:
        self._layout, self._hoisted, self._extents, self._kinds = layout, hoisted, extents, kinds
        self._places = {name: COLUMNS + k for k, name in enumerate(extents)}
        self._elements = [name for name, extent in extents.items() if extent == PER_ELEMENT]
        self._uses_position = program.uses_position
        self._first = COLUMNS + len(extents) + len(program.counters)  # of the tables of sums
        self._width = 8 * len(hoisted.scalars)

    def index(self, name: str) -> str:
        """Return the place of an element in a column."""
        return f"o_{name} + k * d_{name}" if self._layout.dims else "k"

    def _of_tensor(self) -> list[str]:
        """Return the lines at the start of the work on tensor `i`."""
        return [
            f"row = pointer(table[{SCALARS}] + i * {self._width}, float64)",
            f"places = pointer(table[{self._first + 2}] + i * {8 * len(PLACES)}, int64)",
            *(f"{name} = places[{k}]" for k, name in enumerate(PLACES)),
            "rows, columns = matrices * height, matrices * breadth",
            *(f"{name} = pointer({at}, float64)" for at, name in _POINTERS.values()),
        ]

    # --- the values between passes ---

    def first(self, stages: Sequence[Stage]) -> list[str]:
        """Write the stages in front of the first pass, other than the first scalars."""
        lines = self.stages(stages)
        return [*self._of_tensor(), *lines] if lines else []

    def stages(self, stages: Sequence[Stage]) -> list[str]:
        """Write the stages of a tensor in order."""
        of_lines = {n: extent for n, extent in self._extents.items() if extent != PER_ELEMENT}
        lines: list[str] = []
        for stage in stages:
            of_all = [x for x in stage.reductions if x.extent == PER_TENSOR]
            of_matrices = [x for x in stage.reductions if x.extent == PER_MATRIX]
            lines += stage.lines.get(PER_TENSOR, [])
            lines += [f"u{x.place} = 0.0" for x in of_all]
            inner = [
                *stage.lines[PER_MATRIX],
                *(f"y{x.place} = 0.0" for x in of_matrices),
                *self._added(stage, PER_MATRIX),
            ]
            for extent, size in ((PER_ROW, "height"), (PER_COLUMN, "breadth")):
                work = [*stage.lines[extent], *self._added(stage, extent)]
                loads = [
                    f"{n}_ = {load(n, self._kinds[n], 'j', 'float64', '')}"
                    for n, of in of_lines.items()
                    if of == extent and f"{n}_" in _words(work)
                ]
                if work:
                    inner += [f"for j in range(m * {size}, (m + 1) * {size}):", *(f"    {x}" for x in (*loads, *work))]
            for x in of_matrices:
                size = "height" if x.of == PER_ROW else "breadth"
                inner.append(f"{_loaded(x.extent, x.place)} = y{x.place}{f' / {size}' * x.is_mean}")
            if inner:
                lines += ["for m in range(matrices):", *(f"    {line}" for line in inner)]
            counts = {PER_MATRIX: "matrices", PER_ROW: "rows", PER_COLUMN: "columns"}
            lines += [f"row[{x.place}] = u{x.place}{f' / {counts[x.of]}' * x.is_mean}" for x in of_all]
        used = _words(lines)
        buffers = [
            f"a_{n} = pointer(pointer(table[{self._places[n]}], int64)[i], {self._storage(n)})"
            for n in of_lines
            if f"a_{n}" in used
        ]
        return [*buffers, *lines]

    @staticmethod
    def _added(stage: Stage, extent: int) -> list[str]:
        return [f"{'y' if x.extent else 'u'}{x.place} += {x.operand}" for x in stage.of(extent)]

    def finish(self, number: int, each: LinePass, stages: Sequence[Stage]) -> list[str]:
        """Write the entry that adds the sums of the tiles of a pass and computes the values that follow."""
        of_all = each.over(PER_TENSOR)
        lines = self._of_tensor()
        lines += [f"r{k} = 0.0" for k in range(len(of_all))]
        if of_all:
            lines += ["for item in range(firsts[i], firsts[i + 1]):"]
            lines += [f"    r{k} += partials[{len(of_all)} * item + {k}]" for k in range(len(of_all))]
        lines += [f"row[{x.place}] = r{k}{' / (rows * breadth)' * x.is_mean}" for k, x in enumerate(of_all)]
        for extent, at, size, tiles, divisor in (
            (PER_ROW, "at_rows", "rows", "across", "breadth"), (PER_COLUMN, "at_columns", "columns", "down", "height"),
        ):  # fmt: skip
            _, vector, *_ = _VALUES[extent]
            for k, x in enumerate(each.over(extent)):
                place = f"{vector}[{x.place} * {size} + j]"
                lines += [
                    f"for j in range({size}):",
                    f"    {place} = 0.0",
                    f"for tile in range({tiles}):",
                    f"    sums = pointer({at} + ({k} * {tiles} + tile) * {size} * 8, float64)",
                    f"    for j in range({size}):",
                    f"        {place} += sums[j]",
                    *([f"for j in range({size}):", f"    {place} = {place} / {divisor}"] if x.is_mean else []),
                ]
        return [
            f"def finish{number}(table):",
            "    reset_counters(table)",
            f"    partials = pointer(table[{self._first}], float64)",
            f"    firsts = pointer(table[{self._first + 1}], int64)",
            f"    for i in range(table[{TENSORS}]):",
            *(f"        {line}" for line in (*lines, *self.stages(stages))),
            "",
        ]

    # --- the elements ---

    def sums(self, number: int, each: LinePass) -> list[str]:
        """Write the entry of a pass that adds."""
        of_all, of_rows, of_columns = (each.over(extent) for extent in (PER_TENSOR, PER_ROW, PER_COLUMN))
        lines = [
            *each.lines,
            *(f"t{k} = fast_add(t{k}, float64({x.operand}))" for k, x in enumerate(of_all)),
            *(f"e{k} = fast_add(e{k}, float64({x.operand}))" for k, x in enumerate(of_rows)),
            *(f"f{k}[k] = f{k}[k] + float64({x.operand})" for k, x in enumerate(of_columns)),
        ]
        numbers = range(len(of_all))
        around = {
            "item": [f"partials = pointer(table[{self._first}], float64)", *(f"t{k} = 0.0" for k in numbers)],
            "after item": [f"partials[{len(of_all)} * item + {k}] = t{k}" for k in numbers],
            "matrix": [
                line
                for k in range(len(of_columns))
                for line in (
                    f"first = ({k} * down + r_first // tall) * columns + m * breadth + c_first",
                    f"f{k} = pointer(at_columns + first * 8, float64)",
                    "for k in range(c_last - c_first):",
                    f"    f{k}[k] = 0.0",
                )
            ],
            "row": [f"e{k} = 0.0" for k in range(len(of_rows))],
            "after row": [
                f"pointer(at_rows + (({k} * across + c_first // wide) * rows + line) * 8, float64)[0] = e{k}"
                for k in range(len(of_rows))
            ],
        }  # fmt: skip
        return self.elements(f"reduce{number}", lines, around)

    def elements(self, name: str, lines: Sequence[str], around: dict[str, list[str]] | None = None) -> list[str]:
        """Write the entry of a pass, given the lines of an element and those around items, matrices and rows."""
        around = around or {}
        dims, compute = self._layout.dims, self._layout.compute
        columns = self._elements
        loads = [f"{n}_ = {load(n, self._kinds[n], self.index(n), compute, '')}" for n in columns]
        position = ["position_ = line * breadth + c_first + k"] * self._uses_position
        used = _words(lines)
        values = {
            extent: [k for k in range(len(self._hoisted.values[extent])) if f"{_VALUES[extent][0]}{k}" in used]
            for extent in LINE_EXTENTS
        }
        if dims:
            starts = [f"o_{n} = b_{n} + r * shape[{self._stride(n, 2)}] + c_first * d_{n}" for n in columns]
        else:
            starts = [
                "first = line * breadth + c_first",
                *(
                    f"a_{n} = pointer(col_{n}[i] + first * {SIZE_OF[self._kinds[n]]}, {self._storage(n)})"
                    for n in columns
                ),
            ]
        element = [
            *loads,
            *(f"z{k} = {compute}(y{k}[k])" for k in values[PER_COLUMN]),
            *position,
            *lines,
        ]
        row = [
            "line = m * height + r",
            *(f"w{k} = {compute}(v_w[{k} * rows + line])" for k in values[PER_ROW]),
            *starts,
            *around.get("row", []),
            "for k in range(c_last - c_first):",
            *(f"    {line}" for line in element),
            *around.get("after row", []),
        ]
        matrix = [
            *(f"q{k} = {compute}(v_q[{k} * matrices + m])" for k in values[PER_MATRIX]),
            *(
                f"y{k} = pointer(at_z + ({k} * columns + m * breadth + c_first) * 8, float64)"
                for k in values[PER_COLUMN]
            ),
            *(self._offsets() if dims else []),
            *around.get("matrix", []),
            "for r in range(r_first, r_last):",
            *(f"    {line}" for line in row),
        ]
        item = [
            "item_at = pointer(table_items + item * 56, int64)",
            *(f"{name} = item_at[{k}]" for k, name in enumerate(ITEM)),
            *self._of_tensor(),
            *(f"h{k} = {compute}(row[{k}])" for k in range(len(self._hoisted.scalars))),
            *(self._strided_columns() if dims else []),
            *around.get("item", []),
            "for m in range(m_first, m_last):",
            *(f"    {line}" for line in matrix),
            *around.get("after item", []),
        ]
        return [
            f"def {name}(table):",
            f"    ends = pointer(table[{BLOCK_ENDS}], int64)",
            f"    table_items = table[{ITEMS}]",
            *(f"    col_{n} = pointer(table[{self._places[n]}], int64)" for n in columns),
            *shared_lines(["for item in range(ends[block], ends[block + 1]):", *(f"    {line}" for line in item)]),
            "",
        ]

    def _storage(self, name: str) -> str:
        return STORAGE_OF[self._kinds[name]]

    def _stride(self, name: str, back: int) -> int:
        """Return the place of the stride of a dimension, counted from the last one, in `shape`."""
        return self._layout.dims * (2 + self._elements.index(name)) - back

    def _strided_columns(self) -> list[str]:
        dims = self._layout.dims
        return [
            f"shape = pointer(table[{SHAPES}] + i * {8 * dims * (1 + len(self._elements))}, int64)",
            *(f"a_{n} = pointer(col_{n}[i], {self._storage(n)})" for n in self._elements),
            *(f"d_{n} = shape[{self._stride(n, 1)}]" for n in self._elements),
        ]

    def _offsets(self) -> list[str]:
        """Return the lines that compute the place of the first element of a matrix in each column."""
        lines = ["rest = m", *(f"b_{n} = 0" for n in self._elements)]
        for d in reversed(range(self._layout.dims - 2)):
            lines.append(f"at_d = rest % shape[{d}]")
            lines.append(f"rest = rest // shape[{d}]")
            lines += [f"b_{n} += at_d * shape[{self._stride(n, self._layout.dims - d)}]" for n in self._elements]
        return lines
