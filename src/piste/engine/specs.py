"""What an engine is given to run: one element's formula, and the scalars that one tensor's step needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def parameters(formula: Callable[..., Any]) -> tuple[str, ...]:
    """The names that a formula asks for."""
    return tuple(inspect.signature(formula).parameters)


@dataclass(frozen=True, eq=False)
class StepSpec:
    """An optimizer's step, for every tensor of a group.

    `element(p, g, buffers, scalars)` returns the new p and the new buffers of one element; `per_step` restates or
    adds scalars, in order, from the group's numbers and the counters (the step count `t` first), in double precision,
    once for a tensor. A per-step formula named like a counter is the counter's next value.
    """

    name: str
    element: Callable[[Any, Any, list[Any], Mapping[str, Any]], tuple[Any, list[Any]]]
    numbers: tuple[str, ...]  # the group's, e.g. lr, beta1, beta2, eps
    buffers: tuple[str, ...]  # letters of the tensors kept, each of the parameter's shape
    counters: tuple[str, ...]  # letters of the 0-d tensors kept; "t" is counted up before the step
    per_step: Mapping[str, Callable[..., Any]]

    def scalars(
        self, numbers: Mapping[str, Any], counters: Mapping[str, Any], store: Callable[[str, Any], Any]
    ) -> dict:
        """All scalars of this step; `store(letter, value)` keeps a counter and returns it as kept."""
        known = {**numbers, **counters}
        for name, formula in self.per_step.items():
            value = formula(**{asked: known[asked] for asked in parameters(formula)})
            known[name] = store(name, value) if name in self.counters else value
        return known


@dataclass(frozen=True, eq=False)
class ParamState:
    """One parameter with everything its step touches."""

    p: Any
    g: Any
    buffers: list[Any]
    counters: list[Any]
