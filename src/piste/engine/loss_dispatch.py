"""Losses on the CPU: value, gradients and check of every element or row in one pass over memory.

A kernel leaves the gradient of a loss whose own gradient is 1, which is what a backward nearly always brings; any other
number costs the backward one pass over that gradient. Partial sums lie one to a block and are added in order, so the
result does not depend on the number of threads. A second backward, and whatever `foreign` names, go to torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import Unsupported
from ..formula.expression import FormulaError
from ..torch_internals import apply_of, direct_backward, in_transform, is_batched, is_transforming
from .backend import forced_backend, warn_fallback
from .cpu.backend import CpuBackend
from .cpu.fast_loss import NEVER, Rest
from .cpu.loss_form import STORAGES, Column, Form
from .cpu.loss_kernel import LossKernel, Unserved, kernel_of
from .cpu.torch_internals import PLAIN
from .range_guards import Bound

__all__ = ["NEVER", "Ready", "Rest", "as_number", "foreign"]

_CPU = CpuBackend()
_is_grad_enabled = torch.is_grad_enabled
_is_autocast_enabled = torch.is_autocast_enabled
_requires_grad = operator.attrgetter("requires_grad")


def foreign(operands: Sequence[Tensor]) -> str | None:
    """Why operands like these, or any at the moment, are torch's business."""
    if not PLAIN.issuperset(map(type, operands)):
        return "an operand is no plain tensor"
    return "torch is tracing or transforming" if is_transforming() else None


def as_number(divisor: Tensor) -> float | None:
    """A divisor that can be read now, and needs no gradient."""
    return None if foreign((divisor,)) is not None or not divisor.is_cpu or divisor.requires_grad else divisor.item()


Kernel = TypeVar("Kernel")


def may_use_kernels() -> bool:
    """Whether losses run as kernels; warn once where Numba is missing."""
    forced = forced_backend()
    if forced == "eager":
        return False
    why = _CPU.why_unavailable()
    if why is not None:
        if forced is not None:
            raise Unsupported(f"PISTE_BACKEND={forced} asks for kernels, which can't run here: {why}.")
        warn_fallback(why)
    return why is None


def make_or_fall_back(make: Callable[[], Kernel]) -> Kernel | None:
    """Make a kernel; where it can't be made, warn once with the cause and return None: the eager backend runs."""
    if not may_use_kernels():
        return None
    try:
        return make()
    except FormulaError:  # the formula has a word that no kernel has, such as a norm with p = inf
        return None
    except Exception as error:
        if forced_backend() is not None:
            raise
        warn_fallback(f"the kernel of a loss could not be made ({error})")
        return None


