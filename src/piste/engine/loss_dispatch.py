"""Chooses the backend that computes each loss, and caches its kernels."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported, english
from ..formula.expression import FormulaError
from ..torch_internals import PLAIN_TYPES, is_transforming
from .autograd import record
from .backend import Declined, LossKernel, backends_of, forced_backend, warn_fallback
from .specs import STORAGES, LossArguments, LossKernelSpec, LossSpec, has_few_long_rows, has_many_short_rows

__all__ = ["LossDispatcher", "as_divisor", "decline", "dispatcher_of", "explain"]

_is_grad_enabled = torch.is_grad_enabled
_is_autocast_enabled = torch.is_autocast_enabled
_requires_grad = operator.attrgetter("requires_grad")

_choices: dict[int, list[str]] = {}
"""For each thread in which `explain` runs a call, the backends chosen and the reasons against kernels so far."""


def decline(reason: str) -> Tensor | None:
    """Note why no kernel computes a call, for `explain`; return None."""
    _note(f"by the eager backend: {reason}")
    return None


def explain(compute: Callable[[], Any]) -> str:
    """Compute a loss once, and return the backend that did, with the reason where it is the eager one."""
    thread = threading.get_ident()
    choices = _choices[thread] = []
    try:
        compute()
    finally:
        del _choices[thread]
    return choices[-1] if choices else "by the eager backend: it has no kernel"


def _note(choice: str) -> None:
    if (
        _choices and threading.get_ident() in _choices
    ):  # torch.compile can trace the first condition, but not the second one
        _choices[threading.get_ident()].append(choice)


def as_divisor(divisor: Tensor, operand: Tensor) -> float | Tensor | None:
    """Return a denominator as a number, or as it is where GPUs hold it and an operand.

    None where that would lose a gradient.
    """
    if type(divisor) not in PLAIN_TYPES or divisor.requires_grad or is_transforming():
        return None
    if divisor.is_cuda and operand.is_cuda:
        return divisor
    return divisor.item() if divisor.is_cpu or divisor.is_cuda else None


def dispatcher_of(spec: LossSpec) -> LossDispatcher:
    """Return the dispatcher of a spec; equal specs share it."""
    return LossDispatcher(spec) if threading.get_ident() in _choices else _dispatcher(spec)


class LossDispatcher:
    """The kernels of a loss with its options."""

    __slots__ = ("count", "kernels", "latest", "spec")

    def __init__(self, spec: LossSpec) -> None:
        self.spec = spec
        self.count = sum(kind is not None for kind in spec.kinds)
        # By the device, dtype and contiguity of the first operand, whether it has many short or few long rows, and the
        # operands that want a gradient.
        self.kernels: dict[tuple[Any, ...], LossKernel | None] = {}
        # The last kernel with a fast path, without and with a gradient by the first operand.
        self.latest: list[LossKernel | None] = [None, None]

    def loss(self, operands: tuple[Tensor, ...], arguments: LossArguments) -> Tensor | None:
        """Return the loss of operands in the order of the formula, without those that are left out.

        Returns None if no kernel applies, or if a value needs the exact checks; the eager backend then computes or
        rejects the call.
        """
        first = operands[0]
        if type(first) not in PLAIN_TYPES or is_transforming():
            return decline("PyTorch traces or transforms the call, or `input` is a tensor subclass")
        latest = None if arguments.in_place else self.latest[first.requires_grad]
        if (
            latest is not None
            and first.numel() <= latest.max_fast_elements
            and not (latest.is_narrow and _is_autocast_enabled(first.device.type))
        ):
            computed = latest.compute_fast(operands, arguments)
            if computed is not None:
                if not computed[1]:
                    return computed[0]
                return record((latest, arguments, operands, computed), *latest.select(operands))
        if arguments.dims >= 0 and (first.dim() != arguments.dims or first.shape[-1] < 2):
            return None  # the operands are arranged first
        kernel = self._kernel_of(operands)
        if kernel is None:
            return None
        try:
            computed = (kernel.compute_in_place if arguments.in_place else kernel.compute)(operands, arguments)
        except Declined as reason:
            if all([x.is_contiguous() for x in operands]):
                return decline(str(reason))
            return self.loss(tuple([x.contiguous() for x in operands]), arguments)
        if kernel.max_fast_elements:
            self.latest[first.requires_grad] = kernel
        if not computed[1]:
            return computed[0]
        return record((kernel, arguments, operands, computed), *kernel.select(operands))

    def _kernel_of(self, operands: Sequence[Tensor]) -> LossKernel | None:
        """Return the kernel that computes a loss of operands, or None."""
        first = operands[0]
        if len(operands) != self.count or not PLAIN_TYPES.issuperset(map(type, operands)):
            decline("an operand is a tensor subclass, with operations of its own")
            return None
        wanted = map(_requires_grad, operands) if _is_grad_enabled() else ()
        is_rows = self.spec.derivatives is None
        arranged = is_rows and has_many_short_rows(first), is_rows and has_few_long_rows(first)
        key = first.device, first.dtype, first.is_contiguous(), *arranged, *wanted
        try:
            kernel = self.kernels[key]
        except KeyError:
            kernel = self.kernels[key] = self._make_kernel(operands)
        if kernel is not None and kernel.is_narrow and _is_autocast_enabled(first.device.type):
            decline("autocast keeps results in float32")
            return None
        return kernel

    def _make_kernel(self, operands: Sequence[Tensor]) -> LossKernel | None:
        """Make the kernel of operands like these by the first backend that can, or return None."""
        kernel, choice = self._choose_backend(operands)
        _note(choice)
        return kernel

    def _choose_backend(self, operands: Sequence[Tensor]) -> tuple[LossKernel | None, str]:
        """Return the kernel and the backend that has it; None and the reason where it is the eager backend."""
        device, forced = operands[0].device.type, forced_backend()
        if forced == "eager":
            return None, "by the eager backend: PISTE_BACKEND=eager asks for it"
        if operands[0].dtype not in STORAGES:
            return None, f"by the eager backend: its dtype is {operands[0].dtype}"
        wanted = [x.requires_grad and _is_grad_enabled() for x in operands]
        spec = LossKernelSpec.of(self.spec, operands[0].dtype, wanted)
        if any(c.kind not in ("row", "element", "logits") for c in spec.grad_operands):
            return None, f"by the eager backend: no kernel computes the gradient by {spec.grad_operands[-1].name}"
        reason = f"it is on {device}"
        for backend in backends_of(device):
            if forced not in (None, backend.name):
                continue
            missing = backend.why_unavailable()
            if missing is not None:
                if forced is not None:
                    raise Unsupported(f"PISTE_BACKEND={forced} requires kernels, which can't run here: {missing}.")
                warn_fallback(missing)
            why = missing or backend.why_not_loss(spec, operands)
            if why is not None:
                reason = why
                continue
            try:
                kernel = backend.compile_loss(spec, operands)
            except FormulaError as error:
                reason = f"the kernel has no word for its formula ({english(error)})"
                if not self.spec.formula.__module__.startswith("piste."):  # those of Piste state it in the docs
                    warn_fallback(english(error))
                continue
            except Exception as error:
                if forced is not None:
                    raise
                reason = f"the kernel of a loss could not be made ({english(error)})"
                warn_fallback(reason)
                continue
            return kernel, f"by {backend.describe()}, with its gradients in one pass"
        return None, f"by the eager backend: {reason}"


_dispatcher = functools.lru_cache(maxsize=1000)(LossDispatcher)
