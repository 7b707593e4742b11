"""Handwritten digits (8 x 8 pixels, 10 classes) with a perceptron: a small classification task, easily solved."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import digits, with_splits


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


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
