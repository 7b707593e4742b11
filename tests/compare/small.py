"""Problems small enough to be learned in a test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from piste.compare import Task


def data(count: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes in two dimensions, told apart by a line."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] + x[:, 1] > 0).long()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


def task(**options: Any) -> Task:
    return Task(
        **{"model": model, "train": data(), "validation": data(40, 1), "epochs": 4, "batch_size": 16, **options}
    )


def environment() -> dict[str, str]:
    """The environment for a script that imports this package of tests."""
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
