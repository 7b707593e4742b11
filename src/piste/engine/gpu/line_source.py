"""The GPU kernels of a step that reduces over rows or columns of its tensors, as Triton source.

A block of a pass takes a tile: some rows and columns of some matrices. `reduce0` leaves the sums of each row, of each
column and of all elements of a tile in tables; `add0` adds those of a row or a column over the tiles, in their order;
`finish0` adds those of a tensor, and computes the values that follow (see line_stages.py); then `reduce1`, and so on.
Sums, and values of matrices, rows and columns, are in double precision. Nothing waits for the device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from ..hoisting import PER_COLUMN, PER_MATRIX, PER_ROW, PER_TENSOR
from ..line_stages import LINE_EXTENTS, LinePass
from ..specs import StepSpec
from .dialect import FUNCTIONS, RANDOM_ROUNDING
from .step_kernel import TYPES, KernelSource, Layout, arguments_of, scalar_lines
from .step_split import LETTERS, Split, split

__all__ = [
    "ADDED",
    "COUNTS",
    "LARGE",
    "PLACES",
    "SMALL",
    "STARTS",
    "add_source",
    "later_scalars",
    "line_arguments",
    "line_step_source",
    "lines_of_tensor",
    "names_in",
    "places_in",
    "tile_of",
]

LARGE, SMALL = (1, 32, 128), (64, 8, 8)
"""The matrices, rows and columns of a tile, of tensors with larger and with small matrices."""
ADDED = 64  # rows or columns of a block of `add`
_TILES = 16  # tiles that it adds at a time
PLACES = (
    "matrices",
    "height",
    "breadth",
    "down",
    "across",
    "start_q",
    "start_w",
    "start_z",
    "start_rows",
    "start_columns",
)
"""The words of a tensor: its sizes, the tiles of a matrix down and across, and where the table of values has those of
matrices, rows and columns, and the sums of the rows and the columns of tiles."""
COUNTS = {PER_MATRIX: "matrices", PER_ROW: "all_rows", PER_COLUMN: "all_columns"}
STARTS = {PER_MATRIX: "start_q", PER_ROW: "start_w", PER_COLUMN: "start_z"}
_UNIT = 8  # columns of 16 bytes of the narrowest dtype


def tile_of(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the tile for the matrices of a tensor."""
    *outer, height, breadth = shape
    return SMALL if max(height, breadth) <= SMALL[1] and max(outer, default=1) > 1 else LARGE


def line_arguments(parts: Split, rows: bool, kind: str) -> list[tuple[str, str]]:
    """Return the arguments of a kernel with their types, given that of the scalars."""
    return [*arguments_of(parts, rows, kind), ("places", "*i64"), ("values", "*fp64")]


def lines_of_tensor(parts: Split) -> list[str]:
    """Return the lines at the start of the work on tensor `i`."""
    return [
        f"place = places + i * {len(PLACES)}",
        *(f"{name} = tl.load(place + {k})" for k, name in enumerate(PLACES)),
        "all_rows = matrices * height",
        "all_columns = matrices * breadth",
        f"found_row = found + i * {parts.width}",
    ]


def names_in(lines: Iterable[str]) -> set[str]:
    """Return the names in some lines."""
    return set(re.findall(r"\w+", " ".join(lines)))


def places_in(used: set[str], extent: int) -> list[int]:
    """Return the places of the values of an extent among some names."""
    letter = LETTERS[extent]
    return sorted(int(name[1:]) for name in used if re.fullmatch(rf"{letter}\d+", name))


def later_scalars(parts: Split, used: set[str], compute: str) -> list[str]:
    """Return the lines that load the scalars that earlier kernels found."""
    names = [name for name in parts.later[0] if name in used]
    return [f"{name} = tl.load(found_row + {name[1:]}).to(tl.{compute})" for name in names]


# --- passes over the elements -----------------------------------------------------------------------------------------


