"""A table of 569 tumours, thirty columns each, benign or malignant: binary classification with one logit."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import split, standardize, with_splits


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))


def of_seed(seed: int) -> Task:
    """Return the task with the split of a seed."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    data = split(x, y[:, None].astype(float), seed, stratify=True)
    (x_train, y_train), (x_validation, y_validation) = data.train, data.validation
    x_train, x_validation = standardize(x_train, x_validation)

    return Task(
        model,
        (x_train, y_train),
        (x_validation, y_validation),
        examples=data.examples,
        loss="bce_with_logits",
        metric="accuracy",
        target=0.95,
        epochs=30,
        batch_size=32,
    )


def make() -> Task:
    return with_splits(of_seed)
