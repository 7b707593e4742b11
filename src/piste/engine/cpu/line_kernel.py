"""The CPU kernel of a step that reduces over rows or columns, with the tables of its tiles."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..hoisting import PER_COLUMN, PER_MATRIX, PER_ROW, PER_TENSOR
from ..specs import ParamState, StepSpec
from .line_source import ITEM, LineSource, line_source
from .step_kernel import ITEM_OVERHEAD, MAX_CHUNK, MIN_CHUNK, StepKernel, elements_of
from .step_reductions import first_items, stages
from .step_source import Layout

__all__ = ["LineStepKernel", "tiles"]

MAX_WIDTH = 2048  # columns of a tile, whose sums stay in the cache of a core
TILES = 64  # of all tensors, if these are large


class Tiling(NamedTuple):
    """The tiles of a tensor.

    Attributes:
        sizes: the number of matrices, and that of their rows and columns.
        down: the tiles of a matrix from top to bottom.
        across: the tiles of a matrix from left to right.
        tall: the rows of a tile.
        wide: the columns of a tile.
        together: the whole matrices of a tile.
    """

    sizes: tuple[int, int, int]
    down: int
    across: int
    tall: int
    wide: int
    together: int

    @classmethod
    def of(cls, shape: Sequence[int], chunk: int) -> Tiling:
        """Return tiles of a number of elements, as near as may be."""
        *outer, height, breadth = shape
        matrices = math.prod(outer)
        if height * breadth <= chunk:
            return cls(
                (matrices, height, breadth),
                1,
                1,
                max(height, 1),
                max(breadth, 1),
                max(chunk // max(height * breadth, 1), 1),
            )
        across = -(-breadth // MAX_WIDTH)
        wide = -(-breadth // across)
        tall = max(chunk // wide, 1)
        return cls((matrices, height, breadth), -(-height // tall), across, tall, wide, 1)

    def items(self, tensor: int) -> list[tuple[int, ...]]:
        """Return the words of each tile."""
        matrices, height, breadth = self.sizes
        return [
            (tensor, m, min(m + self.together, matrices), r, min(r + self.tall, height), c, min(c + self.wide, breadth))
            for m in range(0, matrices, self.together)
            for r in range(0, height, self.tall)
            for c in range(0, breadth, self.wide)
        ]


def tiles(tilings: Sequence[Tiling], chunk: int) -> tuple[array[int], array[int]]:
    """Return the words of all tiles, and the end of each block of tiles; a thread takes a block at a time."""
    items, ends, filled = array("q"), array("q", [0]), 0
    for tensor, tiling in enumerate(tilings):
        for item in tiling.items(tensor):
            items.extend(item)
            _, m, m_last, r, r_last, c, c_last = item
            filled += (m_last - m) * (r_last - r) * (c_last - c) + ITEM_OVERHEAD
            if filled >= chunk:
                ends.append(len(items) // len(ITEM))
                filled = 0
    if filled:
        ends.append(len(items) // len(ITEM))
    return items, ends


class LineStepKernel(StepKernel):
    """A kernel with the tables of its tensors, and with room for the sums and the values of their rows and columns."""

    def __init__(self, program: StepSpec, layout: Layout, slots: Sequence[ParamState]) -> None:
        made = line_source(program, layout)
        self.stages = stages(len(made.sums))
        chunk = min(max(MIN_CHUNK, sum(slot.p.numel() for slot in slots) // TILES), MAX_CHUNK)
        tilings = [Tiling.of(slot.p.shape, chunk) for slot in slots]
        items, ends = tiles(tilings, chunk)
        firsts = array("q", first_items(items[:: len(ITEM)], len(slots)))
        count = len(items) // len(ITEM)
        partials = array("d", bytes(8 * count * max((x[PER_TENSOR] for x in made.sums), default=0)))
        self._room = array("d", bytes(8 * sum(sum(_rooms(tiling, made)) for tiling in tilings)))
        places, at = array("q"), self._room.buffer_info()[0]
        for tiling in tilings:
            places.extend((*tiling.sizes, tiling.down, tiling.across, tiling.tall, tiling.wide))
            for size in _rooms(tiling, made):
                places.append(at)
                at += 8 * size
        shapes = array("q", [n for slot in slots for n in _walk(program, slot, layout.dims)])
        more: list[array[Any]] = [partials, firsts, places]
        self._bind(program, layout, slots, made.text, (), made.counts[PER_TENSOR], items, ends, shapes, more)


def _rooms(tiling: Tiling, made: LineSource) -> list[int]:
    """Return the number of values of matrices, rows and columns, and of the sums of rows and columns of tiles."""
    matrices, height, breadth = tiling.sizes
    rows, columns = matrices * height, matrices * breadth
    most = {extent: max((x[extent] for x in made.sums), default=0) for extent in (PER_ROW, PER_COLUMN)}
    return [
        made.counts[PER_MATRIX] * matrices,
        made.counts[PER_ROW] * rows,
        made.counts[PER_COLUMN] * columns,
        most[PER_ROW] * tiling.across * rows,
        most[PER_COLUMN] * tiling.down * columns,
    ]


def _walk(program: StepSpec, slot: ParamState, dims: int) -> list[int]:
    """Return the shape, and the strides of each column of elements, for a kernel that walks `dims` dimensions."""
    if not dims:
        return []
    return [*slot.p.shape, *(n for x in elements_of(program, slot) for n in x.stride())]
