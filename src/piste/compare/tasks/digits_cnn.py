"""The same digits with a small convolutional network, whose layers differ more in scale."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import digits


def make() -> Task:
    train, validation = digits()

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip

    return Task(model, train, validation, loss="cross_entropy", metric="accuracy", target=0.95, epochs=15)
