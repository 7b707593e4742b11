"""Cross entropy of class indices on the CPU: each row is read from memory once, and its gradient written once.

For a row x with the class k, m = max x and s = sum e^(x - m): the loss is log s - (x_k - m), and its gradient
e^(x - m) / s, less 1 at k. The exponentials are kept where the gradient will be, so there is no other tensor of the
size of the logits. The maximum is taken of the bits of the numbers, in an order of integers that is that of the
numbers: a maximum of integers runs in lanes, one of floats, for the sake of NaN, does not.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import native
from .cpu_loss import _DTYPES, Fused, unserved

__all__ = ["cross_entropy"]

BLOCK = 1 << 15  # elements that a thread takes at a time, in whole rows
CLAIMED, BLOCKS, ROWS, CLASSES, ROWS_IN_BLOCK, PARTIALS, OUT, NUMBERS, X, K, GRAD, IGNORED = range(12)
SCALE, IS_MEAN, FAULTS, COUNT = range(4)  # of the numbers
ENTRIES = ("prepare", "forward", "gradient", "finish")


def cross_entropy(x: Tensor, k: Tensor, ignore_index: int, is_mean: bool) -> Tensor | None:
    """The mean or sum over (N, C, ...) logits, or None: no kernel serves, or an index is out of range."""
    if unserved((x,)) is not None or type(k) is not Tensor or k.dtype is not torch.int64:
        return None
    if not k.is_cpu or k.shape != x.shape[:1] + x.shape[2:] or not k.is_contiguous():
        return None
    run: Any
    if x.dim() == 2:
        run = _Run(x, k, ignore_index, is_mean)
    else:
        from .cpu_pixels import MOST_CLASSES, PixelRun

        if x.shape[1] > MOST_CLASSES:
            return None
        run = PixelRun(x, k, ignore_index, is_mean, _DTYPES[x.dtype])
    if run.is_faulty:
        return None
    return _Rows.apply(x, run) if x.requires_grad and torch.is_grad_enabled() else run(x, None)


class _Run:
    """One call of the kernel; the targets are counted, and looked at, before anything else."""

    def __init__(self, x: Tensor, k: Tensor, ignore_index: int, is_mean: bool) -> None:
        rows, classes = x.shape
        self.k, self.ignore_index = k, ignore_index
        self.kernel = _kernel(_DTYPES[x.dtype])
        self.numbers = array("d", [1.0, is_mean, 0.0, 0.0])
        block = max(1, BLOCK // classes)
        self.blocks = (rows + block - 1) // block
        self.partials = array("d", bytes(8 * self.blocks))
        table = [0, self.blocks, rows, classes, block, self.partials.buffer_info()[0], 0]
        self.table = array("q", [*table, self.numbers.buffer_info()[0], 0, k.data_ptr(), 0, ignore_index])
        self.at = self.table.buffer_info()[0]
        self.kernel.call["prepare"](self.at)
        self.is_faulty = self.numbers[FAULTS] != 0

    def __call__(self, x: Tensor, grad: Tensor | None) -> Tensor:
        out = torch.empty((), dtype=x.dtype)
        self.table[OUT], self.table[X] = out.data_ptr(), x.data_ptr()
        self.table[GRAD] = 0 if grad is None else grad.data_ptr()
        threads = torch.get_num_threads() if self.blocks > 1 else 1
        self.kernel.parallel("forward" if grad is None else "gradient", self.at, threads)
        self.kernel.call["finish"](self.at)
        return out

    def slope(self, x: Tensor) -> Tensor:
        """The gradient again, as torch operations: for a second backward, or a backward once more."""
        keep = self.k != self.ignore_index
        at_k = torch.nn.functional.one_hot(torch.where(keep, self.k, 0), x.shape[1]).to(x.dtype)
        p = torch.softmax(x, 1, dtype=torch.float64).to(x.dtype)  # torch's float32 sum loses digits over long rows
        return torch.where(keep.unsqueeze(1), (p - at_k) * self.numbers[SCALE], 0)


class _Rows(Fused):
    """Under a name of its own in the graph."""


@functools.cache
def _kernel(dtype: str) -> native.Kernel:
    return native.load(source(dtype), ENTRIES)


def source(dtype: str) -> str:
    """The kernel as Python that Numba compiles."""
    digest = hashlib.sha256(Path(__file__).with_name("polynomials.py").read_bytes()).hexdigest()
    exp = "exp32" if dtype == "float32" else "math.exp"
    names = f"from piste.engine.polynomials import add, exp32, ordered, unordered  # {digest}"
    forward = _entry("forward", dtype, [f"part = add(part, {exp}(x[c] - m))"], [])
    made = [f"e = {exp}(x[c] - m)", "grad[c] = e", "part = add(part, e)"]
    scaled = [
        "g = pointer(at_grad, {dtype})",
        "factor = {dtype}(scale / s)",
        "for c in range(classes):",
        "    g[c] *= factor",
        "g[k[r]] -= {dtype}(scale)",
    ]
    gradient = _entry("gradient", dtype, made, [line.format(dtype=dtype) for line in scaled])
    return "\n".join([names, "", *prepare_lines(f"table[{ROWS}]"), *forward, *gradient, *finish_lines(dtype)])


def prepare_lines(rows: str) -> list[str]:
    """Count the targets that are not ignored, and those out of range."""
    return [
        "def prepare(table):",
        f"    numbers = pointer(table[{NUMBERS}], float64)",
        f"    k = pointer(table[{K}], int64)",
        "    ignored = 0",
        "    faults = 0",
        f"    rows = {rows}",
        "    for r in range(rows):",
        f"        is_ignored = k[r] == table[{IGNORED}]",
        f"        is_out = (k[r] < 0) | (k[r] >= table[{CLASSES}])",
        "        ignored += 1 if is_ignored else 0",
        "        faults += 1 if is_out & (not is_ignored) else 0",
        f"    numbers[{COUNT}] = float64(rows - ignored)",
        f"    numbers[{FAULTS}] = float64(faults)",
        f"    if numbers[{IS_MEAN}] != 0.0:",
        f"        numbers[{SCALE}] = 1.0 / numbers[{COUNT}]",
        "",
    ]


def _entry(entry: str, dtype: str, exponentials: list[str], last: list[str]) -> list[str]:
    """Blocks of rows, claimed until none is left."""
    size = 4 if dtype == "float32" else 8
    ignored = [f"grad = pointer(at_grad, {dtype})", "for c in range(classes):", f"    grad[c] = {dtype}(0.0)"]
    return [
        f"def {entry}(table):",
        f"    partials = pointer(table[{PARTIALS}], float64)",
        f"    scale = pointer(table[{NUMBERS}], float64)[{SCALE}]",
        f"    k = pointer(table[{K}], int64)",
        f"    classes = table[{CLASSES}]",
        "    while True:",
        "        block = claim(table)",
        f"        if block >= table[{BLOCKS}]:",
        "            break",
        f"        r = block * table[{ROWS_IN_BLOCK}]",
        f"        stop = r + table[{ROWS_IN_BLOCK}]",
        f"        stop = stop if stop < table[{ROWS}] else table[{ROWS}]",
        "        total = 0.0",
        "        while r < stop:",
        f"            at_grad = table[{GRAD}] + r * classes * {size}",
        f"            if k[r] == table[{IGNORED}]:",
        *([f"                {line}" for line in ignored] if last else ["                pass"]),
        "            else:",
        f"                x = pointer(table[{X}] + r * classes * {size}, {dtype})",
        f"                grad = pointer(at_grad, {dtype})",
        "                top = ordered(x[0])",
        "                for c in range(classes):",
        "                    o = ordered(x[c])",
        "                    top = o if o > top else top",
        f"                m = unordered(top, {dtype}(0.0))",
        "                s = 0.0",
        "                first = 0",
        "                while first < classes:",
        "                    stop_c = first + 256 if first + 256 < classes else classes",
        f"                    part = {dtype}(0.0)",
        "                    for c in range(first, stop_c):",
        *(f"                        {line}" for line in exponentials),
        "                    s += float64(part)",
        "                    first = stop_c",
        "                total += math.log(s) - (float64(x[k[r]]) - float64(m))",
        *(f"                {line}" for line in last),
        "            r += 1",
        "        partials[block] = total",
        "",
    ]


def finish_lines(dtype: str) -> list[str]:
    return [
        "def finish(table):",
        f"    partials = pointer(table[{PARTIALS}], float64)",
        f"    numbers = pointer(table[{NUMBERS}], float64)",
        "    total = 0.0",
        f"    for block in range(table[{BLOCKS}]):",
        "        total += partials[block]",
        f"    divisor = numbers[{COUNT}] if numbers[{IS_MEAN}] != 0.0 else 1.0",
        f"    pointer(table[{OUT}], {dtype})[0] = {dtype}(total / divisor)",
        "",
    ]
