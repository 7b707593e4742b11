"""The kernel that finds the denominator of a mean on the device, in front of the kernel of a loss of many rows."""

from __future__ import annotations

from functools import cache

from .loss_lines import counted_lines, finish_lines, nothing_line, start_lines
from .step_kernel import KernelSource

__all__ = ["divisor_source"]


@cache
def divisor_source(kind: str, storage: str) -> KernelSource:
    """Return the kernel that finds a denominator: the "count" of the rows that are not ignored, or their "weights"."""
    arguments = [("a_k", "i64"), ("a_w", "i64"), ("by", "i64"), ("workspace", "i64"), ("ignored", "i64")]
    arguments += [("classes", "i64"), ("rows", "i64"), ("iterations", "i64"), ("is_nothing_nan", "i64")]
    lines = [
        *start_lines(0),
        "added_here = tl.zeros((1024,), tl.float64)",
        "for k in range(iterations):",
        "    counted_row = (block * iterations + k) * 1024 + tl.arange(0, 1024)",
        *(f"    {line}" for line in counted_lines(kind, "a_k", "a_w", storage)),
        "    added_here += counted",
        "tl.store(sums + block, tl.sum(added_here))",
        *finish_lines(
            [
                nothing_line("total"),
                "tl.store(by.to(tl.pointer_type(tl.float64)), total)",
            ],
            [],
        ),
    ]
    text = ["@triton.jit", f"def divisor({', '.join(n for n, _ in arguments)}):", *(f"    {x}" for x in lines), ""]
    return KernelSource("\n".join(text), "divisor", tuple(arguments))
