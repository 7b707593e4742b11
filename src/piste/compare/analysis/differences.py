"""The difference of every candidate to the best, its interval, and its place among three outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..results import LEVEL, Difference
from .statistics import Array, Spread, estimate_spread, moderate, step_down, step_levels

MAX_SEEDS, MAX_EXAMPLE_FACTOR = 200, 1000.0
"""The largest number of seeds, and multiple of the validation set, that is named as what would decide."""


@dataclass
class Evidence:
    """The results of the candidates that finished with every seed.

    Attributes:
        values: The final metric by candidate, one value for each seed.
        scores: The contribution of every example to the metric by candidate, (J, n); empty if unknown.
        examples: The numbers of the examples (J, n) where every seed has its own validation set, else None.
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
        return float(np.sqrt(scores.var(1, ddof=1).mean() / self._size(scores.shape[1])))

    def _size(self, kept: int) -> int:
        """Return the number of examples behind `kept` scores, more if they are a sample of a large validation set."""
        from ..training.example_scores import MAX_SCORES

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
        spread = estimate_spread(values, scores, self.examples)
        if scores is None:
            return spread
        kept = scores.shape[2]
        return Spread(spread.seeds, spread.seed_df, spread.examples * kept / self._size(kept), spread.example_df)


def compare_with_best(evidence: Evidence, higher_is_better: bool, practical: float) -> tuple[str, list[Difference]]:
    """Return the candidate with the best mean, and the difference of every other to it.

    At most LEVEL of comparisons show a difference between equals, or leave out a truly best candidate.

    Args:
        evidence: The results, of two candidates or more.
        higher_is_better: The direction of the metric.
        practical: The largest difference that is too small to matter.
    """
    sign = 1 if higher_is_better else -1
    means = {name: sign * float(np.mean(values)) for name, values in evidence.values.items()}
    best = max(means, key=means.__getitem__)
    others = [name for name in means if name != best]
    sizes = np.array([means[best] - means[name] for name in others])
    if not evidence.can_test:
        return best, [
            Difference(name, size, math.nan, math.nan, 1.0) for name, size in zip(others, sizes.tolist(), strict=True)
        ]
    spread = evidence.spread_of_differences(best, others)
    p_values = spread.p_values(sizes)
    levels = step_levels(p_values, LEVEL)
    halves, corrected = spread.half_widths(levels), step_down(p_values)
    differences = []
    for i, name in enumerate(others):
        low, high, p = float(sizes[i] - halves[i]), float(sizes[i] + halves[i]), float(corrected[i])
        if high <= practical:
            outcome = "equal"
        elif p < LEVEL:
            outcome = "worse"
        else:
            outcome = "undecided"
        found = Difference(name, float(sizes[i]), low, high, p, outcome)
        if outcome == "undecided":
            one = spread[i : i + 1]
            found.seeds, found.examples = _enough(one, float(levels[i]), found, practical, evidence)
        differences.append(found)
    return best, differences


def _enough(
    spread: Spread, level: float, found: Difference, practical: float, evidence: Evidence
) -> tuple[int | None, int | None]:
    """Return the number of seeds, or of examples, that would decide if the observed difference is the true one."""

    def first(multiples: Array, larger: Spread) -> float | None:
        half = larger.half_widths(level)
        decided = (found.size - half > 0) | (found.size + half <= practical)
        return float(multiples[decided.argmax()]) if decided.any() else None

    seeds = np.arange(evidence.seeds + 1, MAX_SEEDS + 1) / evidence.seeds
    df = spread.seed_df + (seeds - 1) * evidence.seeds
    enough = first(seeds, Spread(spread.seeds / seeds, df, spread.examples, spread.example_df))
    factors = 1.1 ** np.arange(1, math.log(MAX_EXAMPLE_FACTOR, 1.1))
    factor = first(
        factors, Spread(spread.seeds, spread.seed_df, spread.examples / factors, spread.example_df * factors)
    )
    return (
        None if enough is None else round(enough * evidence.seeds),
        None if factor is None or not evidence.count else math.ceil(factor * evidence.count),
    )
