"""Diabetes progression after a year for 442 patients, ten columns each; compares losses too, by a common metric."""

from __future__ import annotations

from torch import nn

from ...losses import HuberLoss
from ..task import Task
from ._tables import split, standardize, with_splits


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))


def of_seed(seed: int) -> Task:
    """Return the task with the split of a seed."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(
        return_X_y=True, scaled=False
    )  # the scaled version uses all rows, including those for validation
    data = split(x, y[:, None], seed)
    (x_train, y_train), (x_validation, y_validation) = data.train, data.validation
    x_train, x_validation = standardize(x_train, x_validation)
    # The target is standardized too, because the thresholds of smooth_l1 (1) and huber are in its units.
    y_train, y_validation = standardize(y_train, y_validation)

    return Task(
        model,
        (x_train, y_train),
        (x_validation, y_validation),
        examples=data.examples,
        loss={"mse": "mse", "l1": "l1", "smooth_l1": "smooth_l1", "huber(0.5)": HuberLoss(delta=0.5)},
        metric="mae",
        epochs=40,
        batch_size=32,
    )


def make() -> Task:
    return with_splits(of_seed)
