"""What a convention is: the arguments of a call in another library's names, and its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue
from ..options import as_float

__all__ = ["TITLES", "Convention", "as_torch", "check_convention", "origin"]

TITLES = {
    "keras": "Keras",
    "optax": "optax",
    "timm": "timm",
    "transformers": "transformers",
    "pytorch_optimizer": "pytorch_optimizer",
}
"""The names of the libraries in messages, by the values of `convention`."""


_AVERAGE = "torch.optim.swa_utils.AveragedModel averages the weights"
_DTYPE = '`state_dtype` sets the dtype of the state, state_dtype="bfloat16"'
_HELP = {
    "clipnorm": "torch.nn.utils.clip_grad_norm_([p], c) of each parameter; `max_norm` clips the norm of all",
    **dict.fromkeys(("use_ema", "ema_momentum", "ema_overwrite_frequency"), _AVERAGE),
    "loss_scale_factor": "torch.amp.GradScaler scales the loss",
    "gradient_accumulation_steps": "gradients add up until zero_grad(): step once for all backward passes",
    **dict.fromkeys(("accumulator_dtype", "dtype_momentum", "mu_dtype"), _DTYPE),
    "weight_decay_mask": "param groups have a weight_decay each, as optim.param_groups(model) makes them",
}
"""What does the same for an argument that is accepted with one value only."""


@dataclass(frozen=True)
class Convention:
    """An optimizer as another library has it.

    Args:
        defaults: The defaults that differ from PyTorch's, by PyTorch's names. None marks an argument without a default.
        names: The argument names, as {foreign name: PyTorch's name}; "betas[0]" is the first of several numbers, and
            "-beta2_decay" has the other sign.
        update: The formula, if it differs from the rule.
        has_rate: Whether the step of the formula contains the learning rate, where that of the rule doesn't.
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

    def names_of(self, option: str) -> list[str]:
        """Return the library's names of an option: one for each of its numbers, or the option's own name."""
        names = [name for name, ours in self.names.items() if ours.partition("[")[0].lstrip("-") == option]
        return names or [option] * (option not in self.absent)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the library's arguments, where they are not PyTorch's."""
        return (*self.names, *self.fixed)


def origin(cls: Any) -> str:
    """Return the library that defines an optimizer without a convention: PyTorch, or Piste where PyTorch lacks it."""
    return "PyTorch" if hasattr(torch.optim, cls.__name__) else "Piste"


def as_torch(cls: Any, convention: str, given: Mapping[str, Any]) -> dict[str, Any]:
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
        help = _HELP.get(name, f"{TITLES[convention]}'s other formula has no equal here")
        raise InvalidValue(
            f'`{name}` of {cls.__name__} must be {only!r} with convention="{convention}"; received {name}={value!r}. '
            f"Help: {help}."
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
