"""The GPU kernel of a step as Triton source: one launch steps all tensors of a group.

`step` takes one chunk of one tensor per block. Three tables say where the data lies: the chunk of each block, the
size of each tensor and the address of each column of each tensor, and of the scales of columns of 8 bits. Aligned whole
chunks take a path of 16-byte accesses without masks.

The scalars of a tensor arrive in one of two ways. As arguments, where all tensors share them; the host computes them
in double precision. In rows of a table, one row per tensor, written by the host or by `prepare`, a kernel of one block
that reads and advances the step counts on the device. The table begins with two numbers: 1 where the step must be
skipped, and the factor of every gradient.

A step that reduces over its tensors has more launches, in order: for each level, `reduce` leaves the sums of a chunk in
a table, and `finish` adds those of a tensor and leaves the scalars that follow in another one (see step_scalars.py).
Nothing waits for the device. Sums over all tensors are one such level, whose `finish` adds the chunks of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ..eight_bits import BLOCK as EIGHT_BIT_BLOCK
from ..specs import StepSpec
from ..step_levels import Level
from .dialect import EIGHT_BITS, FUNCTIONS, RANDOM_ROUNDING
from .step_split import Split, split

BLOCK, ITERATIONS, WARPS = 1024, 4, 4
CHUNK = BLOCK * ITERATIONS
TAIL = 512  # elements of a block with masks; 1024 would take three times the registers, and spill some
HEAD = 2  # numbers in front of the rows

TYPES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Layout:
    """The properties of the tensors that the machine code depends on."""

    columns: tuple[str, ...]  # dtypes of the parameter, the gradient and the buffers
    counter: str  # dtype of the counters
    counts_on_device: bool = False
    tile: tuple[int, int, int] = (0, 0, 0)  # matrices, rows and columns, in a step that reduces over lines

    @property
    def compute(self) -> str:
        return "float64" if self.columns[0] == "float64" else "float32"


@dataclass(frozen=True)
class KernelSource:
    """A kernel's text, the name of its entry, the Triton types of its arguments, and the warps of a block."""

    text: str
    entry: str
    signature: tuple[tuple[str, str], ...]
    warps: int = WARPS


def aligned(start: str, lanes: str) -> str:
    """Return the addresses of lanes from an aligned one, with the hints for accesses of 16 bytes.

    A compiler can't derive the alignment of an address that was an integer. That of AMD takes the start apart from the
    lanes, and needs a hint of its own there.
    """
    return f"tl.multiple_of(tl.multiple_of({start}, 16) + {lanes}, 16)"


def scalar_lines(parts: Split, rows: bool, compute: str, level: int) -> list[str]:
    """Return the lines that load the scalars of tensor `i`, given the number of levels that are finished."""
    lines = []
    if rows:
        lines = [
            "if tl.load(rows) != 0.0:",
            "    return",
            f"factor = tl.load(rows + 1).to(tl.{compute})",
            f"row = rows + {HEAD} + i * {len(parts.names)}",
            *(f"{name} = tl.load(row + {k}).to(tl.{compute})" for k, name in enumerate(parts.names)),
        ]
    if parts.levels:
        lines.append(f"found_row = found + i * {parts.width}")
    later = [name for names in parts.later[:level] for name in names]
    return lines + [f"{name} = tl.load(found_row + {name[1:]}).to(tl.{compute})" for name in later]


def arguments_of(parts: Split, rows: bool, kind: str) -> list[tuple[str, str]]:
    """Return the arguments of a kernel with their types, given that of the scalars.

    `partials` has the sums of each chunk, `firsts` the first chunk of each tensor, and `found` the scalars that follow.
    """
    tables = [(name, "*i64") for name in ("blocks", "sizes", "addresses", "gradients")]
    scalars = [("rows", "*fp64")] if rows else [(name, kind) for name in parts.names]
    sums = [("partials", "*fp64"), ("firsts", "*i64"), ("found", "*fp64")] if parts.levels or parts.plan else []
    return [*tables, ("count", "i64"), *scalars, *sums]


def step_source(spec: StepSpec, layout: Layout, rows: bool) -> KernelSource:
    """Return the kernel of the elements; `rows` says that the scalars lie in a table."""
    return _pass_source(spec, layout, rows, None)


def reduce_source(spec: StepSpec, layout: Layout, rows: bool, level: int) -> KernelSource:
    """Return the kernel that leaves the sums of each chunk in `partials`, for the reductions of a level."""
    return _pass_source(spec, layout, rows, level)


