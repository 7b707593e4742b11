"""Early stopping: the weights of the best evaluation, and the end of a run that no longer improves."""

from __future__ import annotations

import math

import torch

Weights = dict[str, torch.Tensor]


class EarlyStopping:
    """Keeps the weights of the best evaluation so far.

    Args:
        sign: 1 if a higher metric is better, -1 if a lower one is.
        patience: The number of evaluations without a better metric after which the run ends.
        modules: The modules whose weights are kept.
    """

    def __init__(self, sign: int, patience: int, modules: list[torch.nn.Module]) -> None:
        self.sign, self.patience, self.modules = sign, patience, modules
        self.step, self._best, self._since = 0, -math.inf, 0
        self._kept: list[Weights] = []

    def update(self, step: int, metric: float) -> bool:
        """Note an evaluation; True if the run should end."""
        self._since += 1
        if self.sign * metric > self._best:
            self.step, self._best, self._since = step, self.sign * metric, 0
            self._kept = copy_weights(self.modules)
        return self._since >= self.patience

    def restore(self) -> None:
        """Set the weights of the best evaluation."""
        set_weights(self.modules, self._kept)


def copy_weights(modules: list[torch.nn.Module]) -> list[Weights]:
    """Return a copy of the weights and buffers of each module."""
    return [{name: value.detach().clone() for name, value in m.state_dict().items()} for m in modules]


def set_weights(modules: list[torch.nn.Module], weights: list[Weights]) -> None:
    """Set the weights and buffers that `copy_weights` returned."""
    for module, kept in zip(modules, weights, strict=True):
        module.load_state_dict(kept)
