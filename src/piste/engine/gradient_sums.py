"""The sum of the squares of gradients on GPUs, and the number of values that are not finite, in one read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..formula import where
from .specs import ParamState, SumSpec
from .step_dispatch import SumPlan, choose_backend

__all__ = ["SUMS", "DeviceGradientSums"]


def _terms(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    return p, [g * g, where(g - g == 0, 0.0, 1.0)]


SUMS = SumSpec("the norm of the gradients", _terms, (), (), (), {})
_OPTIONS = {"differentiable": False, "fused": None, "capturable": True}


class DeviceGradientSums:
    """Adds over the gradients of some parameters, without waiting for the device.

    Args:
        params: the parameters, all of which `of` accepts.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._plan = SumPlan(SUMS, params, _state, _gradient, _OPTIONS)
        dtypes = {p.grad.dtype for p in params if p.grad is not None}
        self.dtype = torch.float64 if dtypes & {torch.float64, torch.complex128} else torch.float32

    @classmethod
    def of(cls, params: Sequence[Tensor]) -> DeviceGradientSums | None:
        """Return the sums of the gradients of parameters, or None where the kernel of GPUs can't take them all."""
        backends = (choose_backend(SUMS, _state(p), _OPTIONS)[0] for p in params if p.grad is not None)
        names = {None if backend is None else backend.name for backend in backends}
        return cls(params) if names == {"gpu"} else None

    def __call__(self, params: list[Tensor]) -> Tensor | None:
        """Return the sum of the squares and the number of values that are not finite, in float64 on the first device.

        The next call overwrites them. None where a parameter or a gradient has changed other than in its values.
        """
        if not self._plan.step(params, {}):
            return None
        first, *others = self._plan.total()
        for sums in others:
            first = first + sums.to(first.device)
        return first


def _state(p: Tensor) -> ParamState:
    return ParamState(p, p.grad, [], [])


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
