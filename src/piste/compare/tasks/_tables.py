"""Tables as tensors, with a fixed split into training and validation data."""

from __future__ import annotations

import numpy as np
import torch

Pair = tuple[torch.Tensor, torch.Tensor]


def split(x: np.ndarray, y: np.ndarray, stratify: bool = False) -> tuple[Pair, Pair]:
    """Split into three quarters for training and one for validation, with a fixed seed; numbers become float32."""
    from sklearn.model_selection import train_test_split

    x_train, x_validation, y_train, y_validation = train_test_split(
        x, y, test_size=0.25, random_state=0, stratify=y if stratify else None
    )
    return (_tensor(x_train), _tensor(y_train)), (_tensor(x_validation), _tensor(y_validation))


def standardize(train: torch.Tensor, validation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardize the columns of both parts with the mean and standard deviation of the training part."""
    mean, deviation = train.mean(0), train.std(0)
    return (train - mean) / deviation, (validation - mean) / deviation


def digits() -> tuple[Pair, Pair]:
    """1797 handwritten digits, as 64 pixels in [0, 1] each, and their classes."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split(x / 16.0, y, stratify=True)


def _tensor(values: np.ndarray) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    return tensor.float() if tensor.is_floating_point() else tensor
