"""The base's own part of a step: its composition, the first state, and the formulas that every rule may contain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch

from piste.optim import OPTIMIZERS
from tests.optim.cases import ELEMENTWISE
from tests.optim.composition_checks import CHECKS, find_fault_of_shared_formulas
from tests.optim.test_references import RUNS

from ..subject import Check, RecentFirst, Subject
from .elementwise import FILES, checks_of, in_double
from .equivalents import EQUIVALENT
from .rules import (
    ADAFACTOR,
    MUON,
    PRODIGY,
    SOAP,
    checks_of_adafactor,
    checks_of_muon,
    checks_of_prodigy,
    checks_of_soap,
    fault_of_a_run,
)

STEP, STATE, SHARED = "piste.optim.composition", "piste.optim.state", "piste.optim.shared_formulas"
PLANS, BASE = "piste.optim.step_plans", "piste.optim.optimizer"
STEP_FORMULAS = ("compose", "_rule", "_formula", "_with_flags")
STATE_FORMULAS = ("_start", "_first_value", "_filled_like")


def subjects() -> list[Subject]:
    """The modules of the base."""
    dependents = (PLANS, BASE, *FILES, MUON, ADAFACTOR, PRODIGY, SOAP)
    shared = RecentFirst(lambda modules: [partial(find_fault_of_shared_formulas, modules[BASE].Optimizer)])
    return [
        Subject(STEP, STEP_FORMULAS, RecentFirst(_checks), dependents, EQUIVALENT.get(STEP, {})),
        Subject(STATE, STATE_FORMULAS, RecentFirst(_checks), dependents, EQUIVALENT.get(STATE, {})),
        Subject(SHARED, ("DECAYS", "cautious_step"), shared, (STEP, PLANS, BASE)),
    ]


def _checks(modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """The checks of the base's own part, and of every optimizer."""
    base, sgd = modules[BASE].Optimizer, modules[OPTIMIZERS["SGD"].__module__].SGD
    yield from (partial(find_fault, base) for find_fault in CHECKS)
    yield partial(in_double, _fault_of_clipping, sgd)
    yield partial(in_double, _fault_of_a_convention, sgd)
    if STATE in modules:
        yield partial(in_double, _fault_of_a_complex_start, modules[STATE])
    yield partial(_fault_of_a_copied_start, modules[ADAFACTOR].Adafactor)
    yield partial(_fault_of_the_dtype_of_z, modules["piste.optim.schedule_free"].ScheduleFreeSGD)
    yield from checks_of_muon(modules)
    yield from checks_of_adafactor(modules)
    yield from checks_of_prodigy(modules)
    yield from checks_of_soap(modules)
    yield from checks_of(list(ELEMENTWISE), modules)
    for run in RUNS:  # the kernel of the sums
        if run["optimizer"] == "Prodigy":
            yield partial(in_double, fault_of_a_run, partial(modules[PRODIGY].Prodigy, fused=True), run, 1e-11, 1e-11)


def _fault_of_the_dtype_of_z(make: Any) -> str | None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = make([p], state_dtype="bfloat16", fused=False)
    optimizer.step()
    return None if optimizer.state[p]["z"].dtype == torch.bfloat16 else "z has another dtype"


def _fault_of_a_copied_start(make: Any) -> str | None:
    """The shapes and dtypes of a state whose shape is not that of the parameter."""
    p = torch.ones(2, 3, 5, dtype=torch.bfloat16)
    p.grad = torch.ones_like(p)
    optimizer = make([p], fused=False)
    optimizer.step()
    found = {key: (tuple(x.shape), x.dtype) for key, x in optimizer.state[p].items() if key != "step"}
    expected = {"row_var": ((2, 3, 1), p.dtype), "col_var": ((2, 1, 5), p.dtype)}
    return None if found == expected else f"the state of Adafactor is {found}"


def _fault_of_clipping(make: Any) -> str | None:
    """Gradients are scaled to the norm, and then limited in both directions."""
    root = 41**0.5
    for options, expected in (
        ({"max_value": 3.5}, [3.0, -3.5, 3.5]),
        ({"max_norm": 1.0}, [3 / root, -4 / root, 4 / root]),
        ({"max_norm": 1.0, "max_value": 0.5}, [3 / root, -0.5, 0.5]),
    ):
        p = torch.zeros(3, requires_grad=True)
        p.grad = torch.tensor([3.0, -4.0, 4.0])
        make([p], lr=1.0, fused=False, **options).step()
        if not torch.allclose(p.detach(), -torch.tensor(expected), rtol=1e-5):
            return f"{options} moved to {p.tolist()}"
    return None


def _fault_of_a_convention(make: Any) -> str | None:
    """The step of Keras' SGD contains the learning rate."""
    p = torch.tensor([1.0], requires_grad=True)
    p.grad = torch.tensor([2.0])
    make([p], learning_rate=0.25, convention="keras", fused=False).step()
    return None if p.item() == 0.5 else f"the SGD of Keras moved to {p.item()}"


def _fault_of_a_complex_start(state: Any) -> str | None:
    """A buffer of a complex parameter starts alike in both parts, as torch's."""
    p = torch.zeros(2, dtype=torch.complex128, requires_grad=True)
    made = state._filled_like(p.detach(), 0.5, p.dtype)
    torchs = torch.optim.Adagrad([p], initial_accumulator_value=0.5).state[p]["sum"]
    return None if torch.equal(made, torchs) else f"a complex buffer starts at {made.tolist()}"
