"""Fitting a comparison into a time budget: the number of seeds, trials and steps that each candidate gets."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InvalidType, InvalidValue
from ..wording import plural
from .plan import Plan
from .training.timing import StepCost, measure_step_costs

MIN_SEEDS, MIN_STEPS = 3, 50
"""The minimum for a meaningful result. Runs are shortened to MIN_STEPS before the number of seeds is reduced."""
TUNED_BUDGET = "1m"
"""The default budget of a search of learning rates."""
MIN_TRIALS = 3
"""The least number of trials of a search."""
GOOD_SEEDS, GOOD_TRIALS = 5, 10
"""Time beyond the minimum buys this number of seeds, then this number of trials, then two and three times both."""
PLANNED_SHARE, REPORT_SECONDS = 0.85, 3.0
"""The share of the budget that is planned, since estimates miss something, and the seconds reserved for the report."""
UNITS = {"s": 1, "m": 60, "h": 3600}
PART = r"(\d+(?:\.\d+)?)\s*([smh])"


def parse_duration(budget: Any) -> float:
    """Return the seconds of "90s", "3m", "1h30m", or of a number of seconds.

    >>> parse_duration("1h30m")
    5400.0
    """
    allowed = "`budget` must be a time such as 90s, 3m or 1h30m, or a number of seconds above 0"
    if isinstance(budget, bool) or not isinstance(budget, (str, int, float)):
        raise InvalidType(f"{allowed}; received {budget!r}.")
    seconds = budget
    if isinstance(budget, str):
        if not re.fullmatch(rf"\s*({PART}\s*)+", budget.lower()):
            raise InvalidValue(f"{allowed}; received {budget!r}.")
        seconds = sum(float(count) * UNITS[unit] for count, unit in re.findall(PART, budget.lower()))
    assert not isinstance(seconds, str)
    if not 0 < seconds < math.inf:
        raise InvalidValue(f"{allowed}; received {budget!r}.")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Return a duration as `--budget` takes it.

    >>> format_duration(5400), format_duration(75), format_duration(0.4)
    ('1h30m', '1m15s', '1s')
    """
    minutes, rest = divmod(max(math.ceil(seconds), 1), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "m"), (0 if hours else rest, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count)


def estimate(plan: Plan, workers: int, began: float) -> None:
    """Measure a few steps of every candidate, fit the plan into its budget, and set its expected duration.

    Args:
        plan: the comparison.
        workers: the number of runs at a time.
        began: when the budget began, by `time.perf_counter`.
    """
    costs = measure_step_costs(plan)
    if plan.undecided:
        fit_to_budget(plan, costs, workers, used=time.perf_counter() - began)
    plan.seconds = estimated_seconds(plan, costs, workers, len(plan.seeds), plan.trials, plan.steps)


def fit_to_budget(plan: Plan, costs: Mapping[str, StepCost], workers: int = 1, used: float = 0.0) -> None:
    """Set the undecided ones of seeds, trials and steps so that the plan ends within its budget.

    Args:
        plan: the comparison.
        costs: the cost of the runs of each candidate.
        workers: the number of runs at a time.
        used: the seconds of the budget that have passed: the start of the workers and the measurement of the costs.

    Raises:
        InvalidValue: If the minimum does not fit; the plan is unchanged.
    """
    assert plan.budget is not None
    available = PLANNED_SHARE * (plan.budget - used) - REPORT_SECONDS
    most = plan.steps
    fewest = min(MIN_STEPS, plan.steps) if "steps" in plan.undecided else plan.steps
    seeds = None if "seeds" in plan.undecided else len(plan.seeds)
    trials = None if "trials" in plan.undecided else plan.trials
    rungs = list(dict.fromkeys((seeds or s, trials or t) for s, t in _ladder(plan.tuned)))
    if plan.search:  # the caller asked for a search
        rungs = [rung for rung in rungs if rung[1] > 1]

    def seconds(rung: tuple[int, int], steps: int) -> float:
        return estimated_seconds(plan, costs, workers, *rung, steps)

    if plan.extends:
        available = max(available, seconds(rungs[0], fewest))
    if seconds(rungs[0], fewest) > available:
        least = used + (seconds(rungs[0], fewest) + REPORT_SECONDS) / PLANNED_SHARE
        raise InvalidValue(
            f"`budget` of {format_duration(plan.budget)} is too short for {plural(len(plan.candidates), 'candidate')}: "
            f"the minimum ({plural(rungs[0][0], 'seed')} of {fewest} steps"
            f"{f' and {rungs[0][1]} trials' * (rungs[0][1] > 1)}) takes about "
            f"{format_duration(least)}. Help: give --budget {format_duration(1.2 * least)} (budget=) or fewer "
            f"candidates{', or --defaults for no search' * plan.tuned}."
        )
    fitting = [rung for rung in rungs if seconds(rung, most) <= available]
    count, plan.trials = fitting[-1] if fitting else rungs[0]
    if not fitting:
        most = max(steps for steps in range(fewest, most + 1) if seconds(rungs[0], steps) <= available)
    plan.seeds, plan.steps = list(range(plan.seeds[0], plan.seeds[0] + count)), most


def _ladder(tuned: bool = False) -> Iterator[tuple[int, int]]:
    """(seeds, trials) in order of cost, from the minimum, with a search if `tuned`, to the most that a budget buys."""
    yield from ((seeds, MIN_TRIALS if tuned else 1) for seeds in range(MIN_SEEDS, GOOD_SEEDS + 1))
    yield from ((GOOD_SEEDS, trials) for trials in range(MIN_TRIALS, GOOD_TRIALS + 1))
    for factor in (2, 3):
        seeds, trials = GOOD_SEEDS * (factor - 1), GOOD_TRIALS * factor
        yield from ((seeds, t) for t in range(trials - GOOD_TRIALS + 1, trials + 1))
        yield from ((s, trials) for s in range(seeds + 1, GOOD_SEEDS * factor + 1))


def estimated_seconds(
    plan: Plan, costs: Mapping[str, StepCost], workers: int, seeds: int, trials: int, steps: int
) -> float:
    """Return the longest time that all runs take with `workers` at a time."""
    evaluations, runs = len(plan.data.evaluation_steps(steps)), trials + 2 if trials > 1 else 1
    chains = [runs * costs[c.name].run_seconds(steps, evaluations) for c in plan.candidates]
    # All workers are busy until the end, when the last chain may run alone.
    return seeds * sum(chains) / workers + max(chains) * (1 - 1 / workers)
