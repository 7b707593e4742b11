"""The same optimizer or loss in other libraries: arguments and defaults, next to those of Piste."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from piste.losses import Loss
from piste.optim import Optimizer
from piste.optim.conventions import CONVENTIONS

from .libraries import read_libraries

__all__ = ["OF_ALL", "loss_elsewhere", "optimizer_elsewhere"]

OF_ALL = {
    *("clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum", "ema_overwrite_frequency"),
    *("loss_scale_factor", "gradient_accumulation_steps"),
}
"""Keras' arguments of every optimizer."""
_NAMES = {"learning_rate": "lr", "epsilon": "eps", **{f"beta_{i}": f"betas[{i - 1}]" for i in (1, 2)}}
_NAMES |= {f"b{i}": f"betas[{i - 1}]" for i in (1, 2, 3)}
"""The names of optimizers that have no convention, in Piste."""
_OPERANDS = {"predictions", "targets", "logits", "labels", "log_predictions", "log_targets", "where"}
_OPERANDS |= {"logit_paddings", "label_paddings", "anchors", "positives", "negatives", "embeddings"}


def optimizer_elsewhere(cls: type[Optimizer]) -> list[str]:
    """Return a table of the arguments of an optimizer in each library that has it."""
    name, columns = cls.__name__, {}
    theirs = getattr(torch.optim, name, None)
    if theirs is not None:
        given = {p.name: repr(p.default) for p in inspect.signature(theirs).parameters.values()}
        columns[f"`torch.optim.{name}`, {_torch_version()}"] = {k: v for k, v in given.items() if k in cls.options}
    for library, prefix in (("keras", "keras.optimizers."), ("optax", "optax.")):
        recorded = read_libraries()[library]
        if found := recorded["optimizers"].get(name):
            given = {k: v for k, v in found["arguments"].items() if k not in OF_ALL}
            columns[f"`{prefix}{found['name']}`, {recorded['version']}"] = given
    if not columns:
        return []
    translations = {head: _translation(cls, head, given) for head, given in columns.items()}
    rows = []
    for option, ours in cls.options.items():
        cells = [_cell(option, columns[head], names) for head, names in translations.items()]
        rows.append(f"| `{option}={ours.default!r}` | {' | '.join(cells)} |")
    rest = [[k for k in given if k not in translations[head]] for head, given in columns.items()]
    if any(rest):
        rows.append(f"| without a counterpart | {' | '.join(', '.join(f'`{k}`' for k in names) for names in rest)} |")
    guides = "[Keras](../guides/from-keras.md) and [optax](../guides/from-optax.md)"
    text = f"Arguments and defaults. Equal names don't mean equal steps: the guides from {guides} have the differences."
    head = f"| Piste | {' | '.join(columns)} |"
    return ["## Elsewhere", "", text, "", head, "|---" * (1 + len(columns)) + "|", *rows, ""]


def _torch_version() -> str:
    return torch.__version__.partition("+")[0]


def _translation(cls: type[Optimizer], head: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return the options that the arguments of a library set, by the library's names."""
    conventions = CONVENTIONS.get(cls.__name__, {})
    convention = next((conventions[key] for key in conventions if head.startswith(f"`{key}.")), None)
    names = _NAMES if convention is None else convention.names
    found = {name: names.get(name, name) for name in given}
    return {name: option for name, option in found.items() if option.partition("[")[0] in cls.options}


def _cell(option: str, given: Mapping[str, str], names: Mapping[str, str]) -> str:
    shown = []
    for name, ours in names.items():
        if ours.partition("[")[0] == option:
            shown.append(f"`{name}`, required" if given[name] == "required" else f"`{name}={given[name]}`")
    return ", ".join(shown)


def loss_elsewhere(cls: type[Loss]) -> list[str]:
    """Return a table of the nearest losses of each library, with their arguments and defaults."""
    rows = []
    theirs: Callable[..., Any] | None = getattr(torch.nn, cls.__name__, None)
    if theirs is not None:
        given = {p.name: repr(p.default) for p in inspect.signature(theirs).parameters.values()}
        rows.append(_row(f"torch.nn.{cls.__name__}", _torch_version(), given))
    for library, prefix in (("keras", "keras.losses."), ("optax", "optax.losses.")):
        recorded = read_libraries()[library]
        for found in recorded["losses"].get(cls.__name__, []):
            rows.append(_row(f"{prefix}{found['name']}", recorded["version"], found["arguments"]))
    if not rows:
        return []
    text = "The nearest losses of other libraries, without their operands. Keras and optax have the classes in the "
    text += "last dimension, and a loss of logits is Keras' loss with `from_logits=True`. [From Keras]"
    text += "(../guides/from-keras.md#losses) has the other differences."
    return ["## Elsewhere", "", text, "", "| loss | version | arguments and defaults |", "|---|---|---|", *rows, ""]


def _row(name: str, version: str, given: Mapping[str, str]) -> str:
    shown = ", ".join(k if v == "required" else f"{k}={v}" for k, v in given.items() if k not in _OPERANDS)
    shown = re.sub(r"<(?:class|function) '?([\w.]+).*?>", r"\1", shown)
    return f"| `{name}` | {version} | {f'`{shown}`' if shown else 'none'} |"
