"""What is to be learned: a model, its data, the losses that may train it and the metric that judges."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean
from ..options import Integer
from .training.random_state import Randomness


@dataclass
class Task:
    """What a comparison is about; what a task file returns (or a dict with the same names).

    model:       an nn.Module, or a function that makes one (then each seed starts from its own weights)
    train, validation: each a pair of tensors (X, y), a Dataset or a DataLoader (or a function that makes one)
    loss:        a name ("cross_entropy"), a loss module, a function (output, target) -> scalar, or a list of these
    metric:      "accuracy", "rmse", "mae", "r2", or (function, "max" or "min"); guessed from the targets if None
    epochs, batch_size: for data that isn't a DataLoader already, examples per batch
    target:      the value of the metric that counts as learned; None: 90 % of the way from the start to the best
    optimizers:  who takes part unless the call says otherwise: names, classes or a dict; None: the usual seven
    name, about: shown in the report
    picture:     a function of the finished comparison that draws one more figure (matplotlib), or None
    """

    model: torch.nn.Module | Callable[[], torch.nn.Module]
    train: Any
    validation: Any
    loss: Any = None
    metric: Any = None
    epochs: int = 10
    batch_size: int = 64
    target: float | None = None
    optimizers: Any = None
    name: str = "task"
    about: str = ""
    picture: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, torch.nn.Module) and not callable(self.model):
            raise InvalidType(
                f"the model must be an nn.Module or a function that makes one; received {type(self.model).__name__}."
            )
        self._always_new = False  # a model that can't be copied needn't be where its function makes a new one each time
        whole_number("epochs", self.epochs, least=1)
        whole_number("batch_size", self.batch_size, least=1)

    @property
    def fixed_weights(self) -> bool:
        """True where every seed starts from the weights of the model that was handed in."""
        return isinstance(self.model, torch.nn.Module)

    def _made(self) -> torch.nn.Module:
        model = self.model if isinstance(self.model, torch.nn.Module) else self.model()
        if not isinstance(model, torch.nn.Module):
            raise InvalidType(
                f"the function that makes the model must return an nn.Module; it returned {type(model).__name__}."
            )
        return model

    def new_model(self, seed: int) -> torch.nn.Module:
        """A model of one's own to train: a copy of the one handed in, or a new one with the seed's weights."""
        with Randomness(seed):
            model = self._made()
            if not self._always_new:
                try:
                    model = copy.deepcopy(model)  # also of a made one: the function may return the same one twice
                except Exception as error:
                    self._always_new = not self.fixed_weights and not _shared(model, self._made())
                    if not self._always_new:
                        raise InvalidValue(
                            f"the model can't be copied ({error}); hand in a function that makes a new one each time."
                        ) from error
        if not model.training:
            model.train()
        for p in model.parameters():
            p.grad = None
        if not any(p.requires_grad for p in model.parameters()):
            raise InvalidValue("the model has no weights to train: every parameter is frozen, or there is none.")
        return model


def _shared(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether the two have a parameter or a buffer in common."""
    mine, theirs = ({id(t) for t in (*m.parameters(), *m.buffers())} for m in (one, other))
    return bool(mine & theirs)


def as_task(made: Any, origin: str) -> Task:
    """The task that `origin` (a function of a task file) returned: a `Task`, or a dict with its names."""
    if isinstance(made, Task):
        return made
    known = [field.name for field in fields(Task)]
    if not isinstance(made, dict):
        raise InvalidType(
            f"{origin} must return a dict with model, train and validation (and loss, metric, ...), or a "
            f"Task (from piste.compare import Task); it returned {type(made).__name__}."
        )
    for name in made:
        if name not in known:
            raise InvalidValue(f"{origin} returned an unknown entry {name!r}. {did_you_mean(str(name), known)}")
    missing = [name for name in ("model", "train", "validation") if name not in made]
    if missing:
        raise InvalidValue(f"{origin} must return model, train and validation; missing: {', '.join(missing)}.")
    return Task(**made)


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value` if it is a whole number between `least` and `most`."""
    Integer(low=least, high=most).check(name, value)
    return int(value)
