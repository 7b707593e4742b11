"""A table as tensors, split once and for all."""

from __future__ import annotations

import numpy as np
import torch

Pair = tuple[torch.Tensor, torch.Tensor]


def split(x: np.ndarray, y: np.ndarray, stratify: bool = False) -> tuple[Pair, Pair]:
    """Three quarters to train on and a quarter to validate on, always the same ones; numbers become float32."""
    from sklearn.model_selection import train_test_split

    x_train, x_validation, y_train, y_validation = train_test_split(
        x, y, test_size=0.25, random_state=0, stratify=y if stratify else None
    )
    return (_tensor(x_train), _tensor(y_train)), (_tensor(x_validation), _tensor(y_validation))


def standard(train: torch.Tensor, validation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with the mean and deviation of the training part, column by column: validation data stays unseen."""
    mean, deviation = train.mean(0), train.std(0)
    return (train - mean) / deviation, (validation - mean) / deviation


def digits() -> tuple[Pair, Pair]:
    """1797 handwritten digits of 8 x 8 pixels from 0 to 1, in a row of 64, and which digit each is."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split(x / 16.0, y, stratify=True)


def _tensor(values: np.ndarray) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    return tensor.float() if tensor.is_floating_point() else tensor
