"""The digits through ten narrow tanh layers: a deep network, where Adagrad is known to slow down early."""

from __future__ import annotations

import itertools

from torch import nn

from ..task import Task
from ._tables import digits_task


def model() -> nn.Module:
    widths = [64, *[32] * 9]
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def make() -> Task:
    return digits_task(model, target=0.9, epochs=20)
