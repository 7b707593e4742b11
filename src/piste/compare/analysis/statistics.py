"""Intervals and tests for differences over new seeds and new validation examples.

A result varies for two crossed reasons: the seed (initial weights, order of batches, search) and the validation
examples. The variance of a mean difference over J seeds is estimated in two parts (Owen 2007; Cameron, Gelbach and
Miller 2011): S / J over new seeds, where S is the variance of the differences by seed, and what examples shared by the
seeds add to it, from the products of different seeds' scores of the same example. An interval combines one for each
part, with its own degrees of freedom, in quadrature (Zou and Donner 2008). A single variance with Satterthwaite's
degrees of freedom was rejected: it shows differences between equals in up to 50 of 100 comparisons of two seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PRIOR_SHARE = 0.5
"""The share of the estimated prior degrees of freedom that is used."""
MIN_LEVEL = 1e-12
"""The smallest p-value that is resolved."""


@dataclass(frozen=True)
class Spread:
    """The uncertainty of m means over J seeds and n examples, in two independent parts.

    Attributes:
        seeds: The variance over new seeds, (m,).
        seed_df: Its degrees of freedom, (m,).
        examples: The variance over new examples, beyond that in `seeds`, (m,).
        example_df: Its degrees of freedom, one number or (m,).
        least: The part of the variance over new seeds that the scores of the examples show, which has many degrees of
            freedom, (m,) or 0. The results of a few seeds may agree by chance.
    """

    seeds: Array
    seed_df: Array
    examples: Array
    example_df: Array | float
    least: Array | float = 0.0

    def half_widths(self, level: Array | float) -> Array:
        """Half the widths of the two-sided intervals at a significance level (one for all, or one for each)."""
        from scipy.special import ndtri, stdtrit

        share = np.maximum(np.asarray(level, float), MIN_LEVEL) / 2
        over_seeds = np.maximum(self.seeds * stdtrit(self.seed_df, share) ** 2, self.least * ndtri(share) ** 2)
        over_examples = self.examples * stdtrit(self.example_df, share) ** 2
        widths: Array = np.sqrt(over_seeds + over_examples)
        return widths

    def p_values(self, means: Array) -> Array:
        """Return the level at which the interval of each mean just reaches zero, by bisection; 1 for a mean of zero."""
        size, low, high = np.abs(means), np.full(len(means), math.log(MIN_LEVEL)), np.zeros(len(means))
        for _ in range(40):
            middle = (low + high) / 2
            excludes_zero = self.half_widths(np.exp(middle)) < size
            low, high = np.where(excludes_zero, low, middle), np.where(excludes_zero, middle, high)
        values: Array = np.where(size > 0, np.exp(high), 1.0)
        return values

    def __getitem__(self, index: Any) -> Spread:
        least = np.broadcast_to(self.least, self.seeds.shape)
        return Spread(self.seeds[index], self.seed_df[index], self.examples[index], self.example_df, least[index])


def estimate_spread(
    values: Array, scores: Array | None, examples: Array | None = None, size: int | None = None
) -> Spread:
    """Return the spread of the means of `values` over seeds.

    The variance over seeds has a part that the scores show: what a seed makes of each example, or of each example of
    its own split, averages out over the examples of the seed.

    Args:
        values: The result with each seed, (m, J), J of two or more.
        scores: The contribution of each example to each result, (m, J, n); None if unknown, and then `examples` of the
            spread is zero.
        examples: The number of the example that each score belongs to, (J, n), where seeds have different validation
            sets; None if score i is of the same example in every seed. A seed with fewer than n examples is filled up
            with scores of NaN.
        size: The number of examples behind the scores, where these are a sample; None if they are all.
    """
    m, seeds = values.shape
    over_seeds = values.var(1, ddof=1) / seeds
    df = np.full(m, float(seeds - 1))
    if scores is None or scores.shape[2] < 2:
        return Spread(over_seeds, df, np.zeros(m), 1.0)
    n = scores.shape[2]
    if examples is None:
        centred = scores - scores.mean(2, keepdims=True)
        products = np.square(centred.sum(1)).sum(1) - np.square(centred).sum((1, 2))
        shared = np.maximum(products, 0.0) / (seeds * (seeds - 1)) / (n * (n - 1))
        least = centred.var(1, ddof=1).sum(1) / (n - 1) / (size or n)
        return Spread(over_seeds, df, shared * n / (size or n), float(n - 1), least / seeds)
    covariances, example_df = _shared_by_splits(scores, examples)
    counts = (~np.isnan(scores[0])).sum(1) * (size or n) / n
    least = np.maximum((np.nanvar(scores, 2, ddof=1) / counts).mean(1) - covariances, 0.0)
    return Spread(over_seeds, df, covariances, example_df, least / seeds)


def _shared_by_splits(scores: Array, examples: Array) -> tuple[Array, float]:
    """Return the covariance of the results of two seeds with splits of their own, and its degrees of freedom.

    The covariance of two scores of one example is estimated from all pairs of seeds that share an example. Two seeds
    with n examples each, of which s are shared, have the covariance of a shared example times s / n^2.
    """
    known = ~np.isnan(scores[0])
    sizes = known.sum(1)
    centred = np.where(known, scores - np.nanmean(scores, 2, keepdims=True), 0.0)
    _, index = np.unique(np.where(known, examples, -1), return_inverse=True)
    index = index.reshape(-1)
    counts = np.bincount(index, known.reshape(-1))
    pairs = float((counts * (counts - 1)).sum())
    if not pairs:  # no two seeds share an example, so the variance over seeds contains all of it
        return np.zeros(len(scores)), 1.0
    totals = np.stack([np.bincount(index, c.reshape(-1), len(counts)) for c in centred])
    products = np.square(totals).sum(1) - np.square(centred).sum((1, 2))
    seeds, n = len(sizes), float(sizes.mean())
    weights = np.bincount(index, np.where(known, 1 / sizes[:, None], 0.0).reshape(-1), len(counts))
    shares = (float(np.square(weights).sum()) - float((1 / sizes).sum())) / (seeds * (seeds - 1))
    covariances = np.maximum(products, 0.0) / pairs * n / (n - 1) * shares
    return covariances, max(float((counts > 1).sum() - 1), 1.0)


def moderate(spread: Spread) -> Spread:
    """Shrink the variances over seeds toward their common value (Smyth 2004), which adds degrees of freedom.

    The prior is fitted by the mean and the variance of the logarithms. With few seeds and many candidates this more
    than doubles the power. Only a part of the prior's degrees of freedom is used, and none for fewer than four
    differences, because the prior is itself an estimate; the simulation in docs/compare.md decided how much.
    """
    from scipy.special import digamma, polygamma

    count, variances = len(spread.seeds), spread.seeds
    df = float(spread.seed_df[0])
    most = df * (count - 3) / 3
    if most <= 0 or df < 2 or not (variances > 0).all():
        return spread
    logs = np.log(variances) - digamma(df / 2) + math.log(df / 2)
    excess = float(logs.var(ddof=1)) - float(polygamma(1, df / 2))
    prior_df = min(PRIOR_SHARE * 2 * _inverse_trigamma(excess), most) if excess > 0 else most
    prior = math.exp(float(logs.mean()) + float(digamma(prior_df / 2)) - math.log(prior_df / 2))
    shrunk = (prior_df * prior + df * variances) / (prior_df + df)
    return Spread(shrunk, spread.seed_df + prior_df, spread.examples, spread.example_df, spread.least)


def _inverse_trigamma(value: float) -> float:
    """Return the x with trigamma(x) = value, by Newton's method."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step < 1e-10 * x:
            break
    return x


