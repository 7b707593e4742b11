"""The digits repeated twice as the training set: mini-batches compared with the full batch."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from ...optim import SGD, Adam
from ..task import Task
from ._tables import digits, with_splits


class TwoBatches:
    """A mixin for optimizers that steps once every two batches, with the mean of their gradients.

    Two batches make the whole training set here, so each step uses the full batch, at the same cost in examples.
    """

    param_groups: list[dict[str, Any]]
    _first: list[torch.Tensor] | None = None

    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        if self._first is None:
            self._first = [p.grad.clone() for p in parameters]
            return None
        for p, first in zip(parameters, self._first, strict=True):
            p.grad = (first + p.grad) / 2
        self._first = None
        return super().step(closure)  # type: ignore[misc]


class FullBatchSGD(TwoBatches, SGD):
    """SGD on the full batch."""


class FullBatchAdam(TwoBatches, Adam):
    """Adam on the full batch."""


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def of_seed(seed: int) -> Task:
    """Return the task with the split of a seed."""
    data = digits(seed)
    x, y = data.train  # only the training part is repeated, so nothing leaks
    return Task(
        model,
        (torch.cat([x, x]), torch.cat([y, y])),
        data.validation,
        examples=data.examples,
        loss="cross_entropy",
        metric="accuracy",
        target=0.9,
        epochs=100,
        batch_size=len(x),
        optimizers={
            "SGD": functools.partial(SGD, lr=0.1),
            "SGD-full-batch": functools.partial(FullBatchSGD, lr=0.1),
            "Adam": functools.partial(Adam, lr=0.003),
            "Adam-full-batch": functools.partial(FullBatchAdam, lr=0.003),
        },
    )


def make() -> Task:
    return with_splits(of_seed)
