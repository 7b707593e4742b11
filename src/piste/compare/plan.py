"""Everything that is decided before the first step, and every mistake that can be told before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

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
    trials: int = 1
    fingerprint: str = ""

    @property
    def searches(self) -> bool:
        return self.trials > 1

    def search_seed(self, number: int) -> int:
        """The seed of the search for the seed of that number: one that judges nobody."""
        return self.seeds[-1] + 1 + number

    @property
    def runs(self) -> int:
        """How many runs there are; a searching plan judges the found setting and the default one."""
        return len(self.candidates) * len(self.seeds) * (self.trials + 2 if self.searches else 1)

    def settings(self) -> dict[str, Any]:
        """What makes this comparison this one, as JSON takes it."""
        return {
            "task": self.task.name,
            "epochs": self.task.epochs,
            "steps": self.steps,
            "batch_size": self.task.batch_size,
            "seeds": self.seeds,
            "trials": self.trials,
            "metric": self.metric.name,
            "goal": self.metric.goal,
            "candidates": [
                {"name": c.name, "optimizer": c.optimizer, "loss": c.loss, "lr": c.lr} for c in self.candidates
            ],
            "fingerprint": self.fingerprint,
        }

    def __str__(self) -> str:
        optimizers = len({c.optimizer for c in self.candidates})
        losses = list(dict.fromkeys(c.loss for c in self.candidates))
        return (
            f"{self.task.name}: {optimizers} optimizer{'s' * (optimizers > 1)} with {', '.join(losses)}; "
            f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, {self.steps} steps each"
            f"{f', each after a search of its own over {self.trials} learning rates' * self.searches}; "
            f"judged by {self.metric.name} on {len(self.data.targets)} validation examples"
        )


def prepare(
    task: Task,
    *,
    optimizers: Any = None,
    losses: Any = None,
    lr: Any = None,
    seed: int = 0,
    seeds: int = 5,
    trials: int = 1,
) -> Plan:
    """Resolve every name and try everything once on one batch; raises before any training."""
    whole_number("seeds", seeds, least=1, most=1000)
    whole_number("seed", seed, least=0, most=MOST_SEED - 2 * seeds)
    whole_number("trials", trials, least=1, most=10_000)
    losses = task.loss if losses is None else losses
    optimizers = task.optimizers if optimizers is None else optimizers
    found = None if losses is None else candidates(optimizers, losses, lr)  # names first: they cost nothing
    parameters = list(task.new_model(seed).parameters())
    data = Data(task.train, task.validation, task.batch_size, parameters[0].device)
    if found is None:
        found = candidates(optimizers, "mse" if data.targets.is_floating_point() else "cross_entropy", lr)
    metric = None if task.metric is None else as_metric(task.metric)
    outputs, targets = check(task, data, metric, found)
    metric = metric or default_metric(outputs, targets)
    steps, weights = task.epochs * data.steps_per_epoch, sum(p.numel() for p in parameters)
    judged = list(range(seed, seed + seeds))
    return Plan(task, data, metric, found, judged, steps, weights, trials, _fingerprint(data, outputs))


def _fingerprint(data: Data, outputs: torch.Tensor) -> str:
    """A few digits of what the model makes of the data at the start, and of the data: another task has others."""
    tensors = [outputs, *(part for batch in (*data.fixed, *data.validation) for part in batch)]
    return " ".join(f"{float(t.double().mean()):.4g}/{float(t.double().std(unbiased=False)):.4g}" for t in tensors[:8])
