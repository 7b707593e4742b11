"""The plans that step the param groups of an optimizer, kept from step to step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..engine import (
    MatrixPlan,
    MatrixSpec,
    ParamState,
    StepPlan,
    StepSpec,
    SumPlan,
    SumSpec,
    add_terms,
    caller_level,
    is_captured,
    step_eagerly,
    step_matrices_eagerly,
)
from ..translation import translate
from . import validation
from .clipping import GradientNorm, Scaling, reduces_gradients
from .composition import numbers_of, step_spec
from .lost_updates import LostUpdates
from .shards import address, is_sharded, local_parts, part_state, takes_parts
from .state import first_step_captured, gradient, param_state

__all__ = ["StepPlans", "step_traced_group", "traced_groups", "warn_unchanged"]

_OLDER_PLANS = 3  # for models that train parts of their parameters in turns
_KINDS = {MatrixSpec: MatrixPlan, SumSpec: SumPlan, StepSpec: StepPlan}
_IMMUTABLE = {bool, int, float, str, type(None)}


class PlanKey(NamedTuple):
    """What a plan is made for, in addition to its parameters."""

    spec: Any
    differentiable: bool
    on_device: bool
    """Whether the step decides on the device of the parameters, and counts there."""
    fused: bool | None


class StepPlans:
    """The plans of each group, and the options for which they were made.

    Methods take the optimizer, and nothing keeps it: a reference to it would be a cycle.
    """

    def __init__(self) -> None:
        self.scales = False
        """Whether the options that were asked for last scale gradients or skip steps."""
        self.lost_updates = LostUpdates()
        self.gradient_norm = GradientNorm()
        self.unsaved_counts: Any = WeakTensorKeyDictionary()
        """The step counts of parameters whose rule saves none."""
        self._plans: dict[Any, list[tuple[Any, StepPlan]]] = {}
        self._sharded: set[int] = set()  # groups with parameters of which this process holds a part
        self._pointers: list[int] = []
        self._known: dict[int, tuple[list[Any], tuple[Any, Mapping[str, Any]]]] = {}
        self._all_values: list[Any] = []  # those of every group, if none can change in place
        self._all_options: list[tuple[Any, Mapping[str, Any]]] = []

    def options(self, optimizer: Any) -> list[tuple[Any, Mapping[str, Any]]]:
        """Return the plan key and the numeric options of each group, before any group moves.

        They are cached while the options are the same objects.

        Raises:
            InvalidType, InvalidValue: An option was set to an invalid value.
        """
        groups = optimizer.param_groups
        values = chain.from_iterable(map(dict.values, groups))
        if len(self._all_options) == len(groups) and all(map(is_, self._all_values, values)):
            return self._all_options
        options = [self._group_options(optimizer, index, group) for index, group in enumerate(groups)]
        self.scales = any(map(reduces_gradients, groups))
        self.lost_updates.consider(groups)
        is_known = len(self._known) == len(groups)
        self._all_values = list(chain.from_iterable(map(dict.values, groups))) if is_known else []
        self._all_options = options if is_known else []
        return options

    def _group_options(self, optimizer: Any, index: int, group: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Return the plan key and the numeric options of a group.

        Raises:
            InvalidType, InvalidValue: An option was set to an invalid value.
        """
        known = self._known.get(index)
        if known is not None and all(map(is_, known[0], group.values())):
            return known[1]
        validation.check_changed(optimizer, index, known and known[0])
        cls = type(optimizer).rule_of(group)
        key = PlanKey(step_spec(cls, group), group["differentiable"], group["capturable"], group["fused"])
        numbers = numbers_of(cls, group)
        if not group["differentiable"]:  # Python's numbers, of tensors that require gradients, come with a warning
            numbers = {name: x.detach() if isinstance(x, Tensor) else x for name, x in numbers.items()}
        options = (key, numbers)
        self._known.pop(index, None)
        self._sharded.discard(index)
        if not group["differentiable"] and any(map(is_sharded, group["params"])) and takes_parts(key.spec):
            self._sharded.add(index)
        if all(name in ("params", *cls.group_state) or _is_immutable(value) for name, value in group.items()):
            self._known[index] = (list(group.values()), options)
        return options

    def step_group(
        self, optimizer: Any, index: Any, group: dict[str, Any], key: Any, numbers: Mapping[str, Any]
    ) -> bool:
        """Step a group by its latest plan if that fits, or else by another; return whether it has gradients."""
        if index not in self._sharded:
            return self._step_params(optimizer, index, group, key, numbers, group["params"])
        with local_parts(group["params"]) as parts:
            return self._step_params(optimizer, index, group, key, numbers, parts)

    def add(
        self,
        optimizer: Any,
        index: int,
        group: dict[str, Any],
        spec: StepSpec,
        numbers: Mapping[str, Any],
        *,
        on_device: bool,
    ) -> list[Any]:
        """Return sums of the terms of a group: lists of numbers, or tensors; `on_device` waits for no device."""
        if index in self._sharded or group["differentiable"] or (group["capturable"] and not on_device):
            return add_eagerly(optimizer, group, spec, numbers, on_device=True)
        key, place = PlanKey(spec.sums, False, on_device, group["fused"]), ("sums", index)
        if not self._step_params(optimizer, place, group, key, numbers, group["params"]):
            return []
        plan: Any = self._plans[place][0][1]
        return plan.total()  # type: ignore[no-any-return]

    def _step_params(
        self, optimizer: Any, index: Any, group: dict[str, Any], key: Any, numbers: Mapping[str, Any], params: Any
    ) -> bool:
        plans = self._plans.get(index)
        if plans and plans[0][0] == key and plans[0][1].step(params, numbers):
            return plans[0][1].steps_anything
        with torch.set_grad_enabled(group["differentiable"]):
            return self._make_plan(optimizer, index, group, key, numbers, params).steps_anything

    def _make_plan(
        self, optimizer: Any, index: Any, group: dict[str, Any], key: Any, numbers: Mapping[str, Any], params: Any
    ) -> StepPlan:
        """Step a group by an older plan for the same parameters with gradients, or by a new plan."""
        plans = [(known, plan) for known, plan in self._plans.get(index, []) if known == key]
        has = [p.grad is not None for p in params]
        plan = next((plan for _, plan in plans[1:] if plan.has_grad == has), None)
        if plan is None or not plan.step(params, numbers):
            if is_captured([p for p in params if p.grad is not None]):
                raise first_step_captured(optimizer)
            kind: Any = next(k for spec, k in _KINDS.items() if isinstance(key.spec, spec))
            options = {**group, "capturable": key.on_device}
            plan = kind(
                key.spec,
                params,
                partial(_state_of_sums if kind is SumPlan else param_state, optimizer, group=options)
                if params is group["params"]
                else partial(part_state, optimizer, group=options, parts=params),
                partial(gradient, type(optimizer).rule_of(group), group=group),
                options,
            )
            self._pointers = _state_pointers(optimizer)
            if not plan.step(params, numbers):
                raise RuntimeError(
                    "a gradient changed during the step. Help: step an optimizer from one thread at a time."
                )
        others = [(known, other) for known, other in plans if other.has_grad != has]
        self._plans[index] = [(key, plan), *others[:_OLDER_PLANS]]
        return plan

    def forget_other_state(self, optimizer: Any) -> None:
        """Drop the plans if state was replaced or moved, because plans contain addresses."""
        if self._plans and _state_pointers(optimizer) != self._pointers:
            self._plans.clear()
            self.unsaved_counts.clear()


