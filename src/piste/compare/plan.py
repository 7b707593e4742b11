"""Everything that is decided before the first step, and every mistake that can be told before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .candidates import Candidate, candidates
from .data import Data
from .metrics import Metric, as_metric, default_metric
from .task import Task, whole_number
from .trial import check

MOST_SEED = 2**32 - 1
"""The largest seed that numpy takes."""


@dataclass
class Plan:
    """Who runs, on what, how often and how long."""

    task: Task
    data: Data
    metric: Metric
    candidates: list[Candidate]
    seeds: list[int]
    steps: int
    weights: int

    @property
    def runs(self) -> int:
        return len(self.candidates) * len(self.seeds)

    def __str__(self) -> str:
        optimizers = len({c.optimizer for c in self.candidates})
        losses = list(dict.fromkeys(c.loss for c in self.candidates))
        return (
            f"{self.task.name}: {optimizers} optimizer{'s' * (optimizers > 1)} with {', '.join(losses)}; "
            f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, {self.steps} steps each; "
            f"judged by {self.metric.name} on {len(self.data.targets)} validation examples"
        )


def prepare(
    task: Task, *, optimizers: Any = None, losses: Any = None, lr: Any = None, seed: int = 0, seeds: int = 5
) -> Plan:
    """Resolve every name and try everything once on one batch; raises before any training."""
    whole_number("seeds", seeds, least=1, most=1000)
    whole_number("seed", seed, least=0, most=MOST_SEED - seeds)
    losses = task.loss if losses is None else losses
    found = None if losses is None else candidates(optimizers, losses, lr)  # names first: they cost nothing
    parameters = list(task.new_model(seed).parameters())
    data = Data(task.train, task.validation, task.batch_size, parameters[0].device)
    if found is None:
        found = candidates(optimizers, "mse" if data.targets.is_floating_point() else "cross_entropy", lr)
    metric = None if task.metric is None else as_metric(task.metric)
    outputs, targets = check(task, data, metric, found)
    metric = metric or default_metric(outputs, targets)
    steps, weights = task.epochs * data.steps_per_epoch, sum(p.numel() for p in parameters)
    return Plan(task, data, metric, found, list(range(seed, seed + seeds)), steps, weights)