def contributions(scores: Array, finish: Callable[[float], float]) -> Array:
    """Return the contribution of each score to `finish` of their mean, whose mean is that result (the delta method).

    The square root of a mean squared error, for instance, is no mean, but varies over examples as the mean of its
    contributions does.

    Args:
        scores: Scores by example, (..., n).
        finish: Maps the mean of the scores to the result.
    """
    if finish is float:
        return scores
    shape = scores.shape
    rows = scores.reshape(-1, shape[-1]).astype(float)
    for i, row in enumerate(rows):
        mean = float(row.mean())
        width = float(row.std()) / math.sqrt(len(row)) or 1e-9 * (abs(mean) or 1.0)
        slope = (finish(mean + width) - finish(mean - width)) / (2 * width)
        rows[i] = finish(mean) + slope * (row - mean)
    return rows.reshape(shape)


def step_down(p_values: Array) -> Array:
    """P-values of the differences to the best of m + 1 candidates, corrected for the choice of the best.

    Any of the r candidates that remain might have come out first, so the smallest p-value is multiplied by the number
    r (r - 1) / 2 of their pairs. A candidate that is shown to be worse leaves, and the next one is compared among the
    rest (Holm 1979; the model confidence set of Hansen, Lunde and Nason 2011).
    """
    remaining = np.arange(len(p_values) + 1, 1, -1)
    order = np.argsort(p_values, kind="stable")
    corrected = np.minimum(np.maximum.accumulate(p_values[order] * (remaining * (remaining - 1) / 2)), 1.0)
    result: Array = np.empty_like(corrected)
    result[order] = corrected
    return result


def step_levels(p_values: Array, level: float) -> Array:
    """Return the level of each difference's interval: that of the step in which it left, or of the last step."""
    corrected = step_down(p_values)
    order = np.argsort(p_values, kind="stable")
    remaining = np.arange(len(p_values) + 1, 1, -1)
    left = int((corrected < level).sum())
    at = np.minimum(np.arange(len(p_values)), left)
    result: Array = np.empty(len(p_values))
    result[order] = level / (remaining[at] * (remaining[at] - 1) / 2)
    return result
