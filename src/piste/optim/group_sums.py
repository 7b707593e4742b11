"""Rules that add over all parameters: the sums of a step, and the numbers of all param groups that follow from them.

A rule declares `reduce`, the terms of an element; `finish`, which takes their sums; and `group_state`, the numbers that
a param group keeps, which `finish` renews. They are 0-d tensors on the device of the parameters, so nothing waits for
the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine import StepSpec, parameters, store
from ..errors import InvalidValue
from ..formula.expression import FormulaError
from ..formula.operations import in_dtype
from .options import Flag
from .step_plans import add_eagerly

__all__ = ["check_groups", "finish_sums", "numbers_after", "share_group_state"]


def share_group_state(optimizer: Any, group: dict[str, Any]) -> None:
    """Give a new param group the numbers of the other groups, or their first values."""
    first = optimizer.param_groups[0]
    for name, start in optimizer.group_state.items():
        value = first[name] if name in first else first[start] if isinstance(start, str) else start
        if not isinstance(value, Tensor):
            value = torch.tensor(float(value), dtype=torch.float64, device="cpu")
        group[name] = value


def check_groups(optimizer: Any) -> None:
    """Raise if the groups differ in options of their common sums; a group may have a learning rate of 0.

    Raises:
        InvalidValue: An option differs.
    """
    first, *others = optimizer.param_groups
    for index, group in enumerate(others, 1):
        for name in optimizer.same_in_groups:
            here, there = group[name], first[name]
            if isinstance(here, Tensor) or isinstance(there, Tensor) or here == there:
                continue
            if name != "lr" or 0 not in (here, there):
                raise InvalidValue(
                    f"`{name}` must be the same in all param groups of {type(optimizer).__name__}, which adds over all "
                    f"parameters{', or 0' if name == 'lr' else ''}; received {name}={there!r} in param group 0 and "
                    f"{name}={here!r} in param group {index}. No parameter has changed in this step."
                )


def numbers_after(
    optimizer: Any, specs: Sequence[StepSpec], numbers: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the numbers of each group with those of `group_state` before and after the step, and renew these.

    Args:
        optimizer: The optimizer.
        specs: The step of each group.
        numbers: The numbers of each group.

    Raises:
        InvalidValue: The groups differ in options of their common sums.
    """
    check_groups(optimizer)
    groups = optimizer.param_groups
    is_traced = torch.compiler.is_compiling()
    is_recorded = any(group["differentiable"] for group in groups)
    state = {name: groups[0][name] for name in optimizer.group_state}
    device = next((p.device for group in groups for p in group["params"] if p.grad is not None), None)
    if device is None:
        return [{**own, **state, **{f"new_{name}": x for name, x in state.items()}} for own in numbers]
    state = {name: _on(x, device) for name, x in state.items()}
    for group in groups:  # before state is made, whose step counts are on the device if numbers are
        group.update(state)
    on_device = is_traced or is_recorded or device.type != "cpu"
    before = state if on_device else {name: x.item() for name, x in state.items()}
    found: list[Tensor] = []
    with torch.set_grad_enabled(is_recorded):
        for index, (spec, own, group) in enumerate(zip(specs, numbers, groups, strict=True)):
            known = {**own, **before}
            if is_traced or is_recorded:
                terms: list[Any] = add_eagerly(optimizer, group, spec, known, on_device=True)
            else:
                terms = optimizer._step_plans.add(optimizer, index, group, spec, known, on_device=on_device)
            found += (_on(x, device) for x in terms)
        sums = torch.stack(found).sum(0)
        values = sums.unbind() if on_device else sums.tolist()
        after = finish_sums(type(optimizer), groups[0], specs[0], {**numbers[0], **before}, values)
        found_inf = numbers[0].get("found_inf")
        if found_inf is not None:
            after = {n: torch.where(found_inf.to(device) != 0, before[n], x) for n, x in after.items()}
        kept = {name: x.clone() for name, x in before.items()} if on_device and not is_recorded else before
        for name, value in after.items():
            if is_recorded:
                state[name] = value
            elif isinstance(value, Tensor):
                store(state[name], value)
            else:
                state[name].fill_(value)
    if is_recorded:
        for group in groups:
            group.update(state)
    new = {f"new_{name}": value for name, value in after.items()}
    return [{**own, **kept, **new} for own in numbers]


def finish_sums(
    cls: Any, group: Mapping[str, Any], spec: StepSpec, numbers: Mapping[str, Any], sums: Sequence[Any]
) -> dict[str, Any]:
    """Return the next numbers of `group_state`.

    Args:
        cls: The rule.
        group: The options of a group.
        spec: The step of the group.
        numbers: The numbers of the group, those of `group_state` among them.
        sums: The sums over all parameters, as floats or as tensors.
    """
    assert spec.sums is not None
    dtype = next((x.dtype for x in sums if isinstance(x, Tensor)), torch.float64)
    scalars = in_dtype(dtype, spec.sums.scalars, numbers, {}, lambda letter, value: value)
    flags = {name: bool(group[name]) for name, option in cls.options.items() if isinstance(option, Flag)}
    asked = parameters(cls.finish)[len(sums) :]
    given = {name: flags[name] if name in flags else scalars[name] for name in asked}
    after = in_dtype(dtype, cls.finish, *sums, **given)
    if not isinstance(after, tuple) or len(after) != len(cls.group_state):
        raise FormulaError(
            f"{cls.__name__}.finish must return a tuple of the next {', '.join(cls.group_state)}; it returned "
            f"{len(after) if isinstance(after, tuple) else 'no tuple'}."
        )
    return dict(zip(cls.group_state, after, strict=True))


def _on(x: Any, device: torch.device) -> Tensor:
    """Return a number as a 0-d tensor on a device, in float64 where the device has it."""
    return torch.as_tensor(x, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
