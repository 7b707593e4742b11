"""Evaluation with the weights that an optimizer averages, as the Schedule-Free ones do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from ...optim.averaging import AveragedWeights
from ..batches import Batch


def averages_weights(optimizer: Any) -> bool:
    """Return whether the trained weights of an optimizer are not those to evaluate.

    An optimizer that is not Piste's tells by its methods `eval` and `train`, as those of the package schedulefree do.
    """
    return isinstance(optimizer, AveragedWeights) or all(
        callable(getattr(optimizer, name, None)) for name in ("eval", "train")
    )


@contextlib.contextmanager
def averaged_weights(
    optimizer: Any, model: torch.nn.Module, forward: Callable[[torch.nn.Module, Batch], Any], batches: list[Batch]
) -> Iterator[None]:
    """Put the averaged weights in place inside `with`, and the statistics of batch normalization that belong to them.

    Args:
        optimizer: The optimizer, which averages weights.
        model: The model.
        forward: Computes the model's output for a batch.
        batches: The training batches from which batch normalization computes its statistics.
    """
    statistics = [b for m in model.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]
    kept = [buffer.clone() for buffer in statistics]
    with optimizer.averaged() if isinstance(optimizer, AveragedWeights) else _foreign_average(optimizer):
        if statistics:
            update_bn([(batch,) for batch in batches], _Forward(model, forward).eval())
        try:
            yield
        finally:
            for buffer, value in zip(statistics, kept, strict=True):
                buffer.copy_(value)


@contextlib.contextmanager
def _foreign_average(optimizer: Any) -> Iterator[None]:
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


class _Forward(torch.nn.Module):
    """A model that takes batches of any structure."""

    def __init__(self, model: torch.nn.Module, forward: Callable[[torch.nn.Module, Batch], Any]) -> None:
        super().__init__()
        self.model, self._forward = model, forward

    def forward(self, batch: Batch) -> Any:
        return self._forward(self.model, batch)
