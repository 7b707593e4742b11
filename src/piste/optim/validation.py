"""One validator for an optimizer's arguments, in the constructor and in every param group."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean, nearest
from ..options import Option, as_float, document, make_signature
from .options import SHARED

_ELSEWHERE = {
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
"""What Keras and optax call an option, and the words that torch has for it."""

MISSING: Any = object()
"""Stands for `params` in a call without them."""

_CLIPPING = {"clipnorm", "clipvalue", "global_clipnorm"}

_TAGS = {"initial_lr", "max_lr", "min_lr", "swa_lr", "max_momentum", "base_momentum"}
"""What torch's schedulers write into a param group."""


def all_options(cls: Any) -> dict[str, Option]:
    return {**cls.options, **SHARED}


def defaults(cls: Any) -> dict[str, Any]:
    return {name: option.default for name, option in all_options(cls).items()} | cls.fixed


def signature(options: Mapping[str, Option]) -> inspect.Signature:
    """(params, *options in order, then the shared ones by keyword): the signature for help() and editors."""
    return make_signature(["params"], {n: o for n, o in options.items() if n not in SHARED}, SHARED)


def documented(cls: Any) -> str:
    """The docstring, with the arguments as they are declared."""
    text = inspect.cleandoc(cls.__doc__ or "")
    if not cls.options or "Args:" in text:
        return text
    params = "    params: parameters, named parameters, or param groups, as in torch.optim."
    return "\n".join([text, "", "Args:", params, *document(all_options(cls))])


def bind(cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], has_params: bool = True) -> dict[str, Any]:
    """The constructor's arguments by name, checked, with every default filled in."""
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
            raise InvalidType(f"{cls.__name__} received `{name}` twice: by position and by name.")
        if name not in all_options(cls):
            raise InvalidType(f"{cls.__name__} has no option `{name}`; {_hint(cls, name)}")
        given[name] = value
    values = defaults(cls) | given
    check_values(cls, values)
    return values


def _misuse(
    cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], unknown: list[str], has_params: bool
) -> InvalidType:
    """Everything that is wrong with the arguments of a call, and the call with all of it corrected."""
    faults = [] if has_params else [f"{cls.__name__} needs `params`, the parameters to train, first."]
    faults += [f"{cls.__name__} has no option `{name}`; {_hint(cls, name)}" for name in unknown]
    given = ["model.parameters()", *map(repr, args)]
    pair = list(cls.options["betas"].default) if "betas" in cls.options else []
    renamed: dict[str, Any] = {}
    for name, value in kwargs.items():
        words = [word for word in _ELSEWHERE.get(name, ()) if word in cls.options]
        if name not in unknown:
            renamed[name] = value
        elif words == ["betas"]:
            pair[name.endswith("2")] = value
            renamed["betas"] = tuple(pair)
        elif words and name not in {"decay", "lr_decay"}:
            renamed[words[0]] = value
    given += [f"{name}={value!r}" for name, value in renamed.items()]
    return InvalidType(f"{' '.join(faults)} Write {cls.__name__}({', '.join(given)}).")


def _hint(cls: Any, name: str) -> str:
    words = [word for word in _ELSEWHERE.get(name, ()) if word in cls.options]
    if words == ["betas"]:
        return "PyTorch takes both in one pair: betas=(beta_1, beta_2)."
    if name in {"decay", "lr_decay"} and "lr_decay" not in words:
        schedule = (
            "a decay of the learning rate, as Keras means it, is a schedule: "
            f"torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + {name} * t))."
        )
        average = " The coefficient of the average of squares, as optax means it, is `alpha`." if words else ""
        return f"{schedule}{average} `weight_decay` is a pull of the weights towards 0."
    if name == "epsilon" and cls.__name__ in {"RMSprop", "Adagrad"}:
        return "PyTorch's word for it is `eps`; Keras adds it under the root, PyTorch after the root."
    if words:
        return f"PyTorch's word for it is `{words[0]}`."
    if name in _CLIPPING:
        return "clip before the step, with torch.nn.utils.clip_grad_norm_ or clip_grad_value_."
    if name == "momentum" and "betas" in cls.options:
        return "its momentum is the first of `betas`."
    if name == "nesterov" and "betas" in cls.options:
        return "NAdam is Adam with Nesterov's momentum."
    return did_you_mean(name, all_options(cls)).replace("Did", "did").replace("Known", "known")


