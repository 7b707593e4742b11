"""A small student of a larger net: does it learn more from the teacher's soft answers than from the labels?"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ...optim import Adam
from ..metrics import Metric, accuracy
from ..task import Task
from ..training.random_state import Randomness
from ..training.threads import one_thread
from ._tables import Pair, digits

TEMPERATURE = 4.0


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def taught(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """The teacher: a wide net, trained for about a second, the same each time."""
    with Randomness(0), one_thread():
        teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))
        optimizer = Adam(teacher.parameters(), lr=0.003)
        for _ in range(40):
            for at in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                functional.cross_entropy(teacher(x[at]), y[at]).backward()
                optimizer.step()
    return teacher.eval()


def labels(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the class in the last column."""
    return functional.cross_entropy(output, target[:, -1].long())


def teacher(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the teacher's probabilities, both softened by the temperature (Hinton et al. 2015)."""
    return TEMPERATURE**2 * functional.cross_entropy(output / TEMPERATURE, target[:, :-1])


def right(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 where the student's class is the true one, whatever it was trained with."""
    return accuracy(output, target[:, -1].long())


def make() -> Task:
    train, validation = digits()
    wise = taught(*train)

    def beside(data: Pair) -> Pair:
        x, y = data
        with torch.no_grad():
            soft = functional.softmax(wise(x) / TEMPERATURE, 1)
        return x, torch.cat([soft, y.unsqueeze(1)], 1)

    return Task(
        student,
        beside(train),
        beside(validation),
        loss={"labels": labels, "teacher": teacher},
        metric=Metric("accuracy", right, "max"),
        epochs=40,
    )
