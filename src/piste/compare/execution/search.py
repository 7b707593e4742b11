"""The search for a learning rate: Optuna's, on a log range of its own for each optimizer, the default tried first.

Other options are tried beside it where that was asked for.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import zlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from ..candidates import Candidate, default_rate
from ..plan import Plan
from ..training.trial import Result
from .executor import Job

DECADES = 3
"""The range goes so many powers of ten to either side of the default."""
NEAR = 0.1
"""A rate is good when its result is within this share of the best one."""
FIRST = 3
"""So many tries must have ended before another is stopped early."""


def search(plan: Plan, candidate: Candidate, count: int, tries: list[Result]) -> Generator[Job, Result, Candidate]:
    """Yields a job for each try, takes its result, and returns the candidate at the best rate that was tried.

    `count` says which of the comparison's searches for this candidate it is: each draws its own rates. `tries` is
    filled with the results. The sampler sees the same history after a restart, and wherever the jobs are done.

    A try is stopped when its metric falls below the median of the earlier ones at the same step; no candidate gets more
    than its `trials` tries of `steps` steps. The best is taken among tries that ended; if none did, the default stays.
    """
    default = candidate.lr or default_rate(candidate.make)
    if default is None and not candidate.knobs:
        return candidate
    seed = plan.search_seed(count)
    for number in range(plan.trials):
        lr, options = _ask(plan, candidate, default, tries, seed)
        job = Job("search", candidate.name, count * plan.trials + number, seed, lr, options, bar(plan.steps, tries))
        tries.append((yield job))
    ended = [r for r in tries if r.status == "done"]
    if not ended:
        return candidate
    sign = -1 if plan.metric.higher_is_better else 1

    def changed(tried: Result) -> dict[str, Any]:
        return {name: v for name, v in tried.options.items() if v != candidate.knobs[name][0]}

    def order(tried: Result) -> tuple[float, int, float]:
        """By the result; of equals by what changes least."""
        return sign * tried.metrics[-1], len(changed(tried)), abs(math.log(_lr(tried) / default)) if default else 0.0

    best = min(ended, key=order)
    if best is tries[0]:
        return candidate
    return dataclasses.replace(candidate, lr=None if default is None else best.lr, options=changed(best))


def bar(steps: int, tries: Sequence[Result]) -> dict[int, float]:
    """What a try must have reached at each look: the median of the tries that ended. None before three have ended,
    in the first quarter of a run, or at its end.
    """
    ended = [r for r in tries if r.status == "done"]
    if len(ended) < FIRST:
        return {}
    looks = zip(ended[0].steps, zip(*(r.metrics for r in ended), strict=True), strict=True)
    return {step: statistics.median(metrics) for step, metrics in looks if steps // 4 <= step < steps}


def _ask(
    plan: Plan, candidate: Candidate, default: float | None, tries: Sequence[Result], seed: int
) -> tuple[float | None, dict[str, Any]]:
    """Optuna's next rate and options, from the tries so far and a seed of this search's and this number's own."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = len(tries)
    seed = zlib.crc32(f"{seed}/{candidate.name}/{number}".encode())
    ranges: dict[str, Any] = {
        name: optuna.distributions.CategoricalDistribution(range(len(values)))
        for name, values in candidate.knobs.items()
    }
    if default is not None:
        low, high = default * 10.0**-DECADES, default * 10.0**DECADES
        ranges["lr"] = optuna.distributions.FloatDistribution(low, high, log=True)
    study = optuna.create_study(
        direction="maximize" if plan.metric.higher_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, plan.trials // 3)),
    )
    for result in tries:
        looks = {s: m for s, m in zip(result.steps, result.metrics, strict=True) if math.isfinite(m)}
        states = optuna.trial.TrialState
        ended = result.status == "done"
        # One that diverged is a bad rate, not a lost one: without looks it ranks below all others.
        study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if ended else states.PRUNED,
                value=result.metrics[-1] if ended else None,
                params=_places(candidate, None if default is None else result.lr, result.options),
                distributions=ranges,
                intermediate_values={} if result.diverged else looks,
            )
        )
    if not tries:
        study.enqueue_trial(_places(candidate, default, {}))
    drawn = study.ask(ranges).params
    return drawn.get("lr"), {name: values[drawn[name]] for name, values in candidate.knobs.items()}


def _places(candidate: Candidate, lr: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """A setting as Optuna keeps it: each option by the place of its value."""
    places = {name: values.index(options.get(name, values[0])) for name, values in candidate.knobs.items()}
    return places if lr is None else {**places, "lr": lr}


def width(tries: Sequence[Result], higher_is_better: bool) -> float:
    """How wide the range of good rates is, in decades: from the lowest to the highest tried rate around the best one,
    without a worse one between, whose result is within 10 % of the best, other options being the best's; the median
    over the searches. NaN if no try ended.
    """
    widths = [_width([r for r in tries if r.seed == seed], higher_is_better) for seed in {r.seed for r in tries}]
    known = [w for w in widths if not math.isnan(w)]
    return statistics.median(known) if known else math.nan


def _width(tries: Sequence[Result], higher_is_better: bool) -> float:
    known = [r for r in tries if r.status == "done" and r.lr is not None]
    if not known or len({r.lr for r in tries}) == 1 < len(tries):  # nothing ended, or no rate was searched
        return math.nan
    first = (max if higher_is_better else min)(known, key=lambda r: r.metrics[-1])
    best, options = first.metrics[-1], first.options
    ended = sorted((r for r in tries if r.options == options), key=_lr)
    results = [r.metrics[-1] if r.status == "done" else math.nan for r in ended]
    good = [abs(v - best) <= NEAR * abs(best) for v in results]
    low = high = results.index(best)
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(good) and good[high + 1]:
        high += 1
    return math.log10(_lr(ended[high]) / _lr(ended[low]))


def _lr(result: Result) -> float:
    assert result.lr is not None  # a searched candidate has a rate
    return result.lr
