"""The data that a comparison produces: runs, table rows, the verdict, and the summary that reports read."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..translation import translate

LEVEL = 0.05
"""The significance level of every test, and one minus the confidence of every interval."""


@dataclass
class Result:
    """The record of one run. `losses` and `metrics` are evaluated on fixed examples at `steps`.

    Attributes:
        status: "done", "diverged", "failed" if an exception ended the run, or "stopped" for a search trial that was
            pruned.
        note: The reason where the status is not "done".
        role: "judged" for a final run, "search" for a search trial, "default" for a final run at the default options.
        losses: Training loss on the fixed training examples.
        metrics: Validation metric.
        scores: The metric's score of each validation example at the end of a final run (a fixed sample of a large
            validation set), or the jackknife pseudo-values of a metric that is a single number; see `example_scores`.
        examples: The number of the example behind each score, where seeds have splits of their own; else empty.
        step_seconds: Median time of a training step.
        seconds: Time of the whole run.
        path: The weights at every evaluation, for models with at most two.
        options: Optimizer options set by a search, other than the learning rate.
        also: The values of further metrics at the end of a final run, by name.
    """

    candidate: str
    optimizer: str
    loss: str
    seed: int
    lr: float | None
    status: str = "done"
    note: str = ""
    role: str = "judged"
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)
    step_seconds: float = math.nan
    seconds: float = math.nan
    state_bytes: int = 0
    peak_bytes: int = 0
    descent_share: float = math.nan
    evenness: float = math.nan
    path: list[list[float]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    also: dict[str, float] = field(default_factory=dict)

    @property
    def curve(self) -> str:
        """The name of its curve among those of its loss."""
        return curve_name(self.candidate, self.optimizer, self.loss)

    @property
    def diverged(self) -> bool:
        """Whether the run gave no result, because it diverged or failed."""
        return self.status in ("diverged", "failed")

    @property
    def failed(self) -> bool:
        """Whether the run raised an exception."""
        return self.status == "failed"


@dataclass
class Runs:
    """The results of a plan: final runs, final runs at the default options, and search trials."""

    results: list[Result] = field(default_factory=list)
    defaults: list[Result] = field(default_factory=list)
    tries: list[Result] = field(default_factory=list)

    def __add__(self, other: Runs) -> Runs:
        return Runs(self.results + other.results, self.defaults + other.defaults, self.tries + other.tries)


@dataclass
class Row:
    """One candidate over all its seeds: means of metrics, losses and shares; medians of rates, steps and seconds.

    `options` are the options found by most searches, and `lr` is the median of the rates found with these options, or
    the one of two in the middle that had the better result.
    `low` and `high` are the confidence interval of the metric, and `std` is its standard deviation over seeds.
    `also` are the means of further metrics, by name.
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
    std: float = math.nan
    default_metric: float = math.nan
    lr_width: float = math.nan
    options: dict[str, Any] = field(default_factory=dict)
    seconds_to_target: float | None = None
    failed: int = 0
    also: dict[str, float] = field(default_factory=dict)

    @property
    def curve(self) -> str:
        """The name of its curve among those of its loss."""
        return curve_name(self.name, self.optimizer, self.loss)


def curve_name(candidate: str, optimizer: str, loss: str) -> str:
    """Return the name of a candidate without its loss: the optimizer, and the loop where several are compared.

    >>> curve_name("Adam · mse · cosine", "Adam", "mse")
    'Adam · cosine'
    """
    return optimizer + candidate.removeprefix(optimizer).removeprefix(f" · {loss}")


@dataclass
class Difference:
    """The difference of a candidate to the best, positive where the best is better.

    Attributes:
        low: The lower end of its confidence interval; NaN if there is none.
        high: The upper end.
        p_value: Corrected for all candidates and for the choice of the best.
        outcome: "worse" if the best is better, "equal" if the interval is within the practical margin, or "undecided".
        seeds: The number of seeds that would decide, if the observed difference is the true one; None if too many.
        examples: The number of validation examples that would decide.
    """

    name: str
    size: float
    low: float
    high: float
    p_value: float
    outcome: str = "undecided"
    seeds: int | None = None
    examples: int | None = None


@dataclass
class Verdict:
    """The best candidate, and which others are worse, practically equal, or undecided.

    Attributes:
        group: The best candidate and those that are not worse: first the practically equal ones, then the undecided.
        differences: The difference of every other candidate to the best, in the order of the table.
        practical: The largest difference that is too small to matter; NaN if unknown.
        recommended: The name of the recommended candidate, if there is one.
        recommendation: The recommendation and its reason in a sentence.
    """

    sentence: str
    best: str | None = None
    group: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    practical: float = math.nan
    test: str = ""
    level: float = LEVEL
    limits: str = ""
    recommended: str | None = None
    recommendation: str = ""
    code: str = ""

    def outcome(self, name: str) -> str:
        """Return "best", "worse", "equal", "undecided", or "" for a candidate that was not compared."""
        if name == self.best:
            return "best"
        return next((d.outcome for d in self.differences if d.name == name), "")

    def __str__(self) -> str:
        code = f"\n{textwrap.indent(self.code, '    ')}" if self.code else ""
        explained = f"{self.test} {self.limits}".strip()
        return translate("\n".join(filter(None, (self.sentence, explained, self.recommendation, code))))


@dataclass
class Summary:
    """A comparison as reports read it: `rows` best first, `results` with every curve, and the `verdict`.

    `defaults` are the final runs at the default options of a comparison that searched, and `tries` its search trials.
    `baseline` is the metric of a constant prediction, and `baseline_meaning` names the prediction; NaN if unknown.
    `bounds` are the least and the largest value that the metric can take.
    `validation` identifies the validation set: the number of its examples, and a hash of their targets.
    `interrupted` and `left_out` say in a sentence why runs are missing; both are empty for a complete comparison.
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
    baseline: float = math.nan
    baseline_meaning: str = ""
    defaults: list[Result] = field(default_factory=list)
    tries: list[Result] = field(default_factory=list)
    validation: dict[str, Any] = field(default_factory=dict)
    bounds: tuple[float, float] = (-math.inf, math.inf)
    picture: Callable[[Any], Any] | None = field(default=None, repr=False)

    @property
    def seeds(self) -> int:
        """The number of seeds with a final run, fewer than planned after an interruption or at the end of a budget."""
        return len({result.seed for result in self.results})

    @property
    def first_rates(self) -> str:
        """The learning rates that searches start from, in words."""
        given = {candidate["lr"] is not None for candidate in self.settings["candidates"]}
        if len(given) > 1:
            return "default or given learning rates"
        return "given learning rates" if True in given else "default learning rates"

    @property
    def failed(self) -> bool:
        """Whether an exception ended a run."""
        return any(result.failed for result in (*self.results, *self.defaults, *self.tries))
