"""A physics-informed net finds a damped swing from its equation alone: a loss of derivatives, and ill-conditioned."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..metrics import Metric, squared_error
from ..task import Task

DAMPING, STIFFNESS, END = 0.3, 4.0, 5.0


def solution(t: torch.Tensor) -> torch.Tensor:
    """The exact swing: u'' + 2 DAMPING u' + STIFFNESS u = 0 with u(0) = 1 and u'(0) = 0."""
    w = math.sqrt(STIFFNESS - DAMPING**2)
    return torch.exp(-DAMPING * t) * (torch.cos(w * t) + DAMPING / w * torch.sin(w * t))


class Swing(nn.Module):
    """Times (N, 1) in; (N, 2) out: u, which starts as it should whatever the weights are, and the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        training = torch.is_grad_enabled()
        with torch.enable_grad():  # the derivatives in t are wanted where those in the weights are not
            t = t.detach().requires_grad_()
            u = 1 + (t / END) ** 2 * self.net(2 * t / END - 1)
            du = _derivative(u, t)
            residual = _derivative(du, t) + 2 * DAMPING * du + STIFFNESS * u
            both = torch.cat([u, residual / STIFFNESS], 1)
        return both if training else both.detach()


def _derivative(u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(u.sum(), t, create_graph=True)[0]


def residual(output: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """How far the equation is from holding: the mean square of the residual."""
    return (output[:, 1:] - zero).square().mean()


def error(output: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """(u - exact solution)^2."""
    return squared_error(output[:, :1], exact)


def make() -> Task:
    # The training target is the residual, zero: no value of the solution is trained on.
    t = END * torch.rand(256, 1, generator=torch.Generator().manual_seed(0))
    between = torch.linspace(0, END, 201).unsqueeze(1)
    return Task(
        Swing,
        (t, torch.zeros_like(t)),
        (between, solution(between)),
        loss=residual,
        metric=Metric("rmse", error, "min", math.sqrt),
        epochs=400,
        batch_size=64,
    )
