"""The verdict in words: the best candidate, and which others are worse, practically equal, or undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..formats import format_change
from ..metrics import ANY, Bounds
from ..results import LEVEL, Difference, Verdict
from .differences import MAX_SEEDS, compare_with_best
from .evidence import Evidence

MOST_LISTED = 3
"""The largest number of undecided candidates that are listed with their seeds."""
RECOMMENDED_SEEDS = 5
"""With fewer seeds only large differences can be shown, and the verdict says so."""


def decide(
    evidence: Evidence,
    metric: str,
    higher_is_better: bool,
    practical: float | None = None,
    *,
    bounds: Bounds = ANY,
    fixed_weights: bool = False,
    searched: bool = False,
    at_defaults: bool = False,
    splits: bool = False,
) -> Verdict:
    """Return the verdict over the candidates that finished with every seed.

    Args:
        evidence: Their results.
        metric: The name of the metric.
        higher_is_better: The direction of the metric.
        practical: The largest difference that is too small to matter; None takes one standard error of the best
            candidate's metric over the validation examples, or one example if that is 0.
        bounds: The least and the largest value that the metric can take.
        fixed_weights: Whether all seeds start from the same weights.
        searched: Whether learning rates were searched.
        at_defaults: Whether every candidate ran at its default learning rate, without a search.
        splits: Whether every seed drew its own split into training and validation data.
    """
    if not evidence.values:
        return Verdict("No candidate finished, so there is no verdict.")
    if len(evidence.values) == 1:
        (name,) = evidence.values
        return Verdict(f"Only {name} finished: there is nothing to compare it with.", best=name, group=[name])
    best = compare_with_best(evidence, higher_is_better, math.nan)[0]
    margin, meaning = _default_margin(evidence, best) if practical is None else (practical, "")
    best, differences = compare_with_best(evidence, higher_is_better, margin, bounds)
    equal = [d.name for d in differences if d.outcome == "equal"]
    worse = [d.name for d in differences if d.outcome == "worse"]
    undecided = [d.name for d in differences if d.outcome == "undecided"]
    if not evidence.can_test:
        sentence = _sentence_without_test(evidence, best, metric)
        test = ""
    else:
        sentence = _sentence(best, metric, equal, undecided, worse)
        test = f"({_sample(evidence)}. {_margin(margin, meaning)})"
    limits = _limits(evidence, differences, fixed_weights, searched, at_defaults, splits)
    return Verdict(
        sentence, best, [best, *equal, *undecided], differences, margin, test=test, limits=" ".join(limits)
    )  # fmt: skip


def _sentence(
    best: str, metric: str, equal: Sequence[str], undecided: Sequence[str], worse: Sequence[str]
) -> str:  # fmt: skip
    if not equal and not undecided:
        return f"{best} has the best {metric}; every other candidate is worse."
    if not worse and not undecided:
        return f"All candidates are practically equal in {metric}; {best} has the best mean."
    if not worse and not equal:
        return (
            f"Undecided in {metric}: {best} has the best mean, and no other candidate is shown to be worse "
            f"or practically equal."
        )
    others = [
        f"Practically equal: {', '.join(equal)}." if equal else "",
        f"Undecided: {', '.join(undecided)}." if undecided else "",
        f"Worse: {', '.join(worse)}." if worse else "",
    ]
    return " ".join([f"{best} has the best {metric}.", *filter(None, others)])


def _sentence_without_test(evidence: Evidence, best: str, metric: str) -> str:
    reason = (
        "one seed can't separate the candidates"
        if evidence.seeds == 1
        else "every seed gave the same results, and there is one number for all examples"
    )
    return f"Undecided in {metric}: {reason}. {best} has the best result."


def _sample(evidence: Evidence) -> str:
    level = f"at a level of {LEVEL:.0%}"
    several = ", corrected for all pairs of candidates" * (len(evidence.values) > 2)
    if not evidence.scores:
        return (
            f"Differences to the best over new seeds ({evidence.seeds} ran), {level}{several}; the metric has no score "
            f"for an example, so other validation examples are not covered"
        )
    if evidence.seeds_change_nothing:
        return f"Differences to the best over new validation examples ({evidence.count:,} were used), {level}{several}"
    return (
        f"Differences to the best over new seeds and new validation examples ({evidence.seeds} and "
        f"{evidence.count:,} were used), {level}{several}"
    )


def _default_margin(evidence: Evidence, best: str) -> tuple[float, str]:
    """Return one standard error of the best candidate's metric; one example if all examples have the same score."""
    error = evidence.standard_error(best)
    if error == 0:
        return evidence.share_of_example(), " (one validation example)"
    return error, " (one standard error of the validation set)"


