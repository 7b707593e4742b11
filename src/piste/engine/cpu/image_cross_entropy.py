"""Cross entropy and focal loss of logits (N, C, d1, ...) on the CPU, without a copy to contiguous classes.

`kernels/image_cross_entropy.py` states the formulas of `CrossEntropyLoss` and `FocalLoss` a second time; a test
compares them.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...formula.expression import Expr, NamedConstant, trace
from ...formula.row_functions import log_softmax, pick
from ...formula.words import exp, where
from ..backend import Computed, Declined, LossKernel
from ..loss_trace import trace_rows
from ..native.compiler import CompiledModule, load_file
from ..specs import LossArguments, LossKernelSpec
from .is_one import make_is_one
from .memory import gradient_like
from .tables import ImageTable
from .work_sharing import make_counters, work

__all__ = ["ImageCrossEntropy", "computes"]

TILE = 128  # pixels that are computed together, as in the kernel
BLOCK = 32  # tiles of a block of work, as in the kernel
MAX_CLASSES = 4096  # with more, sums in the precision of the logits lose digits


def computes(spec: LossKernelSpec) -> bool:
    """Return whether a formula of the kernel is that of a spec, reduced to one number."""
    if spec.derivatives is not None or [c.kind for c in spec.operands] != ["row", "index"]:
        return False
    if spec.mode != "sum" or spec.storage not in ("float32", "float64") or spec.faults or spec.bounds:
        return False
    return trace_rows(spec)[0] is trace(_formula, spec)


def _formula(spec: LossKernelSpec) -> Expr:
    """Return l = -log softmax(x)_k; with an option gamma, (1 - e^-l)^gamma l, which is flat at both ends."""
    p: Any = pick(log_softmax(Expr("input", spec.operands[0].name)), Expr("input", spec.operands[1].name))
    gamma = _gamma(spec)
    if gamma is None:
        return -p
    q: Any = 1 - exp(p)
    return -(where((q == 0) | (q == 1), 1, q) ** NamedConstant("gamma", gamma)) * p


def _gamma(spec: LossKernelSpec) -> float | None:
    """Return the exponent of the focal loss, or None for another loss; cross entropy has options of its own."""
    options = dict(spec.options)
    return float(options["gamma"]) if set(options) == {"gamma"} else None


class ImageCrossEntropy(LossKernel):
    """The cross entropy or focal loss of images, whose rows of classes are strided views."""

    def __init__(self, spec: LossKernelSpec) -> None:
        super().__init__(spec)
        gamma = _gamma(spec)
        self.gamma = 0.0 if gamma is None else gamma
        self.module = _module(getattr(torch, spec.storage), 0 if gamma is None else 2 if gamma == 2 else 1)
        self.is_one = make_is_one()

    def compute(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        x, k = operands
        if x.dim() < 3:  # a view of one sample or of rows
            raise Declined("the logits are no images")
        x = x.movedim(-1, 1)
        is_mean = self.spec.divisor == "count"
        if not is_mean and arguments.divisor != 1:
            raise Declined("the mean has a denominator of its own")
        if not x.is_contiguous() or x.is_neg() or not x.numel() or x.shape[1] > MAX_CLASSES:
            raise Declined("the logits are no contiguous images, or have too many classes")
        if k.dtype is not torch.int64 or k.shape != x.shape[:1] + x.shape[2:] or not k.is_contiguous():
            raise Declined("the class indices are no contiguous images")
        places, classes = x[0, 0].numel(), x.shape[1]
        blocks = x.shape[0] * (-(-places // (TILE * BLOCK)))
        threads = torch.get_num_threads() if blocks > 1 else 1
        partials, counters = array("d", bytes(8 * blocks)), make_counters(threads)
        scratch = torch.empty(threads * TILE * (classes + 5), dtype=x.dtype, device=x.device)
        out = x.new_empty(())
        table = ImageTable(
            **work(counters, blocks),
            places=places,
            classes=classes,
            samples=x.shape[0],
            partials=partials.buffer_info()[0],
            x=x.data_ptr(),
            k=k.data_ptr(),
            out=out.data_ptr(),
            ignored=arguments.ignored,
            scratch=scratch.data_ptr(),
            is_mean=is_mean,
            gamma=self.gamma,
        )
        at = ctypes.addressof(table)
        self.module.call["prepare"](at)
        if table.faults:
            raise Declined("a class index is out of range")
        if is_mean and not table.count and (self.spec.rejects_nothing or not arguments.is_nothing_nan):
            raise Declined("there are no rows to take the mean of")
        gradients: tuple[Tensor, ...] = ()
        if self.spec.grad_operands:
            gradient = gradient_like(x)
            table.grad = gradient.data_ptr()
            gradients = (gradient.movedim(1, -1),)
        self.module.parallel("gradient" if gradients else "forward", at, threads)
        self.module.call["finish"](at)
        return out, gradients


@functools.cache
def _module(dtype: torch.dtype, focus: int) -> CompiledModule:
    constants: dict[str, int | str] = {"FOCUS": focus} if focus else {}
    if dtype is torch.float64:
        constants |= {"REAL": "float64", "SIZE": 8, **{word: f"{word}_FLOAT64" for word in ("EXP", "LOG", "POW")}}
    return load_file("cpu/kernels/image_cross_entropy", ("prepare", "forward", "gradient", "finish"), True, **constants)
