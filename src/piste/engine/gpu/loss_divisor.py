"""The kernel that finds the denominator of a mean on the device, in front of the kernel of the loss."""

from __future__ import annotations

from functools import cache

from .loss_lines import finish_lines, start_lines
from .step_kernel import KernelSource

__all__ = ["divisor_source"]


@cache
def divisor_source(kind: str, storage: str) -> KernelSource:
    """Return the kernel that finds a denominator: the "count" of the rows that are not ignored, or their "weights"."""
    arguments = [("a_k", "i64"), ("a_w", "i64"), ("by", "i64"), ("workspace", "i64"), ("ignored", "i64")]
    arguments += [("classes", "i64"), ("rows", "i64"), ("iterations", "i64"), ("is_nothing_nan", "i64")]
    part = "tl.where(counts, 1.0, 0.0)"
    if kind == "weights":
        part = f"tl.load(a_w.to(tl.pointer_type(tl.{storage})) + index, mask=counts & valid, other=0.0)"
    lines = [
        *start_lines(0),
        "added_here = tl.zeros((1024,), tl.float64)",
        "for k in range(iterations):",
        "    r = (block * iterations + k) * 1024 + tl.arange(0, 1024)",
        "    index = tl.load(a_k.to(tl.pointer_type(tl.int64)) + r, mask=r < rows, other=0)",
        "    counts = (r < rows) & (index != ignored)",
        "    valid = (index >= 0) & (index < classes)",
        f"    added_here += {part}.to(tl.float64)",
        "tl.store(sums + block, tl.sum(added_here))",
        *finish_lines(
            [
                "total = tl.where((total == 0.0) & (is_nothing_nan == 0), 1.0, total)",
                "tl.store(by.to(tl.pointer_type(tl.float64)), total)",
            ],
            [],
        ),
    ]
    text = ["@triton.jit", f"def divisor({', '.join(n for n, _ in arguments)}):", *(f"    {x}" for x in lines), ""]
    return KernelSource("\n".join(text), "divisor", tuple(arguments))
