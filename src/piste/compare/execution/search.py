"""The hyperparameter search: Optuna's TPE over a log range around each optimizer's default, which is tried first."""

from __future__ import annotations

import dataclasses
import math
import statistics
import zlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from ..candidates import Candidate, default_lr
from ..plan import MAX_TRIALS, Plan
from ..results import Result
from .executor import Job

LR_DECADES = 3
"""The range of learning rates extends by this number of decades to either side of the default."""
MIN_TRIALS_BEFORE_PRUNING = 3
"""The number of trials that must have finished before another is pruned."""

MAX_TRIALS_FACTOR = 2
"""The largest number of trials of a search, as a multiple of the planned number, where many are pruned."""
STARTUP_TRIALS = 3
"""The number of trials at the default and at random before the search learns. Not a share of all trials, so that a
search with more trials goes on from one with fewer."""


def search(plan: Plan, candidate: Candidate, number: int, trials: list[Result]) -> Generator[Job, Result, Candidate]:
    """Yield a job for each trial, take its result, and return the candidate with the best configuration.

    A trial is pruned when its best metric falls below the median of the earlier trials at the same step. The others
    share the steps that it leaves: trials go on until another whole one would exceed `plan.trials` times `plan.steps`
    steps, the same for every candidate. The best configuration is chosen among finished trials;
    without one the default stays.

    Args:
        plan: The plan.
        candidate: The candidate at its default configuration.
        number: The index of the seed that the search is for. Each search draws its own configurations.
        trials: Filled with the results. The sampler depends on them alone, so that a resumed search continues alike.
    """
    default = candidate.lr or default_lr(candidate.make)
    if default is None and not candidate.search_space:
        return candidate
    seed = plan.seed_of_search(number)
    spent = 0.0
    for index in range(min(MAX_TRIALS_FACTOR * plan.trials, MAX_TRIALS)):
        if index >= plan.trials and spent + 1 > plan.trials:
            break
        lr, options = _suggest(plan, candidate, default, trials, seed)
        thresholds = pruning_thresholds(plan.steps, trials)
        trials.append((yield Job("search", candidate.name, number * MAX_TRIALS + index, seed, lr, options, thresholds)))
        spent += plan.share_of_run(trials[-1])
    finished = [r for r in trials if r.status == "done"]
    if not finished:
        return candidate
    sign = -1 if plan.metric.higher_is_better else 1

    def changed_options(trial: Result) -> dict[str, Any]:
        return {name: v for name, v in trial.options.items() if v != candidate.search_space[name][0]}

    def order(trial: Result) -> tuple[float, int, float]:
        """Return the sort key: the result, then the size of the change from the default."""
        distance = abs(math.log(trial.lr / default)) if default and trial.lr else 0.0
        return sign * trial.metrics[-1], len(changed_options(trial)), distance

    best = min(finished, key=order)
    if best is trials[0]:
        return candidate
    return dataclasses.replace(candidate, lr=None if default is None else best.lr, options=changed_options(best))


def pruning_thresholds(steps: int, trials: Sequence[Result]) -> dict[int, float]:
    """Return the median metric of the finished trials, by step.

    Empty before MIN_TRIALS_BEFORE_PRUNING trials have finished; without the first quarter and the end of the run.
    """
    finished = [r for r in trials if r.status == "done"]
    if len(finished) < MIN_TRIALS_BEFORE_PRUNING:
        return {}
    evaluations = zip(finished[0].steps, zip(*(r.metrics for r in finished), strict=True), strict=True)
    return {step: statistics.median(metrics) for step, metrics in evaluations if steps // 4 <= step < steps}


def _suggest(
    plan: Plan, candidate: Candidate, default: float | None, trials: Sequence[Result], seed: int
) -> tuple[float | None, dict[str, Any]]:
    """Optuna's next learning rate and options, given the trials so far; seeded by the search and the trial's index."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = zlib.crc32(f"{seed}/{candidate.name}/{len(trials)}".encode())
    ranges: dict[str, Any] = {
        name: optuna.distributions.CategoricalDistribution(range(len(values)))
        for name, values in candidate.search_space.items()
    }
    if default is not None:
        low, high = default * 10.0**-LR_DECADES, default * 10.0**LR_DECADES
        ranges["lr"] = optuna.distributions.FloatDistribution(low, high, log=True)
    study = optuna.create_study(
        direction="maximize" if plan.metric.higher_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
    )
    for result in trials:
        evaluations = {s: m for s, m in zip(result.steps, result.metrics, strict=True) if math.isfinite(m)}
        states = optuna.trial.TrialState
        finished = result.status == "done"
        # A diverged trial counts as the worst: without intermediate values it ranks last.
        study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if finished else states.PRUNED,
                value=result.metrics[-1] if finished else None,
                params=_as_optuna_params(candidate, None if default is None else result.lr, result.options),
                distributions=ranges,
                intermediate_values={} if result.diverged else evaluations,
            )
        )
    if not trials:
        study.enqueue_trial(_as_optuna_params(candidate, default, {}))
    params = study.ask(ranges).params
    return params.get("lr"), {name: values[params[name]] for name, values in candidate.search_space.items()}


def _as_optuna_params(candidate: Candidate, lr: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as Optuna stores it: each option by the index of its value."""
    indices = {name: values.index(options.get(name, values[0])) for name, values in candidate.search_space.items()}
    return indices if lr is None else {**indices, "lr": lr}
