"""The digits read row by row by a recurrent net, where RMSprop is said to shine."""

from __future__ import annotations

import torch
from torch import nn

from ..task import Task
from ._tables import split


class Reader(nn.Module):
    """A recurrent net over the eight rows (N, 8, 8), and a class from what it remembers at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.out = nn.RNN(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        remembered, _ = self.memory(rows)
        return self.out(remembered[:, -1])


def make() -> Task:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    train, validation = split(x.reshape(-1, 8, 8) / 16.0, y, stratify=True)
    return Task(Reader, train, validation, loss="cross_entropy", metric="accuracy", target=0.9, epochs=15)
