"""The same digits with a small convolutional network, whose layers differ more in scale."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import digits, with_splits


def model() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def of_seed(seed: int) -> Task:
    """Return the task with the split of a seed."""
    data = digits(seed)
    return Task(
        model,
        data.train,
        data.validation,
        examples=data.examples,
        loss="cross_entropy",
        metric="accuracy",
        target=0.95,
        epochs=15,
    )


def make() -> Task:
    return with_splits(of_seed)
