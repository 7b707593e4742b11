"""A step on the GPU whose gradients machine code finds.

Python takes a microsecond to ask a parameter for its gradient and its address, machine code a few dozen nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..native.gradients import can_check, native_step
from ..native.tables import LaunchRecord
from ..specs import ParamState
from .launch import GpuStepKernel

__all__ = ["FastStep", "make_fast_step"]


class FastStep:
    """The step of a plan's parameters by their kernels, as long as everything is where it was."""

    def __init__(
        self,
        params: Sequence[Tensor],
        states: Mapping[int, ParamState],
        kernels: Sequence[tuple[GpuStepKernel, Sequence[int]]],
    ) -> None:
        self._kernels = [kernel for kernel, _ in kernels]
        records = (LaunchRecord * len(kernels))()
        for record, kernel in zip(records, self._kernels, strict=True):
            record.gradients = kernel.gradients.buffer_info()[0]
        self._find_gradients = native_step(params, states, records, [indices for _, indices in kernels])

    def __call__(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        """Step and return True; or return False, with nothing changed, where something has moved."""
        if not self._find_gradients(params):
            return False
        for kernel in self._kernels:
            kernel.launch(kernel.gradients, numbers)
        return True


def make_fast_step(
    params: Sequence[Tensor],
    states: Mapping[int, ParamState],
    kernels: Sequence[tuple[GpuStepKernel, Sequence[int]]],
) -> FastStep | None:
    """Return the fast step of a plan, or None where Python has to check the parameters."""
    return FastStep(params, states, kernels) if can_check(params, states, [i for _, i in kernels]) else None