class Ready:
    """A loss with its settings, to be called with its operands."""

    __slots__ = (
        *("bounds", "count", "derivatives", "divisor", "faults", "formula"),
        *("kernels", "kinds", "mode", "options", "usual"),
    )

    def __init__(
        self,
        formula: Callable[..., Any],
        derivatives: Callable[..., Any] | None,
        kinds: tuple[str | None, ...],
        options: dict[str, Any],
        faults: tuple[Callable[..., Any], ...],
        mode: str,
        divisor: str = "given",
        bounds: tuple[Bound, ...] = (),
    ) -> None:
        self.formula, self.derivatives, self.kinds = formula, derivatives, kinds
        self.options, self.faults, self.bounds = tuple(options.items()), faults, bounds
        self.mode, self.divisor = mode, divisor
        self.count = sum(kind is not None for kind in kinds)
        self.kernels: dict[tuple[Any, ...], LossKernel | None] = {}  # by the dtype, and what wants a gradient
        self.usual: list[LossKernel | None] = [None, None]  # the last, without and with a gradient by the first operand

    def loss(self, given: tuple[Tensor, ...], rest: Rest) -> Tensor | None:
        """The loss of operands that stand in the order of the formula; those it goes without are left out.

        None where no kernel serves, and where a value has to be refused: the eager backend finds it again and names it.
        """
        first = given[0]
        if type(first) not in PLAIN or is_transforming():
            return None
        usual = self.usual[first.requires_grad]
        if usual is not None and first.numel() <= usual.few and not (usual.is_narrow and _is_autocast_enabled("cpu")):
            made = usual.of_few(given, rest)
            if made is not None:
                return _apply((usual, rest, given, made), *usual.by(given)) if made[1] else made[0]
        if len(given) != self.count or not PLAIN.issuperset(map(type, given)):
            return None
        if rest.dims >= 0 and (first.dim() != rest.dims or first.shape[-1] < 2):
            return None
        what = first.dtype, *(map(_requires_grad, given) if _is_grad_enabled() else ())
        try:
            kernel = self.kernels[what]
        except KeyError:
            kernel = self.kernels[what] = self._kernel(given)
        if kernel is None or (kernel.is_narrow and _is_autocast_enabled("cpu")):  # which keeps results wide
            return None
        try:
            made = kernel.loss(given, rest)
        except Unserved:
            if all([x.is_contiguous() for x in given]):
                return None
            return self.loss(tuple([x.contiguous() for x in given]), rest)
        if kernel.serve is not None:
            self.usual[first.requires_grad] = kernel
        return _apply((kernel, rest, given, made), *kernel.by(given)) if made[1] else made[0]

    def _kernel(self, given: Sequence[Tensor]) -> LossKernel | None:
        """A kernel for operands of these dtypes, or None where none can be made."""
        first = STORAGES.get(given[0].dtype)
        if first is None:
            return None
        wide = "float32" if first in ("bfloat16", "float16") else first
        storages = {"shared": wide, "number": wide, "index": "int64", "labels": "int64"}
        columns: list[Column | None] = []
        names = (*self.formula.__code__.co_varnames[: self.formula.__code__.co_argcount], "weight")
        for name, kind in zip(names, self.kinds, strict=False):
            columns.append(None if kind is None else Column(name, kind, storages.get(kind, first)))
        marks = iter([x.requires_grad and _is_grad_enabled() for x in given])
        asked = tuple(c is not None and next(marks) for c in columns)
        if any(w and c is not None and c.kind not in ("row", "element") for c, w in zip(columns, asked, strict=True)):
            return None
        what = self.formula, self.derivatives, tuple(columns), self.options, self.faults
        form = Form(*what, asked, self.bounds, self.mode, self.divisor)
        return make_or_fall_back(lambda: kernel_of(form))


class _Loss(torch.autograd.Function):
    """A loss whose gradients were left as it was computed; autograd keeps the operands for a backward once more."""

    @staticmethod
    def forward(ctx: Any, call: tuple[LossKernel, Rest, Sequence[Tensor], Any], *by: Tensor) -> Tensor:
        kernel, rest, given, (out, gradients) = call
        ctx.of = [kernel, rest, gradients]
        ctx.save_for_backward(*given)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        kernel, rest, gradients = of = ctx.of
        of[2] = None
        if gradients is not None and not _is_grad_enabled() and kernel.is_unit(grad):
            return None, *gradients
        # Several gradients may come as one, under vmap or with `is_grads_batched`.
        if _is_grad_enabled() or in_transform() or is_batched(grad):
            grad = grad if kernel.is_one or kernel.form.derivatives is not None else grad.unsqueeze(-1)
            return None, *[grad * slope for slope in kernel.slopes(ctx.saved_tensors, rest)]
        if gradients is None:  # the graph was kept for a backward once more
            _, gradients = kernel.loss(ctx.saved_tensors, rest)
        if not kernel.is_one:
            each = grad if kernel.form.derivatives is not None else grad.unsqueeze(-1)
            for made in gradients:
                made.mul_(each)
        elif (factor := grad.item()) != 1.0:
            if kernel.is_narrow:  # rounded once, or what a loss is scaled up for would be lost before
                kernel.fill(torch.empty_like(grad), gradients, ctx.saved_tensors, rest, factor)
            else:
                for made in gradients:
                    made.mul_(factor)
        return None, *gradients


_apply = apply_of(direct_backward(_Loss))
