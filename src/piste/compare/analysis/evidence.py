"""The evidence of a comparison: results by seed, and the contribution of every validation example to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..results import Result
from ..training.example_scores import MAX_SCORES
from .statistics import Array, Spread, contributions, estimate_spread, moderate


@dataclass
class Evidence:
    """The results of the candidates that finished with every seed.

    Attributes:
        values: The final metric by candidate, one value for each seed.
        scores: The contribution of every example to the metric by candidate, (J, n); empty if unknown.
        examples: The numbers of the examples (J, n) where every seed has its own validation set, else None. A seed with
            fewer than n examples is filled up with scores of NaN.
        count: The number of validation examples.
    """

    values: Mapping[str, Array]
    scores: Mapping[str, Array] = field(default_factory=dict)
    examples: Array | None = None
    count: int = 0

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(next(iter(self.values.values())))

    @property
    def seeds_change_nothing(self) -> bool:
        """Whether every seed gave the same metric for each candidate."""
        return self.seeds > 1 and all(np.ptp(np.asarray(v)) == 0 for v in self.values.values())

    @property
    def can_test(self) -> bool:
        """Whether there are two seeds or more that differ, or examples in place of seeds that change nothing."""
        return self.seeds > 1 and (bool(self.scores) or not self.seeds_change_nothing)

    def standard_error(self, name: str) -> float:
        """Return the standard error of one run's metric over validation examples; NaN if it is unknown."""
        if name not in self.scores or self.scores[name].shape[1] < 2:
            return math.nan
        scores = self.scores[name]
        return float(np.sqrt(np.nanvar(scores, 1, ddof=1).mean() / self._size(scores.shape[1])))

    def share_of_example(self) -> float:
        """Return the largest part that one validation example has in the metric."""
        lowest = min(float(np.nanmin(scores)) for scores in self.scores.values())
        highest = max(float(np.nanmax(scores)) for scores in self.scores.values())
        kept = next(iter(self.scores.values())).shape[1]
        return (highest - lowest) / self._size(kept)

    def _size(self, kept: int) -> int:
        """Return the number of examples behind `kept` scores, more if they are a sample of a large validation set."""
        return max(self.count, kept) if kept == MAX_SCORES else kept

    def spread_of_means(self) -> Spread:
        """Return the spread of every candidate's mean."""
        scores = np.stack(list(self.scores.values())) if self.scores else None
        return self._spread(np.stack(list(self.values.values())), scores)

    def spread_of_differences(self, best: str, others: list[str]) -> Spread:
        """Return the spread of the differences between the best and the others."""
        values = np.stack([np.asarray(self.values[best]) - self.values[name] for name in others])
        scores = np.stack([self.scores[best] - self.scores[name] for name in others]) if self.scores else None
        return moderate(self._spread(values, scores))

    def _spread(self, values: Array, scores: Array | None) -> Spread:
        size = None if scores is None else self._size(scores.shape[2])
        return estimate_spread(values, scores, self.examples, size)


def evidence_of(by_name: Mapping[str, Sequence[Result]], finish: Callable[[float], float], count: int) -> Evidence:
    """Return the evidence of finished runs.

    Args:
        by_name: The runs by candidate, in the order of the seeds.
        finish: Maps the mean of a run's scores to its metric.
        count: The number of validation examples.
    """
    values = {name: np.array([r.metrics[-1] for r in runs]) for name, runs in by_name.items()}
    scores, examples = scores_of(by_name, finish)
    return Evidence(values, scores, examples, count)


def scores_of(
    by_name: Mapping[str, Sequence[Result]], finish: Callable[[float], float]
) -> tuple[dict[str, Array], Array | None]:
    """Return the contributions of examples to the metric of each run, (J, n), and the numbers of the examples.

    There are none unless every candidate's run with the same seed has scores of the same examples.
    """
    runs = next(iter(by_name.values()), [])
    numbers, sizes = [r.examples for r in runs], [len(r.scores) for r in runs]
    by_splits = any(numbers)
    if not runs or min(sizes) < 2 or not (by_splits or len(set(sizes)) == 1):
        return {}, None
    for others in by_name.values():
        if [r.examples for r in others] != numbers or [len(r.scores) for r in others] != sizes:
            return {}, None
    most = max(sizes)

    def padded(rows: Sequence[Sequence[float]], fill: float) -> Array:
        return np.array([[*row, *[fill] * (most - len(row))] for row in rows])

    scores = {
        name: padded([contributions(np.array(r.scores), finish).tolist() for r in own], math.nan)
        for name, own in by_name.items()
    }
    return scores, padded(numbers, -1).astype(int) if by_splits else None
