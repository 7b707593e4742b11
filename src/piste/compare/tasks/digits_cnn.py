"""The same digits with a small convolutional network, whose layers differ more in scale."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import digits_task


def model() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def make() -> Task:
    return digits_task(model, target=0.95)