@cache
def line_step_source(spec: StepSpec, layout: Layout, rows: bool, number: int | None) -> KernelSource:
    """Return the kernel that steps the elements, or the one that adds what the pass of a number reduces."""
    parts = split(spec, layout.columns)
    assert parts.plan is not None
    columns = [name for name in parts.columns if name not in spec.lines]
    kept = [parts.columns[0], *parts.columns[2:]]
    kinds = dict(zip(parts.columns, layout.columns, strict=True))
    if number is None:
        entry, lines = "step", list(parts.lines)
        results = [parts.plan.results[name] for name in kept if name not in spec.lines]
        each = None
    else:
        each = parts.plan.passes[number]
        entry, lines, results = f"reduce{number}", each.lines, [x.operand for x in each.reductions]
    used = names_in([*lines, *results])
    hoisted = [f"{LETTERS[extent]}{k}" for extent in LETTERS for k in places_in(used, extent)]
    elements = [*(f"{name}_" for name in columns if f"{name}_" in used), *(["position_"] * spec.uses_position)]
    call = ", ".join([*elements, *hoisted])
    arguments = line_arguments(parts, rows, TYPES[layout.compute])
    matrices, tall, wide = layout.tile
    shapes = {PER_MATRIX: "[:, None, None]", PER_ROW: "[:, :, None]", PER_COLUMN: "[:, None, :]"}
    at = {PER_MATRIX: "m", PER_ROW: "line", PER_COLUMN: "column"}
    inside = {PER_MATRIX: "in_m", PER_ROW: "in_line", PER_COLUMN: "in_column"}
    values = [
        f"{LETTERS[x]}{k} = tl.load(values + {STARTS[x]} + {k} * {COUNTS[x]} + {at[x]}, mask={inside[x]}, other=0.0)"
        f".to(tl.{layout.compute}){shapes[x]}"
        for x in LINE_EXTENTS
        for k in places_in(used, x)
    ]

    def body(is_aligned: bool) -> list[str]:
        made = [f"place_ = line[:, :, None] * {'units' if is_aligned else 'breadth'} + c[None, None, :]"]
        made += ["position_ = place_"] * spec.uses_position
        for name in columns:
            pointer = f"a_{name} + place_"
            made.append(f"to_{name} = " + (f"tl.multiple_of({pointer}, (16, 16, 16))" if is_aligned else pointer))
        made += [
            f"{name}_ = tl.load(to_{name}, mask=inside, other=0.0).to(tl.{layout.compute})"
            for name in columns
            if f"{name}_" in elements
        ]
        made += ["g_ = g_ * factor"] if rows and "g_" in elements else []
        names = [f"v{k}" for k in range(len(results))]
        made.append(f"{', '.join(names)}{',' if len(names) == 1 else ''} = element({call})")
        if each is not None:
            return made + _sums_of_tile(each)
        stored = [name for name in kept if name not in spec.lines]
        return made + [
            f"tl.store(to_{name}, tl.where(inside, v{k}, 0.0).to(tl.{kinds[name]}), mask=inside)"
            for k, name in enumerate(stored)
        ]

    head = [
        "block = tl.load(blocks + tl.program_id(0))",
        "i = block >> 32",
        "tile = block & 0xFFFFFFFF",
        *scalar_lines(parts, rows, layout.compute, 0),
        *lines_of_tensor(parts),
        *later_scalars(parts, used, layout.compute),
        *(f"at_{name} = tl.load(addresses + {kept.index(name)} * count + i)" for name in columns if name != "g"),
        "at_g = tl.load(gradients + i)",
        *(f"a_{name} = at_{name}.to(tl.pointer_type(tl.{kinds[name]}))" for name in columns),
        "over = tile // (down * across)",
        "rest = tile - over * (down * across)",
        "y = rest // across",
        "x = rest - y * across",
        f"m = over * {matrices} + tl.arange(0, {matrices})",
        f"r = y * {tall} + tl.arange(0, {tall})",
        f"c = x * {wide} + tl.arange(0, {wide})",
        "in_m = m < matrices",
        "in_line = in_m[:, None] & (r < height)[None, :]",
        "in_column = in_m[:, None] & (c < breadth)[None, :]",
        "line = m[:, None] * height + r[None, :]",
        "column = m[:, None] * breadth + c[None, :]",
        *values,
        f"units = breadth // {_UNIT} * {_UNIT}",
        f"bits = {' | '.join(f'at_{name}' for name in columns)}",
        "if ((bits & 15) == 0) & (units == breadth):",
        "    inside = in_line[:, :, None] & (c < units)[None, None, :]",
        *(f"    {line}" for line in body(True)),
        "else:",
        "    inside = in_line[:, :, None] & (c < breadth)[None, None, :]",
        *(f"    {line}" for line in body(False)),
    ]
    text = [
        FUNCTIONS.strip(),
        *(("", "", RANDOM_ROUNDING.strip()) if spec.uses_position else ()),
        "",
        "",
        "@triton.jit",
        f"def element({call}):",
        *(f"    {line}" for line in lines),
        f"    return {', '.join(results)}{',' if len(results) == 1 else ''}",
        "",
        "",
        "@triton.jit",
        f"def {entry}({', '.join(name for name, _ in arguments)}):",
        *(f"    {line}" for line in head),
        "",
    ]
    return KernelSource("\n".join(text), entry, tuple(arguments), 8)


