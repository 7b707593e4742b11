"""The GPU kernel of a step as Triton source: one launch steps all tensors of a group.

`step` takes one chunk of one tensor per block. Three tables say where the data lies: the chunk of each block, the
size of each tensor and the address of each column of each tensor. Aligned whole chunks take a path of 16-byte
accesses without masks.

The scalars of a tensor arrive in one of two ways. As arguments, where all tensors share them; the host computes them
in double precision. In rows of a table, one row per tensor, written by the host or by `prepare`, a kernel of one block
that reads and advances the step counts on the device. The table begins with two numbers: 1 where the step must be
skipped, and the factor of every gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ...formula.expression import is_condition
from ..emit import Emitter
from ..hoisting import Hoisted, given_inputs, trace_step
from ..specs import StepSpec
from .dialect import FUNCTIONS, RANDOM_ROUNDING, triton

BLOCK, ITERATIONS, WARPS = 1024, 4, 4
CHUNK = BLOCK * ITERATIONS
TAIL = 512  # elements of a block with masks; 1024 would take three times the registers, and spill some
HEAD = 2  # numbers in front of the rows
LANES = 128  # tensors that `prepare` takes at a time

_TYPES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Layout:
    """The properties of the tensors that the machine code depends on."""

    columns: tuple[str, ...]  # dtypes of the parameter, the gradient and the buffers
    counter: str  # dtype of the counters
    counts_on_device: bool = False

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


@dataclass(frozen=True)
class Split:
    """A step split between the host or `prepare`, which compute scalars, and the work of each element."""

    columns: tuple[str, ...]
    counters: tuple[tuple[str, object], ...]  # the next values that the rule states
    scalars: tuple[object, ...]
    lines: tuple[str, ...]
    results: tuple[str, ...]


@cache
def split(spec: StepSpec, compute: str) -> Split:
    """Trace a step, and print the work of an element."""
    traced = trace_step(spec)
    hoisted = Hoisted(traced.columns)
    emitter = Emitter(triton(compute), "x", hoisted.given)
    results = tuple(emitter.name(value) for value in traced.results)
    counters = tuple(traced.counters.items())
    return Split(traced.columns, counters, tuple(hoisted.scalars), tuple(emitter.lines), results)


@cache
def step_source(spec: StepSpec, layout: Layout, rows: bool) -> KernelSource:
    """Return the kernel of the elements; `rows` says that the scalars lie in a table."""
    parts = split(spec, layout.compute)
    columns, width = parts.columns, len(parts.scalars)
    names = [f"h{k}" for k in range(width)]
    kept = [columns[0], *columns[2:]]
    elements = [*(f"{name}_" for name in columns), *(["position_"] * spec.uses_position)]
    kinds = dict(zip(columns, layout.columns, strict=True))
    scalars = ["rows"] if rows else names
    load_scalars = []
    if rows:
        load_scalars = [
            "    if tl.load(rows) != 0.0:",
            "        return",
            f"    factor = tl.load(rows + 1).to(tl.{layout.compute})",
            f"    row = rows + {HEAD} + i * {width}",
            *(f"    {name} = tl.load(row + {k}).to(tl.{layout.compute})" for k, name in enumerate(names)),
        ]
    text = [
        FUNCTIONS.strip(),
        *(("", "", RANDOM_ROUNDING.strip()) if spec.uses_position else ()),
        "",
        "",
        "@triton.jit",
        f"def element({', '.join([*elements, *names])}):",
        *(f"    {line}" for line in parts.lines),
        f"    return {', '.join(parts.results)}{',' if len(parts.results) == 1 else ''}",
        "",
        "",
        "@triton.jit",
        f"def step({', '.join(['blocks', 'sizes', 'addresses', 'gradients', 'count', *scalars])}):",
        "    block = tl.load(blocks + tl.program_id(0))",
        "    i = block >> 32",
        f"    first = (block & 0xFFFFFFFF) * {CHUNK}",
        "    left = tl.load(sizes + i) - first",
        *(f"    at_{name} = tl.load(addresses + {k} * count + i)" for k, name in enumerate(kept)),
        "    at_g = tl.load(gradients + i)",
        *load_scalars,
        *(f"    a_{name} = at_{name}.to(tl.pointer_type(tl.{kinds[name]})) + first" for name in columns),
        f"    lane = tl.arange(0, {BLOCK})",
        f"    bits = {' | '.join(f'at_{name}' for name in columns)}",
        f"    if ((bits & 15) == 0) & (left >= {CHUNK}):",
        f"        for k in range({ITERATIONS}):",
        *_block(columns, kinds, kept, elements, names, layout.compute, rows, is_whole=True),
        "    else:",
        f"        tail = tl.arange(0, {TAIL})",
        "        n = 0",
        f"        while (n < left) & (n < {CHUNK}):",
        *_block(columns, kinds, kept, elements, names, layout.compute, rows, is_whole=False),
        f"            n += {TAIL}",
        "",
    ]
    tables = [(name, "*i64") for name in ("blocks", "sizes", "addresses", "gradients")]
    kind = _TYPES[layout.compute]
    arguments = [("rows", "*fp64")] if rows else [(name, kind) for name in names]
    return KernelSource("\n".join(text), "step", (*tables, ("count", "i64"), *arguments))


def _block(
    columns: Sequence[str],
    kinds: dict[str, str],
    kept: Sequence[str],
    elements: Sequence[str],
    scalars: Sequence[str],
    compute: str,
    rows: bool,
    *,
    is_whole: bool,
) -> list[str]:
    """Load, compute and store one block of a chunk."""
    mask = "" if is_whole else ", mask=inside"
    start = f"k * {BLOCK} + lane" if is_whole else "n + tail"
    lines = [] if is_whole else ["inside = n + tail < left"]
    for name in columns:
        place = f"a_{name} + {start}"
        # The compiler can't derive the alignment of an address that was an integer.
        lines.append(f"to_{name} = tl.multiple_of({place}, 16)" if is_whole else f"to_{name} = {place}")
    lines += [f"{name}_ = tl.load(to_{name}{mask}).to(tl.{compute})" for name in columns]
    lines += ["g_ = g_ * factor"] if rows else []
    lines += [f"position_ = first + {start}"] if "position_" in elements else []
    new = [f"new_{name}" for name in kept]
    lines.append(f"{', '.join(new)}{',' if len(new) == 1 else ''} = element({', '.join([*elements, *scalars])})")
    lines += [f"tl.store(to_{name}, new_{name}.to(tl.{kinds[name]}){mask})" for name in kept]
    return [f"            {line}" for line in lines]


@cache
def prepare_source(
    spec: StepSpec, layout: Layout, numbers: tuple[str, ...], found_inf: bool, grad_scale: bool
) -> KernelSource:
    """Return the kernel that advances the counters on the device and writes the rows.

    Args:
        spec: the step.
        layout: the layout of its tensors.
        numbers: for each number of the spec "value", or the dtype of a tensor on the device that holds it.
        found_inf: whether a tensor says that the step must be skipped.
        grad_scale: whether a tensor holds the divisor of every gradient.
    """
    parts = split(spec, layout.compute)
    width = len(parts.scalars)
    counter = f"tl.{layout.counter}"
    emitter = Emitter(triton("float64"), "s", given_inputs)
    body = []
    for k, letter in enumerate(spec.counters):
        body.append(f"c_{letter} = tl.load(counters + {k} * count + i, mask=inside).to(tl.pointer_type({counter}))")
        body.append(f"n_{letter} = tl.load(c_{letter}, mask=inside).to(tl.float64)")
        if letter == "t":
            body.append(f"n_t = (n_t + 1.0).to({counter}).to(tl.float64)")
            body.append(f"tl.store(c_t, n_t.to({counter}), mask=counts)")
    for letter, value in parts.counters:
        emitter.lines += [
            f"kept_{letter} = tl.cast({emitter.name(value)}, {counter}).to(tl.float64)",
            f"tl.store(c_{letter}, kept_{letter}.to({counter}), mask=counts)",
        ]
    for k, value in enumerate(parts.scalars):
        name = emitter.name(value)
        stored = f"tl.where({name}, 1.0, 0.0).to(tl.float64)" if is_condition(value) else name
        emitter.lines.append(f"tl.store(row + {k}, {stored}, mask=inside)")
    arguments = [("counters", "*i64"), ("rows", "*fp64"), ("count", "i64")]
    arguments += [
        (f"n_{name}", "fp64") if kind == "value" else (f"at_{name}", f"*{_TYPES[kind]}")
        for name, kind in zip(spec.numbers, numbers, strict=True)
    ]
    arguments += [("found_inf", "*fp32")] * found_inf + [("grad_scale", "*fp32")] * grad_scale
    text = [
        FUNCTIONS.strip(),
        "",
        "",
        "@triton.jit",
        f"def prepare({', '.join(name for name, _ in arguments)}):",
        *(
            f"    n_{name} = tl.load(at_{name}).to(tl.float64)"
            for name, kind in zip(spec.numbers, numbers, strict=True)
            if kind != "value"
        ),
        f"    skip = {'tl.load(found_inf).to(tl.float64)' if found_inf else 'tl.full((), 0.0, tl.float64)'}",
        "    tl.store(rows, skip)",
        "    counted = tl.where(skip == 0.0, count, 0)",
        "    factor = tl.full((), 1.0, tl.float64)" + (" / tl.load(grad_scale).to(tl.float64)" if grad_scale else ""),
        "    tl.store(rows + 1, factor)",
        f"    lane = tl.arange(0, {LANES})",
        "    start = 0",
        "    while start < count:",
        "        i = start + lane",
        "        inside = i < count",
        "        counts = i < counted",
        f"        row = rows + {HEAD} + i * {width}",
        *(f"        {line}" for line in (*body, *emitter.lines)),
        f"        start += {LANES}",
        "",
    ]
    return KernelSource("\n".join(text), "prepare", tuple(arguments))
