"""A neural differential equation learns a spiral: gradients flow through forty layers that share weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..task import Task
from ._tables import Pair

Field = Callable[[torch.Tensor], torch.Tensor]

STEP, STEPS = 0.025, 10


def true_field(u: torch.Tensor) -> torch.Tensor:
    """Return the vector field to learn, u' = u^3 A: an inward spiral, fast far out and slow near the centre."""
    return u**3 @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def integrate(field: Field, u: torch.Tensor, steps: int, step: float = STEP) -> torch.Tensor:
    """Integrate the field from u (N, 2) with the fourth-order Runge-Kutta method; returns (N, steps, 2)."""
    path = []
    for _ in range(steps):
        a = field(u)
        b = field(u + step / 2 * a)
        c = field(u + step / 2 * b)
        d = field(u + step * c)
        u = u + step / 6 * (a + 2 * b + 2 * c + d)
        path.append(u)
    return torch.stack(path, 1)


class NeuralODE(nn.Module):
    """Points (N, 2) in; their positions after each of ten steps along the learned field, (N, 10, 2), out."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return integrate(self.field, u, STEPS)


def spiral(start: tuple[float, float], points: int = 500) -> Pair:
    """Return the points of one long spiral, and the ten points after each."""
    first = torch.tensor([start])
    path = torch.cat([first, integrate(true_field, first, (points + STEPS) * 10, STEP / 10)[0, 9::10]])
    return path[:points], torch.stack([path[i : i + STEPS] for i in range(1, points + 1)])


def make() -> Task:
    # The validation spiral starts elsewhere and runs between the arms of the training spiral.
    return Task(NeuralODE, spiral((2.0, 0.0)), spiral((0.0, 1.6)), loss="mse", metric="rmse", epochs=150, batch_size=50)