def add_eagerly(
    optimizer: Any, group: dict[str, Any], spec: StepSpec, numbers: Mapping[str, Any], *, on_device: bool
) -> list[Tensor]:
    """Return the sums of the terms of each parameter of a group, by torch operations."""
    assert spec.sums is not None
    slots = [param_state(optimizer, p, group) for p in group["params"] if p.grad is not None]
    return add_terms(spec.sums, slots, numbers, differentiable=group["differentiable"], on_device=on_device)


def _state_of_sums(optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> ParamState:
    """Return the state of a parameter without the counters, which sums don't read."""
    return replace(param_state(optimizer, p, group), counters=[])


def traced_groups(optimizer: Any, scaling: Scaling) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """Return the step and the numbers of each group, for `step_traced_group`."""
    pairs = [(type(optimizer).rule_of(group), group) for group in optimizer.param_groups]
    return (
        [step_spec(cls, group) for cls, group in pairs],
        [scaling.numbers(numbers_of(cls, group), group) for cls, group in pairs],
    )


def step_traced_group(optimizer: Any, group: dict[str, Any], spec: Any, numbers: Mapping[str, Any]) -> bool:
    """Step a group by torch operations, which torch.compile traces; return whether it has gradients."""
    slots = [param_state(optimizer, p, group) for p in group["params"] if p.grad is not None]
    with torch.set_grad_enabled(group["differentiable"]):
        if isinstance(spec, MatrixSpec):
            step_matrices_eagerly(spec, slots, numbers, on_device=True)
        else:
            step_eagerly(spec, slots, numbers, differentiable=group["differentiable"], on_device=True)
    return len(slots) > 0  # torch 2.9 to 2.11 can't trace `bool` of a list


def warn_unchanged(optimizer: Any, call: str) -> None:
    """Warn that a call changed no parameter, with the reason."""
    params: Sequence[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    if not params:  # ZeroRedundancyOptimizer may leave a process none
        return
    if any(p.requires_grad for p in params):
        why = "no parameter has a gradient. Help: call loss.backward() before step(), and zero_grad() after it."
    elif len(params) > 1:
        why = (
            f"all of its {len(params)} parameters are frozen (requires_grad=False). "
            "Help: unfreeze some with p.requires_grad_()."
        )
    else:
        why = "its only parameter is frozen (requires_grad=False). Help: unfreeze it with p.requires_grad_()."
    level = 1 if torch.compiler.is_compiling() else caller_level()  # the compiler traces no frames
    warnings.warn(translate(f"{call} changed no parameter: {why}"), stacklevel=level)


def _state_pointers(optimizer: Any) -> list[int]:
    """Return the identities and addresses of the state tensors."""
    values = list(chain.from_iterable(map(dict.values, optimizer._state.values())))
    where = (address(v) for v in values if isinstance(v, Tensor) and v.layout == torch.strided)
    return [*map(id, values), *where]


def _is_immutable(value: Any) -> bool:
    return all(map(_is_immutable, value)) if type(value) is tuple else type(value) in _IMMUTABLE
