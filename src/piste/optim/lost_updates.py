"""Whether the updates of 16-bit parameters are rounded away: a sample of values before and after some early steps.

The sample is compared on the device of the parameters, and read in a later step, when it has reached the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine import caller_level, is_captured
from ..torch_internals import PLAIN_TYPES
from ..translation import translate
from .precision import NARROW

__all__ = ["LostUpdates"]

LAST_STEP = 512
"""Steps 2, 4, 8, ... up to this one are checked: some rules have no first step, and a warmup begins with tiny ones."""
MOST_LOST = 0.9
_TENSORS, _VALUES = 16, 64  # in a sample: of a group, and of a tensor


class _Counts(NamedTuple):
    """The updates of a sample of one device and those that were lost, on the way to the host."""

    numbers: Tensor
    arrived: Any
    """An event of the device, or None for numbers that are there."""
    dtypes: set[str]


class LostUpdates:
    """Counts steps, and warns once if most updates of a checked step leave the parameters as they are."""

    def __init__(self) -> None:
        self.is_on = False
        """Whether the options that were asked for last may lose updates, and a step is left to check."""
        self._is_done = False
        self._step = 0
        self._considered: list[tuple[Any, ...]] = []
        self._sample: list[tuple[Tensor, Tensor, Tensor]] = []
        self._counts: list[_Counts] = []

    def consider(self, groups: list[dict[str, Any]]) -> None:
        """Turn on where a group may lose updates."""
        facts = [(len(group["params"]), group["precision"], group["capturable"]) for group in groups]
        if facts == self._considered:
            return
        self._considered = facts
        self.is_on = not self._is_done and any(
            p.dtype in NARROW
            for group in groups
            if group["precision"] == "plain" and not group["capturable"]
            for p in group["params"]
        )

    def before(self, groups: list[dict[str, Any]]) -> None:
        """Count the step, and sample the parameters if it is checked."""
        self._step += 1
        if self._step == 1 or self._step & (self._step - 1):
            return
        if not is_captured([p for group in groups for p in group["params"]]):
            self._sample = [sampled for group in groups for sampled in _sampled(group)]

    def after(self, name: str) -> None:
        """Warn if most of the sampled values that have a gradient did not change.

        Args:
            name: The name of the optimizer.
        """
        if self._sample:
            self._counts, self._sample = _counted(self._sample), []
        events = [counts.arrived for counts in self._counts if counts.arrived is not None]
        if events and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # forbids to ask
            return
        if not all(event.query() for event in events):
            return
        found, self._counts = self._counts, []
        updates, lost = (sum(int(counts.numbers[k]) for counts in found) for k in range(2))
        self._is_done = self._step >= LAST_STEP or lost > MOST_LOST * updates
        self.is_on = not self._is_done
        if lost <= MOST_LOST * updates:
            return
        kinds = " and ".join(sorted(set().union(*(counts.dtypes for counts in found))))
        warnings.warn(
            translate(
                f"{name}.step() rounded {lost / updates:.0%} of its updates of {kinds} parameters away: they are less "
                f'than half the distance to the next number. Help: precision="kahan", "master" or "stochastic" keeps '
                "them; so do float32 parameters under torch.autocast."
            ),
            stacklevel=caller_level(),
        )


def _sampled(group: Mapping[str, Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
    if group["precision"] != "plain" or group["capturable"] or _is_zero(group.get("lr", 1)):
        return []
    params = [p for p in group["params"] if p.dtype in NARROW and type(p) in PLAIN_TYPES and _has_dense_gradient(p)]
    some = params[:: max(1, len(params) // _TENSORS)]
    return [(p, _values(p).clone(), _values(p.grad) != 0) for p in some]


def _is_zero(rate: Any) -> bool:
    """Return whether a learning rate is 0, as far as the host knows without waiting for a device."""
    return not (isinstance(rate, Tensor) and rate.device.type != "cpu") and bool(rate == 0)


def _counted(sample: list[tuple[Tensor, Tensor, Tensor]]) -> list[_Counts]:
    """Count the updates of a sample and the lost ones, without waiting for a device."""
    found = []
    for device in dict.fromkeys(p.device for p, _, _ in sample):
        here = [sampled for sampled in sample if sampled[0].device == device]
        updates = torch.stack([has_update.sum() for _, _, has_update in here]).sum()
        lost = torch.stack([((_values(p) == old) & has_update).sum() for p, old, has_update in here]).sum()
        numbers, arrived = torch.stack([updates, lost]), None
        if device.type == "cuda":
            numbers = numbers.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(device))
        found.append(_Counts(numbers, arrived, {NARROW[p.dtype] for p, _, _ in here}))
    return found


def _has_dense_gradient(p: Tensor) -> bool:
    return p.grad is not None and not p.grad.is_sparse


def _values(x: Tensor | None) -> Tensor:
    assert x is not None
    flat = x.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _VALUES)]