@cache
def _pass_source(spec: StepSpec, layout: Layout, rows: bool, level: int | None) -> KernelSource:
    """Return the kernel that steps the elements, or adds what a level reduces."""
    parts = split(spec, layout.columns)
    columns = parts.columns
    done = len(parts.levels) if level is None else level
    names = [*parts.names, *(name for later in parts.later[:done] for name in later)]
    this = Level([], parts.lines, [], [], parts.results) if level is None else parts.levels[level]
    entry = "step" if level is None else f"reduce{level}"
    operands, stores = this.operands, [name for name, _ in this.buffers]
    results = [*operands, *(value for _, value in this.buffers)]
    kept = [columns[0], *columns[2:]]
    eight = [name for name, kind in zip(columns, layout.columns, strict=True) if kind == "int8"]
    elements = [*(f"{name}_" for name in columns), *(["position_"] * spec.uses_position)]
    kinds = dict(zip(columns, layout.columns, strict=True))
    arguments = arguments_of(parts, rows, TYPES[layout.compute])

    def block(is_whole: bool) -> list[str]:
        given = columns, kinds, elements, names, layout.compute, rows, len(operands), stores, parts.seeds
        return _block(*given, is_whole=is_whole)

    def around(size: int, t: str) -> list[list[str]]:
        """Return the lines before and after the blocks of a chunk."""
        if level is None:
            return [[], []]
        sums = range(len(operands))
        at = f"partials + tl.program_id(0).to(tl.int64) * {len(sums)}"
        before = [f"{t}{k} = tl.zeros(({size},), tl.float64)" for k in sums]
        return [before, [f"tl.store({at} + {k}, tl.sum({t}{k}))" for k in sums]]

    whole, tail = around(BLOCK, "t"), around(TAIL, "u")
    text = [
        FUNCTIONS.strip(),
        *(("", "", RANDOM_ROUNDING.strip()) if spec.uses_position or eight else ()),
        *(("", "", EIGHT_BITS.strip()) if eight else ()),
        "",
        "",
        "@triton.jit",
        f"def element({', '.join([*elements, *names])}):",
        *(f"    {line}" for line in this.lines),
        f"    return {', '.join(results)}{',' if len(results) == 1 else ''}",
        "",
        "",
        "@triton.jit",
        f"def {entry}({', '.join(name for name, _ in arguments)}):",
        "    block = tl.load(blocks + tl.program_id(0))",
        "    i = block >> 32",
        f"    first = (block & 0xFFFFFFFF) * {CHUNK}",
        "    left = tl.load(sizes + i) - first",
        *(f"    at_{name} = tl.load(addresses + {k} * count + i)" for k, name in enumerate(kept)),
        *(f"    at_e_{name} = tl.load(addresses + {len(kept) + k} * count + i)" for k, name in enumerate(eight)),
        "    at_g = tl.load(gradients + i)",
        *(f"    {line}" for line in scalar_lines(parts, rows, layout.compute, done)),
        *(f"    a_{name} = at_{name}.to(tl.pointer_type(tl.{kinds[name]})) + first" for name in columns),
        *(f"    e_{name} = at_e_{name}.to(tl.pointer_type(tl.float32)) + first // {EIGHT_BIT_BLOCK}" for name in eight),
        f"    lane = tl.arange(0, {BLOCK})",
        f"    bits = {' | '.join(f'at_{name}' for name in columns)}",
        f"    if ((bits & 15) == 0) & (left >= {CHUNK}):",
        *(f"        {line}" for line in whole[0]),
        f"        for k in range({ITERATIONS}):",
        *block(True),
        *(f"        {line}" for line in whole[1]),
        "    else:",
        f"        tail = tl.arange(0, {TAIL})",
        *(f"        {line}" for line in tail[0]),
        "        n = 0",
        f"        while (n < left) & (n < {CHUNK}):",
        *block(False),
        f"            n += {TAIL}",
        *(f"        {line}" for line in tail[1]),
        "",
    ]
    return KernelSource("\n".join(text), entry, tuple(arguments))


def _block(
    columns: Sequence[str],
    kinds: dict[str, str],
    elements: Sequence[str],
    scalars: Sequence[str],
    compute: str,
    rows: bool,
    sums: int,
    stores: Sequence[str],
    seeds: Sequence[str],
    *,
    is_whole: bool,
) -> list[str]:
    """Load and compute one block of a chunk; add what is reduced to `sums` numbers, and store the columns `stores`."""
    mask = "" if is_whole else ", mask=inside"
    start = f"k * {BLOCK} + lane" if is_whole else "n + tail"
    lines = [] if is_whole else ["inside = n + tail < left"]
    for name in columns:
        lines.append(f"to_{name} = {aligned(f'a_{name} + k * {BLOCK}', 'lane') if is_whole else f'a_{name} + {start}'}")
    for name in columns:
        value = f"tl.load(to_{name}{mask})"
        if kinds[name] == "int8":
            value = f"from_eight_bits({value}, tl.load(e_{name} + ({start}) // {EIGHT_BIT_BLOCK}{mask}))"
        lines.append(f"{name}_ = {value}.to(tl.{compute})")
    lines += ["g_ = g_ * factor"] if rows else []
    eight = [name for name in stores if kinds[name] == "int8"]
    lines += [f"position_ = first + {start}"] if "position_" in elements or eight else []
    call = f"element({', '.join([*elements, *scalars])})"
    new = [*(f"v{k}" for k in range(sums)), *(f"new_{name}" for name in stores)]
    lines.append(f"{', '.join(new)}{',' if len(new) == 1 else ''} = {call}")
    for j, name in enumerate(eight, 1):
        lines += _encode(name, j, seeds, is_whole=is_whole)
    lines += [f"tl.store(to_{name}, new_{name}.to(tl.{kinds[name]}){mask})" for name in stores]
    for k in range(sums):
        value = f"tl.cast(v{k}, tl.float64)"
        lines.append(f"t{k} += {value}" if is_whole else f"u{k} += tl.where(inside, {value}, 0.0)")
    return [f"            {line}" for line in lines]


def _encode(name: str, number: int, seeds: Sequence[str], *, is_whole: bool) -> list[str]:
    """Replace the new values of a column by codes of 8 bits, and store the scales of their blocks."""
    key, step = seeds
    blocks = (BLOCK if is_whole else TAIL) // EIGHT_BIT_BLOCK
    value = f"new_{name}" if is_whole else f"tl.where(inside, new_{name}, 0.0)"
    first, mask = f"k * {blocks}", ""
    if not is_whole:
        first, mask = f"n // {EIGHT_BIT_BLOCK}", f", mask=n + {EIGHT_BIT_BLOCK} * tl.arange(0, {blocks}) < left"
    return [
        f"new_{name}, top_{name} = eight_bits({value}, {key} + {number}, {step}, position_, {blocks})",
        f"tl.store(e_{name} + {first} + tl.arange(0, {blocks}), top_{name}{mask})",
    ]
