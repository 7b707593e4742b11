"""The optimizers whose step is a formula of one element, judged by the oracles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch

from piste.optim import OPTIMIZERS
from tests.optim.assertions import find_fault
from tests.optim.cases import ELEMENTWISE, OPTIONS, fullest
from tests.optim.test_schedule_free import FALLING, path_of_falling_rates

from ..subject import Check, RecentFirst, Subject, stated
from .equivalents import EQUIVALENT

ATTRIBUTES = ("update", "per_step", "buffers", "counters")
FILES = tuple(dict.fromkeys(cls.__module__ for cls in ELEMENTWISE.values()))
SHARED_FORMULAS = {"piste.optim.schedule_free": ("_PER_STEP", "_moved")}
"""By module: functions and numbers that several formulas share."""


def subjects() -> list[Subject]:
    """Every rule's file."""
    found = []
    for file in FILES:
        names = [name for name, cls in ELEMENTWISE.items() if cls.__module__ == file]
        formulas = stated(file, [f"{name}.{key}" for name in names for key in ATTRIBUTES])
        formulas += SHARED_FORMULAS.get(file, ())
        found.append(
            Subject(file, formulas, RecentFirst(partial(checks_of, names)), equivalent=EQUIVALENT.get(file, {}))
        )
    return found


def checks_of(names: list[str], modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """The checks of these optimizers over all options, in float64, and of a step that autograd records."""
    for name in names:
        make = getattr(modules[OPTIMIZERS[name].__module__], name)
        for options in OPTIONS[name]:
            yield partial(in_double, _fault_of_options, make, name, options, False)
        yield partial(in_double, fault_of_a_recorded_step, make)
        yield partial(in_double, _fault_of_options, make, name, fullest(name), True)
    if "ScheduleFreeSGD" in names:
        make = modules[OPTIMIZERS["ScheduleFreeSGD"].__module__].ScheduleFreeSGD
        yield partial(in_double, _fault_of_falling_rates, make)
        yield partial(in_double, _fault_of_the_gradient_of_a_start, make)


def in_double(check: Callable[..., str | None], *operands: Any) -> str | None:
    """Run a check with float64 as the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        return check(*operands)
    finally:
        torch.set_default_dtype(torch.float32)


def _fault_of_options(make: Callable[..., Any], name: str, options: Mapping[str, Any], fused: bool) -> str | None:
    fault = find_fault(partial(make, fused=fused), name, dict(options), torch.float64)
    return fault and f"{name}({options}, fused={fused}): {fault}"


def fault_of_a_recorded_step(make: Callable[..., Any]) -> str | None:
    """A gradient through the step that is not finite."""
    start = torch.tensor([0.5, -2.0], requires_grad=True)
    p = start.clone()
    optimizer = make([p], differentiable=True)
    for _ in range(5):
        p.grad = start * 3
        optimizer.step()
    (slope,) = torch.autograd.grad(p.sum(), start)
    return None if slope.isfinite().all() else f"a gradient through the step is {slope.tolist()}"


def _fault_of_falling_rates(make: Callable[..., Any]) -> str | None:
    found = path_of_falling_rates(make)
    return None if found == pytest.approx(FALLING) else f"falling rates lead to {found}"


def _fault_of_the_gradient_of_a_start(make: Callable[..., Any]) -> str | None:
    """The state that starts as the parameter has its gradient, by finite differences."""

    def stepped(start: torch.Tensor) -> torch.Tensor:
        p = start.clone()
        optimizer = make([p], lr=0.5, differentiable=True)
        for _ in range(3):
            p.grad = start * start
            optimizer.step()
        return p

    start = torch.tensor([0.5, -2.0], requires_grad=True)
    is_known = torch.autograd.gradcheck(stepped, start, raise_exception=False)
    return None if is_known else "the iterates lose the gradient of the first parameter"