def _margin(margin: float, meaning: str) -> str:
    if math.isnan(margin):
        return "No practical margin is known, so nothing is called practically equal; set one with --practical."
    return f"A difference of at most {format_change(margin)}{meaning} is practically equal."


def _limits(
    evidence: Evidence,
    differences: Sequence[Difference],
    fixed_weights: bool,
    searched: bool,
    at_defaults: bool,
    splits: bool,
) -> list[str]:
    if evidence.seeds == 1:
        limits = [
            "One seed says nothing about other initial weights and other orders of the batches; "
            f"use {RECOMMENDED_SEEDS} or more seeds for a verdict."
        ]
    elif evidence.seeds_change_nothing:
        alone = "Every seed gave the same results, so the verdict covers other validation examples alone."
        limits = [alone] * evidence.can_test
        if fixed_weights:
            limits.append("A function that makes the model gives each seed its own initial weights.")
    else:
        limits = ["The verdict applies to this task and these settings."]
        if evidence.seeds < RECOMMENDED_SEEDS:
            limits.append(
                f"With {evidence.seeds} seeds only large differences can be detected; use {RECOMMENDED_SEEDS} or more."
            )
    if splits and evidence.seeds > 1:
        limits.append("Every seed drew its own training and validation data from the same examples.")
    if fixed_weights and evidence.seeds > 1 and not evidence.seeds_change_nothing:
        limits.append("Every seed started from the weights of the given model and changed only the order of batches.")
    if searched and not evidence.seeds_change_nothing and evidence.seeds > 1:
        limits.append("Every seed had its own search, so the verdict includes the variation between searches.")
    elif searched:
        limits.append("Another search may find other learning rates.")
    if at_defaults:
        limits.append("It is about the default learning rates; tuned rates may rank the candidates otherwise.")
    if evidence.can_test and (needed := _needed(differences)):
        limits.append(needed)
    return limits


def _needed(differences: Sequence[Difference]) -> str:
    """Return the seeds or examples that would decide each undecided difference, if it is as large as observed."""
    parts, without = [], []
    undecided = [d for d in differences if d.outcome == "undecided"]
    by_seeds = sorted((d for d in undecided if d.seeds is not None), key=lambda d: d.seeds or 0)
    if len(by_seeds) > MOST_LISTED:
        first, *_, last = by_seeds
        parts.append(
            f"{first.name} takes about {first.seeds} seeds, {last.name} about {last.seeds}, the others between them"
        )
        undecided = [d for d in undecided if d.seeds is None]
    for d in undecided:
        seeds = "" if d.seeds is None else f"{d.seeds} seeds"
        examples = "" if d.examples is None else f"{_rounded(d.examples)} validation examples"
        if seeds and examples:
            parts.append(f"{d.name} takes about {seeds} or {examples}")
        elif seeds or examples:
            parts.append(f"{d.name} takes about {seeds or examples}")
        else:
            without.append(d.name)
    if len(without) > MOST_LISTED:
        parts.append(f"{len(without)} candidates take more than {MAX_SEEDS} seeds, or more of both")
    elif without:
        parts.append(f"{_join(without)} take{'s' * (len(without) == 1)} more than {MAX_SEEDS} seeds, or more of both")
    return f"To decide, if the differences are as observed: {'; '.join(parts)}." if parts else ""


def _rounded(count: int) -> str:
    """Return a count with two significant digits."""
    digits = max(len(str(count)) - 2, 0)
    return f"{math.ceil(count / 10**digits) * 10**digits:,}"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
