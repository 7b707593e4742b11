"""Clipping of gradients, and gradients that are not finite: one reduction over all gradients before a step.

The gradients are only read. Their norm is a number of the step, whose formula scales them: kernels do so in their one
pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine import DeviceGradientSums, GradientSquares, is_captured, is_sharded, sum_of_squares
from ..errors import InvalidValue
from .state import first_step_captured

__all__ = [
    "GradientNorm",
    "Scaling",
    "SkippedSteps",
    "any_nonfinite",
    "raise_nonfinite",
    "reduces_gradients",
    "scaling_of_step",
    "steps_on_gpu",
    "total_norm",
]

_KEPT_SUMS = 4  # for models that train parts of their parameters in turns
_NARROW = (torch.float16, torch.bfloat16)


def reduces_gradients(group: Mapping[str, Any]) -> bool:
    """Return whether the step of a group needs the norm of all gradients."""
    return group["max_norm"] is not None or group["nonfinite"] != "ignore"


@torch.no_grad()
def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients as one vector, a 0-d tensor on the device of the first.

    Dense gradients on the CPU are read once, by a kernel that adds in float64; other 16-bit gradients are reduced in
    float32. The norm of sharded gradients is that of all shards.
    """
    squares, rest = sum_of_squares(gradients)
    if len(rest) < len(gradients):
        wide = torch.float64 if torch.float64 in {g.dtype for g in gradients} else torch.float32
        others = total_norm(rest).item() if rest else 0.0
        return torch.tensor(math.hypot(math.sqrt(squares), others), dtype=wide, device="cpu")
    values = [*map(_values, gradients)]
    narrow = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in values if g.dtype in _NARROW]
    norm = torch.nn.utils.get_total_norm([*(g for g in values if g.dtype not in _NARROW), *narrow])
    return _whole(norm)


@torch.no_grad()
def any_nonfinite(gradients: Sequence[Tensor]) -> Tensor:
    """Return whether a value of any gradient is not finite, on the device of the first.

    The sum of the sizes of all values decides, in float64, where those of smaller dtypes can't overflow. The largest
    size would do, but torch takes none of an empty tensor, such as a part of a sharded gradient.
    """
    alike: dict[Any, list[Tensor]] = {}
    for g in map(_values, gradients):
        alike.setdefault((g.device, g.dtype, is_sharded(g)), []).append(g)
    sums = []
    for (_, dtype, sharded), same in alike.items():
        wide = torch.promote_types(dtype, torch.float64)
        if sharded:  # torch 2.14 takes the dtype of _foreach_norm for dimensions there
            sizes = [torch.linalg.vector_norm(g, 1, dtype=wide) for g in same]
        else:
            sizes = [*torch._foreach_norm(same, 1, dtype=wide)]
        sums.append(_whole(torch.stack(sizes).sum()))
    start = torch.zeros((), dtype=torch.float64, device="cpu")
    total = sum((x.to(sums[0].device) for x in sums), start=start)
    return total.isfinite().logical_not()


class GradientNorm:
    """The norm of all gradients, step after step.

    It keeps the sums of the last sets of parameters with gradients, because finding gradients in Python takes longer
    than to add their squares.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[bool, ...], GradientSquares | DeviceGradientSums | None] = {}
        self._latest: GradientSquares | DeviceGradientSums | None = None

    def __call__(self, params: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the norm, as `total_norm` does, and the number of values that are not finite where a GPU counts them.

        Both stay on the device of the gradients.
        """
        found = None if self._latest is None else self._latest(params)
        if found is None:
            found = self._of_another(params)
        if self._latest is None or found is None:
            return total_norm(_gradients(params)), None
        if isinstance(found, Tensor):
            squares, nonfinite = found.unbind()
            return torch.sqrt(squares, out=squares.new_empty((), dtype=self._latest.dtype)), nonfinite
        return torch.tensor(math.sqrt(found), dtype=self._latest.dtype, device="cpu"), None

    def _of_another(self, params: list[Tensor]) -> float | Tensor | None:
        """Return the sums by earlier ones for the same parameters with gradients, or by new ones."""
        has_grad = tuple(p.grad is not None for p in params)
        is_new = has_grad not in self._sums
        self._latest = self._sums.pop(has_grad, None)
        found = None if self._latest is None else self._latest(params)
        if found is None and (is_new or self._latest is not None):  # None is kept where Python has to ask
            if is_captured(_gradients(params)):  # a graph would copy the tables of new sums at each replay
                self._latest = None
                return None
            self._latest = GradientSquares.of(params) or DeviceGradientSums.of(params)
            found = None if self._latest is None else self._latest(params)
        self._sums[has_grad] = self._latest
        if len(self._sums) > _KEPT_SUMS:
            del self._sums[next(iter(self._sums))]
        return found


