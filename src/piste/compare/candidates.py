"""Who takes part: an optimizer, a loss and a learning rate, found by name."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean
from .search_space import Knobs, find_knobs

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """One row of a comparison. `lr` None means the optimizer's own default; `options` are others than its own.

    `knobs` are the options that a search tries beside the rate.
    """

    name: str
    optimizer: str
    loss: str
    lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    knobs: Knobs = field(default_factory=dict, hash=False)
    make: Callable[..., torch.optim.Optimizer] = field(repr=False, compare=False, default=torch.optim.SGD)
    loss_function: Loss = field(repr=False, compare=False, default=torch.nn.functional.mse_loss)

    def new_optimizer(self, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        return self.make(parameters, **({} if self.lr is None else {"lr": self.lr}), **self.options)

    def new_loss(self) -> Loss:
        return (
            copy.deepcopy(self.loss_function) if isinstance(self.loss_function, torch.nn.Module) else self.loss_function
        )


USUAL = ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax")
"""What most people choose among; more curves than these are hard to read in one picture."""


def candidates(optimizers: Any, losses: Any, lr: Any, search: Any = None) -> list[Candidate]:
    """Every optimizer with every loss."""
    makers, functions = find_optimizers(optimizers), find_losses(losses)
    rates, knobs = learning_rates(lr, makers), find_knobs(search, makers)
    return [
        Candidate(
            o if len(functions) == 1 else f"{o} · {loss}", o, loss, rates[o], knobs=knobs[o], make=makers[o],
            loss_function=functions[loss],
        )
        for loss, o in itertools.product(functions, makers)
    ]  # fmt: skip


def find_optimizers(wanted: Any) -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Optimizers by their names: the usual seven for None, every one for "all"; else names, classes, or a dict."""
    from ..optim import OPTIMIZERS

    def by_name(text: str) -> tuple[str, Any]:
        for name, optimizer in OPTIMIZERS.items():
            if name.lower() == text.lower():
                return name, optimizer
        raise InvalidValue(f"unknown optimizer `{text}`. {did_you_mean(text, OPTIMIZERS)}")

    if wanted in ("all", ["all"]):
        wanted = dict(OPTIMIZERS)
    found = _find(list(USUAL) if wanted is None else wanted, "optimizer", by_name)
    for name, it in found.items():
        if isinstance(it, torch.optim.Optimizer):
            raise InvalidType(
                f"an optimizer is given as its class, because every candidate trains a model of its own; received "
                f"`{name}`, built already. Options go in a function: "
                f'{{"SGD 0.9": functools.partial(SGD, lr=0.1, momentum=0.9)}}.'
            )
        if not callable(it):
            raise InvalidType(f"an optimizer is a name, a class, or a function of the parameters; received {it!r}.")
    return found


def find_losses(wanted: Any) -> dict[str, Loss]:
    """Losses by their names: a name, a module, a function (output, target) -> scalar, a list or a dict of these."""
    from ..losses import named

    if wanted is None:
        raise InvalidValue('which loss? Give loss= a name ("cross_entropy", "mse"), a module, a function, or a list.')

    def by_name(text: str) -> tuple[str, Any]:
        loss = named(text)
        return loss.name, loss

    found = _find(wanted, "loss", by_name)
    for name, it in found.items():
        if isinstance(it, type) and issubclass(it, torch.nn.Module):
            found[name] = it = it()
        if not callable(it):
            raise InvalidType(f"a loss is a name, a module or a function (output, target) -> scalar; received {it!r}.")
    return found


def _find(wanted: Any, what: str, by_name: Callable[[str], tuple[str, Any]]) -> dict[str, Any]:
    if isinstance(wanted, Mapping):
        given = list(wanted.items())
    else:
        given = [(None, it) for it in (wanted if isinstance(wanted, (list, tuple)) else [wanted])]
    found: dict[str, Any] = {}
    for name, it in given:
        if isinstance(it, str):
            full, it = by_name(it.strip())
            name = name or full
        name = name or getattr(it, "__name__", type(it).__name__)
        if name in found:
            raise InvalidValue(f"the {what} `{name}` is given twice; give a dict to name them apart.")
        found[name] = it
    if not found:
        raise InvalidValue(f"no {what} to compare: the list is empty.")
    return found


def learning_rates(lr: Any, makers: Mapping[str, Callable[..., Any]]) -> dict[str, float | None]:
    """The rate for every optimizer: its own default (None), one for all, or by name, in any case of letters."""
    if lr is None:
        return dict.fromkeys(makers)
    if not isinstance(lr, Mapping):
        lr = dict.fromkeys(makers, lr)
    folded = {name.lower(): name for name in makers}
    rates: dict[str, float | None] = dict.fromkeys(makers)
    for name, value in lr.items():
        if name.lower() not in folded:
            raise InvalidValue(f"`lr` names `{name}`, which doesn't take part. {did_you_mean(name, makers)}")
        rates[folded[name.lower()]] = _rate(value, name)
    return rates


def _rate(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(f"`lr` for {name} must be a positive number; received {value!r}.")
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValue(f"`lr` for {name} must be a positive number; received {value!r}.")
    return float(value)


def default_rate(make: Callable[..., Any]) -> float | None:
    """The learning rate an optimizer takes by itself, read from its signature; None if it has none."""
    parameter = inspect.signature(make).parameters.get("lr")
    value = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
    return float(value) if isinstance(value, (int, float, torch.Tensor)) else None