def _sums_of_tile(each: LinePass) -> list[str]:
    """Return the lines that leave the sums of a tile."""
    lines = []
    counts = dict.fromkeys((PER_TENSOR, PER_ROW, PER_COLUMN), 0)
    of_all = len(each.over(PER_TENSOR))
    for k, x in enumerate(each.reductions):
        number = counts[x.extent]
        counts[x.extent] += 1
        lines.append(f"v{k} = tl.where(inside, tl.cast(v{k}, tl.float64), 0.0)")
        if x.extent == PER_TENSOR:
            lines.append(f"tl.store(partials + tl.program_id(0).to(tl.int64) * {of_all} + {number}, tl.sum(v{k}))")
        elif x.extent == PER_ROW:
            at = f"values + start_rows + ({number} * across + x) * all_rows + line"
            lines.append(f"tl.store({at}, tl.sum(v{k}, 2), mask=in_line)")
        else:
            at = f"values + start_columns + ({number} * down + y) * all_columns + column"
            lines.append(f"tl.store({at}, tl.sum(v{k}, 1), mask=in_column)")
    return lines


# --- between the passes -----------------------------------------------------------------------------------------------


@cache
def add_source(spec: StepSpec, layout: Layout, rows: bool, number: int) -> KernelSource:
    """Return the kernel that adds the sums of tiles for some rows or columns.

    An entry of its table of blocks has the tensor in the high half, and in the low half twice the place of the lines,
    plus 1 for columns.
    """
    parts = split(spec, layout.columns)
    assert parts.plan is not None
    each = parts.plan.passes[number]
    arguments = line_arguments(parts, rows, TYPES[layout.compute])
    lines = []
    for extent, start, tiles, divisor in (
        (PER_ROW, "start_rows", "across", "breadth"),
        (PER_COLUMN, "start_columns", "down", "height"),
    ):
        total = COUNTS[extent]
        lines += [f"if (low & 1) == {int(extent == PER_COLUMN)}:", f"    is_line = j < {total}"]
        for k, x in enumerate(each.over(extent)):
            lines += [
                f"    sums = tl.zeros(({_TILES}, {ADDED}), tl.float64)",
                "    tile = tl.full((), 0, tl.int64)",
                f"    while tile < {tiles}:",
                f"        t = tile + tl.arange(0, {_TILES})",
                f"        at = values + {start} + ({k} * {tiles} + t)[:, None] * {total} + j[None, :]",
                f"        sums += tl.load(at, mask=(t < {tiles})[:, None] & is_line[None, :], other=0.0)",
                f"        tile += {_TILES}",
                f"    added = tl.sum(sums, 0){f' / {divisor}.to(tl.float64)' * x.is_mean}",
                f"    tl.store(values + {STARTS[extent]} + {x.place} * {total} + j, added, mask=is_line)",
            ]
    text = [
        "@triton.jit",
        f"def add{number}({', '.join(name for name, _ in arguments)}):",
        *(["    if tl.load(rows) != 0.0:", "        return"] if rows else []),
        "    block = tl.load(blocks + tl.program_id(0))",
        "    i = block >> 32",
        "    low = block & 0xFFFFFFFF",
        *(f"    {line}" for line in lines_of_tensor(parts)),
        f"    j = (low >> 1) * {ADDED} + tl.arange(0, {ADDED})",
        *(f"    {line}" for line in lines),
        "",
    ]
    return KernelSource("\n".join(text), f"add{number}", tuple(arguments))
