"""The protocol of backends, and the registered backends.

A backend turns a spec into a kernel. Dispatch takes the first registered backend of a tensor's device that supports the
spec with its operands. The eager backend is not in the list: it runs the calls that no other backend supports.
`PISTE_BACKEND` forces one backend: "eager" uses no kernel, and the name of another raises `Unsupported` where it would
fall back to the eager backend.
"""

from __future__ import annotations

import operator
import os
import sys
import warnings
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..errors import InvalidValue, Unsupported, did_you_mean
from ..translation import translate
from .specs import LossArguments, LossKernelSpec, ParamState, StepSpec

__all__ = [
    "BACKENDS",
    "Backend",
    "Computed",
    "Declined",
    "FastStep",
    "LossKernel",
    "StepKernel",
    "backends_of",
    "caller_level",
    "forced_backend",
    "register",
    "warn_fallback",
]

FastStep = Callable[[list[Tensor], Mapping[str, Any]], bool]
"""Step parameters and return True, or return False where one of them has changed, with nothing done."""


class StepKernel(Protocol):
    """A compiled step with the tensors that it steps."""

    elements: int

    def launch(self, gradients: array[int], numbers: Mapping[str, Any]) -> None:
        """Step the tensors, given the addresses of their gradients and the numbers of the group."""


class Declined(Exception):
    """A kernel can't take the operands, or a value among them needs the exact checks; nothing was returned."""


Computed = tuple[Tensor, tuple[Tensor, ...]]
"""A loss, and its gradients with respect to the operands that require one."""


