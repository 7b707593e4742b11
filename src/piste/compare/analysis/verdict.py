"""What the results show, how sure that is, and what they don't show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

LEVEL = 0.05
"""How often, at most, a verdict may be wrong; see `against_best` for what that means."""


ENOUGH = 5
"""With fewer seeds a t-test has hardly any power, and the verdict says so."""
CAUTION = 2
"""The factor on every p-value, so that a hundred comparisons of equals seldom show more than LEVEL of differences, and
not only on average; chosen, and then tried on new seeds, as docs/compare.md tells."""


@dataclass
class Verdict:
    """The best candidate, those that can't be told from it, and those that can."""

    sentence: str
    best: str | None = None
    group: list[str] = field(default_factory=list)
    p_values: dict[str, float] = field(default_factory=dict)  # of the difference to the best, corrected
    test: str = ""
    level: float = LEVEL
    limits: str = ""
    recommendation: str = ""
    code: str = ""

    def __str__(self) -> str:
        return " ".join(
            part for part in (self.sentence, self.test, self.limits, self.recommendation, self.code) if part
        )


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's confidence interval of the mean; NaN from fewer than two values.

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    from scipy import stats

    if len(values) < 2:
        return math.nan, math.nan
    middle, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(1 - level / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return middle - half, middle + half


def paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value of Student's paired t-test, two-sided; 1 for equal pairs, 0 for one difference repeated."""
    from scipy import stats

    difference = np.asarray(a, float) - np.asarray(b, float)
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    if not difference.any():
        return 1.0
    if len(difference) < 2:
        return 1.0
    if spread <= 1e-12 * float(np.abs(difference).max()):
        return 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def friedman_p(values: Sequence[Sequence[float]]) -> float:
    """The p-value of Friedman's test that all candidates are alike, by their ranks within each seed or example."""
    from scipy import stats

    if len({tuple(v) for v in values}) == 1 or len(values[0]) < 2:
        return 1.0
    return float(stats.friedmanchisquare(*values).pvalue)


def against_best(values: Mapping[str, Sequence[float]], higher_is_better: bool) -> tuple[str, dict[str, float]]:
    """The candidate with the best mean, and the corrected p-value of every other's paired difference to it.

    Each p-value is Bonferroni's, times the number of comparisons, times CAUTION, and not below that of Friedman's test
    of all together where there are three or more. So at most LEVEL of the verdicts leave out a candidate that is truly
    best, tell a given pair of equals apart, or show any difference where all are equal.
    """
    names = list(values)
    best = (max if higher_is_better else min)(names, key=lambda name: float(np.mean(values[name])))
    overall = friedman_p([values[name] for name in names]) if len(names) > 2 else 0.0
    others = [name for name in names if name != best]
    times = CAUTION * len(others)
    return best, {name: max(overall, min(1.0, times * paired_p(values[best], values[name]))) for name in others}


def judge(
    by_seed: Mapping[str, Sequence[float]],
    by_example: Mapping[str, Sequence[float]],
    metric: str,
    higher_is_better: bool,
    fixed_weights: bool = False,
    searched: bool = False,
) -> Verdict:
    """The verdict over candidates that finished every seed.

    by_seed:     the metric of every candidate, one value for each seed
    by_example:  the scores of every validation example, of the first seed; empty where the metric gives one number
    """
    if not by_seed:
        return Verdict("No candidate finished: nothing can be said.")
    seeds = len(next(iter(by_seed.values())))
    if len(by_seed) == 1:
        (name,) = by_seed
        return Verdict(f"Only {name} finished: there is nothing to compare it with.", best=name, group=[name])
    # Seeds that change nothing repeat one result; then only the examples can say how sure it is.
    repeated = all(np.ptp(list(values)) == 0 for values in by_seed.values())
    if seeds > 1 and not repeated:
        values, sample = by_seed, f"{seeds} seeds"
        limits = "It is about this validation set and these settings."
        if seeds < ENOUGH:
            limits += f" With {seeds} seeds only large differences show; {ENOUGH} or more tell."
        if fixed_weights:
            limits += " Every seed started from the weights handed in and changed the order of the batches alone."
    else:
        values, sample = by_example, f"{len(next(iter(by_example.values()), []))} validation examples"
        limits = (
            "Every seed gave the same results, so it is about other validation examples, not other seeds."
            if seeds > 1
            else "One seed says nothing about other initial weights and other orders of the batches; "
            f"with {ENOUGH} or more seeds the verdict is about those."
        )
    if searched and values is by_seed:
        limits += " Every seed had a search of its own, so the chance of the search is counted in."
    elif searched:
        limits += " Another search may find other learning rates."
    if not values:
        best, p = against_best(by_seed, higher_is_better)
        return Verdict(
            f"No difference shown: one seed with one number for each candidate can't tell chance from merit "
            f"({best} has the best {metric}).",
            best=best,
            group=list(by_seed),
            limits=limits,
        )
    best, p = against_best(values, higher_is_better)
    group = [best, *sorted((name for name in p if p[name] >= LEVEL), key=lambda name: -p[name])]
    worse = [name for name in p if p[name] < LEVEL]
    several = len(p) > 1
    test = (
        f"(Paired t-test{'s' * several} against the best over {sample}"
        f"{f', Bonferroni-corrected for {len(p)} comparisons' * several}, p-value{'s' * several} doubled"
        f"{', after a Friedman test of all' * several}; "
        f"level {LEVEL:.0%}.)"
    )
    if not worse:
        sentence = f"No difference shown in {metric}: {best} came out first, by no more than chance may give."
    elif len(group) == 1:
        sentence = f"{best} has the best {metric}, told apart from every other."
    else:
        sentence = f"{best} has the best {metric}, but can't be told from {_and(group[1:])}. Worse: {_and(worse)}."
    return Verdict(sentence, best, group, p, test, LEVEL, limits)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
