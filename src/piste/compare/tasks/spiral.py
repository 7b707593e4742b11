"""A neural differential equation learns a spiral: gradients go through forty layers that share their weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..task import Task
from ._tables import Pair

Field = Callable[[torch.Tensor], torch.Tensor]

STEP, STEPS = 0.025, 10


def truth(u: torch.Tensor) -> torch.Tensor:
    """The field to be found, u' = u^3 A: a spiral inwards, quick far out and slow near the middle."""
    return u**3 @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def follow(field: Field, u: torch.Tensor, steps: int, step: float = STEP) -> torch.Tensor:
    """Where u (N, 2) goes along the field, as (N, steps, 2), by Runge and Kutta's method of fourth order."""
    way = []
    for _ in range(steps):
        a = field(u)
        b = field(u + step / 2 * a)
        c = field(u + step / 2 * b)
        d = field(u + step * c)
        u = u + step / 6 * (a + 2 * b + 2 * c + d)
        way.append(u)
    return torch.stack(way, 1)


class Follower(nn.Module):
    """Points (N, 2) in; where they are after each of ten steps out, (N, 10, 2), along a field that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return follow(self.field, u, STEPS)


def spiral(start: tuple[float, float], points: int = 500) -> Pair:
    """The points of one long spiral, and for each the ten that follow it."""
    first = torch.tensor([start])
    way = torch.cat([first, follow(truth, first, (points + STEPS) * 10, STEP / 10)[0, 9::10]])
    return way[:points], torch.stack([way[at : at + STEPS] for at in range(1, points + 1)])


def make() -> Task:
    # The validation spiral begins elsewhere and runs between the arms of the one that is trained on.
    return Task(Follower, spiral((2.0, 0.0)), spiral((0.0, 1.6)), loss="mse", metric="rmse", epochs=150, batch_size=50)
