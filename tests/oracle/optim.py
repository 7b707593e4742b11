"""One step of every optimizer, for one weight, as its paper and torch.optim's documentation state it.

Each rule is a function `(p, g, s, t, o)`: the parameter and its gradient, the state by torch's checkpoint
keys (empty before the first step), the number of this step from 1, and the options by their public names. It
returns the parameter after the step and the state. A rule in `WHOLE_RULES` takes lists of parameters, gradients and
states, which are those of one tensor, and returns lists. Written for reading against the paper, not for speed, and
sharing nothing with the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from .element_rules import (
    Rule,
    State,
    adabelief,
    adadelta,
    adagrad,
    adam,
    adamax,
    adan,
    ademamix,
    adopt,
    asgd,
    lion,
    nadam,
    radam,
    rmsprop,
    rprop,
    sgd,
)
from .rounding import DOUBLE, Number
from .schedule_free_rules import schedule_free_adamw, schedule_free_sgd
from .tensor_rules import lamb, lars, stableadamw

WHOLE_RULES: dict[str, Callable[..., Any]] = {"LAMB": lamb, "LARS": lars, "StableAdamW": stableadamw}

RULES: dict[str, Rule] = {
    "SGD": sgd,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "Adam": adam,
    "AdamW": adam,
    "Adamax": adamax,
    "NAdam": nadam,
    "RAdam": radam,
    "ASGD": asgd,
    "Rprop": rprop,
    "Lion": lion,
    "AdaBelief": adabelief,
    "ADOPT": adopt,
    "Adan": adan,
    "AdEMAMix": ademamix,
    "ScheduleFreeSGD": schedule_free_sgd,
    "ScheduleFreeAdamW": schedule_free_adamw,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False),
    "RMSprop": dict(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, maximize=False),
    "Adagrad": dict(lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10, maximize=False),
    "Adadelta": dict(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0, maximize=False),
    "Adam": dict(
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        amsgrad=False,
        maximize=False,
        decoupled_weight_decay=False,
    ),
    "AdamW": dict(
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        maximize=False,
        decoupled_weight_decay=True,
    ),
    "Adamax": dict(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False),
    "NAdam": dict(
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        momentum_decay=4e-3,
        decoupled_weight_decay=False,
        maximize=False,
    ),
    "RAdam": dict(
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        decoupled_weight_decay=False,
        maximize=False,
    ),
    "ASGD": dict(lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0, maximize=False),
    "Rprop": dict(lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False),
    "Lion": dict(lr=1e-4, betas=(0.9, 0.99), weight_decay=0, maximize=False),
    "AdaBelief": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0, maximize=False),
    "ADOPT": dict(
        lr=1e-3,
        betas=(0.9, 0.9999),
        eps=1e-6,
        weight_decay=0,
        clip=True,
        maximize=False,
        decoupled_weight_decay=False,
    ),
    "Adan": dict(lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0, maximize=False),
    "LAMB": dict(
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0,
        bias_correction=True,
        trust_clip=False,
        always_adapt=True,
        maximize=False,
    ),
    "LARS": dict(
        lr=1e-3, momentum=0.9, weight_decay=0, trust_coefficient=1e-3, nesterov=False, adapt=True, maximize=False
    ),
    "StableAdamW": dict(lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-2, maximize=False),
    "ScheduleFreeSGD": dict(
        lr=1.0, momentum=0.9, weight_decay=0, r=0, weight_lr_power=2, warmup_steps=0, maximize=False
    ),
    "ScheduleFreeAdamW": dict(
        lr=2.5e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        r=0,
        weight_lr_power=2,
        warmup_steps=0,
        maximize=False,
    ),
    "AdEMAMix": dict(lr=1e-3, betas=(0.9, 0.999, 0.9999), eps=1e-8, weight_decay=0, alpha=5, warmup=0, maximize=False),
}
"""The public options of each, with the defaults of torch.optim or of the authors."""


def options(name: str, given: Mapping[str, Any]) -> SimpleNamespace:
    """All options of a rule as exact numbers that compute in double precision; flags stay as they are."""

    def exact(x: Any) -> Any:
        if isinstance(x, bool):
            return x
        return tuple(map(exact, x)) if isinstance(x, Iterable) else Number(x, DOUBLE)

    return SimpleNamespace(**{k: exact(v) for k, v in (DEFAULTS[name] | dict(given)).items()})


def step(
    name: str, p: float, g: float, state: Mapping[str, float], t: int, given: Mapping[str, Any], unit: float
) -> tuple[Number, State]:
    """One step of a rule on floats, in arithmetic of this unit roundoff: parameter and state after it."""
    new, states = step_tensor(name, [p], [g], [state], t, given, unit)
    return new[0], states[0]


def step_tensor(
    name: str,
    p: Sequence[float],
    g: Sequence[float],
    states: Sequence[Mapping[str, float]],
    t: int,
    given: Mapping[str, Any],
    unit: float,
) -> tuple[list[Number], list[State]]:
    """One step of a rule on the elements of a tensor."""
    ps, gs = ([Number(x, unit) for x in values] for values in (p, g))
    ss = [{key: Number(value, unit) for key, value in state.items()} for state in states]
    if name in WHOLE_RULES:
        return WHOLE_RULES[name](ps, gs, ss, t, options(name, given))
    each = [RULES[name](*element, t, options(name, given)) for element in zip(ps, gs, ss, strict=True)]
    return [new for new, _ in each], [state for _, state in each]
