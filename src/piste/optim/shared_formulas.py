"""Formulas that the step of every rule may contain: the clipping, the kinds of decoupled decay, cautious steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import InvalidValue
from ..formula.reductions import total
from ..formula.words import minimum, where

__all__ = ["DECAYS", "RATED", "cautious_step", "clip_factor", "decay_kind", "fill_largest_rate", "largest_rate"]

DECAYS: dict[str, Callable[..., Any]] = {
    "lr": lambda lr, weight_decay: lr * weight_decay,
    "independent": lambda lr, weight_decay, lr_max: lr / lr_max * weight_decay,
    "lr_squared": lambda lr, weight_decay, lr_max: lr / lr_max * lr * weight_decay,
}
"""The share by which a step shrinks the weights, by the value of `decoupled_decay`."""

RATED = ("independent", "lr_squared")
"""Those that depend on the largest learning rate."""


def clip_factor(max_norm: Any, norm: Any) -> Any:
    """Return the factor that scales gradients to a norm of at most `max_norm`, as torch.nn.utils.clip_grad_norm_ does.

    Args:
        max_norm: The largest norm.
        norm: The norm of all gradients.
    """
    return minimum(max_norm / (norm + 1e-6), 1.0)


def cautious_step(d: Any, g: Any) -> Any:
    """Return the step without the elements that ascend, and the others larger (Liang et al. 2024, arXiv 2411.16085).

    Args:
        d: The step, which is subtracted.
        g: The gradient.

    Returns:
        `d` where `d g > 0`, times the number of elements over 1 + the number of those; and 0 elsewhere.
    """
    agrees = where(d * g > 0, 1.0, 0.0)
    kept = total(agrees)
    return (kept + total(1 - agrees)) / (kept + 1) * agrees * d


def decay_kind(cls: Any, group: Mapping[str, Any], is_decoupled: bool) -> str:
    """Return how the base decays the weights of a group.

    Args:
        cls: The rule.
        group: The options of the group.
        is_decoupled: Whether the weight decay of the rule is that of AdamW.

    Returns:
        A key of `DECAYS`; "l2" for a part of the gradient; "" for none, or for the decay of the rule itself.
    """
    if not group.get("weight_decay") or (cls.own_decay and not is_decoupled and group["decoupled_decay"] is None):
        return ""
    return group["decoupled_decay"] or ("lr" if is_decoupled else "l2")


def fill_largest_rate(group: dict[str, Any]) -> None:
    """Set `lr_max` of a new param group to its learning rate, if its weight decay needs one and it has none."""
    if group["decoupled_decay"] in RATED and group["lr_max"] is None and group["lr"] > 0:
        lr = group["lr"]
        group["lr_max"] = lr.item() if isinstance(lr, Tensor) else float(lr)


def largest_rate(group: Mapping[str, Any]) -> Any:
    """Return `lr_max` of a group.

    Raises:
        InvalidValue: It is None, and the weight decay needs it.
    """
    if group["lr_max"] is None:
        raise InvalidValue(
            f'`lr_max` must be in (0, inf) for decoupled_decay="{group["decoupled_decay"]}"; received lr_max=None. '
            "Help: pass the largest learning rate of the schedule, or set decoupled_decay when the group is made."
        )
    return group["lr_max"]
