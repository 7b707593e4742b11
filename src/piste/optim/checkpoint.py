"""Loading a checkpoint: what doesn't fit is refused before anything changes, and dtypes stay as saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidValue
from . import validation as arguments
from .registry import OPTIMIZERS


def prepared(optimizer: Any, state_dict: Any) -> dict[str, Any]:
    """The checkpoint, checked against the optimizer, and in the optimizer's order where it has names."""
    cls = type(optimizer)
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise InvalidValue(
            f"{cls.__name__}.load_state_dict takes what optimizer.state_dict() returned, a dict with `state` and "
            f"`param_groups`; received {_described(state_dict)}."
        )
    saved, groups = state_dict["param_groups"], optimizer.param_groups
    if len(saved) != len(groups):
        raise InvalidValue(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved)}; this {cls.__name__} has {len(groups)}."
        )
    for i, (theirs, ours) in enumerate(zip(saved, groups, strict=True)):
        if len(theirs["params"]) != len(ours["params"]):
            raise InvalidValue(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {i} has {len(theirs['params'])} parameters there and {len(ours['params'])} here."
            )
        _check_options(cls, theirs, i, state_dict["state"])
    state_dict = {
        **state_dict,
        "param_groups": [_by_name(t, o, i) for i, (t, o) in enumerate(zip(saved, groups, strict=True))],
    }
    for index, p, state in _pairs(optimizer, state_dict):
        _check_state(optimizer, index, p, state)
    return state_dict


def own(optimizer: Any, state_dict: Mapping[str, Any]) -> None:
    """State that is the optimizer's own, in the dtype it was saved in.

    torch casts it to the parameter's dtype, and where there is nothing to cast shares it with the checkpoint, so that
    stepping would change what was saved.
    """
    for _, p, saved in _pairs(optimizer, state_dict):
        state = optimizer.state[p]
        for key, value in saved.items():
            if isinstance(value, Tensor) and (
                state[key].dtype != value.dtype or state[key].data_ptr() == value.data_ptr()
            ):
                state[key] = value.detach().to(state[key].device, copy=True)


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _described(value: Any) -> str:
    return (
        f"a dict with {', '.join(map(repr, list(value)[:4])) or 'no keys'}"
        if isinstance(value, Mapping)
        else type(value).__name__
    )


def _pairs(optimizer: Any, state_dict: Mapping[str, Any]) -> Iterator[tuple[Any, Tensor, Any]]:
    """(index in the checkpoint, the parameter here, its saved state)."""
    theirs = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    ours = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for index, p in zip(theirs, ours, strict=True):
        if index in state_dict["state"]:
            yield index, p, state_dict["state"][index]


def _owner(cls: Any, group: Mapping[str, Any], state: Mapping[Any, Any]) -> str:
    """Whose checkpoint a saved group is, by its options, as part of a sentence; nothing where no optimizer fits."""
    saved = {name for name in group if name in cls.options_of_all}
    owners = [
        name
        for name, rule in OPTIMIZERS.items()
        if set(rule.options) - set(rule.lenient) <= saved <= {*rule.options, *rule.fixed, *rule.lenient}
    ]
    if not owners:
        return ""
    keys = sorted({key for index in group["params"] for key in state.get(index, {}) if key != "step"})
    return f" but of {' or '.join(owners)}" + (f" (its state holds {_listed(keys)})" if keys else "")


def _check_options(cls: Any, group: Mapping[str, Any], index: int, state: Mapping[Any, Any]) -> None:
    missing = [name for name in cls.options if name not in group and name not in cls.lenient]
    ours = {*cls.options, *cls.fixed, *cls.lenient}
    others = [name for name in group if name in cls.options_of_all and name not in ours]
    if missing or others:
        odd = f"has no {_listed(missing)}" if missing else f"has {_listed(others)}"
        raise InvalidValue(
            f"this checkpoint is not one of {cls.__name__}{_owner(cls, group, state)}: its param group {index} {odd}. "
            f"Its options are {_listed(key for key in group if key != 'params')}."
        )
    arguments.check_values(
        cls,
        {k: v for k, v in group.items() if k in cls.options},
        f" In the checkpoint's param group {index}.",
    )


def _by_name(theirs: Mapping[str, Any], ours: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The saved group with its parameters in our order, when both sides know names."""
    if "param_names" not in theirs or "param_names" not in ours:
        return dict(theirs)
    saved, wanted = list(theirs["param_names"]), list(ours["param_names"])
    if saved == wanted:
        return dict(theirs)
    if sorted(saved) != sorted(wanted):
        here, there = sorted(set(wanted) - set(saved)), sorted(set(saved) - set(wanted))
        raise InvalidValue(
            f"the parameters of param group {index} have other names in the checkpoint: only here "
            f"{', '.join(here[:5]) or 'none'}; only there {', '.join(there[:5]) or 'none'}."
        )
    ids = dict(zip(saved, theirs["params"], strict=True))
    return {**theirs, "params": [ids[name] for name in wanted], "param_names": wanted}


def _check_state(optimizer: Any, index: Any, p: Tensor, state: Any) -> None:
    cls = type(optimizer)
    known = cls.state_keys()
    unknown = [key for key in state if key not in known]
    if unknown:
        raise InvalidValue(
            f"this checkpoint is not one of {cls.__name__}: parameter {index} has {_listed(state)}, "
            f"where {cls.__name__} keeps {_listed(known) or 'nothing'}."
        )
    always = [key for key, buffer in cls.buffers.items() if buffer.when is None]
    missing = [key for key in always if state and state.get(key) is None]
    if missing:
        raise InvalidValue(
            f"this checkpoint is not one of {cls.__name__}, or not whole: parameter {index} has no {_listed(missing)}."
        )
    for key in cls.buffers:
        value = state.get(key)
        if isinstance(value, Tensor) and value.shape != p.shape:
            raise InvalidValue(
                f"`{key}` of parameter {index} has shape {tuple(value.shape)} in the checkpoint; the parameter has "
                f"{tuple(p.shape)}. The parameters are other ones, or in another order: with names "
                "(model.named_parameters()) Piste matches them by name."
            )


def counter(value: Any) -> Tensor:
    """A saved counter as the tensor that a step counts in; old checkpoints have numbers."""
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.get_default_dtype())
