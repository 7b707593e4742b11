"""Handwritten digits (8 x 8 pixels, 10 classes) with a perceptron: a small classification task, easily solved."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import digits


def make() -> Task:
    train, validation = digits()

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    return Task(model, train, validation, loss="cross_entropy", metric="accuracy", target=0.95, epochs=15)
