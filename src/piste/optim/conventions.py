"""Conventions: the defaults, formulas and argument names that other libraries have for the same optimizers.

A formula here takes the place of the rule's `update`, with the same buffers. Where it is `None`, the rule holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue
from ..formula.reductions import mean, norm
from ..formula.words import maximum, minimum, sign, sqrt, where
from ..options import as_float

__all__ = ["CONVENTIONS", "TITLES", "Convention", "check_convention", "origin", "translate"]

TITLES = {
    "keras": "Keras",
    "optax": "optax",
    "timm": "timm",
    "transformers": "transformers",
    "pytorch_optimizer": "pytorch_optimizer",
}
"""The names of the libraries in messages, by the values of `convention`."""


@dataclass(frozen=True)
class Convention:
    """An optimizer as another library has it.

    Args:
        defaults: The defaults that differ from PyTorch's, by PyTorch's names. None marks an argument without a default.
        names: The argument names, as {foreign name: PyTorch's name}; "betas[0]" is the first of several numbers, and
            "-beta2_decay" has the other sign.
        update: The formula, if it differs from the rule.
        has_rate: Whether the step of the formula contains the learning rate.
        decoupled: Whether the weight decay is decoupled, as in AdamW.
        absent: The options of PyTorch that the library lacks.
        none: What None stands for, by PyTorch's names.
        fixed: Arguments of the library that are accepted with one value only, and that value.
    """

    defaults: Mapping[str, Any]
    names: Mapping[str, str]
    update: Callable[..., Any] | None = None
    has_rate: bool = False
    decoupled: bool = False
    absent: tuple[str, ...] = ()
    none: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the library's arguments, where they are not PyTorch's."""
        return (*self.names, *self.fixed)


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


def _added_epsilon(g: Any, r: Any, c: Any, v: Any, share: Any, eps1: Any, d: Any) -> Any:
    """Return the update of Adafactor without its rate, where epsilon is added to the squares, and the new averages."""
    q = g * g + eps1
    if v is None:
        r = r + share * (mean(q, over="row") - r)
        c = c + share * (mean(q, over="column") - c)
        s = r / mean(r, over="column") * c
    else:
        s = v = v + share * (q - v)
    u = g / sqrt(s)
    return u / maximum(sqrt(mean(u * u)) / d, 1), r, c, v


def _size(p: Any, eps2: Any) -> Any:
    return maximum(sqrt(mean(p * p)), eps2)


def _keras_adafactor(
    p: Any, g: Any, r: Any, c: Any, v: Any, m: Any, *, share: Any, rho: Any, eps1: Any, eps2: Any, d: Any
) -> Any:
    u, r, c, v = _added_epsilon(g, r, c, v, share, eps1, d)
    return rho * _size(p, eps2) * u, r, c, v, m


def _optax_adafactor(
    p: Any, g: Any, r: Any, c: Any, v: Any, m: Any, *, lr: Any, share: Any, eps1: Any, eps2: Any, d: Any, beta1: Any,
    weight_decay: Any, scale_parameter: bool,
) -> Any:  # fmt: skip
    u, r, c, v = _added_epsilon(g, r, c, v, share, eps1, d)
    u = lr * u
    u = _size(p, eps2) * u if scale_parameter else u
    m = None if m is None else beta1 * m + (1 - beta1) * u
    return (u if m is None else m) + weight_decay * p, r, c, v, m


def _transformers_adafactor(
    p: Any, g: Any, r: Any, c: Any, v: Any, m: Any, *, t: Any, lr: Any, share: Any, eps1: Any, eps2: Any, d: Any,
    beta1: Any, weight_decay: Any, scale_parameter: bool, relative_step: bool, warmup_init: bool,
) -> Any:  # fmt: skip
    u, r, c, v = _added_epsilon(g, r, c, v, share, eps1, d)
    rate = minimum(1e-6 * t if warmup_init else 1e-2, 1 / sqrt(t)) if relative_step else lr
    rate = rate * _size(p, eps2) if scale_parameter else rate
    m = None if m is None else beta1 * m + (1 - beta1) * rate * u
    return (rate * u if m is None else m) + rate * weight_decay * p, r, c, v, m


def _keras_lamb(p: Any, g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)
    size, length = norm(p), norm(u)
    return where((size > 0) & (length > 0), size / length, 1) * u, m, v


def _pytorch_optimizer_lamb(p: Any, g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = m / (sqrt(v) + eps)
    size, length = minimum(norm(p), 10), norm(u)
    return where((size > 0) & (length > 0), size / (length + eps), 1) * u / (1 - beta1**t), m, v


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
_LAMB_FLAGS = ("bias_correction", "trust_clip", "always_adapt")

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
        "keras": Convention({"eps": 1e-7}, _KERAS_BETAS, _keras_lamb, decoupled=True, absent=_LAMB_FLAGS),
        "optax": Convention({"lr": None}, _OPTAX_BETAS, absent=_LAMB_FLAGS),
        "timm": Convention(
            {"weight_decay": 0.01, "max_norm": 1.0, "always_adapt": False},
            {"max_grad_norm": "max_norm"},
            fixed={"grad_averaging": True, "caution": False, "corrected_weight_decay": False},
        ),
        "pytorch_optimizer": Convention(
            {},
            {},
            _pytorch_optimizer_lamb,
            decoupled=True,
            absent=_LAMB_FLAGS,
            fixed={
                "weight_decouple": True,
                "fixed_decay": False,
                "rectify": False,
                "grad_averaging": True,
                "adam": False,
                "pre_norm": False,
                "adam_debias": False,
            },
        ),
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
    "Adafactor": {
        "keras": Convention(
            {"lr": 0.001, "eps": (1e-30, 1e-3)},
            {
                **_KERAS,
                "beta_2_decay": "beta2_decay",
                "epsilon_1": "eps[0]",
                "epsilon_2": "eps[1]",
                "clip_threshold": "d",
            },
            _keras_adafactor,
            has_rate=True,
            decoupled=True,
            absent=("beta1", "beta2_cap", "scale_parameter", "relative_step", "warmup_init", "min_dim_size_to_factor"),
            none={"weight_decay": 0.0},
            fixed={"relative_step": True},
        ),
        "optax": Convention(
            {"lr": None, "eps": (1e-30, 1e-3), "relative_step": False, "min_dim_size_to_factor": 128},
            {
                **_OPTAX,
                "decay_rate": "-beta2_decay",
                "eps": "eps[0]",
                "clipping_threshold": "d",
                "momentum": "beta1",
                "multiply_by_parameter_scale": "scale_parameter",
                "weight_decay_rate": "weight_decay",
            },
            _optax_adafactor,
            has_rate=True,
            absent=("relative_step", "warmup_init"),
            none={"beta1": 0.0, "weight_decay": 0.0},
            fixed={"factored": True, "decay_offset": 0, "weight_decay_mask": None},
        ),
        "transformers": Convention(
            {"eps": (1e-30, 1e-3)},
            {"clip_threshold": "d", "decay_rate": "beta2_decay"},
            _transformers_adafactor,
            has_rate=True,
            none={"lr": 1e-2, "beta1": 0.0},
        ),
    },
}
"""The conventions of each optimizer, by the name of its class."""


def origin(cls: Any) -> str:
    """Return the library that defines an optimizer without a convention: PyTorch, or Piste where PyTorch lacks it."""
    return "PyTorch" if hasattr(torch.optim, cls.__name__) else "Piste"


def translate(cls: Any, convention: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call in PyTorch's names, completed with the library's defaults.

    Args:
        cls: The optimizer.
        convention: The library, such as "keras".
        given: The arguments by name, in the library's names or PyTorch's.

    Raises:
        InvalidType: An argument is given twice, or one without a default is missing.
        InvalidValue: An argument has another value than the only one that is accepted.
    """
    rules = cls.conventions[convention]
    values: dict[str, Any] = dict(rules.defaults)
    for name, value in given.items():
        if name in rules.fixed:
            _check_fixed(cls, convention, name, value)
            continue
        ours, _, place = rules.names.get(name, name).partition("[")
        if ours.startswith("-"):
            ours, value = ours[1:], _negative(name, value)
        value = rules.none[ours] if value is None and ours in rules.none else value
        if ours != name and ours in given:
            raise InvalidType(f"{cls.__name__} received `{ours}` twice, as `{name}` too. Drop one.")
        if place:
            numbers = list(values.get(ours, cls.options[ours].default))
            numbers[int(place[0])] = value
            value = tuple(numbers)
        values[ours] = value
    missing = [name for name, default in rules.defaults.items() if default is None and values[name] is None]
    if missing:
        raise InvalidType(
            f'{cls.__name__} needs `{missing[0]}` with convention="{convention}", which has no default for it. '
            f"Help: {origin(cls)}'s is {missing[0]}={cls.options[missing[0]].default!r}."
        )
    return values


def _check_fixed(cls: Any, convention: str, name: str, value: Any) -> None:
    only = cls.conventions[convention].fixed[name]
    if value != only:
        raise InvalidValue(
            f'`{name}` of {cls.__name__} must be {only!r} with convention="{convention}"; received {name}={value!r}. '
            f"Help: {TITLES[convention]}'s other formula has no equal here."
        )


def _negative(name: str, value: Any) -> float:
    return -as_float(name, value, "a number")


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
    rules = cls.conventions[convention]
    for name in rules.absent:
        default = rules.defaults.get(name, cls.options[name].default)
        if values.get(name, default) != default:
            raise InvalidValue(
                f"`{name}` does not exist in {TITLES[convention]}'s {cls.__name__}; received {name}={values[name]!r} "
                f'with convention="{convention}". Help: leave `{name}` out, or `convention`.'
            )