def check_values(cls: Any, values: Mapping[str, Any], where: str = "") -> None:
    """Every option in its range, and the few that hang together."""
    try:
        for name, option in all_options(cls).items():
            if name in values:
                option.check(name, values[name])
        cls.check_together(values)
        if values.get("foreach") and values.get("fused"):
            raise InvalidValue("`fused` and `foreach` cannot be `True` together; leave both at None and Piste chooses.")
        _check_decay(values)
    except (InvalidType, InvalidValue) as error:
        raise type(error)(f"{error}{where}") from None


def _check_decay(values: Mapping[str, Any]) -> None:
    lr, weight_decay = (as_float(n, values.get(n, 0.0), "a number") for n in ("lr", "weight_decay"))
    if lr * weight_decay > 1:
        raise InvalidValue(
            f"lr * weight_decay must be in [0, 1], or the decay overshoots 0; received {lr:g} * {weight_decay:g} = "
            f"{lr * weight_decay:g}. Usual values of `weight_decay` lie between 0 and 0.1."
        )


def checked_params(cls: Any, params: Any) -> list[Any]:
    """The parameters as a list, or what to write instead."""
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
            f"{name} needs its parameters in an order that stays, for checkpoints; received a set. Give a list."
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
            "A generator such as model.parameters() is empty once it has been read, and a model has no parameters "
            "before its layers are assigned in __init__."
        )
    return listed


def check_group(optimizer: Any, group: Any) -> None:
    """A param group before it is added: its options, their names, and its parameters."""
    cls, index = type(optimizer), len(optimizer.param_groups)
    if not isinstance(group, dict):
        raise InvalidType(f"param_group must be a dict, but got {type(group)}; received {group!r:.60}.")
    if "params" not in group:
        raise InvalidValue(
            f"param group {index} has no `params`; its keys are {', '.join(map(repr, group)) or 'none'}."
        )
    known = all_options(cls)
    for key in group:
        if key in known or key in cls.fixed or key in _TAGS or key in {"params", "param_names"}:
            continue
        if key in _ELSEWHERE or any(nearest(key, [name], cutoff=0.8) for name in known):
            raise InvalidValue(f"Unknown option `{key}` in param group {index}; {_hint(cls, key)}")
    grouped = len(group) > 1 + ("param_names" in group) or index > 0
    check_values(
        cls,
        optimizer.defaults | {k: v for k, v in group.items() if k in known},
        f" In param group {index}." * grouped,
    )
    if isinstance(group["params"], torch.Tensor):
        group["params"] = [group["params"]]
    group["params"] = checked_params(cls, group["params"])
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
                "tensors. Optimize those, or make a leaf of it: p = p.detach().requires_grad_()."
            )
        if id(p) in seen:
            raise InvalidValue(
                f"parameter {i} of param group {group} is the same tensor as parameter {seen[id(p)]}, and would be "
                "stepped twice. List each parameter once."
            )
        if id(p) in taken:
            raise InvalidValue(
                f"some parameters appear in more than one parameter group: parameter {i} of param group {group} is "
                f"in param group {taken[id(p)]} already. List each parameter once."
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
    group, options = optimizer.param_groups[index], type(optimizer).options
    unchanged = known if known is not None and len(known) == len(group) else [_UNKNOWN] * len(group)
    for (name, value), old in zip(group.items(), unchanged, strict=True):
        option = options.get(name)
        if option is None or value is old or isinstance(value, torch.Tensor):
            continue  # the value of a tensor may lie on another device, and the step doesn't wait for it
        try:
            option.check(name, value)
        except (InvalidType, InvalidValue) as error:
            raise type(error)(
                f"a schedule, or an assignment, set {name}={value!r} in param group {index} of "
                f"{type(optimizer).__name__}: {error} Nothing has moved in this step."
            ) from None


_UNKNOWN = object()
