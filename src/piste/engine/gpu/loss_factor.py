"""The kernel that multiplies gradients in place by an incoming gradient, and does nothing where that is 1."""

from __future__ import annotations

from functools import cache

from .loss_elements import BLOCK, ITERATIONS
from .step_kernel import KernelSource, aligned

__all__ = ["factor_source"]


@cache
def factor_source(storage: str) -> KernelSource:
    """Return the kernel for gradients of a dtype, which fill a range of memory in any order."""
    compute = "float64" if storage == "float64" else "float32"
    size = BLOCK * ITERATIONS
    lines = [
        f"by = tl.load(factor.to(tl.pointer_type(tl.{storage}))).to(tl.{compute})",
        "if by == 1.0:",
        "    return",
        f"first = tl.program_id(0).to(tl.int64) * {size}",
        f"start = gradient.to(tl.pointer_type(tl.{storage})) + first",
        f"lane = tl.arange(0, {BLOCK})",
        f"if ((gradient & 15) == 0) & (first + {size} <= count):",
        f"    for k in range({ITERATIONS}):",
        f"        to = {aligned(f'start + k * {BLOCK}', 'lane')}",
        f"        tl.store(to, (tl.load(to).to(tl.{compute}) * by).to(tl.{storage}))",
        "else:",
        f"    for k in range({ITERATIONS}):",
        f"        at = k * {BLOCK} + lane",
        "        inside = first + at < count",
        f"        value = tl.load(start + at, mask=inside, other=0.0).to(tl.{compute}) * by",
        f"        tl.store(start + at, value.to(tl.{storage}), mask=inside)",
    ]
    text = ["@triton.jit", "def multiply(gradient, factor, count):", *(f"    {line}" for line in lines), ""]
    arguments = (("gradient", "i64"), ("factor", "i64"), ("count", "i64"))
    return KernelSource("\n".join(text), "multiply", arguments)
