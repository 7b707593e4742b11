"""Cross entropy of logits (N, C, d1, ...) on the CPU, without a copy that brings the classes together.

`kernels/image_cross_entropy.py` has the kernel, and `PixelRun.slope` the same gradient as torch operations. Both state
the formula of `CrossEntropyLoss` a second time; a test compares them with it.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from typing import Any

import torch
from torch import Tensor

from ...torch_internals import is_batched
from ..backend import forced_backend
from ..loss_dispatch import foreign, make_or_fall_back
from .compiler import CompiledModule, load_file
from .memory import gradient_like
from .tables import ImageTable
from .work_sharing import make_counters, work

__all__ = ["cross_entropy"]

TILE = 256  # places that are computed together, as in the kernel
BLOCK = 16  # tiles of a block of work, as in the kernel
MOST_CLASSES = 4096  # with more, sums in the precision of the logits lose digits


def cross_entropy(x: Tensor, k: Tensor, ignore_index: int, is_mean: bool) -> Tensor | None:
    """Return the mean or sum over logits (N, C, d1, ...); None without a kernel for them, or with a faulty target."""
    if foreign((x, k)) is not None or x.dtype not in (torch.float32, torch.float64) or k.dtype is not torch.int64:
        return None
    if not x.numel() or k.shape != x.shape[:1] + x.shape[2:] or x.shape[1] > MOST_CLASSES:
        return None
    for operand in (x, k):
        if not operand.is_cpu or operand.layout is not torch.strided or not operand.is_contiguous():
            return None
    if x.is_neg():
        return None
    kernel = _kernel_or_none(x.dtype, forced_backend())
    if kernel is None:
        return None
    run = PixelRun(kernel, x, k, ignore_index, is_mean)
    if run.is_faulty:
        return None
    return _Pixels.apply(x, run) if x.requires_grad and torch.is_grad_enabled() else run(x, None)


class PixelRun:
    """One call of the kernel. The targets are counted and checked before anything else."""

    def __init__(self, kernel: CompiledModule, x: Tensor, k: Tensor, ignore_index: int, is_mean: bool) -> None:
        samples, classes = x.shape[:2]
        places = x[0, 0].numel()
        self.k, self.ignore_index = k, ignore_index
        self.kernel = kernel
        blocks = samples * (-(-places // (TILE * BLOCK)))
        self.threads = torch.get_num_threads() if blocks > 1 else 1
        self.partials, self.counters = array("d", bytes(8 * blocks)), make_counters(self.threads)
        self.scratch = torch.empty(self.threads * TILE * (classes + 3), dtype=x.dtype)
        self.table = ImageTable(
            **work(self.counters, blocks),
            places=places,
            classes=classes,
            samples=samples,
            partials=self.partials.buffer_info()[0],
            k=k.data_ptr(),
            ignored=ignore_index,
            scratch=self.scratch.data_ptr(),
            is_mean=is_mean,
        )
        self.at = ctypes.addressof(self.table)
        self.kernel.call["prepare"](self.at)
        self.is_faulty = self.table.faults != 0

    def __call__(self, x: Tensor, grad: Tensor | None) -> Tensor:
        out = torch.empty((), dtype=x.dtype)
        self.table.out, self.table.x = out.data_ptr(), x.data_ptr()
        self.table.grad = 0 if grad is None else grad.data_ptr()
        self.kernel.parallel("forward" if grad is None else "gradient", self.at, self.threads)
        self.kernel.call["finish"](self.at)
        return out

    def slope(self, x: Tensor) -> Tensor:
        """The gradient again, as torch operations: for a second backward, or a backward once more."""
        keep = self.k != self.ignore_index
        at_k = torch.nn.functional.one_hot(torch.where(keep, self.k, 0), x.shape[1]).movedim(-1, 1).to(x.dtype)
        p = torch.softmax(x, 1, dtype=torch.float64).to(x.dtype)
        return torch.where(keep.unsqueeze(1), (p - at_k) * self.table.scale, 0)


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
def _kernel(dtype: torch.dtype) -> CompiledModule:
    constants: dict[str, int | str] = {}
    if dtype is torch.float64:
        constants = {"REAL": "float64", "SIZE": 8, "EXP": "math.exp", "LOG": "math.log"}
    return load_file("image_cross_entropy", ("prepare", "forward", "gradient", "finish"), **constants)


@functools.cache
def _kernel_or_none(dtype: torch.dtype, forced: str | None) -> CompiledModule | None:
    """Return the kernel of a dtype, or None where the eager backend runs; `forced` is what PISTE_BACKEND forces."""
    return make_or_fall_back(lambda: _kernel(dtype))
