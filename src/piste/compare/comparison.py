"""A comparison: every candidate with every seed, and what came of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..optim import OPTIMIZERS
from .analysis.recommendation import line, recommend
from .analysis.verdict import Verdict, interval, judge
from .candidates import Candidate, default_rate
from .execution.search import width
from .metrics import Metric
from .plan import Plan
from .search_space import spoken
from .training.smoothness import steps_to
from .training.trial import Result

if TYPE_CHECKING:
    from .execution.scheduler import Findings

TARGET_SHARE = 0.9
"""Without a target of the task's own: this share of the way from the metric at the start to the best at the end."""


@dataclass
class Row:
    """One candidate over all its seeds. Curves and shares are means; rates, steps and seconds medians.

    `options` are those that most of its seeds' searches found, and `lr` is the median of the rates found with them.
    """

    name: str
    optimizer: str
    loss: str
    lr: float | None
    metric: float
    low: float
    high: float
    training_loss: float
    steps_to_target: float | None
    reached: int
    seeds: int
    diverged: int
    note: str
    step_seconds: float
    state_bytes: int
    peak_bytes: int
    descent_share: float
    evenness: float
    default_metric: float = math.nan
    lr_width: float = math.nan
    options: dict[str, Any] = field(default_factory=dict)
    seconds_to_target: float | None = None


@dataclass
class Comparison:
    """What a comparison found: `rows` best first, `results` with every curve, and the `verdict`.

    It prints as its table and verdict; `save(folder)` writes the curves, the table and everything in numbers.
    """

    name: str
    about: str
    metric: str
    higher_is_better: bool
    target: float
    target_meaning: str
    settings: dict[str, Any]
    rows: list[Row]
    results: list[Result]
    verdict: Verdict
    interrupted: str = ""
    left_out: str = ""
    defaults: list[Result] = field(default_factory=list)
    tries: list[Result] = field(default_factory=list)
    picture: Callable[[Any], Any] | None = field(default=None, repr=False)

    def table(self) -> str:
        """The table as Markdown."""
        from .report.tables import markdown

        return markdown(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write curves.svg, curves.png, results.json, results.csv and report.md into `folder`, and say which."""
        from .report.files import save

        return save(self, Path(folder))

    def __str__(self) -> str:
        return f"{self.table()}\n{self.verdict}"

    def _repr_markdown_(self) -> str:
        from .report.tables import escaped

        verdict = self.verdict
        sentence, recommendation = escaped(verdict.sentence), escaped(verdict.recommendation)
        advice = f"\n\n{recommendation}\n\n    {verdict.code}" if verdict.code else ""
        return f"{self.table()}\n**{sentence}** {verdict.test} {verdict.limits}{advice}"


def summarise(plan: Plan, found: Findings, interrupted: str = "", left_out: str = "") -> Comparison:
    """Rows and verdict of the results so far."""
    better, results = plan.metric.higher_is_better, found.results
    target, meaning = _target(plan, results)
    rows = []
    for candidate in plan.candidates:
        mine = [r for r in results if r.candidate == candidate.name]
        if mine:
            row = _row(candidate, mine, target, plan.metric)
            plain = [r for r in found.defaults if r.candidate == candidate.name]
            row.default_metric = math.nan if any(r.diverged for r in plain) else _mean([r.metrics[-1] for r in plain])
            row.lr_width = width([r for r in found.tries if r.candidate == candidate.name], better)
            rows.append(row)
    rows.sort(key=lambda row: (row.diverged > 0, -row.metric if better else row.metric))
    complete = [seed for seed in plan.seeds if sum(r.seed == seed for r in results) == len(plan.candidates)]
    fit = [row.name for row in rows if not row.diverged] if complete else []
    by_seed = {name: [r.metrics[-1] for r in results if r.candidate == name and r.seed in complete] for name in fit}
    by_example = {
        name: r.scores for name in fit for r in results if r.candidate == name and r.seed in complete[:1] and r.scores
    }
    verdict = judge(by_seed, by_example, plan.metric.name, better, plan.task.fixed_weights, plan.searches)
    if verdict.best is not None and len(plan.candidates) > 1:
        defaults = {c.name: c.lr or default_rate(c.make) for c in plan.candidates}
        row, reason = recommend(rows, verdict.group, defaults, _near_the_best(plan, results), better)
        verdict.recommendation = f"Recommended: {row.name}; {reason}"
        verdict.code = line(row, list(OPTIMIZERS))
    return Comparison(
        plan.task.name, plan.task.about, plan.metric.name, better, target, meaning, plan.settings(), rows, results,
        verdict, interrupted, left_out, found.defaults, found.tries, plan.task.picture,
    )  # fmt: skip


def _target(plan: Plan, results: list[Result]) -> tuple[float, str]:
    if plan.task.target is not None:
        return plan.task.target, "given by the task"
    if all(r.diverged for r in results):
        return math.nan, "no run finished"
    return _near_the_best(plan, results), f"{TARGET_SHARE:.0%} of the way from the start to the best candidate"


def _near_the_best(plan: Plan, results: list[Result]) -> float:
    finished = [r for r in results if not r.diverged]
    start = statistics.fmean(r.metrics[0] for r in finished)
    choose = max if plan.metric.higher_is_better else min
    names = {r.candidate for r in finished}
    best = choose(statistics.fmean(r.metrics[-1] for r in finished if r.candidate == name) for name in names)
    return start + TARGET_SHARE * (best - start)


def _row(candidate: Candidate, results: list[Result], target: float, metric: Metric) -> Row:
    done = [r for r in results if not r.diverged]
    values = [r.metrics[-1] for r in done]
    low, high = interval(values)
    if len(done) == 1 and done[0].scores:
        low, high = sorted(metric.finish(bound) for bound in interval(done[0].scores))
    arrivals = [(steps_to(target, r.steps, r.metrics, metric.higher_is_better), r.step_seconds) for r in results]
    reached = [(at, at * seconds) for at, seconds in arrivals if at is not None]
    most = len(reached) > len(results) / 2
    worst = next((r for r in results if r.diverged), None)
    options = statistics.mode([spoken(r.options) for r in results])
    alike = [r for r in results if spoken(r.options) == options]
    return Row(
        name=candidate.name,
        optimizer=candidate.optimizer,
        loss=candidate.loss,
        lr=None if alike[0].lr is None else statistics.median_low([r.lr for r in alike if r.lr is not None]),
        metric=_mean(values),
        low=low,
        high=high,
        training_loss=_mean([r.losses[-1] for r in done]),
        steps_to_target=statistics.median(at for at, _ in reached) if most else None,
        seconds_to_target=statistics.median(seconds for _, seconds in reached) if most else None,
        reached=len(reached),
        seeds=len(results),
        diverged=len(results) - len(done),
        note=worst.note if worst else "",
        step_seconds=_median([r.step_seconds for r in results]),
        state_bytes=max(r.state_bytes for r in results),
        peak_bytes=max(r.peak_bytes for r in results),
        descent_share=_mean([r.descent_share for r in done]),
        evenness=_mean([r.evenness for r in done]),
        options=alike[0].options,
    )


def _median(values: list[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return statistics.median(finite) if finite else math.nan


def _mean(values: list[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return statistics.fmean(finite) if finite else math.nan
