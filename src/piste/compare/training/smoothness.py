"""Measures of a training curve: descent share, evenness, and the steps to a target.

Each measure is a pure function of a recorded curve, and is invariant under scaling of the loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch


def descent_share(curve: Sequence[float]) -> float:
    """Return the net descent of a curve as a share of its total variation: (L_0 - L_T) / sum over t of |L_t - L_(t-1)|.

    In [-1, 1]: 1 for a monotone descent, 0 if the curve ends where it started, negative if it ends higher. NaN for a
    constant curve, and for a curve that is not finite.

    >>> descent_share([4.0, 2.0, 3.0, 1.0])
    0.6
    """
    if not all(map(math.isfinite, curve)):
        return math.nan
    variation = math.fsum(abs(b - a) for a, b in itertools.pairwise(curve))
    return (curve[0] - curve[-1]) / variation if variation else math.nan


def evenness(steps: Sequence[int], distances: Sequence[float]) -> float:
    """Return the evenness of the path to the final weights: 1 - max over t of |(1 - d_t / d_0) - t / T|.

    d_t is the distance between the weights at step t and the final weights, so 1 - d_t / d_0 is the share of the way
    covered (clamped to [0, 1]); t / T is the share of the steps taken. In [0, 1]: 1 for a constant pace, near 0 if all
    movement happens at once. NaN if the weights end where they started.

    >>> evenness([0, 10, 20], [8.0, 4.0, 0.0])
    1.0
    >>> evenness([0, 10, 20], [8.0, 0.0, 0.0])
    0.5
    """
    whole = distances[0]
    if not whole or not all(map(math.isfinite, distances)):
        return math.nan
    covered = (min(max(1 - d / whole, 0.0), 1.0) for d in distances)
    return 1 - max(abs(share - t / steps[-1]) for share, t in zip(covered, steps, strict=True))


def steps_to_target(target: float, steps: Sequence[int], values: Sequence[float], higher_is_better: bool) -> int | None:
    """Return the first evaluated step at which the metric reaches `target`; None if it never does.

    >>> steps_to_target(0.9, [0, 10, 20], [0.1, 0.91, 0.89], higher_is_better=True)
    10
    """
    for step, value in zip(steps, values, strict=True):
        if value >= target if higher_is_better else value <= target:
            return step
    return None


class WeightTrace:
    """The weights at the evaluated steps: all of them, or a fixed random sample of about `limit`.

    The sample bounds the memory. It uses the same weights at every step, so the bias of a ratio of distances is
    negligible.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], limit: int = 100_000) -> None:
        self.parameters = list(parameters)
        total = sum(p.numel() for p in self.parameters)
        generator = torch.Generator().manual_seed(0)
        self._indices: list[torch.Tensor | None] = []
        for p in self.parameters:
            share = math.ceil(p.numel() * limit / total) if total > limit else p.numel()
            chosen = torch.randint(p.numel(), (share,), generator=generator) if share < p.numel() else None
            self._indices.append(None if chosen is None else chosen.to(p.device))
        self.points: list[torch.Tensor] = []

    def record(self) -> None:
        """Copy the current weights."""
        parts = []
        for p, indices in zip(self.parameters, self._indices, strict=True):
            flat = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
            flat = flat.reshape(p.numel(), -1)
            parts.append((flat if indices is None else flat[indices]).reshape(-1).to("cpu", torch.float32))
        self.points.append(torch.cat(parts))

    def distances(self) -> list[float]:
        """Return the distance between every recorded point and the last one."""
        end = self.points[-1]
        return [float(torch.linalg.vector_norm(point - end)) for point in self.points]
