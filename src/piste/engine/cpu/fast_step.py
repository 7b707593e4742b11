"""A whole step on the CPU in one call of machine code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..native.gradients import can_check, native_step
from ..native.tables import LaunchRecord
from ..specs import ParamState
from .step_kernel import PARALLEL_MIN_ELEMENTS, StepKernel

__all__ = ["FastStep", "supports"]

GIL_MAX_ELEMENTS = 1 << 22
"""Up to this many elements a step holds the GIL, so that no gradient is replaced: about a millisecond."""


class FastStep:
    """The step of a plan's parameters by their launches, as long as everything is where it was."""

    def __init__(
        self, params: list[Any], slots: Mapping[int, ParamState], launches: Sequence[tuple[StepKernel, Sequence[int]]]
    ) -> None:
        self._launches = launches  # an object that is kept keeps its address
        self._numbers: Mapping[str, Any] | None = None
        stages = [(launch, stage, indices) for launch, indices in launches for stage in launch.stages]
        records = (LaunchRecord * len(stages))()
        for record, (launch, (serial, parallel), _) in zip(records, stages, strict=True):
            entries = launch.kernel.addresses
            record.prepare, record.body, record.table = entries[serial], entries[parallel], launch.at
            record.gradients = launch.gradients.buffer_info()[0]
            record.max_shares = launch.shares if launch.elements > PARALLEL_MIN_ELEMENTS else 0
        self._step = native_step(params, slots, records, [indices for *_, indices in stages])

    def __call__(self, params: list[Any], numbers: Mapping[str, Any]) -> bool:
        """Step and return True; or return False, with nothing changed, where something has moved."""
        if numbers is not self._numbers:
            for launch, _ in self._launches:
                launch.set_numbers(numbers)
            self._numbers = numbers
        return self._step(params)


def supports(
    params: Sequence[Any], slots: Mapping[int, ParamState], launches: Sequence[tuple[StepKernel, Sequence[int]]]
) -> bool:
    """Return whether a plan can be stepped in one call."""
    return sum(launch.elements for launch, _ in launches) <= GIL_MAX_ELEMENTS and can_check(
        params, slots, [indices for _, indices in launches]
    )
