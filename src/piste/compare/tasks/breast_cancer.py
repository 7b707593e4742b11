"""A table of 569 tumours, thirty columns each, benign or malignant: binary classification with one logit."""

from __future__ import annotations

from torch import nn

from ..task import Task
from ._tables import split, standardize


def make() -> Task:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    (x_train, y_train), (x_validation, y_validation) = split(x, y[:, None].astype(float), stratify=True)
    x_train, x_validation = standardize(x_train, x_validation)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))

    return Task(
        model,
        (x_train, y_train),
        (x_validation, y_validation),
        loss="bce_with_logits",
        metric="accuracy",
        target=0.95,
        epochs=30,
        batch_size=32,
    )
