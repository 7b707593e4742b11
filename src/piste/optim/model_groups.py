"""Param groups made from a model, and the comparison of an optimizer with a model."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import InvalidType, InvalidValue
from ..translation import translate
from ..wording import plural

__all__ = ["ParamGroups", "align", "compare_with_model", "param_groups"]

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_WORDS = ("bias", "norm", "1d")


class ParamGroups(list[dict[str, Any]]):
    """Param groups, as a list that prints as a table.

    Example:
        >>> import torch, piste
        >>> print(piste.optim.param_groups(torch.nn.Linear(3, 2), weight_decay=0.1))
        group  weight_decay  tensors  elements  parameters
        0      0.1           1        6         weight
        1      0             1        2         bias
    """

    def __str__(self) -> str:
        head = [
            translate("group"),
            "weight_decay",
            translate("tensors"),
            translate("elements"),
            translate("parameters"),
        ]
        rows = [
            [
                str(index),
                f"{group['weight_decay']:g}",
                str(len(group["params"])),
                str(sum(p.numel() for _, p in group["params"])),
                _some([name for name, _ in group["params"]]),
            ]
            for index, group in enumerate(self)
        ]
        return align([head, *rows])


def _some(names: Sequence[str]) -> str:
    """Write the first names of parameters, which are not translated."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else translate("{0}, and {1} more").format(shown, len(names) - 4)


def align(rows: Iterable[Sequence[str]]) -> str:
    """Write a table with columns of equal width; a Chinese character takes two places of a terminal."""
    rows = list(rows)
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text + " " * (w - _width(text)) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _width(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def param_groups(
    model: nn.Module, weight_decay: float, no_decay: str | Callable[[str, Any], bool] = "bias+norm"
) -> ParamGroups:
    """Split the trainable parameters of a model into a group with weight decay and a group without.

    Args:
        model: The model. Tied parameters are listed once, and frozen ones not at all.
        weight_decay: The weight decay of the first group.
        no_decay: The parameters without weight decay: words joined by "+", or a function of name and parameter that
            returns True for them. The words are "bias" (parameters named `bias`, or with a name that ends in
            `.bias`), "norm" (all parameters of normalization layers) and "1d" (all of at most one dimension).

    Returns:
        The groups that have parameters, with their names. Every optimizer takes them, and they print as a table.

    Raises:
        InvalidType: `model` is not a module.
        InvalidValue: A word of `no_decay` is unknown, or the model has no trainable parameters.

    Example:
        >>> import torch, piste
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
        >>> groups = piste.optim.param_groups(model, weight_decay=0.1)
        >>> print(groups)
        group  weight_decay  tensors  elements  parameters
        0      0.1           1        6         0.weight
        1      0             3        6         0.bias, 1.weight, 1.bias
        >>> optimizer = piste.optim.AdamW(groups, lr=1e-3)
    """
    if not isinstance(model, nn.Module):
        raise InvalidType(f"`model` must be a torch.nn.Module; received {type(model).__name__}.")
    is_undecayed = no_decay if callable(no_decay) else _reader(no_decay, model)
    decayed: list[tuple[str, Any]] = []
    others: list[tuple[str, Any]] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (others if is_undecayed(name, p) else decayed).append((name, p))
    if not decayed and not others:
        raise InvalidValue(
            f"`model` must have trainable parameters; received {type(model).__name__} with none. "
            "Help: unfreeze some with p.requires_grad_()."
        )
    both = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return ParamGroups(group for group in both if group["params"])


def _reader(no_decay: str, model: nn.Module) -> Callable[[str, Any], bool]:
    """Return a function that finds the parameters that the words of `no_decay` mean."""
    words = {word for word in no_decay.split("+") if word}
    if not words <= set(_WORDS):
        raise InvalidValue(
            f'`no_decay` must be words of {", ".join(_WORDS)} joined by "+"; received no_decay={no_decay!r}. '
            'Help: no_decay="bias+norm", "" for no exception, or a function of name and parameter.'
        )
    normalizing = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}

    def is_undecayed(name: str, p: Any) -> bool:
        return (
            ("bias" in words and name.rpartition(".")[2] == "bias")
            or ("norm" in words and id(p) in normalizing)
            or ("1d" in words and p.dim() <= 1)
        )

    return is_undecayed


def compare_with_model(optimizer: Any, model: nn.Module) -> str:
    """Return the report of `Optimizer.check`.

    Raises:
        InvalidType: `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise InvalidType(f"`model` must be a torch.nn.Module; received {type(model).__name__}.")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names: dict[int, list[str]] = {}
    params: dict[int, Any] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
        params[id(p)] = p
    trainable = [key for key, p in params.items() if p.requires_grad]
    kind = type(optimizer).__name__
    holds = f"{kind} holds {sum(key in held for key in trainable)} of {len(trainable)} trainable parameters."
    left_out = (names[key][0] for key in trainable if key not in held)
    frozen = (names[key][0] for key, p in params.items() if key in held and not p.requires_grad)
    tied = (" = ".join(shared) for shared in names.values() if len(shared) > 1)
    others = plural(len(held - set(params)), "parameter")
    lines = [
        translate(holds),
        *_list(translate("trainable, not held: {0}"), left_out),
        *_list(translate("held, frozen: {0}"), frozen),
        *_list(translate("tied, stepped once: {0}"), tied),
        *([translate(f"held, not in the model: {others}")] if held - set(params) else []),
    ]
    return "\n".join(lines)


def _list(text: str, names: Iterable[str]) -> list[str]:
    """Put names of parameters into a text that is translated already: a name may be a word of the catalogue."""
    listed = ", ".join(names)
    return [text.format(listed)] if listed else []
