"""Candidates: an optimizer, a loss and a learning rate, resolved from names, classes and functions."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean, english
from ..optim import OPTIMIZERS, Optimizer
from .conventions import Convention, convention_of
from .loop import PLAIN, Loop, find_loops
from .objective import Loss
from .search_space import SearchSpace, find_search_spaces

DEFAULT_OPTIMIZERS = ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax")
"""The common choices; more curves are hard to read in one picture."""


@dataclass(frozen=True)
class Candidate:
    """One row of a comparison.

    Attributes:
        lr: The learning rate; None for the optimizer's default.
        options: Options that differ from the optimizer's defaults.
        search_space: Options that a search varies in addition to the learning rate.
        make: The optimizer's class, or a function of the parameters.
        convention: How the loss reads outputs and targets.
        loop: The options of the training loop.
    """

    name: str
    optimizer: str
    loss: str
    lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    search_space: SearchSpace = field(default_factory=dict, hash=False)
    make: Callable[..., torch.optim.Optimizer] = field(repr=False, compare=False, default=torch.optim.SGD)
    loss_function: Loss | None = field(repr=False, compare=False, default=torch.nn.functional.mse_loss)
    convention: Convention = field(repr=False, compare=False, default=Convention())
    loop: Loop = field(repr=False, compare=False, default=PLAIN)

    @property
    def trains_loss(self) -> bool:
        """Whether the loss has parameters of its own."""
        return isinstance(self.loss_function, torch.nn.Module) and any(True for _ in self.loss_function.parameters())

    @property
    def steps_matrices(self) -> bool:
        """Whether the optimizer is one of matrices, such as Muon, which needs param groups for all other parameters."""
        make = self.make.func if isinstance(self.make, functools.partial) else self.make
        return isinstance(make, type) and issubclass(make, Optimizer) and make.matrix is not None and not make.any_shape

    @property
    def bound_arguments(self) -> str:
        """The arguments that a `functools.partial` binds, as they are written."""
        if not isinstance(self.make, functools.partial):
            return ""
        return ", ".join([*map(repr, self.make.args), *(f"{n}={v!r}" for n, v in self.make.keywords.items())])

    def new_optimizer(self, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """Return an optimizer of `parameters` with this candidate's learning rate and options."""
        return self.make(parameters, **({} if self.lr is None else {"lr": self.lr}), **self.options)

    def new_loss(self) -> Loss | None:
        """Return the loss function; a copy if it is a module."""
        return (
            copy.deepcopy(self.loss_function) if isinstance(self.loss_function, torch.nn.Module) else self.loss_function
        )


NOT_FOR_EVERY_MODEL = ("LBFGS", "Muon", "NorMuon", "SparseAdam")
"""Optimizers with several evaluations in a step, for matrices alone, and for sparse gradients alone."""


def make_candidates(
    optimizers: Any,
    loss: Any,
    lr: Any,
    search: Any = None,
    own_loss: str | None = None,
    loop: Any = None,
    losses_of_task: Any = None,
) -> list[Candidate]:
    """Return every optimizer combined with every loss (or `own_loss`, that of the objective) and every loop."""
    makers = find_optimizers(optimizers)
    functions = {own_loss: None} if loss is None and own_loss else find_losses(loss, losses_of_task)
    rates, spaces, loops = find_learning_rates(lr, makers), find_search_spaces(search, makers), find_loops(loop)

    def name(optimizer: str, loss: str, loop: str) -> str:
        return " · ".join([optimizer, *[loss] * (len(functions) > 1), *[loop] * (len(loops) > 1)])

    return [
        Candidate(
            name(o, loss, way), o, loss, rates[o], search_space=spaces[o], make=makers[o],
            loss_function=functions[loss], convention=convention_of(functions[loss]), loop=loops[way],
        )
        for loss, way, o in itertools.product(functions, loops, makers)
    ]  # fmt: skip