class LossKernel(ABC):
    """A compiled loss: the loss and its gradients, for an incoming gradient of 1, in one pass.

    A backend derives its kernels from this class and implements `compute`.

    Attributes:
        spec: the loss and the dtypes of its operands.
        max_fast_elements: the number of elements up to which `compute_fast` is tried; 0 for never.
        is_narrow: whether the result has a 16-bit dtype, which autocast keeps in float32 and kernels don't.
        select: picks, from operands, those whose gradient is computed.
        is_one: returns whether an incoming gradient is known to be 1, without waiting for a device.
    """

    def __init__(self, spec: LossKernelSpec) -> None:
        self.spec, self.max_fast_elements = spec, 0
        self.is_one: Callable[[Tensor], bool] = _is_unknown
        self.is_sum, self.is_narrow = spec.mode == "sum", spec.storage != spec.dtype
        self.select = _picker([k for k, is_wanted in enumerate(spec.grad_flags) if is_wanted])

    @abstractmethod
    def compute(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        """Return the loss and its gradients.

        Raises:
            Declined: the kernel can't take the operands as they are, or a value needs the exact checks.
        """

    def compute_fast(self, operands: tuple[Tensor, ...], arguments: LossArguments) -> Computed | None:
        """Check the operands and compute in one native call; return None if they differ from those of the kernel."""
        return None

    def scale(
        self,
        gradients: tuple[Tensor, ...],
        grad: Tensor,
        operands: Callable[[], Sequence[Tensor]],
        arguments: LossArguments,
    ) -> tuple[Tensor, ...]:
        """Return the gradients times the incoming one; they may be overwritten.

        `operands` returns the operands; it raises where one was changed in place since the call.
        """
        return self.multiply(gradients, grad)

    def compute_in_place(self, operands: Sequence[Tensor], arguments: LossArguments) -> Computed:
        """Return the loss and its gradients, of which that by the first operand replaces it in memory.

        Raises:
            Declined: As `compute`, with nothing changed.
        """
        out, (gradient, *others) = self.compute(operands, arguments)
        replaced = operands[0].detach()
        replaced.copy_(gradient)  # counts as a change of the operand
        return out, (replaced, *others)

    def multiply(self, gradients: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
        """Multiply the gradients in place by the incoming one, without the operands; return them."""
        each = grad if self.is_sum or self.spec.derivatives is not None else grad.unsqueeze(-1)
        for gradient in gradients:
            gradient.mul_(each)
        return gradients


def _is_unknown(grad: Tensor) -> bool:
    return False


def _picker(places: list[int]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    """Return a function that picks the items at some places, however many, from a sequence."""
    if len(places) < 2:
        return operator.itemgetter(slice(places[0], places[0] + 1) if places else slice(0))
    return operator.itemgetter(*places)


class Backend(Protocol):
    """A way to run specs as kernels.

    Attributes:
        name: the value of PISTE_BACKEND that forces it.
        devices: the types of the devices whose tensors it takes.
        takes_region_logits: whether its losses of regions compute the softmax in float32, or take probabilities.
    """

    name: str
    devices: frozenset[str]
    takes_region_logits: bool

    def describe(self) -> str:
        """Name the kernels for `explain_backend`, such as "the fused CPU kernel"."""

    def why_unavailable(self) -> str | None:
        """Return why this backend can't run on this machine, or None."""

    def why_not_step(self, spec: StepSpec, state: ParamState, options: Mapping[str, Any]) -> str | None:
        """Return why this backend can't step a parameter, or None."""

    def step_layout(self, spec: StepSpec, state: ParamState) -> Hashable:
        """Return the properties of a parameter and its state that a kernel depends on; equal layouts share a kernel."""

    def compile_step(self, spec: StepSpec, layout: Any, states: Sequence[ParamState]) -> StepKernel:
        """Make the kernel that steps some parameters of one layout."""

    def fast_step(
        self,
        params: Sequence[Tensor],
        states: Mapping[int, ParamState],
        kernels: Sequence[tuple[Any, Sequence[int]]],
    ) -> FastStep | None:
        """Make a function that checks and steps all parameters in one native call, or return None.

        Args:
            params: all parameters of the group.
            states: the states of those that have a gradient, by their index in the group.
            kernels: each kernel with the indices of its parameters.
        """

    def why_not_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> str | None:
        """Return why this backend can't compute a loss of operands like these, or None."""

    def compile_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> LossKernel:
        """Make the kernel of a loss, for operands with the dtypes, the device and the contiguity of these.

        Raises:
            FormulaError: the backend has no code for an operation; the eager backend runs without a warning.
        """


BACKENDS: list[Backend] = []
"""The registered backends, in the order of preference."""


def register(backend: Backend, *, first: bool = False) -> None:
    """Add a backend; with `first`, in front of all others."""
    BACKENDS.insert(0 if first else len(BACKENDS), backend)


def backends_of(device: str) -> list[Backend]:
    """Return the registered backends that take tensors of a device type, in order."""
    return [backend for backend in BACKENDS if device in backend.devices]


def forced_backend() -> str | None:
    """Return the name of the backend that PISTE_BACKEND forces, or None."""
    name = os.environ.get("PISTE_BACKEND") or None
    names = ["eager", *(backend.name for backend in BACKENDS)]
    if name is not None and name not in names:
        raise InvalidValue(
            f"the environment variable PISTE_BACKEND must be one of {', '.join(names)}; received {name!r}. "
            f"{did_you_mean(name, names)}"
        )
    return name


_warned: set[str] = set()


def captured_counts(rule: str) -> Unsupported:
    """Return the error for a step in a CUDA graph whose step counts are not in it."""
    return Unsupported(
        f"{rule}.step() can't be captured in a CUDA graph while its step counts are on the CPU: "
        "every replay would repeat the same count. Help: pass capturable=True."
    )


def warn_fallback(cause: str) -> None:
    """Warn once per cause of a fallback to the eager backend, at the line outside Piste and PyTorch."""
    if cause in _warned:
        return
    _warned.add(cause)
    warnings.warn(
        translate(
            f"Piste falls back to the eager backend, several times slower: {cause}. Help: PISTE_BACKEND=eager silences "
            "this warning."
        ),
        RuntimeWarning,
        stacklevel=caller_level(),
    )


def caller_level() -> int:
    """Return the `stacklevel` of the first line outside Piste and PyTorch, for a warning of the calling function."""
    frame, level, passed = sys._getframe(1), 1, ("piste", "torch", "contextlib")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in passed:
        frame, level = frame.f_back, level + 1
    return level
