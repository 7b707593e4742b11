"""Cross entropy of (N, C, d1, ...) on the CPU: one class index for each place, the classes far apart in memory.

For a place with the logits x and the class k, m = max x and s = sum e^(x - m): the loss is log s - (x_k - m), and its
gradient e^(x - m) / s, less 1 at k. Lanes run over places: a tile of places is brought, all its classes together, into
a scratch of the thread's own, worked there, and its gradient written back, so that logits and gradient are touched once
each.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..loss_dispatch import foreign, is_batched
from . import work_sharing as shares
from .compiler import CompiledModule, load
from .memory import gradient_like
from .work_sharing import BLOCKS, HEAD, shared_lines

__all__ = ["cross_entropy"]

TILE = 256  # places that are worked on together
BLOCK = 16  # tiles that a thread takes at a time
MOST_CLASSES = 4096  # of more, the sums in the precision of the logits would lose digits
PLACES, CLASSES, SAMPLES, PARTIALS, OUT, NUMBERS, X, K, GRAD, IGNORED, SCRATCH, END = range(HEAD, HEAD + 12)
E, M, S, F = range(END, END + 4)  # columns of the scratch
SCALE, IS_MEAN, FAULTS, COUNT = range(4)  # of the numbers
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}
ENTRIES = ("prepare", "forward", "gradient", "finish")


def cross_entropy(x: Tensor, k: Tensor, ignore_index: int, is_mean: bool) -> Tensor | None:
    """The mean or sum over (N, C, d1, ...) logits, or None: no kernel serves, or an index is out of range."""
    if foreign((x, k)) is not None or x.dtype not in _DTYPES or k.dtype is not torch.int64:
        return None
    if not x.numel() or k.shape != x.shape[:1] + x.shape[2:] or x.shape[1] > MOST_CLASSES:
        return None
    for operand in (x, k):
        if not operand.is_cpu or operand.layout is not torch.strided or not operand.is_contiguous():
            return None
    if x.is_neg():
        return None
    run = PixelRun(x, k, ignore_index, is_mean, _DTYPES[x.dtype])
    if run.is_faulty:
        return None
    return _Pixels.apply(x, run) if x.requires_grad and torch.is_grad_enabled() else run(x, None)


class PixelRun:
    """One call of the kernel; the targets are counted, and looked at, before anything else."""

    def __init__(self, x: Tensor, k: Tensor, ignore_index: int, is_mean: bool, dtype: str) -> None:
        samples, classes = x.shape[:2]
        places = x[0, 0].numel()
        self.k, self.ignore_index = k, ignore_index
        self.kernel = _kernel(dtype)
        self.numbers = array("d", [1.0, is_mean, 0.0, 0.0])
        self.blocks = samples * (-(-places // (TILE * BLOCK)))
        self.partials = array("d", bytes(8 * self.blocks))
        self.threads = torch.get_num_threads() if self.blocks > 1 else 1
        self.scratch = torch.empty(self.threads * TILE * (classes + 3), dtype=x.dtype)
        self.counters = shares.counters(self.threads)
        table = [*shares.head(self.counters, self.blocks), places, classes, samples, self.partials.buffer_info()[0], 0]
        table += [self.numbers.buffer_info()[0], 0, k.data_ptr(), 0, ignore_index, self.scratch.data_ptr()]
        self.table = array("q", table)
        self.at = self.table.buffer_info()[0]
        self.kernel.call["prepare"](self.at)
        self.is_faulty = self.numbers[2] != 0

    def __call__(self, x: Tensor, grad: Tensor | None) -> Tensor:
        out = torch.empty((), dtype=x.dtype)
        self.table[OUT], self.table[X] = out.data_ptr(), x.data_ptr()
        self.table[GRAD] = 0 if grad is None else grad.data_ptr()
        self.kernel.parallel("forward" if grad is None else "gradient", self.at, self.threads)
        self.kernel.call["finish"](self.at)
        return out

    def slope(self, x: Tensor) -> Tensor:
        """The gradient again, as torch operations: for a second backward, or a backward once more."""
        keep = self.k != self.ignore_index
        at_k = torch.nn.functional.one_hot(torch.where(keep, self.k, 0), x.shape[1]).movedim(-1, 1).to(x.dtype)
        p = torch.softmax(x, 1, dtype=torch.float64).to(x.dtype)
        return torch.where(keep.unsqueeze(1), (p - at_k) * self.numbers[SCALE], 0)


class _Pixels(torch.autograd.Function):
    """A run that leaves the gradient as it computes the loss; `run.slope` is the same gradient in torch operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: PixelRun) -> Tensor:
        ctx.run, ctx.grad = run, gradient_like(x)
        ctx.save_for_backward(x)
        return run(x, ctx.grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        made, ctx.grad = ctx.grad, None
        # Several gradients may come as one, under vmap or with `is_grads_batched`.
        if made is None or torch.is_grad_enabled() or foreign(()) is not None or is_batched(grad):
            return grad * ctx.run.slope(*ctx.saved_tensors), None
        if grad.item() != 1.0:
            made.mul_(grad)
        return made, None


@functools.cache
def _kernel(dtype: str) -> CompiledModule:
    return load(source(dtype), ENTRIES)


def source(dtype: str) -> str:
    """The kernel as Python that Numba compiles."""
    digest = hashlib.sha256(Path(__file__).with_name("math32.py").read_bytes()).hexdigest()
    names = f"from piste.engine.cpu.math32 import exp_part32, log32  # {digest}"
    return "\n".join(
        [names, "", *_prepare_lines(), *_entry("forward", dtype), *_entry("gradient", dtype), *_finish_lines(dtype)]
    )


def _entry(entry: str, dtype: str) -> list[str]:
    """Blocks of tiles; each thread has a scratch."""
    size = 4 if dtype == "float32" else 8
    exp, log = ("exp_part32", "log32") if dtype == "float32" else ("math.exp", "math.log")
    zero = f"{dtype}(0.0)"
    written = [
        "    for c in range(classes):",
        f"        g = column(table[{GRAD}] + (start + c * places) * {size}, {dtype}, {GRAD})",
        f"        e = column(scratch + c * {TILE * size}, {dtype}, {E})",
        "        for j in range(width):",
        f"            g[j] = {zero} if f[j] == {zero} else e[j] * f[j]",
        "    for j in range(width):",
        f"        if t[j] != table[{IGNORED}]:",
        f"            g = column(table[{GRAD}] + (start + t[j] * places) * {size}, {dtype}, {GRAD})",
        f"            g[j] -= {dtype}(scale)",
    ]
    block = [
        f"scratch = table[{SCRATCH}] + own * (classes + 3) * {TILE * size}",
        f"m = column(scratch + classes * {TILE * size}, {dtype}, {M})",
        f"s = column(scratch + (classes + 1) * {TILE * size}, {dtype}, {S})",
        f"f = column(scratch + (classes + 2) * {TILE * size}, {dtype}, {F})",
        "sample = block // per_sample",
        f"place = (block - sample * per_sample) * {TILE * BLOCK}",
        f"stop = place + {TILE * BLOCK}",
        "stop = stop if stop < places else places",
        "total = 0.0",
        "while place < stop:",
        f"    width = {TILE} if place + {TILE} < stop else stop - place",
        "    start = sample * classes * places + place",
        f"    t = column(table[{K}] + (sample * places + place) * 8, int64, {K})",
        "    for c in range(classes):",
        f"        x = column(table[{X}] + (start + c * places) * {size}, {dtype}, {X})",
        f"        e = column(scratch + c * {TILE * size}, {dtype}, {E})",
        "        if c == 0:",
        "            for j in range(width):",
        "                e[j] = x[j]",
        "                m[j] = x[j]",
        f"                s[j] = {zero}",
        "        else:",
        "            for j in range(width):",
        "                v = x[j]",
        "                e[j] = v",
        "                m[j] = v if v > m[j] else m[j]",
        "    for j in range(width):",  # the logit of the target, before its place is taken
        f"        is_ignored = t[j] == table[{IGNORED}]",
        "        at = 0 if is_ignored else t[j]",
        f"        e = column(scratch + at * {TILE * size}, {dtype}, {E})",
        "        f[j] = e[j]",
        "    for c in range(classes):",
        f"        e = column(scratch + c * {TILE * size}, {dtype}, {E})",
        "        for j in range(width):",
        f"            v = {dtype}({exp}(e[j] - m[j]))",
        "            e[j] = v",
        "            s[j] = s[j] + v",
        "    for j in range(width):",
        f"        f[j] = {dtype}({log}(s[j])) - (f[j] - m[j])",
        "    for j in range(width):",
        f"        if t[j] != table[{IGNORED}]:",
        "            total += float64(f[j])",
        f"        f[j] = {zero} if t[j] == table[{IGNORED}] else {dtype}(scale / float64(s[j]))",
        *(written if entry == "gradient" else []),
        "    place += width",
        "partials[block] = total",
    ]
    return [
        f"def {entry}(table):",
        f"    partials = pointer(table[{PARTIALS}], float64)",
        f"    scale = pointer(table[{NUMBERS}], float64)[{SCALE}]",
        f"    places = table[{PLACES}]",
        f"    classes = table[{CLASSES}]",
        f"    per_sample = (places + {TILE * BLOCK - 1}) // {TILE * BLOCK}",
        *shared_lines(block),
        "",
    ]


def _prepare_lines() -> list[str]:
    """Count the targets that are not ignored, and those out of range."""
    return [
        "def prepare(table):",
        f"    numbers = pointer(table[{NUMBERS}], float64)",
        f"    k = pointer(table[{K}], int64)",
        "    ignored = 0",
        "    faults = 0",
        f"    rows = table[{PLACES}] * table[{SAMPLES}]",
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


def _finish_lines(dtype: str) -> list[str]:
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
