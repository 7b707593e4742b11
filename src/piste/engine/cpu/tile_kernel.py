"""Generates the kernel of a row-wise loss of few classes: a tile of rows at a time, with vector lanes over rows."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...formula.expression import Expr, FormulaError
from ..loss_trace import trace_rows
from ..row_schedule import RowSchedule, schedule_row
from ..specs import SHORT_ROWS, LossKernelSpec, Operand
from . import range_guards
from .loss_lines import (
    BYTES,
    CLASSES,
    COLUMNS,
    IGNORED,
    OUT,
    PARTIALS,
    PER_BLOCK,
    ROWS,
    RUN,
    SCALE,
    load_expr,
    options_lines,
    storage_type,
    store_expr,
)
from .tile_lines import LANES, OVER_LANES, TileLines
from .work_sharing import shared_lines

__all__ = ["tile_source"]


@functools.lru_cache(maxsize=512)
def tile_source(spec: LossKernelSpec) -> str | None:
    """Return the kernel as Python that Numba compiles; None where rows are computed one at a time."""
    if spec.derivatives is not None or spec.dtype != "float32":  # exp and log of float64 have no vector form
        return None
    kinds = {c.kind for c in spec.operands}
    if "labels" in kinds or ("index" in kinds and spec.bounds):  # hinges, and bounds on rows that may be ignored
        return None
    if not kinds <= {"row", "shared", "number", "index"}:
        return None
    try:
        return "\n".join(_Kernel(spec).source())
    except FormulaError:
        return None


class _Kernel:
    """The lines of a kernel."""

    def __init__(self, spec: LossKernelSpec) -> None:
        self.spec, self.wanted = spec, spec.grad_operands
        self.index = next((c for c in spec.operands if c.kind == "index"), None)
        value, slopes, faults, rows = trace_rows(spec)
        by_name = {c.name: slope for c, slope in zip(self.wanted, slopes, strict=True)}
        self.schedule: RowSchedule = schedule_row(value, by_name, faults, rows=rows, stores_exponentials=bool(by_name))
        self.staged = [f"new_{c.name}" for c in self.wanted]  # gradients in scratch memory; the first replaces `stored`
        self.tile = TileLines(spec, self.schedule, self.staged[0] if self.wanted else "")
        self.zero, self.one = f"{spec.dtype}(0.0)", f"{spec.dtype}(1.0)"
        self.serves = self.tile.add_column()

    def source(self) -> list[str]:
        """Return the lines of the kernel, which adds a block tile by tile."""
        spec = self.spec
        self._load()
        self.tile.reduce()
        self._finish()
        tiles = [f"t_{c.name}" for c in spec.operands if c.kind == "row"] + self.staged
        tile_bytes, lane_bytes = SHORT_ROWS * LANES * BYTES[spec.dtype], LANES * BYTES[spec.dtype]
        scratch = [(name, spec.dtype, tile_bytes) for name in tiles]
        scratch += [("lane", spec.dtype, self.tile.columns * lane_bytes), ("kept_index", "int64", LANES * 8)]
        arrays, at = [], 0
        for i, (name, dtype, size) in enumerate(scratch):
            number = COLUMNS + len(spec.operands) + len(self.wanted) + i
            arrays.append(f"    {name} = column(scratch + {at}, {dtype}, {number})")
            at += size
        block = [
            f"r = block * table[{PER_BLOCK}]",
            f"stop = r + table[{PER_BLOCK}]",
            f"stop = stop if stop < table[{ROWS}] else table[{ROWS}]",
            "total = 0.0",
            "faults = 0",
            "while r < stop:",
            f"    width = {LANES} if r + {LANES} < stop else stop - r",
            *(f"    {line}" for line in (*self._operands(shared=False), *self.tile.lines)),
            "    r += width",
            "partials[2 * block] = total",
            "partials[2 * block + 1] = float64(faults)",
        ]
        return [
            f"from piste.engine.cpu.kernels.transpose import transpose  # {_digest()}",
            "",
            "",
            "def run(table):",
            *options_lines(spec.options, spec.dtype),
            f"    scale_ = {spec.dtype}(given[{SCALE}])",
            f"    partials = pointer(table[{PARTIALS}], float64)",
            f"    out = pointer(table[{OUT}], {storage_type(spec.storage)})",
            f"    classes = table[{CLASSES}]",
            f"    classes_ = {spec.dtype}(classes)",
            f"    scratch = stack_alloc({at // 8})",
            *arrays,
            *(f"    {line}" for line in self._operands(shared=True)),
            *shared_lines(block, f"table[{RUN}]"),
            "",
        ]

    def _operands(self, shared: bool) -> list[str]:
        """Return the lines that find operands and gradients in memory, those of a tile or those that rows share."""
        lines = []
        for i, (letter, c) in enumerate([("a", c) for c in self.spec.operands] + [("g", c) for c in self.wanted]):
            step = {"shared": "", "row": " + r * classes * ", "number": " + r * ", "index": " + r * "}[c.kind]
            if (c.kind == "shared") is shared:
                start = f"table[{COLUMNS + i}]{step and step + str(BYTES[c.storage])}"
                lines.append(f"{letter}_{c.name} = column({start}, {storage_type(c.storage)}, {COLUMNS + i})")
        return lines

    def _load(self) -> None:
        """Add the lines that copy the operands of a tile to scratch memory, and find the rows that serve."""
        tile, dtype = self.tile, self.spec.dtype
        tile.lines += [OVER_LANES, f"    {self._lane(self.serves)} = {self.one} if j < width else {self.zero}"]
        for c in self.spec.operands:
            if c.kind == "row" and c.storage == "float32":
                tile.lines.append(f"transpose(a_{c.name}, classes, t_{c.name}, {LANES}, width, classes)")
            elif c.kind == "row":
                entry = f"t_{c.name}[c * {LANES} + i] = {load_expr(c, 'i * classes + c', dtype)}"
                tile.lines += _over_entries(entry)
            elif c.kind == "number":
                place = self._lane(tile.add_column(Expr("input", c.name)), "i")
                tile.lines += ["for i in range(width):", f"    {place} = {dtype}(a_{c.name}[i])"]
        for bound in self.spec.bounds:
            tile.lines += [
                range_guards.start(bound, dtype),
                "for i in range(width * classes):",
                f"    bounded = {load_expr(self.spec.operands[bound.operand], 'i', dtype)}",
                *(f"    {line}" for line in range_guards.update(bound, "bounded", dtype)),
                f"faults += 1 if {range_guards.broken(bound, dtype)} else 0",
            ]
        if self.index is not None:
            self._load_index(self.index)

    def _load_index(self, index: Operand) -> None:
        """Add the lines that read the class indices of a tile and the entries there; 0 stands for one out of range."""
        tile, dtype, k = self.tile, self.spec.dtype, Expr("input", index.name)
        tile.lines += [
            OVER_LANES,
            "    kept_index[j] = 0",
            "for i in range(width):",
            f"    k = a_{index.name}[i]",
            f"    is_ignored = k == table[{IGNORED}]",
            "    is_out = (k < 0) | (k >= classes)",
            "    faults += 1 if is_out & (not is_ignored) else 0",
            "    kept_index[i] = 0 if is_out else k",
            f"    {self._lane(self.serves, 'i')} = {self.zero} if is_out | is_ignored else {self.one}",
            OVER_LANES,
            f"    {self._lane(tile.add_column(k))} = {dtype}(kept_index[j])",
        ]
        for c in self.spec.operands:
            if c.kind in ("row", "shared"):
                place = self._lane(tile.add_column(Expr("pick", Expr("input", c.name), k)))
                entry = f"t_{c.name}[kept_index[j] * {LANES} + j]" if c.kind == "row" else f"a_{c.name}[kept_index[j]]"
                tile.lines.append(f"    {place} = {dtype}({entry})")

    def _finish(self) -> None:
        """Add the lines from the sums to the results: the loss of each row, and the gradients."""
        tile, spec = self.tile, self.spec
        serves = self._lane(self.serves)

        def write(names: list[str]) -> list[str]:
            chosen = f" if {serves} != {self.zero} else {self.zero}" if self.index is not None else ""
            return [f"{to}[at + j] = {spec.dtype}({x}){chosen}" for to, x in zip(self.staged, names, strict=True)]

        loop = tile.rows([g.dense for g in self.schedule.gradients], write) if self.wanted else []
        singles = [None if g.index is None else tile.wait_for(g.at_index) for g in self.schedule.gradients]
        result = tile.add_column()

        def reduce(name: Callable[[Any], str]) -> list[str]:
            value = f"{spec.dtype}({name(self.schedule.value)}) if {serves} != {self.zero} else {self.zero}"
            broken = [
                f"broken = fast_add(broken, {serves} if {name(condition)} else {self.zero})"
                for condition in self.schedule.conditions
            ]
            return [
                f"{self._lane(result)} = {value}" if spec.mode == "none" else f"part = fast_add(part, {value})",
                *broken,
            ]

        tile.lines.append(f"part, broken = {self.zero}, {self.zero}")
        tile.add_scalars(reduce)
        tile.lines += ["total += float64(part)", f"faults += 1 if broken != {self.zero} else 0"]
        if spec.mode == "none":
            entry = store_expr(spec.storage, self._lane(result, "i"))
            tile.lines += ["for i in range(width):", f"    out[r + i] = {entry}"]
        tile.lines += loop
        for staged, c, single in zip(self.staged, self.wanted, singles, strict=True):
            if c.storage == "float32":
                tile.lines.append(f"transpose({staged}, {LANES}, g_{c.name}, classes, classes, width)")
            else:
                entry = store_expr(c.storage, f"{staged}[c * {LANES} + i]")
                tile.lines += _over_entries(f"g_{c.name}[i * classes + c] = {entry}")
            if single is not None:
                tile.lines += [
                    OVER_LANES,
                    f"    {single} = {single} if {serves} != {self.zero} else {self.zero}",
                    "for j in range(width):",
                    f"    g_{c.name}[j * classes + kept_index[j]] = {store_expr(c.storage, single)}",
                ]

    def _lane(self, column: int, place: str = "j") -> str:
        return f"lane[{column * LANES} + {place}]"


def _over_entries(line: str) -> list[str]:
    return ["for i in range(width):", "    for c in range(classes):", f"        {line}"]


@functools.cache
def _digest() -> str:
    """Return a digest of the file that the kernels import, because machine code is cached by source."""
    return hashlib.sha256((Path(__file__).parent / "kernels" / "transpose.py").read_bytes()).hexdigest()[:16]
