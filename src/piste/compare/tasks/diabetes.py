"""Diabetes a year later, from ten numbers on each of 442 patients: losses are compared too, by a common metric."""

from __future__ import annotations

from torch import nn

from ...losses import HuberLoss
from ..task import Task
from ._tables import split, standard


def make() -> Task:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)  # scaled, it would be by all rows
    (x_train, y_train), (x_validation, y_validation) = split(x, y[:, None])
    x_train, x_validation = standard(x_train, x_validation)
    # The target in standard deviations too: the thresholds of smooth_l1 (1) and huber are in its units.
    y_train, y_validation = standard(y_train, y_validation)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))

    return Task(
        model,
        (x_train, y_train),
        (x_validation, y_validation),
        loss={"mse": "mse", "l1": "l1", "smooth_l1": "smooth_l1", "huber(0.5)": HuberLoss(delta=0.5)},
        metric="mae",
        epochs=40,
        batch_size=32,
    )
