"""The conventions of other libraries: their formulas and the table, judged by recorded trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch

from piste.optim import OPTIMIZERS
from piste.optim.conventions import CONVENTIONS
from tests.optim.cases import ELEMENTWISE
from tests.optim.rejections import weights
from tests.optim.test_convention_names import OF_LIBRARIES, ONLY
from tests.optim.test_conventions import (
    LEARNING_RATES,
    RUNS,
    SMALL_NORMS,
    late_relative_step,
    late_steps,
    path_of,
    step_of_a_large_norm,
    steps_of_small_norms,
    tolerance_of,
    zero_gradient_step,
)

from ..subject import Check, RecentFirst, Subject
from .base import BASE, PLANS, STEP
from .elementwise import FILES
from .equivalents import EQUIVALENT
from .rules import ADAFACTOR

CONVENTION, FORMULAS = "piste.optim.conventions", "piste.optim.convention_formulas"


def subjects() -> list[Subject]:
    """The formulas of conventions, and their table."""
    formulas = [rules.update for known in CONVENTIONS.values() for rules in known.values() if rules.update is not None]
    names = tuple(dict.fromkeys([*(formula.__name__ for formula in formulas), "_added_epsilon", "_size"]))
    users = (STEP, PLANS, BASE, *FILES, ADAFACTOR)
    return [
        Subject(FORMULAS, names, RecentFirst(_checks), (CONVENTION, *users), EQUIVALENT[FORMULAS]),
        Subject(CONVENTION, ("CONVENTIONS",), RecentFirst(_checks), users, EQUIVALENT[CONVENTION]),
    ]


def _checks(modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """Every recorded trajectory of another library, and the defaults that no trajectory shows."""
    known = (*ELEMENTWISE.items(), ("Adafactor", OPTIMIZERS["Adafactor"]))
    optimizers = {name: getattr(modules[cls.__module__], name) for name, cls in known}
    for framework, run in RUNS:
        yield partial(_fault_of_a_run, optimizers, framework, run)
    for name, convention, given, expected in OF_LIBRARIES:
        yield partial(_fault_of_options, optimizers[name], convention, given, expected)
    for name, convention, only in ONLY:
        yield partial(_fault_of_options, optimizers[name], convention, {"lr": 0.1, **only}, {"lr": 0.1})
    for name, default in LEARNING_RATES.items():
        yield partial(_fault_of_options, optimizers[name], "keras", {}, {"lr": default})
    for name, options, steps in SMALL_NORMS:
        yield partial(_other_than, steps, 1e-5, partial(steps_of_small_norms, optimizers[name], **options))
    yield partial(_other_than, -10, 1e-5, partial(step_of_a_large_norm, optimizers["LAMB"]))
    yield partial(_other_than, 1 - 1 / 200, 1e-6, partial(late_relative_step, optimizers["Adafactor"]))
    yield partial(_other_than, [1.0, 0.5, 0.5], 0, partial(late_steps, optimizers["Rprop"]))
    yield partial(_other_than, 2.0, 0, partial(zero_gradient_step, optimizers["Adagrad"]))


def _fault_of_a_run(optimizers: Mapping[str, Any], framework: str, run: Mapping[str, Any]) -> str | None:
    path = path_of(framework, run, False, optimizers)
    tolerance = tolerance_of(framework, run)
    if torch.allclose(path, torch.tensor(run["path"], dtype=torch.float64), rtol=tolerance, atol=tolerance):
        return None
    return f"{framework}, {run['name']}({run['options']}) moved to {path[-1].tolist()}"


def _fault_of_options(make: Any, convention: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    has_all = make(weights(), **given, convention=convention).param_groups[0].items() >= expected.items()
    return None if has_all else f"{make.__name__}({given}) of {convention} has other options"


def _other_than(expected: Any, rel: float, step: Callable[[], Any]) -> str | None:
    found = step()
    return None if found == pytest.approx(expected, rel=rel, abs=0) else f"{step} is {found}, expected {expected}"
