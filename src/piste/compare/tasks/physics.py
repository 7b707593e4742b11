"""A physics-informed network solves a damped oscillator from its equation: an ill-conditioned loss of derivatives."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..metrics import POSITIVE, Metric, squared_error
from ..task import Task

DAMPING, STIFFNESS, END = 0.3, 4.0, 5.0


def solution(t: torch.Tensor) -> torch.Tensor:
    """Return the exact solution of u'' + 2 DAMPING u' + STIFFNESS u = 0 with u(0) = 1 and u'(0) = 0."""
    w = math.sqrt(STIFFNESS - DAMPING**2)
    return torch.exp(-DAMPING * t) * (torch.cos(w * t) + DAMPING / w * torch.sin(w * t))


class Oscillator(nn.Module):
    """Times (N, 1) in; (N, 2) out: u, which satisfies the initial conditions for all weights, and the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        training = torch.is_grad_enabled()
        with torch.enable_grad():  # evaluation needs the derivatives with respect to t
            t = t.detach().requires_grad_()
            u = 1 + (t / END) ** 2 * self.net(2 * t / END - 1)
            du = _derivative(u, t)
            residual = _derivative(du, t) + 2 * DAMPING * du + STIFFNESS * u
            output = torch.cat([u, residual / STIFFNESS], 1)
        return output if training else output.detach()


def _derivative(u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(u.sum(), t, create_graph=True)[0]


def residual(output: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Return the mean square of the equation's residual."""
    return (output[:, 1:] - zero).square().mean()


def error(output: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """(u - exact solution)^2."""
    return squared_error(output[:, :1], exact)


def make() -> Task:
    # The training target is the residual, zero; training uses no value of the solution.
    t = END * torch.rand(256, 1, generator=torch.Generator().manual_seed(0))
    between = torch.linspace(0, END, 201).unsqueeze(1)
    return Task(
        Oscillator,
        (t, torch.zeros_like(t)),
        (between, solution(between)),
        loss=residual,
        metric=Metric("rmse", error, "min", math.sqrt, bounds=POSITIVE),
        epochs=400,
        batch_size=64,
    )
