"""A small GAN on eight clusters with three losses: two networks, one optimizer; momentum is known to hurt."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...losses import DiscriminatorLoss, GeneratorLoss
from ..metrics import POSITIVE, Metric
from ..task import Task
from ._tables import Pair

NOISE, CLUSTERS, PENALTY = 4, 8, 0.05


class GAN(nn.Module):
    """A generator and a discriminator, trained by the same optimizer.

    Noise and real points (N, NOISE + 2) in; (N, 6) out: the generated points (two columns), the discriminator's scores
    of the real points, of the generated points, and of the generated points a second time, and its squared gradient at
    the real points. The third score passes its gradient to the generator alone and the others to the discriminator
    alone, so that each network has its own objective with a single backward pass. Most GANs alternate, with an
    optimizer for each network; here both move at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(NOISE, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        self.discriminator = nn.Sequential(
            nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        training = torch.is_grad_enabled()
        with torch.enable_grad():  # the penalty is a derivative, which evaluation needs too
            generated, real = self.generator(x[:, :NOISE]), x[:, NOISE:].detach().requires_grad_()
            frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            of_generator = torch.func.functional_call(self.discriminator, frozen, generated)
            of_real, of_generated = self.discriminator(real), self.discriminator(generated.detach())
            slope = torch.autograd.grad(of_real.sum(), real, create_graph=True)[0]
            penalty = slope.square().sum(1, keepdim=True)
            output = torch.cat([generated, of_real, of_generated, of_generator, penalty], 1)
        return output if training else output.detach()


class Game(nn.Module):
    """The sum of the losses of both networks and of the discriminator's gradient penalty at real points.

    Without the penalty the networks cycle (Mescheder et al. 2018). At the equilibrium of the logistic game the sum is
    3 log 2.
    """

    def __init__(self, discriminator: DiscriminatorLoss, generator: GeneratorLoss) -> None:
        super().__init__()
        self.discriminator, self.generator = discriminator, generator

    def forward(self, output: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        of_real, of_generated, of_generator, penalty = output[:, 2:].unbind(1)
        return self.discriminator(of_real, of_generated) + PENALTY * penalty.mean() + self.generator(of_generator)


GAMES = {
    "logistic": Game(DiscriminatorLoss("logistic"), GeneratorLoss("non_saturating")),
    "least_squares": Game(DiscriminatorLoss("least_squares"), GeneratorLoss("least_squares")),
    "hinge": Game(DiscriminatorLoss("hinge"), GeneratorLoss("hinge")),
}


def energy_distance(output: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the distance between the distributions of generated and real points (Székely 2003), 0 if equal."""
    points, real = output[:, :2].double(), real.double()
    return 2 * torch.cdist(points, real).mean() - torch.cdist(points, points).mean() - torch.cdist(real, real).mean()


def points(count: int, seed: int) -> Pair:
    """Noise and real points, in eight clusters on a circle, as input; the real points as target."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi / CLUSTERS * torch.randint(CLUSTERS, (count,), generator=generator)
    real = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2, generator=generator)
    return torch.cat([torch.randn(count, NOISE, generator=generator), real], 1), real


def make() -> Task:
    return Task(
        GAN,
        points(4096, 1),
        points(512, 2),
        loss=GAMES,
        metric=Metric("energy distance", energy_distance, "min", bounds=POSITIVE),
        epochs=60,
        batch_size=128,
    )