def find_optimizers(wanted: Any) -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Optimizers by name, from None (the default seven), "all", names, classes, or a dict."""

    def by_name(text: str) -> tuple[str, Any]:
        for name, optimizer in OPTIMIZERS.items():
            if name.lower() == text.lower():
                return name, optimizer
        raise InvalidValue(f"unknown optimizer `{text}`. {did_you_mean(text, OPTIMIZERS)}")

    if wanted in ("all", ["all"]):
        wanted = {name: cls for name, cls in OPTIMIZERS.items() if name not in NOT_FOR_EVERY_MODEL}
    makers = _find(list(DEFAULT_OPTIMIZERS) if wanted is None else wanted, "optimizer", by_name)
    for name, make in makers.items():
        if isinstance(make, torch.optim.Optimizer):
            raise InvalidType(
                f"an optimizer must be given as its class, because every candidate trains its own model; received "
                f"an instance for `{name}`. Help: set options with a function: "
                f'{{"SGD 0.9": functools.partial(SGD, lr=0.1, momentum=0.9)}}.'
            )
        if not callable(make):
            raise InvalidType(
                f"an optimizer must be a name, a class, or a function of the parameters; received {make!r}."
            )
    return makers


def find_losses(wanted: Any, losses_of_task: Any = None) -> dict[str, Loss]:
    """Losses by name, from a name, a module, a function (output, target) -> scalar, or a list or dict of these.

    A name means a loss of the task first, and a loss of Piste where the task has none of this name.
    """
    from ..losses import get_loss

    known = {} if losses_of_task is None else find_losses(losses_of_task)

    if wanted is None:
        raise InvalidValue(
            'no loss given. Help: loss= takes a name ("cross_entropy"), a module, a function, or a list.'
        )

    def by_name(text: str) -> tuple[str, Any]:
        own = next((name for name in known if name.lower() == text.lower()), None)
        if own is not None:
            return own, known[own]
        try:
            loss = get_loss(text)
        except InvalidValue as error:
            if not known:
                raise
            raise InvalidValue(
                f"{english(error)} The losses of the task are {', '.join(f'`{name}`' for name in known)}."
            ) from error
        return loss.name, loss

    losses = _find(wanted, "loss", by_name)
    for name, loss in losses.items():
        if isinstance(loss, type) and issubclass(loss, torch.nn.Module):
            losses[name] = loss = loss()
        if not callable(loss):
            raise InvalidType(
                f"a loss must be a name, a module or a function (output, target) -> scalar; received {loss!r}."
            )
    return losses


def _find(wanted: Any, kind: str, by_name: Callable[[str], tuple[str, Any]]) -> dict[str, Any]:
    if isinstance(wanted, Mapping):
        pairs = list(wanted.items())
    else:
        pairs = [(None, value) for value in (wanted if isinstance(wanted, (list, tuple)) else [wanted])]
    resolved: dict[str, Any] = {}
    for name, value in pairs:
        if isinstance(value, str):
            full_name, value = by_name(value.strip())
            name = name or full_name
        name = name or getattr(value, "__name__", type(value).__name__)
        if name in resolved:
            raise InvalidValue(f"the {kind} `{name}` is given twice; use a dict to give each its own name.")
        resolved[name] = value
    if not resolved:
        raise InvalidValue(f"no {kind} to compare: the list is empty.")
    return resolved


def find_learning_rates(lr: Any, makers: Mapping[str, Callable[..., Any]]) -> dict[str, float | None]:
    """Return the learning rate of every optimizer, from None for defaults, one rate, or rates by name in any case."""
    if lr is None:
        return dict.fromkeys(makers)
    if not isinstance(lr, Mapping):
        lr = dict.fromkeys(makers, lr)
    folded = {name.lower(): name for name in makers}
    rates: dict[str, float | None] = dict.fromkeys(makers)
    for name, value in lr.items():
        if name.lower() not in folded:
            raise InvalidValue(f"`lr` names `{name}`, which is not in this comparison. {did_you_mean(name, makers)}")
        rates[folded[name.lower()]] = _check_rate(value, name)
    return rates


def _check_rate(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(f"`lr` for {name} must be a positive number; received {value!r}.")
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValue(f"`lr` for {name} must be a positive number; received {value!r}.")
    return float(value)


def default_lr(make: Callable[..., Any]) -> float | None:
    """Return the default learning rate of an optimizer, read from its signature; None if it has none."""
    parameter = inspect.signature(make).parameters.get("lr")
    value = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
    return float(value) if isinstance(value, (int, float, torch.Tensor)) else None
