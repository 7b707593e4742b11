"""A compiled step that reduces over rows or columns, with the tables of its tiles."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

from ...formula.expression import FormulaError
from ..hoisting import PER_COLUMN, PER_MATRIX, PER_ROW, PER_TENSOR, has_lines
from ..line_stages import LinePass, why_not_reduced
from ..specs import ParamState, StepSpec
from .launch import GpuStepKernel
from .line_finish import STAGES, finish_source, reduces_lines_of_all
from .line_source import ADDED, PLACES, add_source, line_step_source, tile_of
from .step_kernel import KernelSource, Layout
from .step_split import Split, split

__all__ = ["GpuLineKernel", "make_step_kernel", "why_not_lines", "with_tile"]


def make_step_kernel(spec: StepSpec, layout: Layout, states: Sequence[ParamState], device: Any) -> GpuStepKernel:
    """Make the kernel that steps some parameters of one layout; see `GpuStepKernel`."""
    return (GpuLineKernel if has_lines(spec) else GpuStepKernel)(spec, layout, states, device)


def with_tile(spec: StepSpec, layout: Layout, shape: Sequence[int]) -> Layout:
    """Return the layout of a tensor with its tile, if the step reduces over rows or columns."""
    return replace(layout, tile=tile_of(shape)) if has_lines(spec) else layout


class _Tiles(NamedTuple):
    """The matrices of a tensor, and its tiles."""

    matrices: int
    height: int
    breadth: int
    over: int  # tiles from the first matrix to the last
    down: int
    across: int

    @classmethod
    def of(cls, shape: Sequence[int], tile: tuple[int, int, int]) -> _Tiles:
        *outer, height, breadth = shape
        sizes = math.prod(outer), height, breadth
        return cls(*sizes, *(-(-size // part) for size, part in zip(sizes, tile, strict=True)))

    @property
    def number(self) -> int:
        return self.over * self.down * self.across


class GpuLineKernel(GpuStepKernel):
    """The kernel of one layout with its tensors, and with room for the values of their rows and columns."""

    def _divide(self, states: Sequence[ParamState], sizes: Sequence[int]) -> array[int]:
        self._tiles = [_Tiles.of(state.p.shape, self._layout.tile) for state in states]
        blocks = array("q")
        for i, tiles in enumerate(self._tiles):
            blocks.extend(range(i << 32, (i << 32) + tiles.number))
        return blocks

    def _allocate(self, parts: Split, sizes: Sequence[int]) -> None:
        assert parts.plan is not None
        counts = dict(parts.counts)
        most = {
            extent: max((len(each.over(extent)) for each in parts.plan.passes), default=0)
            for extent in (PER_TENSOR, PER_ROW, PER_COLUMN)
        }
        places, at = array("q"), 0
        for x in self._tiles:
            all_rows, all_columns = x.matrices * x.height, x.matrices * x.breadth
            places.extend((x.matrices, x.height, x.breadth, x.down, x.across))
            for size in (
                counts[PER_MATRIX] * x.matrices,
                counts[PER_ROW] * all_rows,
                counts[PER_COLUMN] * all_columns,
                most[PER_ROW] * x.across * all_rows,
                most[PER_COLUMN] * x.down * all_columns,
            ):
                places.append(at)
                at += size
        assert len(places) == len(PLACES) * len(self._tiles)
        firsts = array("q", accumulate((x.number for x in self._tiles), initial=0))
        device = self._device
        made = [
            device.doubles(max(1, self._blocks * most[PER_TENSOR])),
            device.upload(firsts),
            device.doubles(self._count * parts.width),
            device.upload(places),
            device.doubles(max(1, at)),
        ]
        self._on_device += made
        self._sums = [table.data_ptr() for table in made]
        numbers = range(len(parts.plan.passes))
        self._adds = [self._uploaded(self._lines_to_add(parts.plan.passes[number])) for number in numbers]
        self._finishes = [self._uploaded(self._matrices_after(parts, number)) for number in (-1, *numbers)]

    def _uploaded(self, blocks: array[int]) -> tuple[int, int]:
        """Return the number of some blocks and the address of their table."""
        self._on_device.append(self._device.upload(blocks))
        return len(blocks), self._on_device[-1].data_ptr()

    def _lines_to_add(self, each: LinePass) -> array[int]:
        """Return the blocks of `add` after a pass."""
        blocks = array("q")
        for i, x in enumerate(self._tiles):
            for extent, size in ((PER_ROW, x.height), (PER_COLUMN, x.breadth)):
                count = -(-x.matrices * size // ADDED) if each.over(extent) else 0
                blocks.extend((i << 32) + 2 * k + (extent == PER_COLUMN) for k in range(count))
        return blocks

    def _matrices_after(self, parts: Split, number: int) -> array[int]:
        """Return the blocks of `finish` after a pass."""
        takes_all = reduces_lines_of_all(parts, 1 + number)
        together, _ = STAGES[self._layout.tile]
        blocks = array("q")
        for i, x in enumerate(self._tiles):
            blocks.extend(range(i << 32, (i << 32) + (1 if takes_all else -(-x.matrices // together))))
        return blocks

    def _sources(self, by_rows: bool) -> list[tuple[KernelSource, int, int | None]]:
        given = self._spec, self._layout, by_rows
        sources: list[tuple[KernelSource, int, int | None]] = []
        for number, finish in enumerate(self._finishes, -1):
            if number >= 0:
                sources.append((line_step_source(*given, number), self._blocks, None))
                if self._adds[number][0]:
                    sources.append((add_source(*given, number), *self._adds[number]))
            source = finish_source(*given, number)
            if source is not None:
                sources.append((source, *finish))
        return [*sources, (line_step_source(*given, None), self._blocks, None)]


def why_not_lines(spec: StepSpec, state: ParamState) -> str | None:
    """Return the reason why the kernel can't reduce over the rows and columns of a parameter, or None."""
    if (why := why_not_reduced(spec, state)) is not None:
        return why
    if not state.p.numel():
        return "it has no elements"
    if not all(x.is_contiguous() for x in (state.p, state.g, *state.buffers)):
        return "it is not contiguous, and its rule reduces over rows or columns"
    try:
        split(spec, ("float64",) * (2 + len(spec.buffers)))
    except FormulaError as error:
        return f"no kernel can be made of its formula ({error})"
    return None
