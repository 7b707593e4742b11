"""The difference of every candidate to the best, its interval, and its place among three outcomes."""

from __future__ import annotations

import math

import numpy as np

from ..metrics import ANY, Bounds
from ..results import LEVEL, Difference
from .evidence import Evidence
from .statistics import Array, Spread, step_down, step_levels

MAX_SEEDS, MAX_EXAMPLE_FACTOR = 200, 1000.0
"""The largest number of seeds, and multiple of the validation set, that is named as what would decide."""


def compare_with_best(
    evidence: Evidence, higher_is_better: bool, practical: float, bounds: Bounds = ANY
) -> tuple[str, list[Difference]]:
    """Return the candidate with the best mean, and the difference of every other to it.

    At most LEVEL of comparisons show a difference between equals, or leave out a truly best candidate.

    Args:
        evidence: The results, of two candidates or more.
        higher_is_better: The direction of the metric.
        practical: The largest difference that is too small to matter.
        bounds: The least and the largest value that the metric can take.
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
    differences, most = [], bounds[1] - bounds[0]
    for i, name in enumerate(others):
        size, half, p = float(sizes[i]), float(halves[i]), float(corrected[i])
        low, high = max(size - half, -most), min(size + half, most)
        if high <= practical:
            outcome = "equal"
        elif p < LEVEL:
            outcome = "worse"
        else:
            outcome = "undecided"
        found = Difference(name, size, low, high, p, outcome)
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
    enough = first(seeds, Spread(spread.seeds / seeds, df, spread.examples, spread.example_df, spread.least / seeds))
    factors = 1.1 ** np.arange(1, math.log(MAX_EXAMPLE_FACTOR, 1.1))
    larger = Spread(
        spread.seeds, spread.seed_df, spread.examples / factors, spread.example_df * factors, spread.least / factors
    )
    factor = first(factors, larger)
    return (
        None if enough is None else round(enough * evidence.seeds),
        None if factor is None or not evidence.count else math.ceil(factor * evidence.count),
    )
