"""The rows and the verdict, computed from the runs of a plan."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ...optim import OPTIMIZERS
from ..candidates import Candidate, default_lr
from ..metrics import Metric
from ..plan import Plan
from ..results import Result, Row, Runs, Summary
from ..search_space import format_options
from ..training.smoothness import steps_to_target
from .learning_rates import good_lr_decades
from .recommendation import code_to_paste, recommend
from .verdict import confidence_interval, decide

TARGET_SHARE = 0.9
"""The default target, as the share of the way from the metric at the start to the best metric at the end."""


def summarize(plan: Plan, runs: Runs, interrupted: str = "", left_out: str = "") -> Summary:
    """The rows and the verdict of the runs so far."""
    higher_is_better, results = plan.metric.higher_is_better, runs.results
    target, meaning = _target(plan, results)
    rows = []
    for candidate in plan.candidates:
        own = _runs_of(candidate, results)
        if own:
            row = _row(candidate, own, target, plan.metric)
            defaults = _runs_of(candidate, runs.defaults)
            row.default_metric = math.nan if any(r.diverged for r in defaults) else _mean(_ends(defaults))
            row.lr_width = good_lr_decades(_runs_of(candidate, runs.tries), higher_is_better)
            rows.append(row)
    rows.sort(key=lambda row: (row.diverged > 0, -row.metric if higher_is_better else row.metric))
    complete = [seed for seed in plan.seeds if sum(r.seed == seed for r in results) == len(plan.candidates)]
    finished = [row.name for row in rows if not row.diverged] if complete else []
    by_seed = {n: _ends([r for r in results if r.candidate == n and r.seed in complete]) for n in finished}
    by_example = {
        n: r.scores for n in finished for r in results if r.candidate == n and r.seed in complete[:1] and r.scores
    }
    verdict = decide(by_seed, by_example, plan.metric.name, higher_is_better, plan.task.fixed_weights, plan.searches)
    if verdict.best is not None and len(plan.candidates) > 1:
        defaults_of = {c.name: c.lr or default_lr(c.make) for c in plan.candidates}
        row, reason = recommend(
            rows, verdict.group, defaults_of, _target_near_best(plan, results), higher_is_better=higher_is_better
        )
        verdict.recommendation = f"Recommended: {row.name}; {reason}"
        verdict.code = code_to_paste(row, list(OPTIMIZERS))
    return Summary(
        plan.task.name, plan.task.about, plan.metric.name, higher_is_better, target, meaning, plan.settings(), rows,
        results, verdict, interrupted, left_out, runs.defaults, runs.tries, plan.task.picture,
    )  # fmt: skip


def _runs_of(candidate: Candidate, results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r.candidate == candidate.name]


def _ends(results: Sequence[Result]) -> list[float]:
    return [r.metrics[-1] for r in results]


def _target(plan: Plan, results: Sequence[Result]) -> tuple[float, str]:
    if plan.task.target is not None:
        return plan.task.target, "given by the task"
    if all(r.diverged for r in results):
        return math.nan, "no run finished"
    return _target_near_best(plan, results), f"{TARGET_SHARE:.0%} of the way from the start to the best candidate"


def _target_near_best(plan: Plan, results: Sequence[Result]) -> float:
    finished = [r for r in results if not r.diverged]
    start = statistics.fmean(r.metrics[0] for r in finished)
    best_of = max if plan.metric.higher_is_better else min
    means = [statistics.fmean(ends) for c in plan.candidates if (ends := _ends(_runs_of(c, finished)))]
    return start + TARGET_SHARE * (best_of(means) - start)


def _row(candidate: Candidate, results: Sequence[Result], target: float, metric: Metric) -> Row:
    finished = [r for r in results if not r.diverged]
    ends = _ends(finished)
    low, high = confidence_interval(ends)
    if len(finished) == 1 and finished[0].scores:
        low, high = sorted(metric.finish(bound) for bound in confidence_interval(finished[0].scores))
    arrivals = [(steps_to_target(target, r.steps, r.metrics, metric.higher_is_better), r.step_seconds) for r in results]
    reached = [(step, step * seconds) for step, seconds in arrivals if step is not None]
    most = len(reached) > len(results) / 2
    first_diverged = next((r for r in results if r.diverged), None)
    options = statistics.mode([format_options(r.options) for r in results])
    with_options = [r for r in results if format_options(r.options) == options]
    rates = [r.lr for r in with_options if r.lr is not None]
    return Row(
        name=candidate.name,
        optimizer=candidate.optimizer,
        loss=candidate.loss,
        lr=statistics.median_low(rates) if rates else None,
        metric=_mean(ends),
        low=low,
        high=high,
        training_loss=_mean([r.losses[-1] for r in finished]),
        steps_to_target=statistics.median(step for step, _ in reached) if most else None,
        seconds_to_target=statistics.median(seconds for _, seconds in reached) if most else None,
        reached=len(reached),
        seeds=len(results),
        diverged=len(results) - len(finished),
        note=first_diverged.note if first_diverged else "",
        step_seconds=_median([r.step_seconds for r in results]),
        state_bytes=max(r.state_bytes for r in results),
        peak_bytes=max(r.peak_bytes for r in results),
        descent_share=_mean([r.descent_share for r in finished]),
        evenness=_mean([r.evenness for r in finished]),
        options=with_options[0].options,
    )


def _median(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return statistics.median(known) if known else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return statistics.fmean(known) if known else math.nan
