"""The kernel of a loss of rows as Triton source: value, gradients, sum and value checks of tiles of rows.

Rows lie in `outer` groups of `inner` rows; the classes of a row, or the rows of a group, lie side by side. A block
takes `iterations` tiles. Offsets of rows are 64-bit integers. The gradient is written once, the entry of the target's
class included, which is computed in the precision of the computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from ...formula.expression import Expr, trace
from ...formula.properties import RowTest
from ..loss_trace import trace_rows
from ..row_schedule import schedule_row
from ..specs import LossKernelSpec, Operand
from ..violations import ValueCheck
from .dialect import FUNCTIONS
from .hinges import hinge_functions
from .loss_lines import (
    CHECK_FUNCTIONS,
    block_lines,
    divisor_argument,
    finish_lines,
    option_arguments,
    option_lines,
    scale_lines,
    start_lines,
    update_lines,
)
from .row_tiles import HingeLines, RowTiles, class_loop, distributed, with_hinge_sums
from .step_kernel import KernelSource

__all__ = ["RowLayout", "row_layout", "rows_source"]

WHOLE = 8192  # classes up to which a row is one tile
TILE = 8192  # classes of a tile of a longer row
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


class RowLayout(NamedTuple):
    """The properties of rows that the machine code depends on."""

    rows: int  # of a tile
    classes: int  # of a run, a power of two
    is_whole: bool  # whether a tile holds all classes
    unit: int  # of which the number of classes and the distances between rows are multiples
    classes_last: bool  # whether the classes lie side by side, or the rows
    warps: int
    runs: int = 1  # of classes side by side, which a tile of one row has
    in_place: bool = False  # whether the gradient replaces the first operand in memory

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of a tile: rows, or runs of one row, and classes."""
        return self.rows * self.runs, self.classes


