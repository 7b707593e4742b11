"""A comparison that fits into a time: how many seeds, tries and steps every candidate gets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InvalidType, InvalidValue
from .plan import Plan
from .training.timing import Pace, measure

FEWEST_SEEDS, FEWEST_STEPS = 3, 50
"""The least that tells something. Runs are shortened, down to so many steps, before there are fewer seeds."""
GOOD_SEEDS, GOOD_TRIALS = 5, 10
"""With time to spare there are first so many seeds, then so many tries for each, and then twice and thrice as many."""
SHARE, REPORT = 0.85, 3.0
"""The share of the budget that is planned, for what measuring missed, and the seconds that are kept for the report."""
UNITS = {"s": 1, "m": 60, "h": 3600}
PART = r"(\d+(?:\.\d+)?)\s*([smh])"


def as_seconds(budget: Any) -> float:
    """The seconds of "90s", "3m", "1h30m", or of a number of seconds.

    >>> as_seconds("1h30m")
    5400.0
    """
    said = "`budget` must be a time such as 90s, 3m or 1h30m, or a number of seconds above 0"
    if isinstance(budget, bool) or not isinstance(budget, (str, int, float)):
        raise InvalidType(f"{said}; received {budget!r}.")
    seconds = budget
    if isinstance(budget, str):
        if not re.fullmatch(rf"\s*({PART}\s*)+", budget.lower()):
            raise InvalidValue(f"{said}; received {budget!r}.")
        seconds = sum(float(count) * UNITS[unit] for count, unit in re.findall(PART, budget.lower()))
    assert not isinstance(seconds, str)
    if not 0 < seconds < math.inf:
        raise InvalidValue(f"{said}; received {budget!r}.")
    return float(seconds)


def estimate(plan: Plan, workers: int) -> None:
    """Measure a few steps of every candidate, tell the plan how long it will take, and fit it into its budget."""
    paces = measure(plan)
    if plan.open:
        fit(plan, paces, workers)
    plan.seconds = needed(plan, paces, workers, len(plan.seeds), plan.trials, plan.steps)


def fit(plan: Plan, paces: Mapping[str, Pace], workers: int = 1) -> None:
    """Set those of seeds, trials and steps that the plan leaves open, so that it ends within its budget.

    Raises `InvalidValue`, with the plan as it was, if the least that tells something doesn't fit.
    """
    assert plan.budget is not None
    room = SHARE * plan.budget - REPORT
    most, fewest = plan.steps, min(FEWEST_STEPS, plan.steps) if "steps" in plan.open else plan.steps
    seeds, trials = ("seeds" in plan.open) or len(plan.seeds), ("trials" in plan.open) or plan.trials
    kinds = list(dict.fromkeys((s if seeds is True else seeds, t if trials is True else trials) for s, t in _kinds()))
    if plan.search:  # which was asked for
        kinds = [kind for kind in kinds if kind[1] > 1]

    def needs(kind: tuple[int, int], steps: int) -> float:
        return needed(plan, paces, workers, *kind, steps)

    if needs(kinds[0], fewest) > room:
        least = (needs(kinds[0], fewest) + REPORT) / SHARE
        raise InvalidValue(
            f"a budget of {span(plan.budget)} is too short for {len(plan.candidates)} candidates: {kinds[0][0]} seeds "
            f"of {fewest} steps{f' and {kinds[0][1]} trials' if kinds[0][1] > 1 else ''}, the least that tells "
            f"something, take about {span(least)}. Give --budget {span(1.2 * least)} (budget=) or fewer candidates."
        )
    fitting = [kind for kind in kinds if needs(kind, most) <= room]
    count, plan.trials = fitting[-1] if fitting else kinds[0]
    if not fitting:
        most = max(steps for steps in range(fewest, most) if needs(kinds[0], steps) <= room)
    plan.seeds, plan.steps = list(range(plan.seeds[0], plan.seeds[0] + count)), most


def _kinds() -> Iterator[tuple[int, int]]:
    """(seeds, trials), from the least to the most that a budget can buy; each costs more than the one before."""
    yield from ((seeds, 1) for seeds in range(FEWEST_SEEDS, GOOD_SEEDS + 1))
    yield from ((GOOD_SEEDS, trials) for trials in range(3, GOOD_TRIALS + 1))
    for times in (2, 3):
        seeds, trials = GOOD_SEEDS * (times - 1), GOOD_TRIALS * times
        yield from ((seeds, t) for t in range(trials - GOOD_TRIALS + 1, trials + 1))
        yield from ((s, trials) for s in range(seeds + 1, GOOD_SEEDS * times + 1))


def needed(plan: Plan, paces: Mapping[str, Pace], workers: int, seeds: int, trials: int, steps: int) -> float:
    """The seconds that the runs take at most, so many at a time."""
    looks, runs = len(plan.data.looks(steps)), trials + 2 if trials > 1 else 1
    chains = [runs * paces[c.name].run(steps, looks) for c in plan.candidates]
    # All are busy but for the end, when the last chain is waited for.
    return seeds * sum(chains) / workers + max(chains) * (1 - 1 / workers)


def span(seconds: float) -> str:
    """A time as `--budget` takes it.

    >>> span(5400), span(75), span(0.4)
    ('1h30m', '1m15s', '1s')
    """
    minutes, rest = divmod(max(math.ceil(seconds), 1), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "m"), (0 if hours else rest, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count)
