"""The GPU kernels that compute the scalars of a step, in double precision.

`prepare` reads and advances the step counts on the device. `finish` adds the sums of a tensor's chunks, in the same
order at every run, and computes the scalars that follow.
"""

from __future__ import annotations

from functools import cache

from ...formula.expression import is_condition
from ..emit import Emitter
from ..hoisting import given_inputs
from ..specs import StepSpec
from .dialect import FUNCTIONS, triton
from .step_kernel import HEAD, TYPES, KernelSource, Layout, arguments_of, scalar_lines
from .step_split import split

__all__ = ["finish_source", "prepare_source"]

LANES = 128  # tensors that `prepare` takes at a time
SUMS = 1024  # chunks whose sums `finish` takes at a time


@cache
def prepare_source(
    spec: StepSpec, layout: Layout, numbers: tuple[str, ...], found_inf: str | None, grad_scale: str | None
) -> KernelSource:
    """Return the kernel that advances the counters on the device and writes the rows.

    Args:
        spec: the step.
        layout: the layout of its tensors.
        numbers: for each number of the spec "value", or the dtype of a tensor on the device that holds it.
        found_inf: the dtype of a tensor that is other than 0 if the step must be skipped.
        grad_scale: the dtype of a tensor that holds the divisor of every gradient.
    """
    parts = split(spec, layout.columns)
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
        (f"n_{name}", "fp64") if kind == "value" else (f"at_{name}", f"*{TYPES[kind]}")
        for name, kind in zip(spec.numbers, numbers, strict=True)
    ]
    amp = (("found_inf", found_inf), ("grad_scale", grad_scale))
    arguments += [(name, f"*{TYPES[kind]}") for name, kind in amp if kind is not None]
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


@cache
def finish_source(spec: StepSpec, layout: Layout, rows: bool, level: int) -> KernelSource:
    """Return the kernel that adds the sums of a level and computes the scalars that follow, one tensor per block."""
    parts = split(spec, layout.columns)
    found = parts.levels[level]
    sums = range(len(found.operands))
    arguments = arguments_of(parts, rows, "fp64")
    text = [
        FUNCTIONS.strip(),
        "",
        "",
        "@triton.jit",
        f"def finish{level}({', '.join(name for name, _ in arguments)}):",
        "    i = tl.program_id(0).to(tl.int64)",
        *(f"    {line}" for line in scalar_lines(parts, rows, "float64", level)),
        "    first = tl.load(firsts + i)",
        "    last = tl.load(firsts + i + 1)",
        f"    lane = tl.arange(0, {SUMS})",
        *(f"    t{k} = tl.zeros(({SUMS},), tl.float64)" for k in sums),
        "    while first < last:",
        "        at = first + lane",
        *(f"        t{k} += tl.load(partials + at * {len(sums)} + {k}, mask=at < last, other=0.0)" for k in sums),
        f"        first += {SUMS}",
        *(f"    r{k} = tl.sum(t{k})" for k in sums),
        *(f"    r{k} = r{k} / tl.load(sizes + i).to(tl.float64)" for k in sums if found.is_mean[k]),
        *(f"    {line}" for line in found.scalars),
        "",
    ]
    return KernelSource("\n".join(text), f"finish{level}", tuple(arguments))