def row_layout(classes: int, unit: int, classes_last: bool) -> RowLayout | None:
    """Return the layout for rows of some number of classes, or None where rows lie side by side and are long."""
    power = max(16, 1 << (classes - 1).bit_length())
    if not classes_last:
        return RowLayout(max(32, 4096 // power), power, True, 1, False, 4) if power <= 128 else None
    if power > WHOLE:
        run = 256 * max(4, unit)  # an access of 16 bytes for each thread
        return RowLayout(1, run, False, unit, True, 8, TILE // run)
    rows = max(1, 1024 // power)
    return RowLayout(rows, power, True, unit, True, max(4, rows * power // 512))


@cache
def rows_source(spec: LossKernelSpec, layout: RowLayout, again: bool = False) -> KernelSource:
    """Return the kernel of a loss.

    Args:
        spec: the loss.
        layout: the layout of its rows.
        again: whether to compute only the gradients, times a factor on the device, and nothing where that is 1.
    """
    index = _of_kind(spec, "index")
    is_sum = spec.mode == "sum" and not again
    rows = [c for c in spec.operands if c.kind == "row"]
    flags = [] if again else [True] * (spec.classes is not None) + [False] * len(spec.checks)
    arguments = [(f"a_{c.name}", "i64") for c in spec.operands] + [(f"g_{c.name}", "i64") for c in spec.grad_operands]
    arguments += [(f"{letter}_{c.name}", "i64") for c in rows for letter in ("outer", "step")]
    arguments.append(("factor" if again else "out", "i64"))
    arguments += [("workspace", "i64")] * (is_sum or bool(flags))
    arguments += [("reports", "i64"), ("slot", "i64")] * bool(flags)
    arguments += [("ignored", "i64")] * (index is not None)
    arguments += [(name, "i64") for name in ("inner", "groups", "units", "tiles", "iterations")]
    arguments.append(divisor_argument(spec))
    arguments += option_arguments(spec)
    compute = f"tl.{spec.dtype}"
    head = [
        *(start_lines(len(flags)) if is_sum or flags else ["block = tl.program_id(0).to(tl.int64)"]),
        f"classes = (units * {layout.unit}).to(tl.int32)",
        *option_lines(spec),
        *scale_lines(spec, again),
        f"classes_ = classes.to({compute})",
        f"lane = tl.arange(0, {layout.classes})",
        f"no_number = tl.zeros(({layout.rows},), {compute})",
        "scale_ = scale + no_number",
        f"sums_here = tl.zeros(({layout.rows},), tl.float64)",
        "per_group = tiles // groups",
        "tile = block * iterations",
        "last = tl.minimum(tile + iterations, tiles)",
        "while tile < last:",
    ]
    text = [
        FUNCTIONS.strip(),
        *(["", CHECK_FUNCTIONS.strip()] if flags else []),
        *(["", hinge_functions(layout.classes, layout.is_whole).strip()] if _of_kind(spec, "labels") else []),
        "",
        "",
        "@triton.jit",
        f"def loss({', '.join(name for name, _ in arguments)}):",
        *(f"    {line}" for line in head),
        *(f"        {line}" for line in _tile(spec, layout, again)),
        "        tile += 1",
        *(["    tl.store(sums + block, tl.sum(sums_here))"] if is_sum else []),
        *(f"    {line}" for line in block_lines(len(flags))),
    ]
    mean = "tl.where(is_nothing, float('nan'), total / divisor)" if spec.rejects_nothing else "(total / divisor)"
    result = [f"tl.store(out.to(tl.pointer_type(tl.{spec.storage})), {mean}.to(tl.{spec.storage}))"]
    rejects_nothing = spec.rejects_nothing and is_sum
    text += [f"    {line}" for line in finish_lines(result if is_sum else [], flags, rejects_nothing=rejects_nothing)]
    return KernelSource("\n".join([*text, ""]), "loss", tuple(arguments), layout.warps)


def _tile(spec: LossKernelSpec, layout: RowLayout, again: bool) -> list[str]:
    """Return the work of one tile of rows."""
    value, slopes, _, names = trace_rows(spec)
    checks = [] if again else [_check(spec, check, names) for check in spec.checks]
    by_name = {c.name: slope for c, slope in zip(spec.grad_operands, slopes, strict=True)}
    numbers = [x for check in checks for x in (check.count, check.shown)]
    schedule = schedule_row(0.0 if again else value, by_name, numbers, rows=names)

    def rewrite(x: Any) -> Any:
        return with_hinge_sums(x) if layout.is_whole else distributed(with_hinge_sums(x))

    value, *numbers = map(rewrite, (schedule.value, *schedule.conditions))
    gradients = [(rewrite(g.dense), g.index is not None, rewrite(g.at_index)) for g in schedule.gradients]
    tiles = RowTiles(
        spec.dtype,
        schedule.is_row,
        lambda name: _load(spec, layout, name),
        lambda x, k: _hinges(spec, layout, x, k),
        layout.shape,
        layout.is_whole,
    )
    tiles.lines += _places(spec, layout)
    parts = [part for dense, _, at_index in gradients for part in (dense, at_index)]
    tiles.sum_up([x for x in (value, *numbers, *parts) if isinstance(x, Expr)])
    bad = []
    for j in range(len(checks)):
        tiles.lines.append(f"broken_{j} = ({tiles.number(numbers[2 * j])} != 0) & serves")
        bad.append(f"broken_{j}")
    if not again and spec.classes is not None:
        bad.append("broken_k")
    tiles.lines += [f"bad = {' | '.join(bad)}", "fine = serves & (bad == 0)"] if bad else ["fine = serves"]
    if not again:
        result = f"tl.where(fine, {tiles.number(value)} + no_number, 0.0)"
        tiles.lines.append(f"result = tl.where(bad, float('nan'), {result})" if bad else f"result = {result}")
        if spec.mode == "none":
            pointer = f"out.to(tl.pointer_type(tl.{spec.storage})) + r"
            tiles.lines.append(f"tl.store({pointer}, result.to(tl.{spec.storage}), mask=row_inside)")
        else:
            tiles.lines.append("sums_here += result.to(tl.float64)")
    if gradients:
        singles = [tiles.number(at_index) if has_index else None for _, has_index, at_index in gradients]
        # Several threads read the entry of the target; in place, all of them have read it before one writes.
        barrier = ["tl.debug_barrier()"] * layout.in_place
        in_tiles = singles if layout.is_whole else [None] * len(singles)
        tiles.loop(
            [dense for dense, _, _ in gradients], lambda found: [*barrier, *_stores(spec, layout, found, in_tiles)]
        )
        if in_tiles != singles:
            tiles.lines += _target_stores(spec, layout, singles)
    if bad:
        shown = [tiles.number(x) for x in numbers[1::2]]
        tiles.lines += _violations(spec, layout, tiles, [c.of_class for c in checks], shown)
    return tiles.lines


class _RowCheck(NamedTuple):
    """A value check of rows: a number that isn't 0 where a row breaks it, and the number that a message shows.

    `of_class` has the condition and the number of each class where these are rows.
    """

    count: Any
    shown: Any
    of_class: tuple[Any, Any] | None


def _check(spec: LossKernelSpec, check: ValueCheck, rows: set[str]) -> _RowCheck:
    symbols = [None if c is None else Expr("input", c.name) for c in spec.columns]
    fails, shown = trace(check.fails, *symbols), trace(check.value, *symbols)
    if not RowTest(rows)(fails):
        return _RowCheck(fails, shown, None)
    return _RowCheck(Expr("total", Expr("where", fails, 1.0, 0.0)), 0.0, (fails, shown))


def _of_kind(spec: LossKernelSpec, kind: str) -> Operand | None:
    return next((c for c in spec.operands if c.kind == kind), None)


def _places(spec: LossKernelSpec, layout: RowLayout) -> list[str]:
    """Return the rows of a tile, where they lie, and their class indices with the entries there."""
    lines = [
        "group = tile // per_group",
        f"i = (tile - group * per_group) * {layout.rows} + tl.arange(0, {layout.rows})",
        "row_inside = i < inner",
        "r = group * inner + i",
    ]
    if layout.is_whole:
        lines += ["c = lane[None, :]", "inside = row_inside[:, None] & (c < classes)"]
    step = f" * {layout.unit}" if layout.unit > 1 else ""
    for c in spec.operands:
        if c.kind == "row":
            place = f"i * (step_{c.name}{step})" if layout.classes_last else "i"
            lines.append(f"base_{c.name} = group * (outer_{c.name}{step}) + {place}")
        elif c.kind == "number":
            pointer = f"a_{c.name}.to(tl.pointer_type(tl.{c.storage})) + r"
            lines.append(f"{c.name}_ = tl.load({pointer}, mask=row_inside, other=0.0).to(tl.{spec.dtype})")
    if (lists := _of_kind(spec, "labels")) is not None:
        return lines + _lists(layout, lists.name)
    index = _of_kind(spec, "index")
    if index is None:
        return [*lines, "serves = row_inside"]
    k = index.name
    lines += [
        f"index = tl.load(a_{k}.to(tl.pointer_type(tl.int64)) + r, mask=row_inside, other=0)",
        "counts = row_inside & (index != ignored)",
        "broken_k = counts & ((index < 0) | (index >= classes))",
        "serves = counts & (broken_k == 0)",
        "kept = tl.where(serves, index, 0).to(tl.int32)",
        f"{k}_ = kept.to(tl.{spec.dtype})",
    ]
    for c in spec.operands:
        if c.kind in ("row", "shared"):
            at = "kept" if c.kind == "shared" else f"base_{c.name} + {_class_offset(layout, c.name, 'kept')}"
            pointer = f"a_{c.name}.to(tl.pointer_type(tl.{c.storage})) + {at}"
            lines.append(f"at_{c.name}_{k} = tl.load({pointer}, mask=row_inside, other=0.0).to(tl.{spec.dtype})")
    return lines


def _lists(layout: RowLayout, name: str) -> list[str]:
    """Return the lists of classes of the rows of a tile, and which rows have one that is in range."""
    lines = [
        "listed = tl.load(lists[:, None] + c, mask=inside, other=-1)",
        "is_wrong = tl.where((listed < -1) | (listed >= classes), 1, 0)",
    ]
    if not layout.is_whole:
        lines = [
            f"wrong = tl.zeros({layout.shape}, tl.int32)",
            *class_loop("start", layout.shape, [*lines, "wrong = tl.maximum(wrong, is_wrong)"], is_back=False),
            "is_wrong = wrong",
        ]
    return [
        f"lists = a_{name}.to(tl.pointer_type(tl.int64)) + r * classes",
        *lines,
        f"broken_k = row_inside & ({'tl.max(is_wrong, 1)' if layout.is_whole else 'tl.max(is_wrong)'} > 0)",
        "serves = row_inside & (broken_k == 0)",
    ]


def _hinges(spec: LossKernelSpec, layout: RowLayout, x: str, k: str) -> HingeLines:
    """Return the lines that compute the hinges of the row x with the lists k."""
    column = next(c for c in spec.operands if c.name == x)
    at = f"a_{x}.to(tl.pointer_type(tl.{column.storage})) + base_{x}"
    stride = _class_offset(layout, x, "1")
    zero = f"tl.zeros({layout.shape}, tl.{spec.dtype})"
    of_tile = f"hinges({x}_row, {at}, {stride}, lists, serves, c, inside, classes, {zero})"
    of_row = f"listed_slopes({at}, lists, serves, row_inside, c, classes, {zero})"
    return HingeLines(
        f"hinge_sums_{x}_{k}, hinge_slopes_{x}_{k} = {of_tile}",
        None if layout.is_whole else f"hinge_slopes_{x}_{k} += {of_row}",
    )


def _class_offset(layout: RowLayout, name: str, place: str) -> str:
    return place if layout.classes_last else f"{place} * step_{name}"


def _pointer(spec: LossKernelSpec, layout: RowLayout, column: Operand, letter: str) -> str:
    start = f"{letter}_{column.name}.to(tl.pointer_type(tl.{column.storage}))"
    place = _class_offset(layout, column.name, "c" if layout.classes_last else "c.to(tl.int64)")
    pointer = f"{start} + (base_{column.name}[:, None] + {place})"
    return f"tl.multiple_of({pointer}, (16, 16))" if layout.unit > 1 else pointer


def _load(spec: LossKernelSpec, layout: RowLayout, name: str) -> str:
    column = next(c for c in spec.operands if c.name == name)
    if column.kind == "shared":
        pointer = f"a_{name}.to(tl.pointer_type(tl.{column.storage})) + c"
        mask = "c < classes"
    else:
        pointer, mask = _pointer(spec, layout, column, "a"), "inside"
    return f"{name}_row = tl.load({pointer}, mask={mask}, other=0.0).to(tl.{spec.dtype})"


def _stores(spec: LossKernelSpec, layout: RowLayout, found: Sequence[str], singles: Sequence[str | None]) -> list[str]:
    """Store the gradients of a tile; the entry at the target's class has a value of its own where one is given."""
    lines = []
    for column, name, single in zip(spec.grad_operands, found, singles, strict=True):
        value = name
        if single is not None:
            value = f"tl.where(c == kept[:, None], ({single} + no_number)[:, None], {value})"
        lines += [
            f"new_{column.name} = tl.where(fine[:, None], {value}, 0.0).to(tl.{column.storage})",
            f"tl.store({_pointer(spec, layout, column, 'g')}, new_{column.name}, mask=inside)",
        ]
    return lines


def _target_stores(spec: LossKernelSpec, layout: RowLayout, singles: Sequence[str | None]) -> list[str]:
    """Store the gradients at the target's class after those of all classes of a long row: no tile compares classes."""
    lines = ["tl.debug_barrier()"]
    for column, single in zip(spec.grad_operands, singles, strict=True):
        if single is not None:
            pointer = f"g_{column.name}.to(tl.pointer_type(tl.{column.storage})) + base_{column.name} + kept"
            lines.append(f"tl.store({pointer}, ({single} + no_number).to(tl.{column.storage}), mask=fine)")
    return lines


def _violations(
    spec: LossKernelSpec,
    layout: RowLayout,
    tiles: RowTiles,
    of_classes: Sequence[tuple[Any, Any] | None],
    shown: Sequence[str],
) -> list[str]:
    """Find the violations of each check in a tile that has some."""
    lines: list[str] = []
    if _of_kind(spec, "index") is not None:
        lines += update_lines(0, "broken_k", "r", "index", is_index=True)
    elif spec.classes is not None:

        def use_lists(_: list[str]) -> list[str]:
            listed = "listed = tl.load(lists[:, None] + c, mask=inside, other=-1)"
            at = "r[:, None] * classes + c"
            return [listed, *update_lines(0, "(listed < -1) | (listed >= classes)", at, "listed", is_index=True)]

        lines += tiles.fresh_loop((), use_lists)
    for j, (of_class, number) in enumerate(zip(of_classes, shown, strict=True)):
        check = j + (spec.classes is not None)
        if of_class is None:
            word = f"({number} + no_number).to(tl.float64).to(tl.int64, bitcast=True)"
            lines += update_lines(check, f"broken_{j}", "r", word, is_index=False)
            continue

        def use(names: list[str], check: int = check) -> list[str]:
            word = f"{names[1]}.to(tl.float64).to(tl.int64, bitcast=True)"
            at = "r[:, None] * classes + c"
            return update_lines(check, f"({names[0]} != 0) & serves[:, None] & inside", at, word, is_index=False)

        lines += tiles.fresh_loop(of_class, use)
    return ["if tl.max(tl.where(bad, 1, 0)) > 0:", *(f"    {line}" for line in lines)]
