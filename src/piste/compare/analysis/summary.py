"""The rows and the verdict, computed from the runs of a plan."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from ...wording import plural
from ..candidates import Candidate
from ..formats import format_result
from ..plan import Plan
from ..results import LEVEL, Result, Row, Runs, Summary
from ..search_space import format_options
from ..training.smoothness import steps_to_target
from .baseline import find_baseline
from .evidence import Evidence, evidence_of
from .learning_rates import good_lr_decades
from .recommendation import recommend
from .recommended_code import code_to_paste
from .verdict import decide

TARGET_SHARE = 0.9
"""The default target, as the share of the way from the metric at the start to the best metric at the end."""


def summarize(
    plan: Plan, runs: Runs, interrupted: str = "", left_out: str = "", practical: float | None = None
) -> Summary:
    """Return the rows and the verdict of the runs so far.

    Args:
        plan: The plan.
        runs: Its runs.
        interrupted: Why runs are missing after an interruption.
        left_out: Why runs are missing for lack of time.
        practical: The largest difference of the metric that is too small to matter; see `decide`.
    """
    higher_is_better, results = plan.metric.higher_is_better, runs.results
    target, meaning = _target(plan, results)
    rows = []
    for candidate in plan.candidates:
        own = _runs_of(candidate, results)
        if own:
            row = _row(candidate, own, target, plan)
            defaults = _runs_of(candidate, runs.defaults)
            row.default_metric = math.nan if any(r.diverged for r in defaults) else _mean(_ends(defaults))
            row.lr_width = good_lr_decades(_runs_of(candidate, runs.tries), higher_is_better)
            rows.append(row)
    rows.sort(key=lambda row: (row.diverged > 0, -row.metric if higher_is_better else row.metric))
    complete = [seed for seed in plan.seeds if sum(r.seed == seed for r in results) == len(plan.candidates)]
    finished = [row.name for row in rows if not row.diverged] if complete else []
    at_defaults = not plan.searches and all(c.lr is None for c in plan.candidates)
    verdict = decide(
        _evidence(plan, finished, [r for r in results if r.seed in complete]), plan.metric.name, higher_is_better,
        practical, bounds=plan.metric.bounds, fixed_weights=plan.task.fixed_weights, searched=plan.searches,
        at_defaults=at_defaults, splits=plan.splits,
    )  # fmt: skip
    if rows and not complete:
        verdict.sentence = "No seed ran with every candidate, so there is no verdict."
    stopped = (_describe_stopped(row, runs) for row in rows)
    verdict.limits = " ".join(filter(None, (verdict.limits, *stopped)))
    baseline, baseline_meaning = _baseline(plan, complete)
    if verdict.best is not None and len(plan.candidates) > 1:
        sign = 1 if higher_is_better else -1
        chosen, reason = recommend(rows, verdict, lambda row: not sign * row.metric <= sign * baseline)
        if chosen is None:
            verdict.recommendation = f"No recommendation: {reason}"
        else:
            verdict.recommended = chosen.name
            verdict.recommendation = f"Recommended: {chosen.name}; {reason}{_judged_with(chosen, results, plan)}"
            candidate = next(c for c in plan.candidates if c.name == chosen.name)
            verdict.code = code_to_paste(
                chosen, candidate, names_loss=len({c.loss for c in plan.candidates}) > 1,
                is_lightning=plan.task.objective.is_lightning, monitored=(plan.metric.name, plan.metric.goal),
            )  # fmt: skip
    return Summary(
        plan.task.name, plan.task.about, plan.metric.name, higher_is_better, target, meaning, plan.settings(), rows,
        results, verdict, interrupted, left_out, baseline, baseline_meaning, runs.defaults, runs.tries,
        _identify(plan), plan.metric.bounds, plan.task.picture,
    )  # fmt: skip


def _baseline(plan: Plan, seeds: Sequence[int]) -> tuple[float, str]:
    """Return the metric of the best constant prediction, the mean over the splits of the seeds, and its name."""
    parts = [plan.part(seed) for seed in (seeds if plan.splits and seeds else plan.seeds[:1])]
    found = [find_baseline(part.metric, part.data.targets) for part in parts]
    return statistics.fmean(value for value, _ in found), found[0][1]


def _identify(plan: Plan) -> dict[str, Any]:
    """Return the number of validation examples, and a hash of their targets; no hash if the targets are unknown."""
    targets = plan.data.targets
    if targets.is_floating_point() and bool(targets.isnan().all()):
        return {"examples": len(targets), "targets": ""}
    found = hashlib.sha256(f"{tuple(targets.shape)} {targets.dtype}{' by seeds' * plan.splits}".encode())
    found.update(targets.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {"examples": len(targets), "targets": found.hexdigest()[:16]}


def _evidence(plan: Plan, names: Sequence[str], results: Sequence[Result]) -> Evidence:
    by_name = {n: sorted((r for r in results if r.candidate == n), key=lambda r: r.seed) for n in names}
    return evidence_of(by_name, plan.metric.finish, plan.data.validation_size)


def _judged_with(row: Row, results: Sequence[Result], plan: Plan) -> str:
    """Return a sentence on the learning rate of the line to paste, where the seeds found different rates."""
    own = [r for r in results if r.candidate == row.name]
    if len({r.lr for r in own}) < 2:
        return ""
    at = next(r for r in own if r.lr == row.lr and r.options == row.options)
    odd = sum(r.options == row.options and r.lr is not None for r in own) % 2
    place = "median" if odd else "better of the two in the middle"
    return (
        f" Its learning rate {row.lr:.3g} is the {place} of those found for the seeds; it reached {plan.metric.name} "
        f"{format_result(at.metrics[-1])} with seed {at.seed}."
    )


def _describe_stopped(row: Row, runs: Runs) -> str:
    """Return a sentence on the runs of a candidate that failed, or on its final runs that diverged; else empty."""
    every = [r for r in (*runs.results, *runs.defaults, *runs.tries) if r.candidate == row.name]
    stopped, word = [r for r in every if r.failed], "failed"
    if not stopped:
        every, word = [r for r in every if r.role == "judged"], "diverged"
        stopped = [r for r in every if r.diverged]
    if not stopped:
        return ""
    first = stopped[0]
    return (
        f"{row.name} {word} in {len(stopped)} of {plural(len(every), 'run')}, first with seed {first.seed}: "
        f"{first.note}."
    )


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


def _row(candidate: Candidate, results: Sequence[Result], target: float, plan: Plan) -> Row:
    metric = plan.metric
    finished = [r for r in results if not r.diverged]
    ends = _ends(finished)
    mean, half = _mean(ends), _half_width(plan, finished)
    arrivals = [(steps_to_target(target, r.steps, r.metrics, metric.higher_is_better), r.step_seconds) for r in results]
    reached = [(step, step * seconds) for step, seconds in arrivals if step is not None]
    most = len(reached) > len(results) / 2
    first_diverged = next((r for r in results if r.diverged), None)
    options = statistics.mode([format_options(r.options) for r in results])
    with_options = [r for r in results if format_options(r.options) == options]
    return Row(
        name=candidate.name,
        optimizer=candidate.optimizer,
        loss=candidate.loss,
        lr=_judged_rate(with_options, metric.higher_is_better),
        metric=mean,
        low=metric.clip(mean - half),
        high=metric.clip(mean + half),
        std=statistics.stdev(ends) if len(ends) > 1 else math.nan,
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
        failed=sum(r.failed for r in results),
        also={m.name: _mean([r.also[m.name] for r in finished]) for m in plan.also},
    )


def _judged_rate(runs: Sequence[Result], higher_is_better: bool) -> float | None:
    """Return the median of the runs' learning rates; of two in the middle the one with the better result."""
    known = sorted((r for r in runs if r.lr is not None), key=lambda r: r.lr or 0.0)
    if not known:
        return None
    middle = known[(len(known) - 1) // 2 : len(known) // 2 + 1]
    finished = [r for r in middle if not r.diverged] or middle[:1]
    return (max if higher_is_better else min)(finished, key=lambda r: r.metrics[-1] if r.metrics else 0.0).lr


def _half_width(plan: Plan, finished: Sequence[Result]) -> float:
    """Half the width of the metric's confidence interval over new seeds and examples; over examples with one seed."""
    if not finished:
        return math.nan
    evidence = _evidence(plan, [finished[0].candidate], finished)
    if len(finished) == 1:
        from scipy.special import stdtrit

        (name,) = evidence.values
        degrees = len(finished[0].scores) - 1
        return -float(stdtrit(degrees, LEVEL / 2)) * evidence.standard_error(name) if degrees > 0 else math.nan
    return float(evidence.spread_of_means().half_widths(LEVEL)[0])


def _median(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return statistics.median(known) if known else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return statistics.fmean(known) if known else math.nan
