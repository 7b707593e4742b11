"""Handwritten digits (8 x 8 pixels, 10 classes) with a perceptron: a small classification task, easily solved."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import digits_task


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def make() -> Task:
    return digits_task(model, target=0.95)
