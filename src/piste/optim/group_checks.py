"""Validation of parameters and param groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..engine import BLOCK
from ..errors import InvalidType, InvalidValue, Unsupported, nearest
from .composition import step_spec
from .declaration import all_options, defaults
from .eight_bit_state import lies_in_blocks
from .option_names import FOREIGN_NAMES, help_with_name
from .shards import is_sharded, takes_parts
from .validation import check_values

SCHEDULER_KEYS = {"initial_lr", "max_lr", "min_lr", "swa_lr", "max_momentum", "base_momentum"}
"""The keys that the schedulers of torch.optim write into a param group."""


def list_params(cls: Any, params: Any) -> list[Any]:
    """Return the parameters or param groups of a call as a list.

    Raises:
        InvalidType: `params` is a module, a tensor, a dict, a set, or not iterable.
        InvalidValue: `params` is empty.
    """
    name = cls.__name__
    if isinstance(params, torch.nn.Module):
        of_matrices = cls.matrix is not None and not cls.any_shape
        call = "piste.optim.matrix_groups(model)" if of_matrices else "model.parameters()"
        raise InvalidType(
            f"{name} takes parameters, not a module; received {type(params).__name__}. Write {name}({call}, ...)."
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
    index = len(optimizer.param_groups)
    if not isinstance(group, dict):
        raise InvalidType(f"param_group must be a dict, but got {type(group)}; received {group!r:.60}.")
    if "params" not in group:
        raise InvalidValue(
            f"param group {index} has no `params`; its keys are {', '.join(map(repr, group)) or 'none'}."
        )
    cls = type(optimizer).rule_of(optimizer.defaults | group)
    known = all_options(cls)
    others = {*optimizer.defaults, *cls.group_constants, *cls.group_state, *SCHEDULER_KEYS, "params", "param_names"}
    for key in group:
        if key in known or key in others:
            continue
        if key in FOREIGN_NAMES or any(nearest(key, [name], cutoff=0.8) for name in known):
            raise InvalidValue(f"Unknown option `{key}` in param group {index}; {help_with_name(cls, key)}")
    grouped = len(group) > 1 + ("param_names" in group) or index > 0
    values = optimizer.defaults | {k: v for k, v in group.items() if k in known}
    check_values(cls, values, f" In param group {index}." * grouped)
    if isinstance(group["params"], torch.Tensor):
        group["params"] = [group["params"]]
    if not (isinstance(group["params"], (list, tuple)) and not group["params"]):  # a group may be empty, as in torch
        group["params"] = list_params(cls, group["params"])
    group["params"] = list(group["params"])
    _check_tensors(optimizer, cls, group["params"], index, values)
    if cls.sparse_only:
        _check_dense(cls, group["params"], index)
    if values["convention"] == "optax" and "min_dim_size_to_factor" in cls.options:
        _check_largest(cls, group["params"], index, values["min_dim_size_to_factor"])
    if cls.matrix is not None:
        if "split" not in cls.options and group.get("split", 1) != 1:
            raise InvalidValue(
                f"{cls.__name__} has no option `split` for fused matrices; received split={group['split']} in param "
                f"group {index}. Help: leave it out of matrix_groups(), or declare the option and read it in `matrix`."
            )
        _check_matrices(cls, group["params"], index, values.get("split", 1), values["cautious"])
    if cls is not type(optimizer):
        for name, value in {**{k: x.default for k, x in cls.options.items()}, **cls.group_constants}.items():
            if name not in optimizer.defaults:
                group.setdefault(name, value)


def _check_tensors(optimizer: Any, cls: Any, params: list[Any], group: int, values: Mapping[str, Any]) -> None:
    state_dtype = values["state_dtype"]
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
        if p.is_complex() and state_dtype is not None:
            raise InvalidValue(
                f"`state_dtype` is for real parameters; received parameter {i} of param group {group} with dtype "
                f"{p.dtype}. Help: give complex parameters to an optimizer without state_dtype."
            )
        if state_dtype == "int8" and is_sharded(p):
            _check_parts(cls, p, i, group, values)
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


def _check_parts(cls: Any, p: Any, index: int, group: int, values: Mapping[str, Any]) -> None:
    """Raise unless the parts of a sharded parameter can have state in 8 bits."""
    if not takes_parts(step_spec(cls, {**defaults(cls), **values})):
        raise Unsupported(
            f"{cls.__name__} steps sharded parameters as a whole, by torch operations that communicate, which do not "
            f'read state_dtype="int8"; received parameter {index} of param group {group}, a DTensor. Help: '
            'state_dtype="bfloat16".'
        )
    if not lies_in_blocks(p):
        raise InvalidValue(
            f'state_dtype="int8" requires parts of whole blocks of {BLOCK} numbers, cut along the first dimension; '
            f"received parameter {index} of param group {group} with shape {tuple(p.shape)} and placements "
            f"{p.placements}. Help: put it in a param group with state_dtype=None."
        )


def _check_matrices(cls: Any, params: list[Any], group: int, split: int, is_cautious: bool) -> None:
    """Raise unless each parameter is real, a matrix or a stack of `split` matrices, and whole in cautious steps."""
    for i, entry in enumerate(params):
        p = entry[1] if isinstance(entry, tuple) else entry
        if cls.any_shape and p.is_complex():
            raise InvalidValue(
                f"{cls.__name__} takes real parameters; received parameter {i} of param group {group} with dtype "
                f"{p.dtype}. Help: optimize its real and imaginary parts as two parameters."
            )
        if (p.dim() < 2 and not cls.any_shape) or p.is_complex():
            raise InvalidValue(
                f"{cls.__name__} only supports 2D parameters, and real ones of more dimensions as matrices; received "
                f"parameter {i} of param group {group} with shape {tuple(p.shape)} and dtype {p.dtype}. Help: "
                f"{cls.__name__}(piste.optim.matrix_groups(model)) has other parameters stepped by AdamW."
            )
        if is_cautious and is_sharded(p):
            raise Unsupported(
                f"cautious=True counts elements of the step of a whole matrix, and {cls.__name__} steps the parts of a "
                f"sharded one; received parameter {i} of param group {group}, a DTensor. Help: set cautious=False."
            )
        if split > 1 and p.shape[0] % split:
            raise InvalidValue(
                f"`split` must divide the rows of a parameter; received split={split} for parameter {i} of param group "
                f"{group} with shape {tuple(p.shape)}. Help: put parameters of fused matrices in a group of their own."
            )


def _check_largest(cls: Any, params: list[Any], group: int, least: int) -> None:
    """Raise if optax reduces over other dimensions of a parameter than the last two."""
    for i, entry in enumerate(params):
        p = entry[1] if isinstance(entry, tuple) else entry
        largest = sorted(range(p.dim()), key=lambda dim: p.shape[dim])[-2:]
        if len(largest) == 2 and p.shape[largest[0]] >= least and min(largest) < p.dim() - 2:
            raise Unsupported(
                f"optax's {cls.__name__} reduces over the two largest dimensions of a parameter, Piste over the last "
                f"two; received parameter {i} of param group {group} with shape {tuple(p.shape)}. Help: put it in a "
                f"group with min_dim_size_to_factor={p.shape[largest[0]] + 1}, which keeps its whole average."
            )


def _check_dense(cls: Any, params: list[Any], group: int) -> None:
    """Raise unless every parameter is a real tensor that is not sparse: only its gradients are."""
    for i, entry in enumerate(params):
        p = entry[1] if isinstance(entry, tuple) else entry
        if p.is_sparse or p.is_complex():
            raise InvalidValue(
                f"{cls.__name__} requires dense parameter tensors of real numbers, with sparse gradients; received "
                f"parameter {i} of param group {group} with layout {p.layout} and dtype {p.dtype}."
            )
