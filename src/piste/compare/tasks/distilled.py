"""Distillation: a small network learns from a larger one by three divergences, or from the labels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ...losses import DistillationLoss
from ...optim import Adam
from ..class_metrics import accuracy
from ..metrics import UNIT, Metric
from ..task import Task
from ..training.random_state import RandomState
from ..training.threads import one_thread
from ._tables import Pair, digits, with_splits

TEMPERATURE = 4.0


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def train_teacher(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """Return a wide network, trained for about a second; the same each time."""
    with RandomState(0), one_thread():
        teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))
        optimizer = Adam(teacher.parameters(), lr=0.003)
        for _ in range(40):
            for rows in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                functional.cross_entropy(teacher(x[rows]), y[rows]).backward()
                optimizer.step()
    return teacher.eval()


def labels(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the class in the last column of the target."""
    return functional.cross_entropy(output, target[:, -1].long())


class FromTeacher(nn.Module):
    """The divergence from the teacher's probabilities, both at the temperature (Hinton et al. 2015)."""

    def __init__(self, distillation: DistillationLoss) -> None:
        super().__init__()
        self.distillation = distillation

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.distillation(output, target[:, :-1])


def student_accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 where the student predicts the true class, whatever it was trained with."""
    return accuracy(output, target[:, -1].long())


def of_seed(seed: int) -> Task:
    """Return the task with the split of a seed, and a teacher that was trained on its training part."""
    split = digits(seed)
    trained = train_teacher(*split.train)

    def with_logits(data: Pair) -> Pair:
        x, y = data
        with torch.no_grad():
            return x, torch.cat([trained(x), y.unsqueeze(1)], 1)

    return Task(
        student,
        with_logits(split.train),
        with_logits(split.validation),
        examples=split.examples,
        loss={
            "labels": labels,
            "teacher": FromTeacher(DistillationLoss(temperature=TEMPERATURE, divergence="forward")),
            "reverse": FromTeacher(DistillationLoss(temperature=TEMPERATURE, divergence="reverse")),
            "jsd": FromTeacher(DistillationLoss(temperature=TEMPERATURE, divergence="jsd")),
        },
        metric=Metric("accuracy", student_accuracy, "max", bounds=UNIT),
        epochs=40,
    )


def make() -> Task:
    return with_splits(of_seed)
