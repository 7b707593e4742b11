"""Validation of the options of optimizers: constructors, and changes between steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue
from ..options import as_float
from .convention import as_torch, check_convention
from .declaration import all_options, defaults
from .option_names import help_with_name, misuse, offer_convention, refused_values
from .options import SHARED
from .shared_formulas import RATED


def bind(cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], has_params: bool = True) -> dict[str, Any]:
    """Return the arguments of a constructor by name, validated and completed with the defaults.

    Args:
        cls: The optimizer.
        args: The positional arguments after `params`.
        kwargs: The keyword arguments.
        has_params: Whether the call has `params`.

    Raises:
        InvalidType: A name is unknown or given twice, or a value is of the wrong type.
        InvalidValue: A value is out of its range.
    """
    convention = kwargs.get("convention", "torch")
    SHARED["convention"].check("convention", convention)
    check_convention(cls, {"convention": convention})
    known = {*all_options(cls), *(cls.conventions[convention].arguments if convention != "torch" else ())}
    unknown = [name for name in kwargs if name not in known]
    known_values = {**dict(zip(cls.options, args, strict=False)), **kwargs}
    if not has_params or len(unknown) + len(refused_values(cls, known_values)) > 1:
        raise misuse(cls, args, kwargs, unknown, has_params)
    names = list(cls.options)
    if len(args) > len(names):
        raise InvalidType(
            f"{cls.__name__} takes at most {len(names)} argument{'s' * (len(names) != 1)} after `params` by position "
            f"({', '.join(names)}); received {len(args)}. Give the others by name."
        )
    given = dict(zip(names, args, strict=False))
    offer = offer_convention(cls, args, kwargs)
    for name, value in kwargs.items():
        if name in given:
            raise InvalidType(f"{cls.__name__} received `{name}` twice: by position and by name. Help: drop one.")
        if name not in known:
            raise InvalidType(f"{cls.__name__} has no option `{name}`; {help_with_name(cls, name, convention)}{offer}")
        given[name] = value
    if convention != "torch":
        given = as_torch(cls, convention, given)
    values = defaults(cls) | given
    check_values(cls, values)
    return values


def check_values(cls: Any, values: Mapping[str, Any], where: str = "") -> None:
    """Raise unless every option is in its range and the options are compatible.

    Args:
        cls: The optimizer.
        values: The options by name; missing ones are not checked.
        where: A sentence that ends the message, such as " In param group 1."

    Raises:
        InvalidType: A value is of the wrong type.
        InvalidValue: A value is out of its range, or two options exclude each other.
    """
    try:
        for name, option in all_options(cls).items():
            if name in values:
                option.check(name, values[name])
        check_convention(cls, values)
        cls.validate_options(values)
        _check_refused(cls, values)
        if values.get("foreach") and values.get("fused"):
            raise InvalidValue("`fused` and `foreach` cannot be `True` together. Help: leave both at None.")
        if values.get("capturable") and values.get("nonfinite") == "raise":
            raise InvalidValue(
                'nonfinite="raise" reads the gradients on the host, so no CUDA graph can capture the step; received '
                'capturable=True too. Help: nonfinite="skip" leaves bad steps out on the device.'
            )
        if values.get("differentiable") and values.get("precision", "plain") != "plain":
            raise InvalidValue(
                'differentiable=True records a step of 16-bit parameters as autograd knows it, with precision="plain"; '
                f'received precision="{values["precision"]}". Help: leave one of the two out.'
            )
        if values.get("differentiable") and values.get("state_dtype") == "int8":
            raise InvalidValue(
                'differentiable=True can\'t be combined with state_dtype="int8", whose rounding has no derivative. '
                "Help: leave one of the two out."
            )
        _check_8_bits(cls, values)
        _check_decay(cls, values)
    except (InvalidType, InvalidValue) as error:
        raise type(error)(f"{error}{where}") from None


def _check_8_bits(cls: Any, values: Mapping[str, Any]) -> None:
    """Raise if no state of the optimizer can have 8 bits."""
    buffers = cls.buffers.values()
    by_row = any(buffer.shape == "rows" for buffer in buffers)
    may_have_8_bits = any(buffer.may_have_8_bits for buffer in buffers) and not by_row
    if values.get("state_dtype") != "int8" or not buffers or may_have_8_bits:
        return
    if any(buffer.start == "p" for buffer in buffers):
        kind = "the weights before averaging"
    else:
        kind = (
            "of another shape"
            if all(callable(buffer.shape) for buffer in buffers)
            else "a number for each row and column"
        )
    raise InvalidValue(
        f'`state_dtype` of {cls.__name__} must be None, "float32" or "bfloat16", because its state is {kind}; received '
        '"int8".'
    )


def _check_refused(cls: Any, values: Mapping[str, Any]) -> None:
    """Raise for an option that the optimizer does not have, with the reason."""
    for name, why in {**(_REFUSED_BY_MATRICES if cls.matrix is not None else {}), **cls.refused}.items():
        allowed = SHARED[name].default
        if values.get(name, allowed) not in (allowed, False):
            if name == "capturable":
                raise InvalidValue(
                    f"`capturable` must be False for {cls.__name__}, because {why}; received capturable=True. Help: "
                    "capture the forward and the backward pass alone, and call `step` outside of the CUDA graph."
                )
            raise InvalidValue(
                f"`{name}` must be {allowed!r} for {cls.__name__}, because {why}; received {name}={values[name]!r}."
            )


_REFUSED_BY_MATRICES = {"differentiable": "its matrix stage works in place"}


def _check_decay(cls: Any, values: Mapping[str, Any]) -> None:
    kind = values.get("decoupled_decay")
    if kind is not None and "weight_decay" not in cls.options:
        raise InvalidValue(
            f"`decoupled_decay` must be None for {cls.__name__}, because it has no option `weight_decay`; received "
            f'decoupled_decay="{kind}".'
        )
    if kind not in RATED and values.get("lr_max") is not None:
        raise InvalidValue(
            '`lr_max` is for decoupled_decay="independent" or "lr_squared"; received '
            f"lr_max={values['lr_max']} and decoupled_decay={kind!r}. Help: leave lr_max out."
        )
    lr, weight_decay = (as_float(n, values.get(n, 0.0), "a number") for n in ("lr", "weight_decay"))
    if kind == "independent":
        if weight_decay > 1:
            raise InvalidValue(
                'weight_decay must be in [0, 1] with decoupled_decay="independent", or the decay overshoots 0; '
                f"received weight_decay={weight_decay:g}. Help: usual values are lr times those of AdamW, such as 1e-5."
            )
    elif lr * weight_decay > 1:
        raise InvalidValue(
            f"lr * weight_decay must be in [0, 1], or the decay overshoots 0; received {lr:g} * {weight_decay:g} = "
            f"{lr * weight_decay:g}. Help: usual values of `weight_decay` are in [0, 0.1]."
        )


def check_changed(optimizer: Any, index: int, known: list[Any] | None) -> None:
    """Check the options that changed in a param group since the last step, before any group moves.

    Args:
        optimizer: The optimizer.
        index: The index of the group.
        known: The values of the group at the last step, in order; None checks every option.

    Raises:
        InvalidType, InvalidValue: An option is out of its range, as a schedule may have set it.
    """
    group = optimizer.param_groups[index]
    options = all_options(type(optimizer).rule_of(group))
    unchanged = known if known is not None and len(known) == len(group) else [_UNKNOWN] * len(group)
    for (name, value), old in zip(group.items(), unchanged, strict=True):
        if value is not old and name in options:
            _check_option(optimizer, index, options[name], name, value)


def check_options(optimizer: Any) -> None:
    """Check the options of all param groups, other than tensors.

    Args:
        optimizer: The optimizer.

    Raises:
        InvalidType, InvalidValue: An option is out of its range.
    """
    for index in range(len(optimizer.param_groups)):
        check_changed(optimizer, index, None)


def are_valid(optimizer: Any) -> bool:
    """Return whether `check_options` raises nothing, in a form that torch.compile of each version can trace."""
    try:
        for group in optimizer.param_groups:
            for name, option in all_options(type(optimizer).rule_of(group)).items():
                if name in group and not _holds_tensor(group[name]):
                    option.check(name, group[name])
    except (InvalidType, InvalidValue):
        return False
    return True


def _check_option(optimizer: Any, index: int, option: Any, name: str, value: Any) -> None:
    """Check an option, unless it is a tensor, because reading one on another device would make the step wait."""
    if _holds_tensor(value):
        return
    try:
        option.check(name, value)
    except (InvalidType, InvalidValue) as error:
        raise type(error)(
            f"a schedule, or an assignment, set {name}={value!r} in param group {index} of "
            f"{type(optimizer).__name__}: {error} No parameter has changed in this step."
        ) from None


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(x, torch.Tensor) for x in (value if isinstance(value, (tuple, list)) else (value,)))


_UNKNOWN = object()
