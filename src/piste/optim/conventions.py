"""Conventions: the defaults, formulas and argument names that Keras and optax have for the same optimizers.

A formula here takes the place of the rule's `update`, with the same buffers. Where it is `None`, the rule holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue
from ..formula.reductions import norm
from ..formula.words import maximum, minimum, sign, sqrt, where

__all__ = ["CONVENTIONS", "TITLES", "Convention", "check_convention", "origin", "translate"]

TITLES = {"keras": "Keras", "optax": "optax"}


@dataclass(frozen=True)
class Convention:
    """An optimizer as another framework has it.

    Args:
        defaults: The defaults that differ from PyTorch's, by PyTorch's names. None marks an argument without a default.
        names: The argument names, as {foreign name: PyTorch's name}; "betas[0]" is the first of several numbers.
        update: The formula, if it differs from the rule.
        has_rate: Whether the step of the formula contains the learning rate.
        decoupled: Whether the weight decay is decoupled, as in AdamW.
        absent: The options of PyTorch that the framework lacks.
    """

    defaults: Mapping[str, Any]
    names: Mapping[str, str]
    update: Callable[..., Any] | None = None
    has_rate: bool = False
    decoupled: bool = False
    absent: tuple[str, ...] = ()


def _keras_sgd(g: Any, b: Any, *, lr: Any, mu: Any, nesterov: bool) -> Any:
    if b is None:
        return lr * g, None
    b = mu * b + lr * g
    return (mu * b + lr * g if nesterov else b), b


def _rms(g: Any, v: Any, b: Any, m: Any, *, lr: Any, alpha: Any, eps: Any, mu: Any) -> Any:
    v = alpha * v + (1 - alpha) * g * g
    m = None if m is None else alpha * m + (1 - alpha) * g
    d = lr * g / sqrt((v if m is None else v - m * m) + eps)
    if b is None:
        return d, v, b, m
    b = mu * b + d
    return b, v, b, m


def _keras_adagrad(g: Any, s: Any, *, eps: Any) -> Any:
    s = s + g * g
    return g / sqrt(s + eps), s


def _optax_adagrad(g: Any, s: Any, *, eps: Any) -> Any:
    s = s + g * g
    return where(s > 0, g / sqrt(s + eps), 0.0), s


def _keras_adam(g: Any, m: Any, v: Any, w: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    w = None if w is None else maximum(w, v)
    correction = (1 - beta2**t) ** 0.5 / (1 - beta1**t)
    return correction * m / (sqrt(v if w is None else w) + eps), m, v, w


def _optax_adam(g: Any, m: Any, v: Any, w: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    v_hat = v / (1 - beta2**t)
    w = None if w is None else maximum(w, v_hat)
    return m / (1 - beta1**t) / (sqrt(v_hat if w is None else w) + eps), m, v, w


def _keras_adamax(g: Any, m: Any, u: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    u = maximum(beta2 * u, abs(g))
    return m / (1 - beta1**t) / (u + eps), m, u


def _optax_nadam(g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    ahead = beta1 / (1 - beta1 ** (t + 1)) * m + (1 - beta1) / (1 - beta1**t) * g
    return ahead / (sqrt(v / (1 - beta2**t)) + eps), m, v


def _keras_lamb(p: Any, g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)
    size, length = norm(p), norm(u)
    return where((size > 0) & (length > 0), size / length, 1) * u, m, v


def _optax_lars(p: Any, g: Any, b: Any, *, lr: Any, mu: Any, weight_decay: Any, eta: Any, nesterov: bool) -> Any:
    u = g + weight_decay * p
    size, length = norm(p), norm(u)
    u = lr * where((size > 0) & (length > 0), eta * size / length, 1) * u
    if b is None:
        return u, None
    b = mu * b + u
    return (u + mu * b if nesterov else b), b


def _optax_radam(g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    long = rho >= 5
    rho, rho_inf = where(long, rho, 6.0), where(long, rho_inf, 6.0)  # any values for which r is defined
    r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return where(long, r * m_hat / (sqrt(v / (1 - beta2**t)) + eps), m_hat), m, v


def _optax_adabelief(g: Any, m: Any, s: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    d = g - m
    s = beta2 * s + (1 - beta2) * d * d + 1e-16
    return m / (1 - beta1**t) / (sqrt(s / (1 - beta2**t)) + eps), m, s


def _optax_adan(g: Any, m: Any, v: Any, n: Any, q: Any, *, t: Any, beta1: Any, beta2: Any, beta3: Any, eps: Any) -> Any:
    d = where(t == 1, 0, g + q)  # q is the last gradient, negated
    u = g + (1 - beta2) * d
    m = beta1 * m + (1 - beta1) * g
    n = beta2 * n + (1 - beta2) * d
    v = beta3 * v + (1 - beta3) * u * u
    ahead = m / (1 - beta1**t) + (1 - beta2) * n / (1 - beta2**t)
    return ahead / (sqrt(v / (1 - beta3**t) + 1e-8) + eps), m, v, n, -g


def _optax_rprop(g: Any, q: Any, s: Any, *, eta_minus: Any, eta_plus: Any, s_min: Any, s_max: Any) -> Any:
    turn = g * q  # q is the step to take: optax takes each one step later
    changed = minimum(maximum(where(turn > 0, s * eta_plus, s * eta_minus), s_min), s_max)
    s = where(turn == 0, s, changed)
    return where(turn < 0, 0.0, q), where(turn < 0, 0.0, s * sign(g)), s


_KERAS = {"learning_rate": "lr", "epsilon": "eps"}
_KERAS_BETAS = {**_KERAS, "beta_1": "betas[0]", "beta_2": "betas[1]"}
_OPTAX = {"learning_rate": "lr"}
_OPTAX_BETAS = {**_OPTAX, "b1": "betas[0]", "b2": "betas[1]"}

CONVENTIONS: dict[str, dict[str, Convention]] = {
    "SGD": {
        "keras": Convention({"lr": 0.01}, _KERAS, _keras_sgd, has_rate=True, decoupled=True, absent=("dampening",)),
        "optax": Convention({"lr": None}, _OPTAX, absent=("dampening", "weight_decay")),
    },
    "RMSprop": {
        "keras": Convention(
            {"lr": 0.001, "alpha": 0.9, "eps": 1e-7}, {**_KERAS, "rho": "alpha"}, _rms, has_rate=True, decoupled=True
        ),
        "optax": Convention(
            {"lr": None, "alpha": 0.9, "eps": 1e-8},
            {**_OPTAX, "decay": "alpha"},
            _rms,
            has_rate=True,
            absent=("weight_decay",),
        ),
    },
    "Adagrad": {
        "keras": Convention(
            {"lr": 0.001, "initial_accumulator_value": 0.1, "eps": 1e-7},
            _KERAS,
            _keras_adagrad,
            decoupled=True,
            absent=("lr_decay",),
        ),
        "optax": Convention(
            {"lr": None, "initial_accumulator_value": 0.1, "eps": 1e-7},
            _OPTAX,
            _optax_adagrad,
            absent=("lr_decay", "weight_decay"),
        ),
    },
    "Adadelta": {
        "keras": Convention({"lr": 0.001, "rho": 0.95, "eps": 1e-7}, _KERAS, decoupled=True),
        "optax": Convention({"lr": None}, _OPTAX),
    },
    "Adam": {
        "keras": Convention(
            {"eps": 1e-7}, _KERAS_BETAS, _keras_adam, decoupled=True, absent=("decoupled_weight_decay",)
        ),
        "optax": Convention({"lr": None}, _OPTAX_BETAS, _optax_adam, absent=("weight_decay", "decoupled_weight_decay")),
    },
    "AdamW": {
        "keras": Convention({"eps": 1e-7, "weight_decay": 0.004}, _KERAS_BETAS, _keras_adam, decoupled=True),
        "optax": Convention({"lr": None, "weight_decay": 1e-4}, _OPTAX_BETAS, decoupled=True, absent=("amsgrad",)),
    },
    "Adamax": {
        "keras": Convention({"lr": 0.001, "eps": 1e-7}, _KERAS_BETAS, _keras_adamax, decoupled=True),
        "optax": Convention({"lr": None}, _OPTAX_BETAS, absent=("weight_decay",)),
    },
    "NAdam": {
        # The momentum of Keras rises as PyTorch's does with momentum_decay=1.
        "keras": Convention(
            {"lr": 0.001, "eps": 1e-7, "momentum_decay": 1.0},
            _KERAS_BETAS,
            decoupled=True,
            absent=("decoupled_weight_decay",),
        ),
        "optax": Convention(
            {"lr": None},
            _OPTAX_BETAS,
            _optax_nadam,
            absent=("weight_decay", "decoupled_weight_decay", "momentum_decay"),
        ),
    },
    "LAMB": {
        "keras": Convention({"eps": 1e-7}, _KERAS_BETAS, _keras_lamb, decoupled=True, absent=("bias_correction",)),
        "optax": Convention({"lr": None}, _OPTAX_BETAS, absent=("bias_correction",)),
    },
    "LARS": {"optax": Convention({"lr": None}, _OPTAX, _optax_lars, has_rate=True, absent=("adapt",))},
    "RAdam": {
        "optax": Convention({"lr": None}, _OPTAX_BETAS, _optax_radam, absent=("weight_decay", "decoupled_weight_decay"))
    },
    "AdaBelief": {"optax": Convention({"lr": None}, _OPTAX_BETAS, _optax_adabelief, absent=("weight_decay",))},
    "Adan": {"optax": Convention({"lr": None}, {**_OPTAX_BETAS, "b3": "betas[2]"}, _optax_adan)},
    "Rprop": {
        "optax": Convention(
            {"lr": None},
            {
                **_OPTAX,
                "eta_minus": "etas[0]",
                "eta_plus": "etas[1]",
                "min_step_size": "step_sizes[0]",
                "max_step_size": "step_sizes[1]",
            },
            _optax_rprop,
        )
    },
    "Lion": {
        "keras": Convention({"lr": 0.001}, _KERAS_BETAS),
        "optax": Convention({"lr": None, "weight_decay": 1e-3}, _OPTAX_BETAS),
    },
}
"""The conventions of each optimizer, by the name of its class."""


def origin(cls: Any) -> str:
    """Return the library that defines an optimizer without a convention: PyTorch, or Piste where PyTorch lacks it."""
    return "PyTorch" if hasattr(torch.optim, cls.__name__) else "Piste"


def translate(cls: Any, convention: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call in PyTorch's names, completed with the framework's defaults.

    Args:
        cls: The optimizer.
        convention: The framework, "keras" or "optax".
        given: The arguments by name, in the framework's names or PyTorch's.

    Raises:
        InvalidType: An argument is given twice, or one without a default is missing.
    """
    rules = cls.conventions[convention]
    values: dict[str, Any] = dict(rules.defaults)
    for name, value in given.items():
        ours, _, place = rules.names.get(name, name).partition("[")
        if ours != name and ours in given:
            raise InvalidType(f"{cls.__name__} received `{ours}` twice, as `{name}` too. Drop one.")
        if place:
            numbers = list(values.get(ours, cls.options[ours].default))
            numbers[int(place[0])] = value
            value = tuple(numbers)
        values[ours] = value
    missing = [name for name, value in values.items() if value is None and name in rules.defaults]
    if missing:
        raise InvalidType(
            f'{cls.__name__} needs `{missing[0]}` with convention="{convention}", which has no default for it. '
            f"Help: {origin(cls)}'s is {missing[0]}={cls.options[missing[0]].default!r}."
        )
    return values


def check_convention(cls: Any, values: Mapping[str, Any]) -> None:
    """Raise unless the optimizer has the convention, and the convention the options.

    Raises:
        InvalidValue: The optimizer or an option does not exist in the framework.
    """
    convention = values.get("convention", "torch")
    if convention == "torch":
        return
    if convention not in cls.conventions:
        known = ", ".join(f'"{name}"' for name in ("torch", *cls.conventions))
        raise InvalidValue(f'`convention` of {cls.__name__} must be one of {known}; received "{convention}".')
    for name in cls.conventions[convention].absent:
        if values.get(name, cls.options[name].default) != cls.options[name].default:
            raise InvalidValue(
                f"`{name}` does not exist in {TITLES[convention]}'s {cls.__name__}; received {name}={values[name]!r} "
                f'with convention="{convention}". Help: leave `{name}` out, or `convention`.'
            )
