"""Everything that is decided before the first step, and every mistake that can be told before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InvalidValue
from .candidates import Candidate, candidates
from .data import Data
from .metrics import Metric, as_metric, default_metric
from .task import Task, whole_number
from .training.trial import check

MOST_SEED = 2**32 - 1
"""The largest seed that numpy takes."""
SEEDS, TRIALS = 5, 1
"""How many there are if neither the caller nor a budget says so."""


@dataclass
class Plan:
    """Who runs, on what, how often and how long.

    `open` names those of seeds, trials and steps that `budget`, in seconds, is to decide; `seconds` is how long all is
    expected to take, NaN if nobody asked. `search` holds the values of other options that are tried beside the rate.
    """

    task: Task
    data: Data
    metric: Metric
    candidates: list[Candidate]
    seeds: list[int]
    steps: int
    weights: int
    trials: int = TRIALS
    fingerprint: str = ""
    budget: float | None = None
    open: frozenset[str] = frozenset()
    seconds: float = math.nan
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)

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
            "epochs": self.steps / self.data.steps_per_epoch,
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
            **({} if self.budget is None else {"budget": self.budget}),
            **({"search": {name: list(values) for name, values in self.search.items()}} if self.search else {}),
        }

    def take(self, settings: dict[str, Any]) -> None:
        """What was decided before under the same budget, so that a comparison that goes on is the same one."""
        if self.budget is not None and settings.get("budget") == self.budget:
            for name in self.open & settings.keys():
                setattr(self, name, settings[name])
            self.open = frozenset()

    @property
    def _tried(self) -> str:
        return f"settings (lr, {', '.join(self.search)})" if self.search else "learning rates"

    def __str__(self) -> str:
        optimizers = len({c.optimizer for c in self.candidates})
        losses = list(dict.fromkeys(c.loss for c in self.candidates))
        return (
            f"{self.task.name}: {optimizers} optimizer{'s' * (optimizers > 1)} with {', '.join(losses)}; "
            f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, {self.steps} steps each"
            f"{f', each after a search of its own over {self.trials} {self._tried}' * self.searches}; "
            f"judged by {self.metric.name} on {len(self.data.targets)} validation examples"
        )


def prepare(
    task: Task,
    *,
    optimizers: Any = None,
    losses: Any = None,
    lr: Any = None,
    seed: int = 0,
    seeds: int | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    budget: float | None = None,
    search: Any = None,
) -> Plan:
    """Resolve every name and try everything once on one batch; raises before any training."""
    given = {"seeds": seeds, "trials": trials, "steps": epochs if steps is None else steps}
    left_open = frozenset() if budget is None else frozenset(name for name, value in given.items() if value is None)
    seeds = SEEDS if seeds is None else whole_number("seeds", seeds, least=1, most=1000)
    trials = TRIALS if trials is None else whole_number("trials", trials, least=1, most=10_000)
    whole_number("seed", seed, least=0, most=MOST_SEED - 2 * 1000)
    if epochs is not None and steps is not None:
        raise InvalidValue(f"give `epochs` or `steps`, not both; received {epochs} and {steps}.")
    epochs = task.epochs if epochs is None else whole_number("epochs", epochs, least=1)
    if steps is not None:
        whole_number("steps", steps, least=1)
    if search is not None and trials == 1 and "trials" not in left_open:
        raise InvalidValue("`search` needs tries: say how many settings are tried for each with --trials (trials=).")
    losses = task.loss if losses is None else losses
    optimizers = task.optimizers if optimizers is None else optimizers
    found = None if losses is None else candidates(optimizers, losses, lr, search)  # names first: they cost nothing
    parameters = list(task.new_model(seed).parameters())
    data = Data(task.train, task.validation, task.batch_size, parameters[0].device)
    if found is None:
        found = candidates(optimizers, "mse" if data.targets.is_floating_point() else "cross_entropy", lr, search)
    metric = None if task.metric is None else as_metric(task.metric)
    outputs, targets = check(task, data, metric, found)
    metric = metric or default_metric(outputs, targets)
    return Plan(
        task, data, metric, found, list(range(seed, seed + seeds)), steps or epochs * data.steps_per_epoch,
        sum(p.numel() for p in parameters), trials, _fingerprint(data, outputs), budget, left_open,
        search=dict(search or {}),
    )  # fmt: skip


def _fingerprint(data: Data, outputs: torch.Tensor) -> str:
    """A few digits of what the model makes of the data at the start, and of the data: another task has others."""
    tensors = [outputs, *(part for batch in (*data.fixed, *data.validation) for part in batch)]
    return " ".join(f"{float(t.double().mean()):.4g}/{float(t.double().std(unbiased=False)):.4g}" for t in tensors[:8])
