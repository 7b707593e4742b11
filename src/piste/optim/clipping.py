"""Clipping of gradients, and gradients that are not finite: one reduction over all gradients before a step.

The gradients are only read. The factor of the clipping is a number of the step, so kernels apply it in their one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidValue

__all__ = ["clip_factor", "norm_of_step", "raise_nonfinite", "reduces_gradients", "total_norm", "with_clip_factor"]

EPSILON = 1e-6
"""Added to the norm, as in torch.nn.utils.clip_grad_norm_."""
_NARROW = (torch.float16, torch.bfloat16)


def reduces_gradients(group: Mapping[str, Any]) -> bool:
    """Return whether the step of a group needs the norm of all gradients."""
    return group["max_norm"] is not None or group["nonfinite"] != "ignore"


@torch.no_grad()
def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients as one vector, a 0-d tensor on the device of the first.

    16-bit gradients are reduced in float32. The norm of sharded gradients is that of all shards.
    """
    values = [*map(_values, gradients)]
    narrow = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in values if g.dtype in _NARROW]
    norm = torch.nn.utils.get_total_norm([*(g for g in values if g.dtype not in _NARROW), *narrow])
    return _whole(norm)


def clip_factor(max_norm: Any, norm: Tensor, on_device: bool) -> Any:
    """Return the factor that scales gradients to a norm of at most `max_norm`.

    Args:
        max_norm: The largest norm.
        norm: The norm of all gradients.
        on_device: Keep the factor a tensor, so that the step does not wait for the device.
    """
    factor = torch.clamp(max_norm / (norm + EPSILON), max=1.0)
    return factor if on_device else factor.item()


def with_clip_factor(numbers: Mapping[str, Any], group: Mapping[str, Any], norm: Tensor | None) -> Mapping[str, Any]:
    """Return the numbers of a group with the factor of its clipping, if it has `max_norm`."""
    if norm is None or group["max_norm"] is None:
        return numbers
    on_device = group["capturable"] or torch.compiler.is_compiling()
    return {**numbers, "clip": clip_factor(group["max_norm"], norm, on_device)}


def norm_of_step(optimizer: Any) -> Tensor | None:
    """Return the norm of all gradients, which becomes `optimizer.grad_norm`; or None if the step is skipped.

    Raises:
        InvalidValue: A gradient is not finite, and a group has nonfinite="raise".
    """
    groups = optimizer.param_groups
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    optimizer.grad_norm = norm = total_norm(gradients)
    modes = {group["nonfinite"] for group in groups}
    # The norm of large finite gradients may overflow, so the values decide.
    if modes == {"ignore"} or norm.isfinite() or all(map(is_finite, gradients)):
        return norm
    if "raise" in modes:
        raise_nonfinite(optimizer, groups)
    optimizer.skipped += 1
    return None


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


def _values(g: Tensor) -> Tensor:
    return g.coalesce().values() if g.is_sparse else g


def _whole(x: Tensor) -> Tensor:
    """Return a DTensor as the whole tensor, which every rank receives; other tensors as they are."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x
