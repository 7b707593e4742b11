"""Tables as tensors, split into training and validation data by a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..task import Task

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Split:
    """Training data, validation data, and the numbers of the validation examples."""

    train: Pair
    validation: Pair
    examples: torch.Tensor


def split(x: np.ndarray, y: np.ndarray, seed: int, stratify: bool = False) -> Split:
    """Split into three quarters for training and one for validation; numbers become float32."""
    from sklearn.model_selection import train_test_split

    train, validation = train_test_split(
        np.arange(len(y)), test_size=0.25, random_state=seed, stratify=y if stratify else None
    )

    def part(rows: np.ndarray) -> Pair:
        return _tensor(x[rows]), _tensor(y[rows])

    return Split(part(train), part(validation), torch.as_tensor(validation))


def with_splits(make: Callable[[int], Task]) -> Task:
    """Return the task with the split of seed 0, which every other seed splits again.

    Args:
        make: Returns the task with the split of a seed.
    """
    task = make(0)
    task.resplit = make
    return task


def standardize(train: torch.Tensor, validation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardize the columns of both parts with the mean and standard deviation of the training part."""
    mean, deviation = train.mean(0), train.std(0)
    return (train - mean) / deviation, (validation - mean) / deviation


def digits(seed: int) -> Split:
    """1797 handwritten digits, as 64 pixels in [0, 1] each, and their classes."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split(x / 16.0, y, seed, stratify=True)


def digits_task(model: Callable[[], nn.Module], *, target: float, epochs: int = 15) -> Task:
    """Return the classification of the digits by a model, with a split for each seed.

    Args:
        model: Makes the model.
        target: The accuracy that counts as learned.
        epochs: The passes over the training data.
    """

    def of_seed(seed: int) -> Task:
        data = digits(seed)
        return Task(
            model, data.train, data.validation, examples=data.examples, loss="cross_entropy", metric="accuracy",
            target=target, epochs=epochs,
        )  # fmt: skip

    return with_splits(of_seed)


def _tensor(values: np.ndarray) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    return tensor.float() if tensor.is_floating_point() else tensor
