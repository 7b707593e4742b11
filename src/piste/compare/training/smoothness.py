"""What is read off a run: how far the loss came down, how straight and how evenly, and how soon it was good enough.

Each measure is a pure function of a recorded curve. None changes when the loss is multiplied by a number, or when the
curve goes on longer at the same pace.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch


def descent_share(curve: Sequence[float]) -> float:
    """The share of all movement of the curve that was net descent: (L_0 - L_T) / sum over t of |L_t - L_(t-1)|.

    In [-1, 1]: 1 is a straight way down, 0 ends where it began, below 0 ends higher. NaN where nothing moved, or
    where the curve isn't finite.

    >>> descent_share([4.0, 2.0, 3.0, 1.0])
    0.6
    """
    if not all(map(math.isfinite, curve)):
        return math.nan
    moved = math.fsum(abs(b - a) for a, b in itertools.pairwise(curve))
    return (curve[0] - curve[-1]) / moved if moved else math.nan


def evenness(steps: Sequence[int], distances: Sequence[float]) -> float:
    """How even the pace was: 1 - max over t of |(1 - d_t / d_0) - t / T|.

    d_t is the distance of the weights at step t to where they ended, so 1 - d_t / d_0 is the share of the way covered
    (taken within [0, 1]); t / T is the share of the steps taken. In [0, 1]: 1 moves as evenly as the clock, near 0
    does everything at once or nothing until the end. NaN where the weights ended where they began.

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


def steps_to(target: float, steps: Sequence[int], values: Sequence[float], higher_is_better: bool) -> int | None:
    """The first evaluated step at which the metric is as good as `target`; None if it never is.

    >>> steps_to(0.9, [0, 10, 20], [0.1, 0.91, 0.89], higher_is_better=True)
    10
    """
    for step, value in zip(steps, values, strict=True):
        if value >= target if higher_is_better else value <= target:
            return step
    return None


class WeightTrace:
    """The weights at the evaluated steps: all of them, or a fixed random sample where there are more than `limit`.

    The sample keeps memory bounded; a ratio of distances is estimated by it without bias worth mentioning, because
    the same weights are taken at every step.
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
        """Keep a copy of the weights as they are now."""
        parts = []
        for p, indices in zip(self.parameters, self._indices, strict=True):
            flat = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
            flat = flat.reshape(p.numel(), -1)
            parts.append((flat if indices is None else flat[indices]).reshape(-1).to("cpu", torch.float32))
        self.points.append(torch.cat(parts))

    def distances(self) -> list[float]:
        """The distance of every recorded point to the last one."""
        end = self.points[-1]
        return [float(torch.linalg.vector_norm(point - end)) for point in self.points]
