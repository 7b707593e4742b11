"""Checkpoints: mismatches are rejected before the optimizer changes, and saved dtypes are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..engine import SCALE, blocks_of, is_matrix
from ..errors import InvalidValue
from ..version import __version__
from ..wording import plural
from . import validation
from .options import REDUCED, Choice, Flag
from .precision import STATE_KEYS, TENSORS
from .registry import OPTIMIZERS

KEY = "piste"
"""The entry of a checkpoint that describes the optimizer; torch.optim ignores it."""


_OTHER_ORDER = (
    "The checkpoint is of other parameters, or of another order. Help: construct both optimizers from "
    "model.named_parameters(), and parameters are matched by name."
)
_OTHER_SIZE = (
    "Both have this name, so the layer had another size when it was saved. Help: construct the model with the sizes of "
    "the checkpoint; or give the layer another name, and strict=False leaves it out."
)
_OTHER_PREFIX = (
    "Help: wrappers of a model add a prefix, such as `module.`; make the optimizer from the named_parameters() of the "
    "same module."
)


def describe_optimizer(optimizer: Any) -> dict[str, Any]:
    """Return the kind of an optimizer, the version of Piste, and name, shape and dtype of each parameter."""
    parameters = [
        {"name": name, "shape": list(p.shape), "dtype": str(p.dtype).removeprefix("torch.")}
        for group in optimizer.param_groups
        for name, p in zip(group.get("param_names") or [None] * len(group["params"]), group["params"], strict=True)
    ]
    return {"optimizer": type(optimizer).__name__, "version": __version__, "parameters": parameters}


def match_checkpoint(
    optimizer: Any, state_dict: Any, strict: bool = True, hyperparameters: str = "checkpoint"
) -> dict[str, Any]:
    """Return a checkpoint in the parameter order of the optimizer.

    Args:
        optimizer: The optimizer that loads the checkpoint.
        state_dict: The checkpoint, from Piste or torch.optim. It is not changed.
        strict: Whether both must have the same parameters.
        hyperparameters: Whose options the result has: those of the "checkpoint", or "keep" for the optimizer's.

    Returns:
        The checkpoint. Its parameters are reordered by name where both sides have names.

    Raises:
        InvalidType: An option is of the wrong type.
        InvalidValue: The checkpoint is of another optimizer, or has other groups, names or shapes.
    """
    cls = type(optimizer)
    Choice("checkpoint", ("checkpoint", "keep")).check("hyperparameters", hyperparameters)
    Flag(True).check("strict", strict)
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise InvalidValue(
            f"{cls.__name__}.load_state_dict takes the result of optimizer.state_dict(), a dict with `state` and "
            f"`param_groups`; received {_describe(state_dict)}."
        )
    _check_kind(cls, state_dict)
    for i, group in enumerate(state_dict["param_groups"]):
        _check_options(cls, group, i, state_dict["state"])
    described = state_dict
    if not strict:
        state_dict = _pick_by_name(optimizer, state_dict, hyperparameters)
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
                f"group {i} has {plural(len(theirs['params']), 'parameter')} in the checkpoint and "
                f"{len(ours['params'])} in the optimizer.{_different_names(theirs, ours, saved, groups)}"
            )
    lacking = (*REDUCED, *cls.extensions, *cls.group_state)  # maybe
    state_dict = {
        **state_dict,
        "param_groups": [
            {**{name: ours[name] for name in lacking}, **_match_names(i, saved, groups)}
            for i, (theirs, ours) in enumerate(zip(saved, groups, strict=True))
        ],
    }
    if hyperparameters == "keep":
        state_dict["param_groups"] = [
            {**ours, "params": theirs["params"], **{name: theirs[name] for name in cls.group_state}}
            for theirs, ours in zip(state_dict["param_groups"], groups, strict=True)
        ]
    of_index = {index: group for group in state_dict["param_groups"] for index in group["params"]}
    for index, p, state in _pairs(optimizer, state_dict):
        _check_state(cls.rule_of(of_index[index]), index, p, state, of_index[index], _are_named(saved, groups))
    for i, group in enumerate(state_dict["param_groups"]):
        rule = cls.rule_of(group)
        options = {k: v for k, v in group.items() if k in rule.options or k in REDUCED}
        validation.check_values(rule, options, f" In the checkpoint's param group {i}.")
    _check_shapes(optimizer, described)
    return state_dict


def _check_kind(cls: Any, state_dict: Mapping[str, Any]) -> None:
    """Raise if the checkpoint says that it is of another optimizer."""
    kind = state_dict.get(KEY, {}).get("optimizer", cls.__name__)
    found = f"piste.optim.{kind}" if kind in OPTIMIZERS else kind
    if kind != cls.__name__:
        raise InvalidValue(
            f"this checkpoint is not one of {cls.__name__} but of {kind}. Help: load it with {found}; where "
            f'another optimizer may take its state, as AdamW may take Adam\'s, delete its entry "{KEY}" first.'
        )


def _check_shapes(optimizer: Any, state_dict: Mapping[str, Any]) -> None:
    """Raise if a parameter has another shape in the description of the checkpoint."""
    saved = state_dict.get(KEY, {}).get("parameters", [])
    ours = describe_optimizer(optimizer)["parameters"]
    by_name = all(entry["name"] is not None for entry in (*saved, *ours))
    if by_name:
        shapes = {entry["name"]: entry["shape"] for entry in saved}
        pairs = [(entry["name"], shapes[entry["name"]], entry["shape"]) for entry in ours if entry["name"] in shapes]
    elif len(saved) == len(ours):
        pairs = [(i, theirs["shape"], here["shape"]) for i, (theirs, here) in enumerate(zip(saved, ours, strict=True))]
    else:
        return  # the number of parameters is rejected
    for name, there, here in pairs:
        if there != here:
            raise InvalidValue(
                f"parameter {name} has shape {tuple(there)} in the checkpoint; the parameter has {tuple(here)}. "
                f"{_OTHER_SIZE if by_name else _OTHER_ORDER}"
            )


def _are_named(saved: Iterable[Mapping[str, Any]], groups: Iterable[Mapping[str, Any]]) -> bool:
    return all("param_names" in group for group in (*saved, *groups))


def _have_common_name(saved: Iterable[Mapping[str, Any]], groups: Iterable[Mapping[str, Any]]) -> bool:
    theirs, ours = ({name for group in side for name in group["param_names"]} for side in (saved, groups))
    return not theirs.isdisjoint(ours)


def _pick_by_name(optimizer: Any, state_dict: Mapping[str, Any], hyperparameters: str) -> dict[str, Any]:
    """Return a checkpoint with the groups of the optimizer, and the saved state of the parameters that both have."""
    saved, groups = state_dict["param_groups"], optimizer.param_groups
    if not _are_named(saved, []):
        raise InvalidValue(
            "strict=False matches parameters by name; received a checkpoint without names. Help: load it with "
            "strict=True into an optimizer of the same parameters, in the order of the saved one; optimizers that are "
            "constructed from model.named_parameters() save names."
        )
    if not _are_named([], groups):
        raise InvalidValue(
            "strict=False matches parameters by name; received an optimizer without names. Help: construct it from "
            "model.named_parameters()."
        )
    if len(saved) != len(groups) and hyperparameters != "keep":
        raise InvalidValue(
            f"the checkpoint has {plural(len(saved), 'param group')} and this {type(optimizer).__name__} {len(groups)}"
            '. Help: hyperparameters="keep" keeps the options of the optimizer.'
        )
    for i, group in enumerate(saved):
        if len(group["param_names"]) != len(group["params"]):
            raise InvalidValue(
                f"param group {i} of the checkpoint must have a name for each of its parameters; received "
                f"{plural(len(group['param_names']), 'name')} for {plural(len(group['params']), 'parameter')}. "
                "Help: save the optimizer again."
            )
    ids = {name: index for group in saved for name, index in zip(group["param_names"], group["params"], strict=True)}
    ours_first = next((name for group in groups for name in group["param_names"]), None)
    if ids and ours_first is not None and not _have_common_name(saved, groups):
        raise InvalidValue(
            f"the checkpoint and this {type(optimizer).__name__} have no parameter name in common; the first ones are "
            f"`{next(iter(ids))}` and `{ours_first}`. {_OTHER_PREFIX}"
        )
    numbers = iter(range(sum(len(group["params"]) for group in groups)))
    state, picked = {}, []
    for i, ours in enumerate(groups):
        own = [next(numbers) for _ in ours["params"]]
        for number, name in zip(own, ours["param_names"], strict=True):
            if name in ids and ids[name] in state_dict["state"]:
                state[number] = state_dict["state"][ids[name]]
        kept = {name: saved[0][name] for name in type(optimizer).group_state if saved}  # the same in all groups
        options = saved[i] if hyperparameters == "checkpoint" else {**ours, **kept}
        picked.append({**options, "params": own, "param_names": list(ours["param_names"])})
    return {**state_dict, "state": state, "param_groups": picked}


def copy_loaded_state(optimizer: Any, state_dict: Mapping[str, Any]) -> None:
    """Replace loaded state by a copy in the saved dtype.

    torch.optim casts state to the dtype of the parameter. Where nothing has to be cast, its state shares memory with
    the checkpoint, and steps would change the checkpoint.
    """
    for _, p, saved in _pairs(optimizer, state_dict):
        state = optimizer.state[p]
        for key, value in saved.items():
            if isinstance(value, Tensor) and (
                state[key].dtype != value.dtype or state[key].data_ptr() == value.data_ptr()
            ):
                state[key] = value.detach().to(state[key].device, copy=True)


def _join_names(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _describe(value: Any) -> str:
    return (
        f"a dict with {', '.join(map(repr, list(value)[:4])) or 'no keys'}"
        if isinstance(value, Mapping)
        else type(value).__name__
    )


def _pairs(optimizer: Any, state_dict: Mapping[str, Any]) -> Iterator[tuple[Any, Tensor, Any]]:
    """Yield the index in the checkpoint, the parameter and the saved state of each parameter that has one."""
    theirs = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    ours = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for index, p in zip(theirs, ours, strict=True):
        if index in state_dict["state"]:
            yield index, p, state_dict["state"][index]


def _name_owner(cls: Any, group: Mapping[str, Any], state: Mapping[Any, Any]) -> str:
    """Return the optimizers that have the options of a saved group, as part of a sentence; "" if there are none."""
    saved = {name for name in group if name in cls.options_of_all}
    owners = [
        name
        for name, rule in OPTIMIZERS.items()
        if set(rule.options) - set(rule.optional_in_checkpoint) - set(rule.extensions)
        <= saved
        <= {*rule.options, *rule.group_constants, *rule.group_state, *rule.optional_in_checkpoint}
    ]
    if not owners:
        return ""
    keys = sorted({key for index in group["params"] for key in state.get(index, {}) if key != "step"})
    return f" but of {' or '.join(owners)}" + (f" (its state holds {_join_names(keys)})" if keys else "")


def _check_options(cls: Any, group: Mapping[str, Any], index: int, state: Mapping[Any, Any]) -> None:
    optional = {*cls.optional_in_checkpoint, *cls.extensions}
    missing = [name for name in cls.options if name not in group and name not in optional]
    ours = {*cls.options, *cls.group_constants, *cls.group_state, *optional, *cls.rule_of(group).options}
    ours |= {*cls.rule_of(group).group_constants}
    if cls.matrix is not None:
        ours |= {"adamw", "split"}  # of the groups of `matrix_groups`
    others = [name for name in group if name in cls.options_of_all and name not in ours]
    if missing or others:
        odd = f"has no {_join_names(missing)}" if missing else f"has {_join_names(others)}"
        raise InvalidValue(
            f"this checkpoint is not one of {cls.__name__}{_name_owner(cls, group, state)}: its param group {index} "
            f"{odd}. Its options are {_join_names(key for key in group if key != 'params')}."
        )


def _match_names(
    index: int, all_saved: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a saved group in the parameter order of our group, if both have names."""
    theirs, ours = all_saved[index], groups[index]
    if "param_names" not in theirs or "param_names" not in ours:
        return dict(theirs)
    saved, named = list(theirs["param_names"]), list(ours["param_names"])
    if saved == named:
        return dict(theirs)
    if sorted(saved) != sorted(named):
        raise InvalidValue(
            f"the parameters of param group {index} have other names in the checkpoint."
            f"{_different_names(theirs, ours, all_saved, groups)}"
        )
    ids = dict(zip(saved, theirs["params"], strict=True))
    return {**theirs, "params": [ids[name] for name in named], "param_names": named}


