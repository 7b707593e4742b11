"""The statistical tests and the verdict: the best candidate, and the candidates that are significantly worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..results import LEVEL, Verdict

RECOMMENDED_SEEDS = 5
"""With fewer seeds a paired t-test has hardly any power, and the verdict says so."""
P_VALUE_FACTOR = 2
"""Every p-value is multiplied by this factor, so that a batch of one hundred comparisons of equal candidates rarely
shows more than LEVEL of differences. The factor was validated on new seeds; see docs/compare.md."""


def confidence_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's confidence interval of the mean; NaN for fewer than two values.

    >>> [round(x, 3) for x in confidence_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    from scipy import stats

    if len(values) < 2:
        return math.nan, math.nan
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(1 - level / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return mean - half, mean + half


def paired_p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value of Student's paired t-test, two-sided; 1 for equal pairs, 0 for a constant difference."""
    from scipy import stats

    difference = np.asarray(a, float) - np.asarray(b, float)
    if len(difference) < 2 or not difference.any():
        return 1.0
    if float(difference.std(ddof=1)) <= 1e-12 * float(np.abs(difference).max()):
        return 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def friedman_p_value(values: Sequence[Sequence[float]]) -> float:
    """The p-value of Friedman's test that all candidates are equal, from their ranks within each seed or example."""
    from scipy import stats

    if len({tuple(v) for v in values}) == 1 or len(values[0]) < 2:
        return 1.0
    return float(stats.friedmanchisquare(*values).pvalue)


def compare_with_best(values: Mapping[str, Sequence[float]], higher_is_better: bool) -> tuple[str, dict[str, float]]:
    """Test the paired difference between every candidate and the candidate with the best mean.

    Each p-value is multiplied by the number of comparisons (Bonferroni) and by P_VALUE_FACTOR, and is at least that of
    Friedman's test where there are three or more candidates. At most LEVEL of the verdicts exclude a candidate that is
    truly best, separate a given pair of equal candidates, or show any difference where all are equal.

    Returns:
        The best candidate and the corrected p-value of every other candidate.
    """
    names = list(values)
    best = (max if higher_is_better else min)(names, key=lambda name: float(np.mean(values[name])))
    overall = friedman_p_value([values[name] for name in names]) if len(names) > 2 else 0.0
    others = [name for name in names if name != best]
    factor = P_VALUE_FACTOR * len(others)
    return best, {n: max(overall, min(1.0, factor * paired_p_value(values[best], values[n]))) for n in others}


def decide(
    by_seed: Mapping[str, Sequence[float]],
    by_example: Mapping[str, Sequence[float]],
    metric: str,
    higher_is_better: bool,
    fixed_weights: bool = False,
    searched: bool = False,
) -> Verdict:
    """The verdict over the candidates that finished with every seed.

    Args:
        by_seed: The final metric of every candidate, one value for each seed.
        by_example: The first seed's score of every validation example; empty for a metric that is a single number.
        metric: The name of the metric.
        higher_is_better: The direction of the metric.
        fixed_weights: Whether all seeds start from the same weights.
        searched: Whether learning rates were searched.
    """
    if not by_seed:
        return Verdict("No candidate finished, so there is no verdict.")
    seeds = len(next(iter(by_seed.values())))
    if len(by_seed) == 1:
        (name,) = by_seed
        return Verdict(f"Only {name} finished: there is nothing to compare it with.", best=name, group=[name])
    # Seeds that change nothing repeat one result, and only the examples are a sample.
    repeated = all(np.ptp(list(values)) == 0 for values in by_seed.values())
    if seeds > 1 and not repeated:
        values, sample = by_seed, f"{seeds} seeds"
        limits = "The verdict applies to this validation set and these settings."
        if seeds < RECOMMENDED_SEEDS:
            limits += f" With {seeds} seeds only large differences can be detected; use {RECOMMENDED_SEEDS} or more."
        if fixed_weights:
            limits += " Every seed started from the weights of the given model and changed only the order of batches."
    else:
        values, sample = by_example, f"{len(next(iter(by_example.values()), []))} validation examples"
        limits = (
            "Every seed gave the same results, so the test covers other validation examples, not other seeds."
            if seeds > 1
            else "One seed says nothing about other initial weights and other orders of the batches; "
            f"use {RECOMMENDED_SEEDS} or more seeds for a verdict about these."
        )
    if searched and values is by_seed:
        limits += " Every seed had its own search, so the test includes the variation between searches."
    elif searched:
        limits += " Another search may find other learning rates."
    if not values:
        best, _ = compare_with_best(by_seed, higher_is_better)
        return Verdict(
            f"No significance test is possible: there is one seed and one number for each candidate "
            f"({best} has the best {metric}).",
            best=best,
            group=list(by_seed),
            limits=limits,
        )
    best, p_values = compare_with_best(values, higher_is_better)
    group = [best, *sorted((name for name in p_values if p_values[name] >= LEVEL), key=lambda name: -p_values[name])]
    worse = [name for name in p_values if p_values[name] < LEVEL]
    several = len(p_values) > 1
    test = (
        f"(Paired t-test{'s' * several} against the best over {sample}"
        f"{f', Bonferroni-corrected for {len(p_values)} comparisons' * several}, p-value{'s' * several} doubled"
        f"{', after a Friedman test of all' * several}; "
        f"level {LEVEL:.0%}.)"
    )
    if not worse:
        sentence = f"No significant difference in {metric}: {best} has the best mean, but within chance."
    elif len(group) == 1:
        sentence = f"{best} has the best {metric}; every other candidate is significantly worse."
    else:
        sentence = (
            f"{best} has the best {metric}; {_join(group[1:])} {_are(group[1:])} not significantly worse. "
            f"{_join(worse)} {_are(worse)} significantly worse."
        )
    return Verdict(sentence, best, group, p_values, test, LEVEL, limits)


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
