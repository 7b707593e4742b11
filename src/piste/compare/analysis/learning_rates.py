"""The range of good learning rates, measured from the trials of a search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ..results import Result

GOOD_LR_TOLERANCE = 0.1
"""A learning rate is good if its result is within this share of the best result."""


def good_lr_decades(trials: Sequence[Result], higher_is_better: bool) -> float:
    """Return the width of the range of good learning rates in decades; the median over the searches.

    The range extends from the lowest to the highest rate around the best one without a worse rate in between, among
    trials with the same other options as the best. NaN if no trial finished.
    """
    widths = [_width([r for r in trials if r.seed == seed], higher_is_better) for seed in {r.seed for r in trials}]
    known = [width for width in widths if not math.isnan(width)]
    return statistics.median(known) if known else math.nan


def _width(trials: Sequence[Result], higher_is_better: bool) -> float:
    finished = [r for r in trials if r.status == "done" and r.lr is not None]
    if not finished or len({r.lr for r in trials}) == 1 < len(trials):  # no rate was searched
        return math.nan
    best = (max if higher_is_better else min)(finished, key=lambda r: r.metrics[-1])
    value = best.metrics[-1]
    by_rate = sorted((r for r in trials if r.options == best.options), key=_lr)
    results = [r.metrics[-1] if r.status == "done" else math.nan for r in by_rate]
    good = [abs(v - value) <= GOOD_LR_TOLERANCE * abs(value) for v in results]
    low = high = results.index(value)
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(good) and good[high + 1]:
        high += 1
    return math.log10(_lr(by_rate[high]) / _lr(by_rate[low]))


def _lr(result: Result) -> float:
    assert result.lr is not None  # the caller filters candidates without a learning rate
    return result.lr