def _different_names(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    saved: Iterable[Mapping[str, Any]],
    groups: Iterable[Mapping[str, Any]],
) -> str:
    """Return the names that only one of two groups has, as the end of a message; "" without names."""
    if not _are_named(saved, groups):
        return ""
    here = sorted(set(ours["param_names"]) - set(theirs["param_names"]))
    there = sorted(set(theirs["param_names"]) - set(ours["param_names"]))
    by_name = "Help: strict=False loads the parameters that both have."
    return (
        f" Only in the optimizer: {', '.join(here[:5]) or 'none'}. Only in the checkpoint: "
        f"{', '.join(there[:5]) or 'none'}. {by_name if _have_common_name(saved, groups) else _OTHER_PREFIX}"
    )


def _check_state(cls: Any, index: Any, p: Tensor, state: Any, group: Mapping[str, Any], is_named: bool) -> None:
    name = group["param_names"][group["params"].index(index)] if is_named else index
    known = [*cls.state_keys(), *STATE_KEYS, *(key + SCALE for key in cls.buffers)]
    unknown = [key for key in state if key not in known]
    if unknown:
        raise InvalidValue(
            f"this checkpoint is not one of {cls.__name__}: parameter {name} has {_join_names(state)}, "
            f"where {cls.__name__} keeps {_join_names(known) or 'nothing'}."
        )
    matrix = is_matrix(p, group.get("min_dim_size_to_factor", 0))
    always = [key for key, buffer in cls.buffers.items() if buffer.when is None and buffer.exists(matrix, {})]
    missing = [key for key in always if state and state.get(key) is None]
    if missing:
        raise InvalidValue(
            f"this checkpoint is not one of {cls.__name__}, or incomplete: parameter {name} has no "
            f"{_join_names(missing)}."
        )
    for key in cls.buffers:
        codes, scale = state.get(key), state.get(key + SCALE)
        if isinstance(codes, Tensor) and codes.dtype == torch.int8:
            shape = None if scale is None else tuple(scale.shape)
            if shape != (blocks_of(p.numel()),):
                raise InvalidValue(
                    f"`{key}` of parameter {name} has 8 bits, so the checkpoint must hold `{key}{SCALE}` of shape "
                    f"{(blocks_of(p.numel()),)}; received {shape}. Help: save the optimizer again."
                )
    for key in (*cls.buffers, *TENSORS.values()):
        value = state.get(key)
        expected = cls.buffers[key].shape_for(p, group) if key in cls.buffers else p.shape
        if isinstance(value, Tensor) and value.shape != expected:
            raise InvalidValue(
                f"`{key}` of parameter {name} has shape {tuple(value.shape)} in the checkpoint; the parameter has "
                f"{tuple(expected)}. {_OTHER_SIZE if is_named else _OTHER_ORDER}"
            )


def counter_dtype() -> torch.dtype:
    """Return the dtype of new counters, as in torch.optim: 16 bits can't count beyond 256 or 2048."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def as_counter(value: Any) -> Tensor:
    """Return a saved counter as a tensor; old checkpoints of torch.optim have Python numbers."""
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=counter_dtype(), device="cpu")
