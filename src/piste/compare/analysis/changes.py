"""The change of every candidate's result between two comparisons, and its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics import ANY, Bounds
from ..results import LEVEL, Result
from .evidence import Evidence, scores_of
from .statistics import Array, Spread, moderate

SCORE_ERRORS, SCORE_TOLERANCE = 4.0, 1e-3
"""Scores are used where their mean gives the metric to within this number of standard errors and this share of it."""


@dataclass(frozen=True)
class Side:
    """One of the two comparisons.

    Attributes:
        runs: The final runs by candidate.
        examples: What identifies the validation examples; empty if it is unknown.
        count: Their number.
        finish: Maps the mean of a run's scores to its metric.
        bounds: The least and the largest value that the metric can take.
    """

    runs: Mapping[str, Sequence[Result]]
    examples: str
    count: int
    finish: Callable[[float], float]
    bounds: Bounds = ANY


@dataclass
class Change:
    """The result of a candidate in two comparisons.

    Attributes:
        before: The mean of the metric in the first one; NaN if the candidate is missing or did not finish.
        after: The mean in the second one.
        size: The change: the mean of the paired differences, or `after` - `before`.
        low: The lower end of its interval; NaN without two seeds on each side.
        high: The upper end.
        p_value: Corrected for the number of candidates (Holm).
        outcome: "better", "worse", "equal" within the practical margin, "identical" bit for bit, or "undecided";
            empty where one side has no result.
    """

    name: str
    before: float
    after: float
    size: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = 1.0
    outcome: str = ""


def find_changes(before: Side, after: Side, higher_is_better: bool, practical: float) -> tuple[list[Change], bool]:
    """Return the change of every candidate, and whether results were paired by seed and validation example.

    They are paired where both sides judge by the same examples and share two seeds. Otherwise both sides are
    independent samples of seeds and examples.

    Args:
        before: The first comparison.
        after: The second one.
        higher_is_better: The direction of the metric.
        practical: The largest difference of the metric that is too small to matter; NaN if unknown.
    """
    names = list(dict.fromkeys([*before.runs, *after.runs]))
    ends = {name: (_ends(before.runs.get(name, [])), _ends(after.runs.get(name, []))) for name in names}
    changes = [Change(name, _mean(old), _mean(new), _mean(new) - _mean(old)) for name, (old, new) in ends.items()]
    both = [change for change in changes if not math.isnan(change.before) and not math.isnan(change.after)]
    for change in both:
        change.outcome = "identical" if ends[change.name][0] == ends[change.name][1] else "undecided"
    seeds = _shared_seeds(before, after, [change.name for change in both])
    paired = before.examples == after.examples != "" and len(seeds) > 1
    tested = [c for c in both if c.outcome != "identical" and min(map(len, ends[c.name])) > 1]
    if tested:
        found = [_paired(before, after, c.name, seeds) if paired else _independent(before, after, c) for c in tested]
        sizes = np.array([size for size, _ in found])
        spread = _join([spread for _, spread in found])
        _judge(tested, sizes, moderate(spread) if paired else spread, higher_is_better, practical)
        most = before.bounds[1] - before.bounds[0]
        for change in tested:
            change.low, change.high = max(change.low, -most), min(change.high, most)
    return changes, paired


def _judge(
    changes: Sequence[Change], sizes: Array, spread: Spread, higher_is_better: bool, practical: float
) -> None:  # fmt: skip
    """Set the size, the interval, the p-value and the outcome of every change."""
    p_values = spread.p_values(sizes)
    order = np.argsort(p_values, kind="stable")
    remaining = np.arange(len(sizes), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(p_values[order] * remaining), 1.0)
    steps = np.minimum(np.arange(len(sizes)), int((corrected < LEVEL).sum()))
    levels, holm = np.empty(len(sizes)), np.empty(len(sizes))
    levels[order], holm[order] = LEVEL / remaining[np.minimum(steps, len(sizes) - 1)], corrected
    halves = spread.half_widths(levels)
    for change, size, half, p in zip(changes, sizes.tolist(), halves.tolist(), holm.tolist(), strict=True):
        change.size, change.low, change.high, change.p_value = size, size - half, size + half, p
        if max(abs(change.low), abs(change.high)) <= practical:
            change.outcome = "equal"
        elif p < LEVEL:
            change.outcome = "better" if (size > 0) == higher_is_better else "worse"


def _paired(before: Side, after: Side, name: str, seeds: Sequence[int]) -> tuple[float, Spread]:
    """Return the mean difference over shared seeds, and its spread over new seeds and new examples."""
    runs = {
        key: [next(r for r in side.runs[name] if r.seed == seed) for seed in seeds]
        for key, side in (("before", before), ("after", after))
    }
    values = {key: np.array(_ends(own)) for key, own in runs.items()}
    scores, examples = _scores(runs, after.finish)
    evidence = Evidence(values, scores, examples, after.count)
    return float((values["after"] - values["before"]).mean()), evidence.spread_of_differences("after", ["before"])


def _independent(before: Side, after: Side, change: Change) -> tuple[float, Spread]:
    """Return the difference of two means over seeds and examples of their own, with Welch's degrees of freedom."""
    old, new = (_spread_of_mean(side, change.name) for side in (before, after))
    total = old.seeds + new.seeds
    df = np.minimum(old.seed_df, new.seed_df)
    if total[0] > 0:
        df = total**2 / (old.seeds**2 / old.seed_df + new.seeds**2 / new.seed_df)
    example_df = min(float(old.example_df), float(new.example_df))
    return change.after - change.before, Spread(
        total, df, old.examples + new.examples, example_df, old.least + new.least
    )


def _spread_of_mean(side: Side, name: str) -> Spread:
    runs = side.runs[name]
    scores, examples = _scores({name: runs}, side.finish)
    return Evidence({name: np.array(_ends(runs))}, scores, examples, side.count).spread_of_means()


def _join(spreads: Sequence[Spread]) -> Spread:
    """One spread of several differences."""
    seeds, df, examples = (np.concatenate([getattr(s, n) for s in spreads]) for n in ("seeds", "seed_df", "examples"))
    least = np.concatenate([np.broadcast_to(s.least, s.seeds.shape) for s in spreads])
    return Spread(seeds, df, examples, np.array([float(s.example_df) for s in spreads]), least)


def _scores(
    runs: Mapping[str, Sequence[Result]], finish: Callable[[float], float]
) -> tuple[dict[str, Array], Array | None]:
    """Return the scores of runs and the numbers of their examples; none where scores do not give the metric."""
    scores, examples = scores_of(runs, finish)
    for name, parts in scores.items():
        ends = _ends(runs[name])
        errors = np.nanstd(parts, 1, ddof=1) / np.sqrt((~np.isnan(parts)).sum(1))
        off = np.abs(np.nanmean(parts, 1) - ends)
        if not (off <= SCORE_ERRORS * errors + SCORE_TOLERANCE * np.abs(ends)).all():
            return {}, None
    return scores, examples


def _shared_seeds(before: Side, after: Side, names: Sequence[str]) -> list[int]:
    """Return the seeds with which every one of the candidates ran on both sides."""
    found = [{r.seed for r in side.runs[name]} for side in (before, after) for name in names]
    return sorted(set.intersection(*found)) if found else []


def _ends(runs: Sequence[Result]) -> list[float]:
    """Return the final metric of every run, or none if a run did not finish."""
    return [] if any(r.diverged or not r.metrics for r in runs) else [r.metrics[-1] for r in runs]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
