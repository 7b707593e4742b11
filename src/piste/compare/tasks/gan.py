"""A small GAN has to find eight clusters: two players, one optimizer, no loss that falls; momentum is said to hurt."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ..metrics import Metric
from ..task import Task
from ._tables import Pair

NOISE, CLUSTERS, PENALTY = 4, 8, 0.05


class Game(nn.Module):
    """A forger makes points of noise, a judge tells them from real ones; both are moved by the same optimizer.

    Noise and real points (N, NOISE + 2) in; (N, 6) out: the forged points (two columns), then what the judge makes of
    the real ones, of the forged ones, and of the forged ones once more, and how steep it is at the real ones. The third
    opinion passes its gradient to the forger alone and the others to the judge alone: each player has an objective of
    its own, though one number goes backwards. Most GANs take turns, with an optimizer for each player; here one moves
    both at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forger = nn.Sequential(nn.Linear(NOISE, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        self.judge = nn.Sequential(
            nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        training = torch.is_grad_enabled()
        with torch.enable_grad():  # the steepness is a derivative, and wanted in evaluation too
            forged, real = self.forger(x[:, :NOISE]), x[:, NOISE:].detach().requires_grad_()
            still = {name: p.detach() for name, p in self.judge.named_parameters()}
            fooled = torch.func.functional_call(self.judge, still, forged)
            of_real, of_forged = self.judge(real), self.judge(forged.detach())
            slope = torch.autograd.grad(of_real.sum(), real, create_graph=True)[0]
            all_of_it = torch.cat([forged, of_real, of_forged, fooled, slope.square().sum(1, keepdim=True)], 1)
        return all_of_it if training else all_of_it.detach()


def both_objectives(output: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The judge's cross entropy with a penalty on its slope at real points, without which the players go round in
    circles (Mescheder et al. 2018), and the forger's: -log of how real its points seem. Where nobody wins: 3 log 2.
    """
    of_real, of_forged, fooled, slope = output[:, 2:].unbind(1)
    judge = functional.softplus(-of_real) + functional.softplus(of_forged) + PENALTY * slope
    return (judge + functional.softplus(-fooled)).mean()


def energy_distance(output: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """How far the forged points are from the real ones as distributions (Székely 2003): 0 only where they are equal."""
    forged, real = output[:, :2].double(), real.double()
    return 2 * torch.cdist(forged, real).mean() - torch.cdist(forged, forged).mean() - torch.cdist(real, real).mean()


def points(count: int, seed: int) -> Pair:
    """Noise beside real points, which lie in eight clusters on a circle; and the real points once more, to judge by."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi / CLUSTERS * torch.randint(CLUSTERS, (count,), generator=generator)
    real = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2, generator=generator)
    return torch.cat([torch.randn(count, NOISE, generator=generator), real], 1), real


def make() -> Task:
    return Task(
        Game,
        points(4096, 1),
        points(512, 2),
        loss=both_objectives,
        metric=Metric("energy distance", energy_distance, "min"),
        epochs=60,
        batch_size=128,
    )
