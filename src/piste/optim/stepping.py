"""One step of an optimizer: by the plans of its groups, or by operations of torch where torch.compile traces it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..engine import is_captured, raise_reported
from ..errors import Unsupported
from ..torch_internals import outside_of_compiler
from ..translation import translate
from . import validation
from .clipping import decides_on_host, scaling_of_step
from .group_sums import numbers_after
from .step_plans import step_traced_group, traced_groups, warn_unchanged

__all__ = ["refuse_capture", "take_step"]


def take_step(optimizer: Any, closure: Callable[[], Any] | None) -> Any:
    """Step all groups of an optimizer, and return the result of the closure; warn once if no parameter has a gradient.

    Args:
        optimizer: The optimizer.
        closure: A function that recomputes the loss and its gradients, or None.
    """
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    if not torch.compiler.is_compiling():
        moved = _step_groups(optimizer)
    elif optimizer._counts_on_host:
        moved = _step_with_host_counts(optimizer)
    elif decides_on_host(optimizer):
        moved = _step_with_host_decision(optimizer)
    else:
        moved = _step_traced_groups(optimizer)
    if not moved and not optimizer._has_warned:
        optimizer._has_warned = True
        warn_unchanged(optimizer, f"{type(optimizer).__name__}.step()")
    return loss


def refuse_capture(optimizer: Any) -> None:
    """Raise if a CUDA graph captures the step of an optimizer that refuses `capturable`.

    Raises:
        Unsupported: Always, where a graph captures such a step.
    """
    why = optimizer.refused.get("capturable")
    if why is not None and is_captured([p for group in optimizer.param_groups for p in group["params"]]):
        raise Unsupported(
            f"{type(optimizer).__name__}.step() can't be captured in a CUDA graph, because {why}. Help: capture the "
            "forward and the backward pass alone, and call `step` outside of the CUDA graph."
        )


def _step_groups(optimizer: Any) -> bool:
    """Step all groups by their plans; return whether a parameter has a gradient, or the step is skipped."""
    raise_reported()
    refuse_capture(optimizer)
    moved, plans = False, optimizer._step_plans
    if optimizer._state_exposed:
        plans.forget_other_state(optimizer)
    options = plans.options(optimizer)
    if plans.scales or "found_inf" in optimizer.__dict__:
        scaling = scaling_of_step(optimizer)
        if scaling is None:
            return True
        groups = zip(options, optimizer.param_groups, strict=True)
        options = [(scaling.key(key), scaling.numbers(numbers, group)) for (key, numbers), group in groups]
    if optimizer.group_state:
        numbers = numbers_after(optimizer, [key.spec for key, _ in options], [own for _, own in options])
        options = [(key, own) for (key, _), own in zip(options, numbers, strict=True)]
    watch = plans.lost_updates
    if watch.is_on:
        watch.before(optimizer.param_groups)
    for index, group in enumerate(optimizer.param_groups):
        moved = plans.step_group(optimizer, index, group, *options[index]) or moved
    if watch.is_on:
        watch.after(type(optimizer).__name__)
    return moved


def _step_traced_groups(optimizer: Any) -> bool:
    """Do the same by torch operations, which torch.compile traces."""
    if not validation.are_valid(optimizer):
        _check_options_outside(optimizer)
    scaling = scaling_of_step(optimizer)
    if scaling is None:
        return True
    moved = False
    specs, numbers = traced_groups(optimizer, scaling)
    if optimizer.group_state:
        numbers = numbers_after(optimizer, specs, numbers)
    for group, spec, own in zip(optimizer.param_groups, specs, numbers, strict=True):
        moved = step_traced_group(optimizer, group, spec, own) or moved
    return moved


_check_options_outside = outside_of_compiler(
    validation.check_options, translate("An option is invalid, and the error is raised outside of the graph.")
)
_step_with_host_counts = outside_of_compiler(
    _step_groups,
    translate(
        "The matrix stage of this optimizer reads the step count on the host, so torch.compile runs its step outside "
        "of the graph. Help: fullgraph=False."
    ),
)
_step_with_host_decision = outside_of_compiler(
    _step_groups,
    translate(
        'nonfinite="skip" on a CPU and nonfinite="raise" read the gradients on the host, so torch.compile runs the '
        'step outside of the graph. Help: fullgraph=False, or nonfinite="ignore".'
    ),
)
