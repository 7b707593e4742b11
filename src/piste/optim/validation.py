"""Validation of the arguments of optimizers: constructors, param groups and changes between steps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean, nearest
from ..options import Option, as_float, document, make_signature
from .options import SHARED

_FOREIGN_NAMES = {
    "learning_rate": ("lr",),
    "eta": ("lr",),
    "epsilon": ("eps",),
    "beta_1": ("betas",),
    "beta_2": ("betas",),
    "beta1": ("betas",),
    "beta2": ("betas",),
    "b1": ("betas",),
    "b2": ("betas",),
    "rho": ("alpha", "rho"),
    "alpha": ("alpha", "rho"),
    "decay": ("alpha", "lr_decay"),
    "lr_decay": ("lr_decay",),
    "wd": ("weight_decay",),
}
"""Maps the names of Keras and optax for an option to the names of PyTorch."""

MISSING: Any = object()
"""The default of `params`: marks a call without it."""

_CLIPPING = {"clipnorm", "clipvalue", "global_clipnorm"}

_SCHEDULER_KEYS = {"initial_lr", "max_lr", "min_lr", "swa_lr", "max_momentum", "base_momentum"}
"""The keys that the schedulers of torch.optim write into a param group."""


def all_options(cls: Any) -> dict[str, Option]:
    """Return the options of a rule, followed by those that every optimizer has."""
    return {**cls.options, **SHARED}


def defaults(cls: Any) -> dict[str, Any]:
    """Return the entries of a param group to which nothing was passed."""
    return {name: option.default for name, option in all_options(cls).items()} | cls.group_constants


def signature(options: Mapping[str, Option]) -> inspect.Signature:
    """Return the signature for `help` and editors: `params`, the options in order, the shared options by keyword."""
    return make_signature(["params"], {n: o for n, o in options.items() if n not in SHARED}, SHARED)


def document_options(cls: Any) -> str:
    """Return the docstring with an Args section, made from the declared options, in front of its example."""
    text = inspect.cleandoc(cls.__doc__ or "")
    if not cls.options or "Args:" in text:
        return text
    params = "    params: parameters, named parameters, or param groups, as in torch.optim."
    body, heading, example = text.partition("\n\nExample:")
    return "\n".join([body, "", "Args:", params, *document(all_options(cls))]) + heading + example


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
    unknown = [name for name in kwargs if name not in all_options(cls)]
    if not has_params or len(unknown) > 1:
        raise _misuse(cls, args, kwargs, unknown, has_params)
    names = list(cls.options)
    if len(args) > len(names):
        raise InvalidType(
            f"{cls.__name__} takes at most {len(names)} arguments after `params` by position "
            f"({', '.join(names)}); received {len(args)}. Give the others by name."
        )
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise InvalidType(f"{cls.__name__} received `{name}` twice: by position and by name. Help: drop one.")
        if name not in all_options(cls):
            raise InvalidType(f"{cls.__name__} has no option `{name}`; {_hint(cls, name)}")
        given[name] = value
    values = defaults(cls) | given
    check_values(cls, values)
    return values


def _misuse(
    cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], unknown: list[str], has_params: bool
) -> InvalidType:
    """Return an error that lists every mistake in a call, and the corrected call."""
    mistakes = [] if has_params else [f"{cls.__name__} needs `params`, the parameters to train, first."]
    mistakes += [f"{cls.__name__} has no option `{name}`; {_hint(cls, name)}" for name in unknown]
    given = ["model.parameters()", *map(repr, args)]
    pair = list(cls.options["betas"].default) if "betas" in cls.options else []
    renamed: dict[str, Any] = {}
    for name, value in kwargs.items():
        words = [word for word in _FOREIGN_NAMES.get(name, ()) if word in cls.options]
        if name not in unknown:
            renamed[name] = value
        elif words == ["betas"]:
            pair[name.endswith("2")] = value
            renamed["betas"] = tuple(pair)
        elif words and name not in {"decay", "lr_decay"}:
            renamed[words[0]] = value
    given += [f"{name}={value!r}" for name, value in renamed.items()]
    return InvalidType(f"{' '.join(mistakes)} Write {cls.__name__}({', '.join(given)}).")


def _hint(cls: Any, name: str) -> str:
    """Return the help for an unknown option, as the second half of a sentence."""
    words = [word for word in _FOREIGN_NAMES.get(name, ()) if word in cls.options]
    if words == ["betas"]:
        return "PyTorch takes both as one pair: betas=(beta_1, beta_2)."
    if name in {"decay", "lr_decay"} and "lr_decay" not in words:
        schedule = (
            "in PyTorch the decay of the learning rate (as in Keras) is a schedule: "
            f"torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + {name} * t))."
        )
        average = " The decay rate of the average of squares (as in optax) is `alpha`." if words else ""
        return f"{schedule}{average} `weight_decay` decays the weights towards 0."
    if name == "epsilon" and cls.__name__ in {"RMSprop", "Adagrad"}:
        return "PyTorch calls it `eps`, and adds it after the square root; Keras adds it under the root."
    if words:
        return f"PyTorch calls it `{words[0]}`."
    if name in _CLIPPING:
        return "`max_norm` clips to the norm of all gradients, `max_value` by value."
    if name == "momentum" and "betas" in cls.options:
        return "its momentum is `betas[0]`."
    if name == "nesterov" and "betas" in cls.options:
        return "NAdam is Adam with Nesterov momentum."
    return did_you_mean(name, all_options(cls)).replace("Did", "did").replace("Known", "known")


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
        cls.validate_options(values)
        if values.get("foreach") and values.get("fused"):
            raise InvalidValue("`fused` and `foreach` cannot be `True` together. Help: leave both at None.")
        if values.get("capturable") and values.get("nonfinite", "ignore") != "ignore":
            raise InvalidValue(
                f'nonfinite="{values["nonfinite"]}" reads the norm of the gradients on the host, so no CUDA graph can '
                "capture the step; received capturable=True too. Help: capturable=False, or torch.amp.GradScaler."
            )
        _check_decay(values)
    except (InvalidType, InvalidValue) as error:
        raise type(error)(f"{error}{where}") from None


def _check_decay(values: Mapping[str, Any]) -> None:
    lr, weight_decay = (as_float(n, values.get(n, 0.0), "a number") for n in ("lr", "weight_decay"))
    if lr * weight_decay > 1:
        raise InvalidValue(
            f"lr * weight_decay must be in [0, 1], or the decay overshoots 0; received {lr:g} * {weight_decay:g} = "
            f"{lr * weight_decay:g}. Help: usual values of `weight_decay` are in [0, 0.1]."
        )


def list_params(cls: Any, params: Any) -> list[Any]:
    """Return the parameters or param groups of a call as a list.

    Raises:
        InvalidType: `params` is a module, a tensor, a dict, a set, or not iterable.
        InvalidValue: `params` is empty.
    """
    name = cls.__name__
    if isinstance(params, torch.nn.Module):
        raise InvalidType(
            f"{name} takes parameters, not a module; received {type(params).__name__}. "
            f"Write {name}(model.parameters(), ...)."
        )
    if isinstance(params, torch.Tensor):
        raise InvalidType(
            f"params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
            f"{torch.typename(params)}. Write {name}([tensor], ...)."
        )
    if isinstance(params, Mapping):
        if "params" in params:
            raise InvalidType(f"{name} takes a list of param groups; received one group. Write {name}([group], ...).")
        raise InvalidType(
            f"{name} takes parameters or param groups; received a dict of {len(params)} entries. "
            f"Write {name}(parameters.values(), ...), or .items() to keep the names."
        )
    if isinstance(params, (set, frozenset)):
        raise InvalidType(
            f"{name} takes parameters in a fixed order, because checkpoints number them; received a set. Pass a list."
        )
    try:
        listed = list(params)
    except TypeError:
        raise InvalidType(
            f"{name} takes an iterable of parameters or of param groups; received {type(params).__name__}."
        ) from None
    if not listed:
        raise InvalidValue(
            f"optimizer got an empty parameter list: {name} needs at least one parameter. "
            "A generator such as model.parameters() is empty after it has been read, and a model has no parameters "
            "before its layers are assigned in __init__."
        )
    return listed


def check_group(optimizer: Any, group: Any) -> None:
    """Raise unless a param group can be added; its parameters become a list.

    Args:
        optimizer: The optimizer.
        group: The param group, which is changed in place.

    Raises:
        InvalidType: The group is not a dict, or a value or parameter is of the wrong type.
        InvalidValue: A name is misspelled, a value is out of its range, or a parameter is in a group already.
    """
    cls, index = type(optimizer), len(optimizer.param_groups)
    if not isinstance(group, dict):
        raise InvalidType(f"param_group must be a dict, but got {type(group)}; received {group!r:.60}.")
    if "params" not in group:
        raise InvalidValue(
            f"param group {index} has no `params`; its keys are {', '.join(map(repr, group)) or 'none'}."
        )
    known = all_options(cls)
    for key in group:
        if key in known or key in cls.group_constants or key in _SCHEDULER_KEYS or key in {"params", "param_names"}:
            continue
        if key in _FOREIGN_NAMES or any(nearest(key, [name], cutoff=0.8) for name in known):
            raise InvalidValue(f"Unknown option `{key}` in param group {index}; {_hint(cls, key)}")
    grouped = len(group) > 1 + ("param_names" in group) or index > 0
    check_values(
        cls,
        optimizer.defaults | {k: v for k, v in group.items() if k in known},
        f" In param group {index}." * grouped,
    )
    if isinstance(group["params"], torch.Tensor):
        group["params"] = [group["params"]]
    group["params"] = list_params(cls, group["params"])
    _check_tensors(optimizer, group["params"], index)


def _check_tensors(optimizer: Any, params: list[Any], group: int) -> None:
    taken = {id(p): g for g, other in enumerate(optimizer.param_groups) for p in other["params"]}
    seen: dict[int, int] = {}
    for i, entry in enumerate(params):
        p = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if not isinstance(p, torch.Tensor):
            raise InvalidType(
                "optimizer can only optimize Tensors, but one of the params is "
                f"{torch.typename(p)}: parameter {i} of param group {group} is {p!r:.60}."
            )
        if not (p.is_floating_point() or p.is_complex()):
            raise InvalidType(
                f"optimizer can only optimize floating-point or complex tensors; received parameter {i} of param "
                f"group {group} with dtype {p.dtype}."
            )
        if not optimizer.defaults["differentiable"] and not (p.is_leaf or p.retains_grad):
            raise InvalidValue(
                f"can't optimize a non-leaf Tensor: parameter {i} of param group {group} was computed from other "
                "tensors. Optimize those, or turn it into a leaf: p = p.detach().requires_grad_()."
            )
        if id(p) in seen:
            raise InvalidValue(
                f"parameter {i} of param group {group} is the same tensor as parameter {seen[id(p)]}, and would be "
                "stepped twice. List each parameter once."
            )
        if id(p) in taken:
            raise InvalidValue(
                f"some parameters appear in more than one parameter group: parameter {i} of param group {group} is "
                f"already in param group {taken[id(p)]}. List each parameter once."
            )
        seen[id(p)] = i


def check_changed(optimizer: Any, index: int, known: list[Any] | None) -> None:
    """Check the options that changed in a param group since the last step, before any group moves.

    Args:
        optimizer: The optimizer.
        index: The index of the group.
        known: The values of the group at the last step, in order; None checks every option.

    Raises:
        InvalidType, InvalidValue: An option is out of its range, as a schedule may have set it.
    """
    group, options = optimizer.param_groups[index], all_options(type(optimizer))
    unchanged = known if known is not None and len(known) == len(group) else [_UNKNOWN] * len(group)
    for (name, value), old in zip(group.items(), unchanged, strict=True):
        option = options.get(name)
        if option is None or value is old or isinstance(value, torch.Tensor):
            continue  # reading a tensor on another device would make the step wait
        try:
            option.check(name, value)
        except (InvalidType, InvalidValue) as error:
            raise type(error)(
                f"a schedule, or an assignment, set {name}={value!r} in param group {index} of "
                f"{type(optimizer).__name__}: {error} No parameter has changed in this step."
            ) from None


_UNKNOWN = object()