class SkippedSteps:
    """Counts steps that are left out, on the device where it decides about them, and keeps the norm of the last step.

    Attributes:
        norm: The norm of all gradients; None before a step has needed it. torch.compile of torch 2.9 to 2.11 can't set
            it on the optimizer.
    """

    def __init__(self) -> None:
        self.norm: Tensor | None = None
        self._host = 0
        self._device: Tensor | None = None

    def has_count_for(self, found: Tensor) -> bool:
        """Return whether a count of earlier steps is on a device, where a tensor is on one."""
        return self._device is not None and self._device.is_cpu == found.is_cpu

    def add(self, found: Tensor | int) -> None:
        """Count a step: 1, or a tensor on a device that is other than 0 if the step is left out."""
        if not isinstance(found, Tensor):
            self._host += found
        elif self._device is None:
            self._device = (found != 0).to(torch.float64)
        else:
            if self._device.is_cpu:  # since a step without gradients
                self._device = self._device.to(found.device)
            self._device += (found != 0).to(self._device.device)  # the first gradient may be on another one now

    def total(self) -> int:
        """Return the number of steps that were left out; waits for a device that counts them."""
        return self._host + (0 if self._device is None else int(self._device.item()))


@dataclass(frozen=True)
class Scaling:
    """What one step does to all gradients, or whether it is skipped.

    Attributes:
        norm: The norm of all gradients, if a group needs it.
        grad_scale: The factor that a GradScaler has put on the loss, on the device; None for 1.
        found_inf: A number on the device, other than 0 for a step that leaves parameters and state as they are; None
            for a step that is taken.
        on_device: Whether the step waits for none of these numbers, so that its counts have to be on the device too.
    """

    norm: Tensor | None
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    on_device: bool = False

    def key(self, key: Any) -> Any:
        """Return the key of the plan of a group for the step."""
        return key._replace(on_device=True) if self.on_device else key

    def numbers(self, numbers: Mapping[str, Any], group: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the numbers of a group with those of the step."""
        found: dict[str, Any] = {"grad_scale": self.grad_scale, "found_inf": self.found_inf}
        if self.norm is not None and group["max_norm"] is not None:
            on_device = self.on_device or group["capturable"] or torch.compiler.is_compiling()
            found["grad_norm"] = self.norm if on_device else self.norm.item()
        return {**numbers, **{name: value for name, value in found.items() if value is not None}}


def scaling_of_step(optimizer: Any) -> Scaling | None:
    """Return what the step does to all gradients; or None if it is skipped.

    The norm becomes `optimizer.grad_norm`. A GradScaler leaves `grad_scale` and `found_inf` in the optimizer.

    Raises:
        InvalidValue: A gradient is not finite, and a group has nonfinite="raise".
    """
    groups = optimizer.param_groups
    grad_scale, found_inf = (vars(optimizer).get(name) for name in ("grad_scale", "found_inf"))
    if not any(map(reduces_gradients, groups)):
        return Scaling(None, grad_scale, found_inf, found_inf is not None and steps_on_gpu(optimizer))
    params = groups[0]["params"] if len(groups) == 1 else [p for group in groups for p in group["params"]]
    norm, nonfinite = _norm(optimizer, params)
    optimizer._skipped_steps.norm = norm = norm if grad_scale is None else norm / grad_scale.to(norm.device)
    modes = {group["nonfinite"] for group in groups}
    # A count of a GPU shows that all gradients lie there; asking two thousand parameters takes longer than the step.
    on_device = steps_on_gpu(optimizer) if nonfinite is None else _may_wait_for_no_device(optimizer)
    if modes != {"ignore"} and on_device:
        if nonfinite is None:  # the norm of large finite gradients may overflow
            nonfinite = any_nonfinite(_gradients(params)).to(torch.float32)
        found_inf = nonfinite if found_inf is None else torch.maximum(nonfinite, found_inf.to(nonfinite.device))
        if not optimizer._skipped_steps.has_count_for(found_inf) and is_captured(params):
            raise first_step_captured(optimizer)  # each replay would count from 0 again
        optimizer._skipped_steps.add(found_inf)
    elif modes != {"ignore"} and not math.isfinite(norm.item()) and not all(map(is_finite, _gradients(params))):
        if "raise" in modes:
            raise_nonfinite(optimizer, groups)
        optimizer._skipped_steps.add(1)
        return None
    return Scaling(norm, grad_scale, found_inf, on_device)


def steps_on_gpu(optimizer: Any) -> bool:
    """Return whether a step can be scaled and skipped without waiting, because all of it can be on GPUs."""
    return _may_wait_for_no_device(optimizer) and all(p.is_cuda for g in optimizer.param_groups for p in g["params"])


def _may_wait_for_no_device(optimizer: Any) -> bool:
    """Return whether the options let a step be scaled and skipped without waiting for a device."""
    return "capturable" not in optimizer.refused and not any(
        group["nonfinite"] == "raise" or group["differentiable"] for group in optimizer.param_groups
    )


def decides_on_host(optimizer: Any) -> bool:
    """Return whether the host has to read the gradients, because a step may be skipped or refused."""
    return not steps_on_gpu(optimizer) and any(group["nonfinite"] != "ignore" for group in optimizer.param_groups)


def raise_nonfinite(optimizer: Any, groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise for the first gradient that is not finite.

    Raises:
        InvalidValue: A gradient holds NaN or an infinity.
    """
    for index, group in enumerate(groups):
        for i, p in enumerate(group["params"]):
            if p.grad is None or is_finite(p.grad):
                continue
            values = _whole(_values(p.grad).detach())
            bad = values[~values.isfinite()]
            name = f" ({group['param_names'][i]})" if "param_names" in group else ""
            raise InvalidValue(
                f'{type(optimizer).__name__}: nonfinite="raise" requires finite gradients; received {bad[0].item()} '
                f"and {len(bad) - 1} more among the {values.numel()} values of the gradient of parameter {i}{name} in "
                f"param group {index}. No parameter has changed in this step. Help: "
                'nonfinite="skip" leaves such steps out; a smaller learning rate, max_norm=1.0 or a look at the loss '
                "for 0/0 and log(0) may prevent them."
            )


def is_finite(g: Tensor) -> bool:
    """Return whether every value of a gradient is finite; of a sharded one, every value on any rank."""
    return not _whole(_values(g).isfinite().logical_not().sum()).item()


def _norm(optimizer: Any, params: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return what `GradientNorm` does; torch.compile traces the operations of torch."""
    if torch.compiler.is_compiling():
        return total_norm(_gradients(params)), None
    found: tuple[Tensor, Tensor | None] = optimizer._step_plans.gradient_norm(params)
    return found


def _gradients(params: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _values(g: Tensor) -> Tensor:
    return g.coalesce().values() if g.is_sparse else g


def _whole(x: Tensor) -> Tensor:
    """Return a DTensor as the whole tensor, which every rank receives; other tensors as they are."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x
