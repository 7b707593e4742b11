"""The kernel of a loss of elements as Triton source: value, gradients, sum and value checks in one pass.

A block takes `iterations` runs of `BLOCK` elements. Aligned whole blocks take a path of 16-byte accesses without masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from ...formula.expression import Expr, trace
from ..hoisting import given_inputs
from ..loss_trace import trace_elements
from ..specs import LossKernelSpec
from .dialect import FUNCTIONS
from .loss_lines import (
    CHECK_FUNCTIONS,
    LossLines,
    block_lines,
    divisor_argument,
    finish_lines,
    option_arguments,
    option_lines,
    scale_lines,
    start_lines,
    update_lines,
)
from .step_kernel import KernelSource, aligned

__all__ = ["BLOCK", "ITERATIONS", "elements_source"]

BLOCK, ITERATIONS = 1024, 4
_SCALE: Any = Expr("input", "scale")


@cache
def elements_source(spec: LossKernelSpec, again: bool = False) -> KernelSource:
    """Return the kernel of a loss.

    Args:
        spec: the loss.
        again: whether to compute only the gradients, times a factor on the device, and nothing where that is 1.
    """
    checks = () if again else spec.checks
    letters = [f"{c.name}_" for c in spec.operands]
    options = option_arguments(spec)
    numbers = ", ".join([*letters, "scale", *(name for name, _ in options), *(f"o_{name[2:]}" for name, _ in options)])
    arguments = [(f"a_{c.name}", "i64") for c in spec.operands] + [(f"g_{c.name}", "i64") for c in spec.grad_operands]
    is_sum = spec.mode == "sum" and not again
    if again:
        arguments.append(("factor", "i64"))
    elif spec.mode == "none" or is_sum:
        arguments.append(("out", "i64"))
    arguments += [("workspace", "i64")] * (is_sum or bool(checks))
    arguments += [("reports", "i64"), ("slot", "i64")] * bool(checks)
    arguments += [("count", "i64"), ("iterations", "i64"), divisor_argument(spec), *options]
    streams = [name for name, _ in arguments if name[:2] in ("a_", "g_") or (name == "out" and not is_sum)]
    compute = f"tl.{spec.dtype}"
    text = [
        FUNCTIONS.strip(),
        *(["", CHECK_FUNCTIONS.strip()] if checks else []),
        *_functions(spec, checks, numbers, again),
        "@triton.jit",
        f"def loss({', '.join(name for name, _ in arguments)}):",
        *(f"    {line}" for line in (*option_lines(spec), *scale_lines(spec, again))),
        *(f"    {line}" for line in (start_lines(len(checks)) if is_sum or checks else ["block = tl.program_id(0)"])),
        f"    size = iterations * {BLOCK}",
        "    first = block.to(tl.int64) * size",
        f"    lane = tl.arange(0, {BLOCK})",
        f"    sums_here = tl.zeros(({BLOCK},), {compute})",
        f"    faults = tl.zeros(({BLOCK},), tl.int32)",
        *(f"    p_{c.name} = a_{c.name}.to(tl.pointer_type(tl.{c.storage})) + first" for c in spec.operands),
        *(f"    q_{c.name} = g_{c.name}.to(tl.pointer_type(tl.{c.storage})) + first" for c in spec.grad_operands),
        *(
            [f"    p_out = out.to(tl.pointer_type(tl.{spec.storage})) + first"]
            if spec.mode == "none" and not again
            else []
        ),
        f"    bits = {' | '.join(streams)}",
        "    if ((bits & 15) == 0) & (first + size <= count):",
        "        for k in range(iterations):",
        *_pass(spec, checks, numbers, again, is_whole=True),
        "    else:",
        "        for k in range(iterations):",
        *_pass(spec, checks, numbers, again, is_whole=False),
        *_rescan(spec, checks, numbers),
        *(f"    {line}" for line in (["tl.store(sums + block, tl.sum(sums_here.to(tl.float64)))"] if is_sum else [])),
        *(f"    {line}" for line in block_lines(len(checks))),
    ]
    result = [f"tl.store(out.to(tl.pointer_type(tl.{spec.storage})), (total / divisor).to(tl.{spec.storage}))"]
    text += [f"    {line}" for line in finish_lines(result if is_sum else [], [False] * len(checks))]
    return KernelSource("\n".join([*text, ""]), "loss", tuple(arguments))


def _functions(spec: LossKernelSpec, checks: Sequence[Any], numbers: str, again: bool) -> list[str]:
    """Return the work of an element, `element`, and its value checks with the values that they concern, `checked`."""
    value, slopes, _ = trace_elements(spec)
    emitter = LossLines(spec.dtype, "v", given_inputs)
    results = [] if again else [emitter.name(value)]
    results += [emitter.name(slope * _SCALE) for slope in slopes]
    lines = _function("element", numbers, emitter.lines, results)
    if checks:
        symbols = [Expr("input", f"{c.name}_") for c in spec.operands if c.kind == "element"]
        emitter = LossLines(spec.dtype, "v", given_inputs)
        found: list[str] = []
        for check in checks:
            found += [emitter.name(trace(check.fails, *symbols)), emitter.name(trace(check.value, *symbols))]
        lines += _function("checked", numbers, emitter.lines, found)
    return lines


def _function(name: str, numbers: str, lines: Sequence[str], results: Sequence[str]) -> list[str]:
    returned = ", ".join(results) + ("," if len(results) == 1 else "")
    return [
        "",
        "",
        "@triton.jit",
        f"def {name}({numbers}):",
        *(f"    {x}" for x in lines),
        f"    return {returned}",
        "",
        "",
    ]


def _pass(spec: LossKernelSpec, checks: Sequence[Any], numbers: str, again: bool, *, is_whole: bool) -> list[str]:
    """Load, compute and store one run of elements."""
    mask, other = ("", "") if is_whole else (", mask=inside", ", other=0.0")
    lines = [f"at = k * {BLOCK} + lane"]
    lines += [] if is_whole else ["inside = first + at < count"]
    lines += _loads(spec, mask, other, is_whole)
    made = [f"new_{c.name}" for c in spec.grad_operands]
    targets = [*([] if again else ["here"]), *made]
    if targets:
        lines.append(f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = element({numbers})")
    if checks:
        names = [name for j in range(len(checks)) for name in (f"bad_{j}", f"of_{j}")]
        lines.append(f"{', '.join(names)} = checked({numbers})")
        lines.append(f"bad = {_any(checks)}" + ("" if is_whole else " & inside"))
        lines.append("faults = tl.where(bad, 1, faults)")
        lines.append("here = tl.where(bad, float('nan'), here)")
        lines += [f"{name} = tl.where(bad, 0.0, {name})" for name in made]
    for c in spec.grad_operands:
        lines.append(f"tl.store({_place(f'q_{c.name}', is_whole)}, new_{c.name}.to(tl.{c.storage}){mask})")
    if again:
        pass
    elif spec.mode == "none":
        lines.append(f"tl.store({_place('p_out', is_whole)}, here.to(tl.{spec.storage}){mask})")
    else:
        lines.append("sums_here += " + ("here" if is_whole else "tl.where(inside, here, 0.0)"))
    return [f"            {line}" for line in lines]


def _any(checks: Sequence[Any]) -> str:
    found = "(bad_0 != 0)"
    for j in range(1, len(checks)):
        found = f"({found} | (bad_{j} != 0))"
    return found


def _place(pointer: str, is_whole: bool) -> str:
    return aligned(f"{pointer} + k * {BLOCK}", "lane") if is_whole else f"{pointer} + at"


def _loads(spec: LossKernelSpec, mask: str, other: str, is_whole: bool) -> list[str]:
    return [
        f"{c.name}_ = tl.load({_place(f'p_{c.name}', is_whole)}{mask}{other}).to(tl.{spec.dtype})"
        for c in spec.operands
    ]


def _rescan(spec: LossKernelSpec, checks: Sequence[Any], numbers: str) -> list[str]:
    """Read the elements again where there are violations, and find the first and the farthest of each check."""
    if not checks:
        return []
    names = [name for j in range(len(checks)) for name in (f"bad_{j}", f"of_{j}")]
    lines = [
        f"at = k * {BLOCK} + lane",
        "inside = first + at < count",
        *_loads(spec, ", mask=inside", ", other=0.0", False),
        f"{', '.join(names)} = checked({numbers})",
    ]
    for j in range(len(checks)):
        lines.append(f"word_{j} = of_{j}.to(tl.float64).to(tl.int64, bitcast=True)")
        lines += update_lines(j, f"(bad_{j} != 0) & inside", "first + at", f"word_{j}", is_index=False)
    head = ["    if tl.max(faults) > 0:", "        for k in range(iterations):"]
    return [*head, *(f"            {line}" for line in lines)]
